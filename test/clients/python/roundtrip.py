"""The task of every Python client, and its check.

usage: CLIENT.py BOOTSTRAP TOPIC GROUP COUNT [key=value ...]

Produces COUNT numbered records with acks=all, consumes them in the group, and
exits 0 if each came exactly once and in order per partition.
"""
import sys
import time

PATIENCE = 60  # seconds until a client gives up


class Roundtrip:
    def __init__(self):
        self.bootstrap, self.topic, self.group, count = sys.argv[1:5]
        self.count = int(count)
        self.options = dict(option.split("=", 1) for option in sys.argv[5:])
        self.deadline = time.monotonic() + PATIENCE
        self.last = {}  # partition -> last number
        self.seen = set()

    def records(self):
        return [(b"key-%d" % n, b"%d" % n) for n in range(self.count)]

    def add(self, partition, value):
        number = int(value)
        if number in self.seen:
            sys.exit(f"record {number} came twice")
        if number < self.last.get(partition, -1):
            sys.exit(f"record {number} came behind {self.last[partition]} in partition {partition}")
        self.seen.add(number)
        self.last[partition] = number

    def unordered(self, value):
        """A share group promises no order."""
        self.add(int(value), value)

    @property
    def done(self):
        if time.monotonic() > self.deadline:
            sys.exit(f"only {len(self.seen)} of {self.count} records after {PATIENCE} s")
        return len(self.seen) == self.count

    def report(self):
        print(f"ok: {self.count} records")
