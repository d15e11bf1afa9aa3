// The task of every Node client, and its check.
//
// usage: node CLIENT.mjs BOOTSTRAP TOPIC GROUP COUNT [key=value ...]
//
// Produces COUNT numbered records with acks=all, consumes them in the group,
// and exits 0 if each came exactly once and in order per partition.
const patience = 60_000

const [bootstrap, topic, group, count, ...options] = process.argv.slice(2)

export const trip = {
  brokers: bootstrap.split(','),
  topic,
  group,
  count: Number(count),
  options: Object.fromEntries(options.map(o => o.split('='))),
  records: Array.from({ length: Number(count) }, (_, n) => ({ key: `key-${n}`, value: String(n) })),
}

const seen = new Set()
const last = new Map()
let finish
export const done = new Promise(resolve => { finish = resolve })

export function add(partition, value) {
  const number = Number(value)
  if (seen.has(number)) fail(`record ${number} came twice`)
  if (number < (last.get(partition) ?? -1)) fail(`record ${number} came behind ${last.get(partition)} in partition ${partition}`)
  seen.add(number)
  last.set(partition, number)
  if (seen.size === trip.count) finish()
}

export function report() {
  console.log(`ok: ${trip.count} records`)
  process.exit(0)
}

export function fail(message) {
  console.error(message)
  process.exit(1)
}

setTimeout(() => fail(`only ${seen.size} of ${trip.count} records after ${patience / 1000} s`), patience).unref()
process.on('unhandledRejection', e => fail(e?.stack ?? String(e)))
