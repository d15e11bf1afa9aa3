// The live page: it shows the status document, which comes once a second, and nothing else.

import { el, text, attr, list, icon, setIcon } from './dom.js'
import { span, clock, between, ago } from './format.js'
import { drawPath } from './path.js'
import { drawFigures, drawAPIs } from './apis.js'
import { drawTransports, drawNodes, drawForwards } from './tables.js'
import { drawEvents, drawLimits, drawCredentials, drawCounts } from './lists.js'
import { follow } from './stream.js'

const $ = id => document.getElementById(id)

// The states of a process: what stands there, and its picture.
const states = {
  ready: ['ready', 'ok'],
  starting: ['starting', 'none'],
  not_ready: ['not ready', 'bad'],
  draining: ['draining', 'warn'],
}

let last = null // the document that is shown
let lost = null // since when the process is not reached; null: it is

$('state').prepend(icon('none'))

function draw(d) {
  const end = d.end === 'gateway' ? 'gateway' : 'agent'
  const [name, picture] = states[d.state.name] || [d.state.name, 'none']
  attr(document.body, 'data-end', end)
  text($('end'), end)
  setIcon($('state').firstChild, picture)
  text($('state').lastElementChild, name)
  attr($('state'), 'data-state', d.state.name)
  text($('facts'), `up ${span(d.uptime_seconds || 0)}`)
  text($('build'), [`culvert ${d.build.version || ''}`, d.build.go_version, d.build.platform].filter(Boolean).join(' · '))
  title(`${name} · culvert ${end}`)
  drawAlert(d, picture)
  drawPath($('path'), d)
  drawFigures($('figures'), d)
  drawAPIs($('apis'), $('apis-note'), d)
  drawTransports($('transports'), $('transports-note'), d)
  drawNodes($('nodes'), $('nodes-note'), $('nodes-more'), d)
  drawForwards($('forwards-card'), $('forwards'), d)
  drawEvents($('events'), $('events-note'), $('events-more'), d)
  drawLimits($('limits'), d)
  drawCredentials($('credentials'), d)
  drawCounts($('closes'), d.closes, 'none yet')
  drawCounts($('refusals'), d.refusals, 'nothing was refused')
}

// drawAlert says why the process is not ready, or what does not work although it is.
function drawAlert(d, picture) {
  const box = $('alert')
  const why = d.state.why || d.state.missing || ''
  attr(box, 'hidden', !why)
  if (!why) return
  if (!box.firstChild) box.append(icon('warn'), el('p', {}, el('strong'), el('span'), el('small')))
  const kind = d.state.name === 'ready' ? 'warn' : picture === 'none' ? 'info' : picture
  attr(box, 'class', `alert ${kind}`)
  setIcon(box.firstChild, kind)
  const [what, reason, since] = box.lastChild.children
  text(what, d.state.name === 'ready' ? 'Ready, but ' : `${states[d.state.name]?.[0] || d.state.name}: `)
  text(reason, why)
  text(since, d.state.since ? ` since ${clock(d.state.since)}, ${ago(d.state.since, d.time)}` : '')
}

function title(s) {
  if (document.title !== s) document.title = s
}

// announce tells a screen reader what has changed: states and failures, but no figures.
function announce(before, d) {
  const news = []
  if (before.state.name !== d.state.name) {
    news.push(`${states[d.state.name]?.[0] || d.state.name}. ${d.state.why || d.state.missing || ''}`)
  }
  const known = new Map((before.events || []).map(e => [eventKey(e), e]))
  for (const e of d.events || []) {
    const was = known.get(eventKey(e))
    if (!was) news.push([e.text, e.about, e.remedy].filter(Boolean).join('. '))
    else if (was && !was.over && e.over) news.push(`Over: ${[e.text, e.about].filter(Boolean).join(', ')}`)
  }
  if (news.length) say(news.slice(0, 3).join(' '))
}

const eventKey = e => [e.time, e.text, e.about].join('\n')

function say(s) {
  $('announce').textContent = s
}

// show draws a document that has just come.
function show(d) {
  if (d.version !== 1) return reached('stale', `this process speaks version ${d.version} of the status document: reload the page`)
  if (last && last.build.version !== d.build.version) return reached('stale', 'another version of culvert answers: reload the page')
  const returned = lost !== null
  lost = null
  if (last) announce(last, d)
  last = d
  draw(d)
  reached('live', `live · ${clock(d.time)}`)
  if (returned) say('The process is reached again.')
}

function reached(link, s) {
  attr(document.body, 'data-link', link)
  text($('link-text'), s)
}

// missing says since when nothing has come, and why. What the page shows is then old.
function missing(why) {
  if (lost === null) {
    lost = new Date()
    if (last) say(`The process is not reached: ${why}`)
  }
  const since = last ? `not reached since ${clock(last.time)}` : 'not reached'
  reached('lost', `${since}: ${why}`)
  title(`not reached · culvert ${last ? last.end : ''}`)
}

follow('/status/stream', { show, missing, waiting: () => reached('connecting', last ? `shows ${clock(last.time)} · connecting` : 'connecting') })

// For the tests: what is shown, and how long it takes to show it.
globalThis.culvert = {
  get document() { return last },
  time(d) {
    const begin = performance.now()
    draw(d)
    document.body.getBoundingClientRect() // includes the layout
    return performance.now() - begin
  },
}
