"""aiokafka."""
import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from roundtrip import Roundtrip


async def main(trip):
    async with AIOKafkaProducer(bootstrap_servers=trip.bootstrap, acks="all", enable_idempotence=True) as producer:
        sent = [await producer.send(trip.topic, value, key) for key, value in trip.records()]
        await asyncio.gather(*sent)
    consumer = AIOKafkaConsumer(trip.topic, bootstrap_servers=trip.bootstrap, group_id=trip.group,
                                auto_offset_reset="earliest", enable_auto_commit=False)
    async with consumer:
        while not trip.done:
            for partition, messages in (await consumer.getmany(timeout_ms=1000)).items():
                for message in messages:
                    trip.add(partition.partition, message.value)
        await consumer.commit()


trip = Roundtrip()
asyncio.run(main(trip))
trip.report()
