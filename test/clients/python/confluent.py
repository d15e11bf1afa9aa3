"""confluent-kafka (librdkafka): group.protocol=classic, consumer or share. Other
options are librdkafka's own: security.protocol=SASL_SSL sasl.mechanism=PLAIN ..."""
import sys

from confluent_kafka import Consumer, Producer

from roundtrip import Roundtrip


def produce(trip):
    failed = []
    producer = Producer({**settings, "bootstrap.servers": trip.bootstrap, "acks": "all", "enable.idempotence": True})
    for key, value in trip.records():
        producer.produce(trip.topic, value, key, on_delivery=lambda err, _: err and failed.append(err))
        producer.poll(0)
    left = producer.flush(30)
    if failed or left:
        sys.exit(f"not delivered: {left} left, {failed[:3]}")


def consume(trip):
    consumer = Consumer({
        **settings,
        "bootstrap.servers": trip.bootstrap,
        "group.id": trip.group,
        "group.protocol": trip.options.get("group.protocol", "classic"),
        "auto.offset.reset": "earliest",
    })
    consumer.subscribe([trip.topic])
    while not trip.done:
        message = consumer.poll(1)
        if message is not None and not message.error():
            trip.add(message.partition(), message.value())
    consumer.commit(asynchronous=False)
    consumer.close()


def share(trip):
    """The group must be configured to begin at the earliest offset."""
    from confluent_kafka import ShareConsumer
    consumer = ShareConsumer({**settings, "bootstrap.servers": trip.bootstrap, "group.id": trip.group})
    consumer.subscribe([trip.topic])
    while not trip.done:
        for message in consumer.poll(timeout=1) or ():
            if not message.error():
                trip.unordered(message.value())
    consumer.close()


trip = Roundtrip()
settings = {key: value for key, value in trip.options.items() if key != "group.protocol"}
produce(trip)
if trip.options.get("group.protocol") == "share":
    share(trip)
else:
    consume(trip)
trip.report()
