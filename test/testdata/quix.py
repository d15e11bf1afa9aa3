"""An application of Quix Streams: copies records exactly once, and counts them in a state store
that has a changelog topic. Each input and output is bytes of a number."""

import sys

from quixstreams import Application

bootstrap, source, target, folder = sys.argv[1:]
app = Application(
    broker_address=bootstrap,
    consumer_group=source,
    auto_offset_reset="earliest",
    processing_guarantee="exactly-once",
    commit_interval=1,
    state_dir=folder,
)


def count(value, state):
    state.set("count", state.get("count", 0) + 1)
    return value


records = app.dataframe(app.topic(source, value_deserializer="bytes"))
records.apply(count, stateful=True).to_topic(app.topic(target, value_serializer="bytes"))
app.run()
