// Events, limits, credentials, and counts.

import { el, text, attr, list, icon, setIcon } from './dom.js'
import { count, bytes, span, ago, clock, between, plural } from './format.js'

const open = e => e.lasting && !e.over
const few = 8 // events that are shown without being asked for
const many = 16 // of those that are ongoing
let showAll = false

function eventRow() {
  return el('li', {}, icon('info'), el('div', {},
    el('p', { class: 'what' }, el('strong'), el('span', { class: 'about' })),
    el('p', { class: 'error' }), el('p', { class: 'remedy' }), el('p', { class: 'ended' })),
  el('p', { class: 'when' }, el('span', { class: 'mark' }), el('time')))
}

function fillEvent(li, e, now) {
  const [picture, body, when] = li.children
  const [what, error, remedy, ended] = body.children
  const kind = e.over ? 'ok' : e.level === 'error' ? 'bad' : 'warn'
  attr(li, 'class', e.over ? 'over' : open(e) ? `open ${kind}` : kind)
  setIcon(picture, kind)
  text(what.firstChild, e.text)
  text(what.lastChild, [e.about, e.count > 1 && `${count(e.count)} times`].filter(Boolean).join(' · '))
  optional(error, e.error)
  optional(remedy, e.over ? '' : e.remedy)
  optional(ended, e.ended)
  text(when.firstChild, e.over ? `over after ${span(Math.max(1, between(e.time, e.over)))}` : open(e) ? 'ongoing' : '')
  text(when.lastChild, ago(e.last || e.time, now))
  attr(when.lastChild, 'datetime', e.last || e.time)
  attr(when.lastChild, 'title', clock(e.time) + (e.last ? `, last ${clock(e.last)}` : ''))
}

function optional(node, s) {
  attr(node, 'hidden', !s)
  text(node, s || '')
}

export function drawEvents(parent, note, more, d) {
  if (!more.ready) {
    more.ready = true
    more.addEventListener('click', () => {
      showAll = !showAll
      more.redraw()
    })
  }
  more.redraw = () => drawEvents(parent, note, more, d)
  const all = d.events || []
  const sorted = [...all.filter(open), ...all.filter(e => !open(e))]
  list(parent, showAll ? sorted : sorted.slice(0, Math.min(many, Math.max(few, all.filter(open).length))), e => [e.time, e.text, e.about].join('\n'), eventRow,
    (li, e) => fillEvent(li, e, d.time))
  const going = all.filter(open).length
  text(note, !all.length ? 'nothing went wrong' : going ? `${count(going)} of ${count(all.length)} ongoing` : `${plural(all.length, 'event')}, none ongoing`)
  attr(note, 'data-open', going > 0)
  attr(more, 'hidden', all.length <= few || all.length <= Math.min(many, going))
  text(more, showAll ? 'Show fewer' : `Show all ${count(all.length)}`)
}

export function drawLimits(parent, d) {
  const show = (n, l) => l.unit === 'bytes' ? bytes(n) : count(n)
  list(parent, d.limits || [], l => l.name,
    () => el('li', {}, el('p', {}, el('span', { class: 'name' }), el('span', { class: 'value' })), el('div', { class: 'meter', 'aria-hidden': 'true' }, el('span')), el('p', { class: 'hint' })),
    (li, l) => {
      const [line, meter, hint] = li.children
      const share = l.max ? Math.min(1, l.used / l.max) : 0
      text(line.firstChild, l.name.replaceAll('_', ' '))
      text(line.lastChild, l.max ? `${show(l.used, l)} of ${show(l.max, l)}` : `${show(l.used, l)}, no limit`)
      meter.firstChild.style.width = `${(100 * share).toFixed(1)}%`
      attr(li, 'class', share >= 0.95 ? 'bad' : share >= 0.8 ? 'warn' : null)
      attr(meter, 'hidden', !l.max)
      const raises = l.setting ? `: ${l.setting} raises it` : ''
      optional(hint, l.refused ? `${l.name === 'unauthenticated' ? 'closed' : 'reached'} ${plural(l.refused, 'time')}${raises}` : share >= 0.8 ? `nearly reached${raises}` : '')
    })
}

export function drawCredentials(parent, d) {
  list(parent, d.credentials?.length ? d.credentials : [{ none: true }], c => `${c.setting} ${c.kind}`,
    () => el('li', {}, icon('ok'), el('p', {}, el('span', { class: 'name' }), el('span', { class: 'value' })), el('p', { class: 'hint' })),
    (li, c) => {
      const [picture, line, hint] = li.children
      const left = c.left_seconds
      const kind = c.none ? 'none' : c.error || left < 0 ? 'bad' : c.expires && left < 7 * 86400 && c.kind === 'certificate' ? 'warn' : 'ok'
      setIcon(picture, kind)
      text(line.firstChild, c.none ? '' : c.setting)
      text(line.lastChild, c.none ? 'none in use' : [c.kind, c.expires && (left < 0 ? `expired ${span(-left)} ago` : `${span(left)} left`), c.loaded && `${c.kind === 'login' ? 'logged in' : 'changed'} ${span(c.age_seconds || 0)} ago`].filter(Boolean).join(' · '))
      optional(hint, c.error)
    })
}

export function drawCounts(parent, counts, none) {
  const some = (counts || []).filter(c => c.count)
  list(parent, some.length ? some : [{ name: none, count: null }], c => c.name,
    () => el('li', {}, el('span', { class: 'name' }), el('span', { class: 'value' })),
    (li, c) => {
      text(li.firstChild, c.name.replaceAll('_', ' '))
      text(li.lastChild, c.count === null ? '' : count(c.count))
    })
}
