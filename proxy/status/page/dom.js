// Changes the page, and only where something has changed. All texts are set as text.

const svgTags = new Set(['svg', 'path', 'circle', 'rect', 'use', 'g', 'line', 'polyline'])

const lists = new WeakMap() // of an element: its children by key
const texts = new WeakMap() // of an element: its text

// el makes an element with attributes and children, which are elements or texts.
export function el(tag, attributes = {}, ...children) {
  const node = svgTags.has(tag) ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) attr(node, name, value)
  node.append(...children.filter(c => c !== null))
  return node
}

// attr sets an attribute; null and false remove it.
export function attr(node, name, value) {
  if (value === null || value === false || value === undefined) {
    if (node.hasAttribute(name)) node.removeAttribute(name)
    return
  }
  const s = value === true ? '' : String(value)
  if (node.getAttribute(name) !== s) node.setAttribute(name, s)
}

// text sets the text of a node that has nothing but text.
export function text(node, s) {
  if (texts.get(node) === s) return
  node.textContent = s
  texts.set(node, s)
}

// list shows one child of parent for each item. Children are kept by their key, and are moved only
// if the order has changed, so that what has the focus keeps it.
export function list(parent, items, key, make, update) {
  const shown = lists.get(parent) || new Map()
  const rows = new Map()
  for (const item of items) {
    let k = String(key(item))
    while (rows.has(k)) k += '+' // two of the same name are two
    rows.set(k, item)
  }
  for (const [k, node] of shown) {
    if (rows.has(k)) continue
    node.remove()
    shown.delete(k)
  }
  let at = parent.firstElementChild
  for (const [k, item] of rows) {
    let node = shown.get(k)
    if (!node) shown.set(k, node = make(item))
    if (node === at) at = at.nextElementSibling
    else parent.insertBefore(node, at)
    update(node, item)
  }
  lists.set(parent, shown)
}

// icon returns a picture of a state. Its shape says what its colour says.
export function icon(name) {
  return el('svg', { class: `icon ${name}`, viewBox: '0 0 16 16', 'aria-hidden': 'true' }, el('use', { href: `#${name}` }))
}

// setIcon changes the picture.
export function setIcon(svg, name) {
  attr(svg, 'class', `icon ${name}`)
  attr(svg.firstChild, 'href', `#${name}`)
}

// spark draws values as a line with its area.
export function spark(width, height) {
  const area = el('path', { class: 'area' })
  const line = el('path', { class: 'line' })
  const svg = el('svg', { class: 'spark', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img' }, area, line)
  svg.draw = (values, label) => {
    attr(svg, 'aria-label', label)
    const top = Math.max(...values, 1)
    const slots = 59
    const points = values.slice(-60).map((v, i, all) =>
      `${((slots - all.length + 1 + i) / slots * width).toFixed(1)} ${(height - 1.5 - v / top * (height - 3)).toFixed(1)}`)
    const d = points.length > 1 ? 'M' + points.join('L') : ''
    attr(line, 'd', d)
    attr(area, 'd', d && `${d}V${height}H${points[0].split(' ')[0]}Z`)
  }
  return svg
}
