// The tables of transports and of brokers.

import { el, text, attr, list, icon, setIcon } from './dom.js'
import { count, latency, brief, span, ago, between, percent, plural } from './format.js'

const names = { h3: 'HTTP/3', ws: 'WebSocket', h2: 'HTTP/2', direct: 'direct', '': 'none' }
export const transportName = t => names[t] ?? t

const head = (...names) => el('thead', {}, el('tr', {}, ...names.map(n => el('th', { scope: 'col', class: n.startsWith('#') ? null : 'left' }, n.replace('#', '')))))

// stateCell is a cell with a picture and a word.
const stateCell = () => el('td', { class: 'left state' }, icon('none'), el('span'))

function setState(cell, picture, word) {
  setIcon(cell.firstChild, picture)
  text(cell.lastChild, word)
}

// judge says how a transport does: a picture and a word.
function judge(tunnel, tried, carrier) {
  if (tried.transport === tunnel.transport) return ['ok', 'in use']
  if (tried.error) return ['bad', 'failed']
  if (carrier && carrier.streams) return ['ok', 'carries streams']
  if (tried.at) return ['info', 'works']
  return ['none', 'not tried']
}

// rows has a row for each transport of each tunnel, whether it was tried or carries something.
function rows(d) {
  const all = []
  for (const tunnel of d.tunnels || []) {
    const carriers = new Map((tunnel.carriers || []).map(c => [c.transport, c]))
    const tried = [...(tunnel.tried || [])]
    for (const c of carriers.values()) {
      if (!tried.some(t => t.transport === c.transport)) tried.push({ transport: c.transport })
    }
    for (const t of tried) all.push({ tunnel, tried: t, carrier: carriers.get(t.transport) })
  }
  return all
}

// story is what happened with a transport, in words.
function story({ tunnel, tried }, now) {
  const parts = []
  if (tried.transport === tunnel.transport && tunnel.why) parts.push(tunnel.why)
  if (tried.error) parts.push(tried.error)
  if (tried.fixed) parts.push(tried.fixed)
  if (tried.took_seconds) parts.push(`${tried.error ? 'took' : 'answered in'} ${brief(tried.took_seconds)}`)
  if (tried.at) parts.push(`tried ${ago(tried.at, now)}`)
  if (tried.next_probe && between(now, tried.next_probe) > 0) parts.push(`next try in ${span(between(now, tried.next_probe))}`)
  return parts.join(' · ') || '–'
}

export function drawTransports(table, note, d) {
  if (!table.tHead) {
    table.append(el('caption', { class: 'visually-hidden' }, 'Transports of the tunnel: state, why, connections, streams, round trip and loss'),
      head('transport', 'state', '#connections', '#streams', '#round trip', '#lost', 'why'), el('tbody'))
  }
  const several = (d.tunnels || []).length > 1
  const all = rows(d)
  list(table.tBodies[0], all, r => `${r.tunnel.gateway} ${r.tried.transport}`,
    () => el('tr', {}, el('th', { scope: 'row' }, el('span'), el('small')), stateCell(), el('td'), el('td'), el('td'), el('td'), el('td', { class: 'left wrap' })),
    (tr, r) => {
      const [name, state, conns, streams, rtt, lost, why] = tr.children
      const c = r.carrier
      text(name.firstChild, transportName(r.tried.transport))
      text(name.lastChild, several ? r.tunnel.gateway || '' : '')
      setState(state, ...(d.end === 'gateway' ? [c?.streams ? 'ok' : 'none', c?.streams ? 'in use' : 'idle'] : judge(r.tunnel, r.tried, c)))
      text(conns, c ? count(c.connections) : '–')
      text(streams, c ? count(c.streams) : '–')
      text(rtt, c?.rtt_seconds ? (c.max_rtt_seconds > c.rtt_seconds ? `${latency(c.rtt_seconds)}, at most ${latency(c.max_rtt_seconds)}` : latency(c.rtt_seconds)) : '–')
      text(lost, c?.packets_sent ? percent(c.packets_lost, c.packets_sent) : '–')
      text(why, story(r, d.time))
    })
  const tunnel = (d.tunnels || [])[0]
  text(note, !tunnel ? 'no tunnel' : tunnel.transport === 'direct' ? 'no tunnel: the agent dials the brokers itself'
    : all.length ? (several ? plural(d.tunnels.length, 'gateway') : tunnel.gateway || '') : 'nothing is known yet')
}

// The states of a node: its picture, and the word for it.
export function nodeState(n) {
  if (n.state === 'unreachable') return ['bad', 'unreachable']
  if (n.no_port) return ['bad', 'no port']
  if (n.spare_port) return ['warn', 'spare port']
  if (n.state === 'reached') return ['ok', 'reached']
  return ['none', 'not known']
}

const severity = { bad: 0, warn: 1, none: 2, ok: 2 }
const few = 24 // nodes that are shown without being asked for
let showAll = false

// nodeStory says what a node's state means for clients.
function nodeStory(n) {
  const parts = []
  if (n.no_port) parts.push('another process has its port, and clients cannot reach it')
  if (n.spare_port) parts.push('another process has its port; clients are told another one')
  if (n.error) parts.push(n.error)
  return parts.join(' · ') || '–'
}

export function drawNodes(table, note, more, d) {
  if (!table.tHead) {
    table.append(el('caption', { class: 'visually-hidden' }, 'Brokers: state, addresses and connections; those with a problem come first'),
      head('broker', 'state', '#connections', 'for clients', 'advertised', 'why'), el('tbody'))
    table.tHead.rows[0].cells[3].className = 'left only-agent'
    more.addEventListener('click', () => {
      showAll = !showAll
      table.redraw()
    })
  }
  table.redraw = () => drawNodes(table, note, more, d)
  const all = d.nodes || []
  const nodes = all.toSorted((a, b) => severity[nodeState(a)[0]] - severity[nodeState(b)[0]] || a.id - b.id)
  list(table.tBodies[0], showAll ? nodes : nodes.slice(0, few), n => n.id,
    () => el('tr', {}, el('th', { scope: 'row' }), stateCell(), el('td'), el('td', { class: 'left only-agent mono' }), el('td', { class: 'left mono' }), el('td', { class: 'left wrap' })),
    (tr, n) => {
      const [id, state, conns, local, advertised, why] = tr.children
      text(id, String(n.id))
      const [picture, word] = nodeState(n)
      const lasts = n.since && !word.endsWith('port') // since when is not known of a port
      setState(state, picture, lasts ? `${word} for ${span(between(n.since, d.time))}` : word)
      text(conns, count(n.connections))
      text(local, (n.local || []).join(', ') || '–')
      text(advertised, n.advertised || '–')
      text(why, nodeStory(n))
    })
  attr(more, 'hidden', all.length <= few)
  text(more, showAll ? `Show the first ${few}` : `Show all ${count(all.length)}`)
  text(note, [all.length ? plural(all.length, 'broker') : 'none is known yet', d.cluster?.id && `cluster ${d.cluster.id}`].filter(Boolean).join(', '))
}

// drawForwards draws what clients reach beside Kafka, if there is any.
export function drawForwards(card, table, d) {
  const all = d.forwards || []
  attr(card, 'hidden', !all.length)
  if (!table.tHead) {
    table.append(el('caption', { class: 'visually-hidden' }, 'Forwards: state, connections and addresses'),
      head('forward', 'state', '#connections', d.end === 'gateway' ? 'leads to' : 'for clients', 'why'), el('tbody'))
  }
  list(table.tBodies[0], all, f => f.name,
    () => el('tr', {}, el('th', { scope: 'row' }), stateCell(), el('td'), el('td', { class: 'left mono' }), el('td', { class: 'left wrap' })),
    (tr, f) => {
      const [name, state, conns, address, why] = tr.children
      text(name, f.name)
      const [picture, word] = nodeState(f)
      setState(state, picture, f.since ? `${word} for ${span(between(f.since, d.time))}` : word)
      text(conns, count(f.connections))
      text(address, f.address)
      text(why, f.error || '–')
    })
}
