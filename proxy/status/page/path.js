// The picture: clients, listeners, tunnel, gateway, brokers. The boxes are HTML, so that their texts
// wrap and can be selected. The lines between them are drawn behind, wherever the boxes are.

import { el, text, attr, list, icon, setIcon } from './dom.js'
import { count, rate, byteRate, latency, plural } from './format.js'
import { nodeState, transportName } from './tables.js'

const maxBoxes = 6 // brokers that have a box of their own; more are grouped by state
const maxCells = 240 // squares that a group has at most; then one stands for several brokers
const maxIDs = 12 // broker ids that a group names

// box makes a box: a picture of its state, a title, a value on the right, and lines below.
function box(kind) {
  const node = el('div', { class: `box ${kind}` }, el('p', { class: 'title' }, icon('none'), el('span', { class: 'name' }), el('span', { class: 'value' })), el('ul', { class: 'lines' }))
  node.fill = (picture, name, value, lines, state) => {
    setIcon(node.firstChild.firstChild, picture)
    text(node.firstChild.children[1], name)
    text(node.firstChild.lastChild, value)
    attr(node, 'data-state', state || picture)
    list(node.lastChild, lines.filter(Boolean), (l, i) => lines.indexOf(l), () => el('li', {}), (li, l) => {
      text(li, l)
      attr(li, 'title', l.length > 34 ? l : null)
    })
  }
  return node
}

// gap is the room between two columns, with what flows there above and below the line.
function gap() {
  const node = el('div', { class: 'gap' }, el('p', { class: 'above' }), el('p', { class: 'below' }))
  node.fill = (above, below) => {
    text(node.firstChild, above || '')
    text(node.lastChild, below || '')
  }
  return node
}

// build makes the columns. They stay; only what is in them changes.
function build(parent) {
  const p = {
    lines: el('svg', { class: 'wires', 'aria-hidden': 'true' }),
    clients: box('clients'),
    toAgent: gap(),
    agent: box('process'),
    tunnels: el('div', { class: 'tunnels' }),
    toBrokers: el('div', { class: 'gap' }),
    brokers: el('div', { class: 'brokers' }),
  }
  parent.append(p.lines, p.clients, p.toAgent, p.agent, p.tunnels, p.toBrokers, p.brokers)
  new ResizeObserver(() => p.wire()).observe(parent)
  p.wire = () => wire(parent, p)
  return p
}

export function drawPath(parent, d) {
  const p = parent.picture || (parent.picture = build(parent))
  const atAgent = d.end !== 'gateway'
  const down = d.state.name === 'not_ready'
  const own = d.state.name === 'ready' ? 'ok' : down ? 'bad' : d.state.name === 'draining' ? 'warn' : 'none'
  const all = d.apis || []
  const inRate = all.reduce((n, a) => n + a.request_byte_rate, 0)
  const outRate = all.reduce((n, a) => n + a.response_byte_rate, 0)
  const [requests, transfer] = [`${rate(all.reduce((n, a) => n + a.rate, 0))} req/s`, `→ ${byteRate(inRate)}\n← ${byteRate(outRate)}`]
  const n = d.clients?.connections || 0
  const listeners = (d.listeners || []).filter(l => l.name !== 'admin').map(l => `${l.address}${l.advertised && l.advertised !== hostOf(l.address) ? ` as ${l.advertised}` : ''}${l.protocols ? ` · ${l.protocols}` : ''}`)
  const shown = listeners.length > 4 ? [...listeners.slice(0, 3), `and ${listeners.length - 3} more`] : listeners

  const working = (d.tunnels || []).filter(t => t.transport || !atAgent)
  const share = working.some(t => t.transport === 'direct') || !atAgent ? d.total.latency : d.total.gateway
  const mean = working.length === 1 && share ? `brokers answer in ${latency(share.mean_seconds)} (mean)` : ''

  p.clients.fill(n ? 'ok' : 'none', atAgent ? 'Kafka clients' : 'Agents', '', atAgent ? [plural(n, 'connection')] : [plural(n, 'stream'), requests, ...transfer.split('\n')])
  p.toAgent.fill(requests, transfer)
  attr(p.agent, 'hidden', !atAgent)
  attr(p.toAgent, 'hidden', !atAgent)
  p.agent.fill(own, 'Agent', 'this process', [...shown, working[0]?.transport === 'direct' ? mean : ''])
  drawTunnels(p.tunnels, d, own, shown, mean)
  drawBrokers(p.brokers, d)
  attr(p.lines, 'data-step', all.some(a => a.rate > 0) ? Math.floor(Date.parse(d.time) / 1000) % 3 : null)
  p.wire()
}

// drawTunnels shows a tunnel and its gateway in each row.
function drawTunnels(parent, d, own, listeners, mean) {
  const atAgent = d.end !== 'gateway'
  const tunnels = (d.tunnels || []).filter(t => t.transport !== 'direct')
  attr(parent, 'hidden', !tunnels.length)
  list(parent, tunnels, t => t.gateway || '', () => el('div', { class: 'tunnel' }, el('div', { class: 'mouth' }, box('pipe')), box('gateway')), (node, t) => {
    const carriers = t.carriers || []
    const carrier = carriers.find(c => c.transport === t.transport)
    const broken = atAgent && !t.transport
    const pipe = node.firstChild.firstChild
    const used = atAgent ? transportName(t.transport) : 'Tunnel'
    const trip = t.rtt_seconds || carrier?.rtt_seconds
    const lost = carriers.reduce((n, c) => n + c.packets_lost, 0) / (carriers.reduce((n, c) => n + c.packets_sent, 0) || 1)
    pipe.fill(broken ? 'bad' : t.transport || carriers.some(c => c.streams) ? 'ok' : 'none', broken ? 'no transport' : used, atAgent && trip ? latency(trip) : '', [
      broken ? t.error : '',
      ...(atAgent ? [] : carriers.filter(c => c.streams).map(c => `${transportName(c.transport)}: ${plural(c.streams, 'stream')}${c.rtt_seconds ? `, round trip ${latency(c.rtt_seconds)}` : ''}`)),
      atAgent && trip ? 'round trip' : '',
      atAgent && !broken && d.total.gateway ? `adds ${latency(d.total.tunnel_mean_seconds || 0)} to the mean` : '',
      /\p{L}/u.test(t.ingress || '') ? `behind ${t.ingress}` : '', // some hide behind _
      lost > 0.001 ? `${(100 * lost).toFixed(1)}% of packets lost` : '',
    ])
    attr(node, 'data-state', broken ? 'bad' : 'ok')
    if (atAgent) node.lastChild.fill(broken ? 'none' : 'ok', 'Gateway', t.gateway_version || '', [(t.gateway || '').replace(/^https:\/\//, ''), broken ? '' : mean])
    else node.lastChild.fill(own, 'Gateway', 'this process', [...listeners, mean])
    attr(node.lastChild, 'data-own', !atAgent)
  })
}

// drawBrokers shows a box for each broker, or one for each state if they are many.
function drawBrokers(parent, d) {
  const nodes = d.nodes || []
  const single = nodes.length <= maxBoxes
  attr(parent, 'data-grouped', !single)
  const items = single ? nodes.map(n => ({ key: n.id, nodes: [n] })) : groups(nodes)
  if (!items.length) items.push({ key: 'none', nodes: [] })
  list(parent, items, i => `${single} ${i.key}`, i => {
    const node = box('broker')
    if (!single) node.append(node.cells = el('svg', { class: 'cells', 'aria-hidden': 'true' }, el('path')))
    return node
  }, (node, item) => {
    const [first] = item.nodes
    if (!first) return node.fill('none', 'Brokers', '', ['none is known yet'])
    const [picture, word] = nodeState(first)
    const connections = item.nodes.reduce((sum, n) => sum + n.connections, 0)
    if (single) {
      node.fill(picture, `Broker ${first.id}`, plural(connections, 'conn'), [picture === 'ok' ? '' : word, first.local?.[0] || first.advertised])
      return
    }
    const ids = item.nodes.slice(0, maxIDs).map(n => n.id).join(', ') + (item.nodes.length > maxIDs ? ', …' : '')
    node.fill(picture, `${count(item.nodes.length)} ${word}`, plural(connections, 'conn'), [picture === 'ok' ? '' : ids])
    cells(node.cells, item.nodes.length)
  })
}

// hostOf is the host of HOST:PORT.
const hostOf = address => address.slice(0, address.lastIndexOf(':')).replace(/^\[|\]$/g, '')

// groups are the brokers by their state, those with a problem first.
function groups(nodes) {
  const by = new Map([['unreachable', []], ['no port', []], ['spare port', []], ['not known', []], ['reached', []]])
  for (const n of nodes) by.get(nodeState(n)[1]).push(n)
  return [...by].filter(([, of]) => of.length).map(([key, of]) => ({ key, nodes: of }))
}

// cells draws a square for each of n brokers, or for several.
function cells(svg, n) {
  const shown = Math.ceil(n / Math.ceil(n / maxCells))
  if (svg.n === shown) return
  svg.n = shown
  const row = 24
  const step = 8
  attr(svg, 'viewBox', `0 0 ${row * step} ${Math.ceil(shown / row) * step}`)
  let path = ''
  for (let i = 0; i < shown; i++) path += `M${i % row * step} ${Math.floor(i / row) * step}h6v6h-6z`
  attr(svg.firstChild, 'd', path)
}

// wire draws the lines between the boxes that are there now.
function wire(parent, p) {
  const frame = parent.getBoundingClientRect()
  const down = getComputedStyle(parent).flexDirection === 'column'
  const at = node => {
    const r = node.getBoundingClientRect()
    return { left: r.left - frame.left, right: r.right - frame.left, top: r.top - frame.top, bottom: r.bottom - frame.top, x: (r.left + r.right) / 2 - frame.left, y: (r.top + r.bottom) / 2 - frame.top }
  }
  const lines = []
  const join = (from, to, kind, state) => {
    const [a, b] = [at(from), at(to)]
    const [x1, y1, x2, y2] = down ? [a.x, a.bottom, b.x, b.top] : [a.right, a.y, b.left, b.y]
    const half = down ? (y2 - y1) / 2 : (x2 - x1) / 2
    const d = down ? `M${r(x1)} ${r(y1)}C${r(x1)} ${r(y1 + half)} ${r(x2)} ${r(y2 - half)} ${r(x2)} ${r(y2)}` : `M${r(x1)} ${r(y1)}C${r(x1 + half)} ${r(y1)} ${r(x2 - half)} ${r(y2)} ${r(x2)} ${r(y2)}`
    lines.push({ d, kind, state })
    if (kind === 'pipe') lines.push({ d, kind: 'bore', state }, { d, kind: 'water', state })
  }
  const start = p.agent.hidden ? p.clients : p.agent
  if (!p.agent.hidden) join(p.clients, p.agent, 'wire', p.clients.dataset.state)
  const rows = p.tunnels.hidden ? [] : [...p.tunnels.children]
  for (const t of rows) {
    const pipe = t.firstChild.firstChild
    // Below one another, the boxes of one tunnel would hide the pipe of the next.
    if (!down || t === rows[0]) join(start, pipe, 'pipe', t.dataset.state)
    join(pipe, t.lastChild, 'pipe', t.dataset.state)
  }
  for (const from of !rows.length ? [null] : down ? rows.slice(-1) : rows) {
    for (const b of p.brokers.children) join(from ? from.lastChild : start, b, 'wire', from?.dataset.state === 'bad' ? 'none' : b.dataset.state)
  }
  list(p.lines, lines, l => lines.indexOf(l), () => el('path'), (node, l) => {
    attr(node, 'd', l.d)
    attr(node, 'class', `${l.kind} ${l.state}`)
  })
}

const r = n => Math.round(n * 2) / 2
