// Options: ca=FILE cert=FILE key=FILE for TLS.
import { readFileSync } from 'node:fs'
import kafkajs from 'kafkajs'
import { add, done, report, trip } from './roundtrip.mjs'

const file = name => readFileSync(trip.options[name])
const ssl = trip.options.ca && { ca: file('ca'), cert: file('cert'), key: file('key') }
const kafka = new kafkajs.Kafka({ brokers: trip.brokers, ssl, logLevel: kafkajs.logLevel.ERROR })

const producer = kafka.producer({ idempotent: true, createPartitioner: kafkajs.Partitioners.DefaultPartitioner })
await producer.connect()
await producer.send({ topic: trip.topic, acks: -1, messages: trip.records })
await producer.disconnect()

const consumer = kafka.consumer({ groupId: trip.group, maxWaitTimeInMs: 500 })
await consumer.connect()
await consumer.subscribe({ topics: [trip.topic], fromBeginning: true })
await consumer.run({ eachMessage: async ({ partition, message }) => add(partition, message.value.toString()) })
await done
await consumer.disconnect()
report()
