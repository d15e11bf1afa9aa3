import { Consumer, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka'
import { add, done, report, trip } from './roundtrip.mjs'

const common = { clientId: 'culvert-test', bootstrapBrokers: trip.brokers }

const producer = new Producer({ ...common, serializers: stringSerializers, idempotent: true })
await producer.send({ acks: -1, messages: trip.records.map(r => ({ topic: trip.topic, ...r })) })
await producer.close()

const consumer = new Consumer({
  ...common,
  groupId: trip.group,
  groupProtocol: trip.options['group.protocol'] ?? 'classic',
  deserializers: stringDeserializers,
})
const stream = await consumer.consume({ topics: [trip.topic], mode: 'earliest', autocommit: true })
stream.on('data', m => add(m.partition, m.value))
await done
await consumer.close(true)
report()
