// Numbers as people read them.

const whole = new Intl.NumberFormat('en')

export const count = n => whole.format(n || 0)

export function rate(n) {
  if (!n) return '0'
  if (n < 0.1) return '<0.1'
  if (n < 10) return n.toFixed(1)
  return n < 100000 ? whole.format(Math.round(n)) : `${whole.format(Math.round(n / 1000))}k`
}

function scaled(n, base, units) {
  let i = 0
  for (; n >= 999.5 && i < units.length - 1; i++) n /= base
  return `${i === 0 || n >= 99.95 ? Math.round(n) : n.toFixed(1)} ${units[i]}`
}

// bytes is an amount of memory, as the settings of limits have it.
export const bytes = n => scaled(n, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB'])

// byteRate has the units of networks, as culvert status and Grafana have them.
export const byteRate = n => `${scaled(n, 1000, ['B', 'kB', 'MB', 'GB', 'TB'])}/s`

// latency has three digits, from microseconds on.
export function latency(s) {
  if (s === undefined || s === null) return '–'
  if (s <= 0) return '0ms'
  if (s < 0.001) return `${Math.max(1, Math.round(s * 1e6))}µs`
  if (s < 0.01) return `${(s * 1e3).toFixed(2)}ms`
  if (s < 0.1) return `${(s * 1e3).toFixed(1)}ms`
  if (s < 1) return `${Math.round(s * 1e3)}ms`
  return s < 100 ? `${s.toFixed(s < 10 ? 2 : 1)}s` : span(s)
}

// brief is the same in a sentence, where digits need not stand below each other.
export const brief = s => latency(s).replace(/(\.\d*?)0+(?=\D)/, '$1').replace(/\.(?=\D)/, '')

// span is a longer time, in its two largest units.
export function span(s) {
  const sign = s < 0 ? '-' : ''
  s = Math.abs(Math.round(s))
  const parts = [['d', 86400], ['h', 3600], ['m', 60], ['s', 1]]
  const first = parts.findIndex(([, n]) => s >= n)
  if (first < 0) return '0s'
  const out = []
  for (const [unit, n] of parts.slice(first, first + 2)) {
    if (Math.floor(s / n)) out.push(`${Math.floor(s / n)}${unit}`)
    s %= n
  }
  return sign + out.join(' ')
}

// seconds from one time to another, both as in JSON.
export const between = (from, to) => (Date.parse(to) - Date.parse(from)) / 1000

export const ago = (t, now) => between(t, now) < 1 ? 'now' : `${span(between(t, now))} ago`

export const clock = t => new Date(t).toLocaleTimeString([], { hour12: false })

export const percent = (n, of) => !of ? '–' : n ? `${(100 * n / of).toFixed(n / of < 0.1 ? 2 : 1)}%` : '0%'

export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many || `${one}s`}`
