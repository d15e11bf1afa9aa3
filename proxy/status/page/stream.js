// Reads server-sent events. It uses fetch, because EventSource does not tell why a server refuses.

const patience = 4000 // without an event for this long, the process is not reached
const pause = 1000 // between two tries
const maxEvent = 16 << 20

// follow calls show with each document, and missing with the reason whenever none comes. It tries
// again for as long as the page is open. A page that nobody sees reads nothing.
export function follow(url, { show, missing, waiting }) {
  let reading = null
  const run = async () => {
    while (!document.hidden) {
      reading = new AbortController()
      const why = await read(url, reading, show).catch(e => e.message)
      if (document.hidden) break
      missing(why)
      await new Promise(done => setTimeout(done, pause))
    }
    reading = null
  }
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      waiting()
      reading?.abort()
    } else if (!reading) run()
  })
  addEventListener('pagehide', () => reading?.abort())
  run()
}

// read reads one stream to its end, and returns why it ended.
async function read(url, controller, show) {
  let timer
  let why = 'no connection'
  const wait = () => {
    clearTimeout(timer)
    timer = setTimeout(() => {
      why = `nothing came for ${patience / 1000}s`
      controller.abort()
    }, patience)
  }
  try {
    wait()
    const response = await fetch(url, { signal: controller.signal, cache: 'no-store', credentials: 'omit', headers: { accept: 'text/event-stream' } })
    if (!response.ok) return `${response.status}: ${(await response.text()).slice(0, 300).trim()}`
    why = 'the connection broke'
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
    for (let rest = ''; ;) {
      const { done, value } = await reader.read()
      if (done) return 'the process has ended'
      rest += value
      if (rest.length > maxEvent) throw new Error('a document is too long')
      const events = rest.split('\n\n')
      rest = events.pop()
      if (!events.length) continue
      wait()
      const latest = JSON.parse(events.at(-1).replace(/^data: /, '')) // older ones do not matter any more
      try { show(latest) } catch (e) { reportError(e) }
    }
  } catch (e) {
    return e instanceof SyntaxError || e.message === 'a document is too long' ? e.message : why
  } finally {
    clearTimeout(timer)
    controller.abort()
  }
}
