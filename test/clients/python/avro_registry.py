"""Writes records in Avro, whose schema it registers, and reads them with the schema that it gets.

usage: avro_registry.py BOOTSTRAP TOPIC REGISTRY COUNT
"""
import sys
import time

from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

SCHEMA = '{"type": "record", "name": "Reading", "fields": [{"name": "number", "type": "int"}]}'

bootstrap, topic, url, count = sys.argv[1:5]
context = SerializationContext(topic, MessageField.VALUE)

serialize = AvroSerializer(SchemaRegistryClient({"url": url + "/apis/ccompat/v7"}), SCHEMA)
failed = []
producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
for n in range(int(count)):
    producer.produce(topic, serialize({"number": n}, context), partition=0, on_delivery=lambda err, _: err and failed.append(err))
left = producer.flush(60)
if failed or left:
    sys.exit(f"not delivered: {left} left, {failed[:3]}")

# A client of its own, which has not seen the schema.
deserialize = AvroDeserializer(SchemaRegistryClient({"url": url + "/apis/ccompat/v7"}))
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest"})
consumer.subscribe([topic])
read, end = [], time.monotonic() + 60
while len(read) < int(count):
    if time.monotonic() > end:
        sys.exit(f"only {len(read)} records")
    message = consumer.poll(1)
    if message is not None and not message.error():
        read.append(deserialize(message.value(), context)["number"])
consumer.close()
if read != list(range(int(count))):
    sys.exit(f"read {read}")
print(f"ok: {count} records")
