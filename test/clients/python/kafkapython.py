"""kafka-python, 3.x and 2.0.2. Options with a name of its own settings are
handed on: security_protocol=SASL_PLAINTEXT sasl_mechanism=PLAIN ..."""
from kafka import KafkaConsumer, KafkaProducer

from roundtrip import Roundtrip

trip = Roundtrip()
settings = {"bootstrap_servers": trip.bootstrap.split(","), **trip.options}

producer = KafkaProducer(acks="all", **settings)
sent = [producer.send(trip.topic, value, key) for key, value in trip.records()]
for future in sent:
    future.get(timeout=30)
producer.close()

consumer = KafkaConsumer(trip.topic, group_id=trip.group, auto_offset_reset="earliest", enable_auto_commit=False, **settings)
while not trip.done:
    for partition, messages in consumer.poll(timeout_ms=1000).items():
        for message in messages:
            trip.add(partition.partition, message.value)
consumer.commit()
consumer.close()
trip.report()
