// The figures in large, and the table of API keys.

import { el, text, attr, list, spark } from './dom.js'
import { count, rate, byteRate, latency, span, plural } from './format.js'

const sum = counts => (counts || []).reduce((n, c) => n + c.count, 0)

// figure makes one figure: a term, a large number, and what explains it.
function figure(f) {
  const node = el('div', { class: 'figure' }, el('dt', {}, f.name), el('dd', { class: 'big' }), el('dd', { class: 'small' }))
  if (f.history) node.append(el('dd', { class: 'trend' }, node.spark = spark(240, 30)))
  if (f.split) {
    node.children[2].append(el('span', { class: 'key' }), el('span'), el('br'), el('span', { class: 'key gateway' }), el('span'))
    node.append(el('dd', { class: 'bar', 'aria-hidden': 'true' }, el('span', { class: 'tunnel' }), el('span', { class: 'gateway' })))
  }
  return node
}

function fillFigure(node, f) {
  text(node.children[1], f.big)
  if (!f.split) text(node.children[2], f.small)
  else {
    text(node.children[2].children[1], `tunnel ${latency(f.split[0])}`)
    text(node.children[2].lastChild, `brokers ${latency(f.split[1])}`)
    const share = f.split[0] / (f.split[0] + f.split[1] || 1)
    node.lastChild.firstChild.style.flexGrow = share.toFixed(3)
    node.lastChild.lastChild.style.flexGrow = (1 - share).toFixed(3)
  }
  if (f.history) node.spark.draw(f.history, `requests in each of the last ${f.history.length} seconds, at most ${Math.max(0, ...f.history)}`)
}

export function drawFigures(parent, d) {
  const t = d.total
  const l = t.latency || {}
  const all = d.apis || []
  const add = of => all.reduce((n, a) => n + (of(a) || 0), 0)
  const throttled = add(a => a.throttle_seconds)
  list(parent, [
    { name: 'Requests', big: `${rate(t.rate)}/s`, small: `${count(t.in_flight)} in flight; long polls are apart`, history: t.history || [] },
    { name: 'Mean latency', big: latency(l.mean_seconds), split: t.gateway && [t.tunnel_mean_seconds || 0, t.gateway.mean_seconds],
      small: d.end === 'gateway' ? 'from here to the brokers and back' : 'from here to the brokers and back; the gateway does not tell its share' },
    { name: 'p99 latency', big: latency(l.p99_seconds), small: `p50 ${latency(l.p50_seconds)}\np90 ${latency(l.p90_seconds)}` },
    { name: 'Throughput', big: byteRate(add(a => a.request_byte_rate) + add(a => a.response_byte_rate)),
      small: `to brokers ${byteRate(add(a => a.request_byte_rate))}\nto clients ${byteRate(add(a => a.response_byte_rate))}` },
    { name: 'Errors in responses', big: count(add(a => sum(a.errors))), small: `since the start\n${throttled ? `brokers throttled for ${latency(throttled)}` : 'no throttling'}` },
  ], f => f.name + (f.split ? ' split' : ''), figure, fillFigure)
}

// The columns of the table. Those with an end are of that end only.
const columns = [
  { head: 'API key', of: a => a.name },
  { head: 'last minute', trend: true, extra: true, sort: a => a.rate },
  { head: 'requests', extra: true, of: a => count(a.requests), sort: a => a.requests, title: 'since the start' },
  { head: 'req/s', of: a => rate(a.rate), sort: a => a.rate },
  { head: 'in flight', extra: true, of: a => count(a.in_flight), sort: a => a.in_flight },
  { head: 'mean', of: a => latency(a.latency?.mean_seconds), sort: a => a.latency?.mean_seconds, strong: true },
  { head: 'brokers', of: a => latency(a.gateway?.mean_seconds), sort: a => a.gateway?.mean_seconds, end: 'agent', title: 'the brokers’ answer, as timed at the gateway, in the mean' },
  { head: 'tunnel', of: a => a.gateway && !a.long_poll ? latency(a.tunnel_mean_seconds || 0) : '–', sort: a => a.tunnel_mean_seconds, end: 'agent', title: 'the rest of the mean: what the tunnel adds. Of long polls it would be noise' },
  { head: 'p50', of: a => latency(a.latency?.p50_seconds), sort: a => a.latency?.p50_seconds },
  { head: 'p90', of: a => latency(a.latency?.p90_seconds), sort: a => a.latency?.p90_seconds },
  { head: 'p99', of: a => latency(a.latency?.p99_seconds), sort: a => a.latency?.p99_seconds },
  { head: 'to brokers', of: a => a.request_byte_rate ? byteRate(a.request_byte_rate) : '–', sort: a => a.request_byte_rate },
  { head: 'to clients', of: a => a.response_byte_rate ? byteRate(a.response_byte_rate) : '–', sort: a => a.response_byte_rate },
  { head: 'throttled', of: a => a.throttle_seconds ? latency(a.throttle_seconds) : '–', sort: a => a.throttle_seconds, rare: 'throttled' },
  { head: 'errors', of: a => (a.errors || []).map(e => `${e.name}: ${count(e.count)}`).join(', ') || '–', sort: a => sum(a.errors), errors: true, rare: 'errors' },
]

// classes of a column's cells: which end it is of, whether it is left out while empty or where there
// is little room, and how it is aligned.
const classes = c => [c.end && `only-${c.end}`, c.rare && `rare ${c.rare}`, c.extra && 'extra', (c === columns[0] || c.trend || c.errors) && 'left', c.strong && 'strong'].filter(Boolean).join(' ') || null

let sorted = { column: null, down: true }
let redraw = () => {}

function prepare(table) {
  const caption = el('caption', { class: 'visually-hidden' }, 'API keys: rates over the last minute, latencies, and errors since the start. The buttons in the header sort.')
  const head = el('tr', {}, ...columns.map(c => {
    const button = el('button', { type: 'button', title: c.title || null }, c.head)
    button.addEventListener('click', () => {
      if (sorted.column !== c) sorted = { column: c, down: Boolean(c.sort) }
      else if (sorted.down === Boolean(c.sort)) sorted.down = !sorted.down
      else sorted.column = null
      redraw()
    })
    return el('th', { scope: 'col', class: classes(c) }, button)
  }))
  const group = s => el('tr', { class: 'group' }, el('th', { colspan: columns.length, scope: 'rowgroup' }, s))
  table.polls = [el('tbody', {}, group('Long polls: brokers hold these requests on purpose, so their latency is mostly waiting')), el('tbody')]
  table.append(caption, el('thead', {}, head), el('tbody'), ...table.polls)
}

function row(a) {
  const cells = columns.map((c, i) => {
    const node = i === 0 ? el('th', { scope: 'row' }) : el('td', { class: classes(c) })
    if (c.trend) node.append(node.spark = spark(96, 22))
    return node
  })
  return el('tr', {}, ...cells)
}

function fill(tr, a) {
  attr(tr, 'class', a.rate ? null : 'quiet')
  columns.forEach((c, i) => {
    const cell = tr.children[i]
    if (c.trend) cell.spark.draw(a.history || [], `${rate(a.rate)} requests per second over the last minute`)
    else text(cell, c.of(a))
    if (c.errors) attr(cell, 'data-some', sum(a.errors) > 0)
  })
}

function order(apis) {
  const c = sorted.column
  if (!c) return apis
  const value = c.sort || c.of
  const sign = sorted.down ? -1 : 1
  return apis.toSorted((a, b) => {
    const [x, y] = [value(a) ?? -1, value(b) ?? -1]
    return (x < y ? -1 : x > y ? 1 : 0) * sign
  })
}

export function drawAPIs(table, note, d) {
  if (!table.tHead) prepare(table)
  redraw = () => drawAPIs(table, note, d)
  const apis = d.apis || []
  const [requests, groupRow, polls] = table.tBodies
  columns.forEach((c, i) => attr(table.tHead.rows[0].cells[i], 'aria-sort', sorted.column === c ? (sorted.down ? 'descending' : 'ascending') : null))
  const long = apis.filter(a => a.long_poll)
  list(requests, order(apis.filter(a => !a.long_poll)), a => a.name, row, fill)
  list(polls, order(long), a => a.name, row, fill)
  attr(groupRow, 'hidden', !long.length)
  attr(table, 'data-throttled', apis.some(a => a.throttle_seconds))
  attr(table, 'data-errors', apis.some(a => sum(a.errors)))
  text(note, apis.length ? `${plural(apis.length, 'key')}; rates and latencies over the last ${Math.round(d.window_seconds || 0)}s` : 'no request yet')
}
