// Drives headless Chromium for the Go tests: one JSON command per line on stdin, one answer per line
// on stdout. It keeps what the console says and which addresses a page asks for.
import { createInterface } from 'node:readline'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(process.argv[2] + '/') // where the packages are installed
const { chromium } = require('playwright-core')
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8')

const browser = await chromium.launch({ executablePath: process.argv[3], args: ['--no-sandbox', '--force-color-profile=srgb'] })
const pages = []

const commands = {
  async open({ url, dark, width, height, reduced }) {
    const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? 'dark' : 'light', reducedMotion: reduced ? 'reduce' : 'no-preference', deviceScaleFactor: 1 })
    const page = await context.newPage()
    page.problems = []
    page.requests = []
    page.on('console', m => { if (['error', 'warning'].includes(m.type())) page.problems.push(m.text()) })
    page.on('pageerror', e => page.problems.push(String(e)))
    page.on('request', r => page.requests.push(r.url()))
    await page.goto(url, { waitUntil: 'domcontentloaded' })
    return pages.push(page) - 1
  },
  eval: ({ page, js }) => pages[page].evaluate(js),
  press: ({ page, key }) => pages[page].keyboard.press(key),
  reload: async ({ page }) => { await pages[page].reload({ waitUntil: 'domcontentloaded' }) },
  // axe runs through the debugger, which the page's content security policy does not bind.
  async axe({ page }) {
    await pages[page].evaluate(axe)
    const { violations } = await pages[page].evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }))
    return violations.map(v => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + ' ' + n.failureSummary).join('; ')}`)
  },
  async screenshot({ page, path, full }) { await pages[page].screenshot({ path, fullPage: full, animations: 'disabled' }) },
  problems: ({ page }) => pages[page].problems,
  requests: ({ page }) => pages[page].requests,
  close: ({ page }) => pages[page].context().close(),
  // What the page's own process has used, in seconds: scripts, layout and styles, and all tasks.
  async cost({ page }) {
    pages[page].cdp ??= await pages[page].context().newCDPSession(pages[page])
    await pages[page].cdp.send('Performance.enable')
    const { metrics } = await pages[page].cdp.send('Performance.getMetrics')
    return Object.fromEntries(metrics.map(m => [m.name, m.value]))
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, run, ...args } = JSON.parse(line)
  try {
    console.log(JSON.stringify({ id, value: (await commands[run](args)) ?? null }))
  } catch (e) {
    console.log(JSON.stringify({ id, error: String(e) }))
  }
}
await browser.close()
