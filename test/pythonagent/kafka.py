"""Encodes the two Kafka requests that the checks need."""
import struct


def frame(key, version, correlation, body=b""):
    client = b"python-agent"
    request = struct.pack(">hhih", key, version, correlation, len(client)) + client + body
    return struct.pack(">i", len(request)) + request


API_VERSIONS_V0 = frame(18, 0, 1)
METADATA_V4 = frame(3, 4, 2, struct.pack(">i?", 0, False))  # of no topic, and make none


def whole(data):
    """The offsets of the complete responses in data."""
    offsets, at = [], 0
    while (after := at + 4 + int.from_bytes(data[at:at + 4], "big")) <= len(data) and at < len(data):
        offsets.append(at)
        at = after
    return offsets


class Response:
    """Reads a response's fields one after the other."""

    def __init__(self, data, at):
        self.data, self.at = bytes(data), at + 4
        self.correlation = self.read("i")

    def read(self, layout):
        value, = struct.unpack_from(">" + layout, self.data, self.at)
        self.at += struct.calcsize(">" + layout)
        return value

    def string(self):
        length = self.read("h")
        return None if length < 0 else self.read(f"{length}s").decode()

    def api_versions(self):
        """The error, and the highest version of each API key."""
        error, ranges = self.read("h"), [self.read("6s") for _ in range(self.read("i"))]
        return error, {key: highest for key, _, highest in map(struct.Struct(">hhh").unpack, ranges)}

    def metadata(self):
        """The cluster's id, and the brokers' addresses by node id."""
        self.read("i")  # how long the broker held the request back
        brokers = {}
        for _ in range(self.read("i")):
            node, host, port = self.read("i"), self.string(), self.read("i")
            brokers[node] = f"{host}:{port}"
            self.string()  # the rack
        return self.string(), brokers
