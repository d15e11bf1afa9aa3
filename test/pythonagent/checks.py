"""Checks a culvert gateway, and docs/tunnel.md, with an independent agent.

usage: checks.py HOST:PORT CA_FILE TOKEN_FILE

The token file is the gateway's. Prints a line per check, and exits 0 if all went
as the page says.
"""
import asyncio
import os
import sys

import kafka
from tunnel import DATA, FINAL_DATA, KEEPALIVE, MAX_JSON, OPEN, OPENED, TICKET, VERSION, Capsules, capsule, dial

BYTES, END = capsule(DATA, b"hello"), capsule(FINAL_DATA)
UNKNOWN_EVEN, UNKNOWN_ODD = 0x2A, 0x2B


def opening(size=None, **members):
    return capsule(OPEN, {"version": VERSION, "target": "hello", **members}, size)


def spelt(size):
    """A complete stream whose integers have that many bytes."""
    return opening(size) + capsule(DATA, b"hello", size) + capsule(FINAL_DATA, b"", size)


HELLO = opening()

# What a sender may do: hello must answer each of them with b"hello".
ECHOED = {
    "integers of 2 bytes": spelt(2),
    "integers of 4 bytes": spelt(4),
    "integers of 8 bytes": spelt(8),
    "KEEPALIVE as the first capsule": capsule(KEEPALIVE) + HELLO + BYTES + END,
    "unknown even types": capsule(UNKNOWN_EVEN, bytes(100_000)) + HELLO + capsule(UNKNOWN_EVEN) + BYTES + capsule(UNKNOWN_EVEN) + END,
    "TICKET to a gateway": HELLO + capsule(TICKET, {"address": "x"}) + BYTES + END,
    "empty DATA, and bytes in FINAL_DATA": HELLO + capsule(DATA) + capsule(DATA, b"hel") + capsule(FINAL_DATA, b"lo"),
    "unknown members and features in OPEN": opening(features=["x"], new=[{}]) + BYTES + END,
    "the next minor version": opening(version="1.1") + BYTES + END,
    "OPEN of 16384 bytes": opening(pad="x" * (MAX_JSON - 48)) + BYTES + END,
}

# What a gateway must answer with an ERROR: its code, and what its message must have.
REFUSED = {
    "an unknown odd type": (HELLO + capsule(UNKNOWN_ODD), "protocol", VERSION),
    "an unknown odd type instead of OPEN": (capsule(UNKNOWN_ODD), "protocol", VERSION),
    "OPEN of version 9.0": (opening(version="9.0"), "version", "9.0", VERSION),
    "OPEN two minor versions ahead": (opening(version="1.2"), "version", "1.2", VERSION),
    "OPEN without a version": (capsule(OPEN, {"target": "hello"}), "version", VERSION),
    "OPEN of 16385 bytes": (opening(pad="x" * (MAX_JSON - 47)), "protocol"),
    "OPEN that is no JSON": (capsule(OPEN, b"hello"), "protocol"),
    "OPEN that is no object": (capsule(OPEN, b"[]"), "protocol"),
    "OPEN twice": (HELLO + HELLO, "protocol"),
    "OPENED from an agent": (HELLO + capsule(OPENED, {"version": VERSION}), "protocol"),
    "DATA before OPEN": (BYTES + HELLO, "protocol"),
    "FINAL_DATA before OPEN": (END + HELLO, "protocol"),
    "a target without a ticket": (opening(target="192.0.2.1:9092"), "target"),
    "an invalid target": (opening(target="elsewhere"), "target"),
    "a hello of more than 1 MiB": (HELLO + capsule(DATA, bytes((1 << 20) + 1)), "limit"),
}

# Requests that open no stream: the request, the status, and a required header.
ANSWERED = {
    "a wrong token": ({"token": "wrong"}, 401, "www-authenticate"),
    "no token": ({"token": None}, 401, "www-authenticate"),
    "Origin": ({"headers": {"origin": "https://example.com"}}, 403),
    "another path": ({"path": "/"}, 404),
    "GET": ({"method": "GET"}, 405, "allow"),
    "Content-Length": ({"method": "POST", "headers": {"content-length": "5"}}, 400),
    "another Content-Type": ({"method": "POST", "headers": {"content-type": "text/plain"}}, 415),
    "another :protocol": ({"method": "CONNECT", "protocol": "websocket"}, 501),
}


# Required headers of the response to a POST.
UNBUFFERED = {"content-type": "application/octet-stream", "cache-control": "no-store", "x-accel-buffering": "no"}


class Checks:
    def __init__(self, connection, method, token):
        self.connection, self.defaults, self.failed = connection, {"method": method, "token": token}, 0

    def expect(self, good, what, saw=""):
        self.failed += not good
        print("ok  " if good else "FAIL", f"{self.defaults['method']}: {what}" + (f": {saw}" if str(saw) else ""), flush=True)

    def request(self, *capsules, **options):
        return self.connection.request(*capsules, **{**self.defaults, **options})

    async def closed(self, exchange, what):
        """Both ends have sent FINAL_DATA, and the stream has ended."""
        await exchange.until(lambda e: e.ended)
        self.expect(exchange.whole(), what, exchange)

    async def hello(self):
        sent = os.urandom(1 << 16)
        stream = self.request(HELLO, capsule(DATA, sent))
        await stream.until(lambda e: len(e.data) >= len(sent) or e.ended)
        self.expect(stream.data == sent, "hello sends 64 KiB back", stream)
        version = stream.headers["culvert-gateway"]
        self.expect(stream.opened and stream.opened["gateway"] == version, "header and OPENED name the gateway's version", version)
        if self.defaults["method"] == "POST":
            self.expect(UNBUFFERED.items() <= stream.headers.items(), "the answer's header keeps buffers away", stream.headers)
        stream.end()
        await self.closed(stream, "hello ends")
        return [ticket for ticket, _ in stream.tickets]

    async def bootstrap(self):
        stream = self.request(opening(target="bootstrap"), capsule(DATA, kafka.API_VERSIONS_V0 + kafka.METADATA_V4))
        await stream.until(lambda e: len(kafka.whole(e.data)) == 2 or e.ended)
        versions, metadata = (kafka.Response(stream.data, at) for at in kafka.whole(stream.data))
        error, keys = versions.api_versions()
        self.expect((versions.correlation, error) == (1, 0) and 3 in keys, "bootstrap answers ApiVersions", f"{len(keys)} API keys")
        cluster, brokers = metadata.metadata()
        self.expect(metadata.correlation == 2 and brokers, "bootstrap answers Metadata", f"cluster {cluster}, brokers {brokers}")
        early = {(t["cluster_id"], t["node_id"], t["address"]) for t, at in stream.tickets if at <= kafka.whole(stream.data)[1]}
        self.expect(early == {(cluster, *broker) for broker in brokers.items()}, "a ticket for each broker comes before its address")
        self.expect(self.reread(stream.raw) == (stream.data, 1 + len(stream.tickets)), "the same comes out byte by byte")
        stream.end()
        await self.closed(stream, "half-close is passed to the broker, and the broker's back")
        return [ticket for ticket, _ in stream.tickets]

    @staticmethod
    def reread(raw):
        """The stream's bytes, and the number of other capsules, read from single bytes."""
        capsules = Capsules()
        got = [took for byte in raw for took in capsules.feed(bytes([byte]))]
        return b"".join(value for kind, value in got if kind == DATA), sum(kind != DATA for kind, _ in got)

    async def tickets(self, tickets):
        for ticket in tickets:
            stream = self.request(opening(target=ticket["address"], ticket=ticket), capsule(FINAL_DATA, kafka.METADATA_V4))
            stream.said_final = True
            await self.closed(stream, f"a ticket opens {ticket['address']}")
            self.expect(len(kafka.whole(stream.data)) == 1, "which answers a request in FINAL_DATA", f"{len(stream.data)} bytes")
        forged = {**ticket, "address": "192.0.2.1:9092"}
        await self.refused("a ticket with another address", opening(target=forged["address"], ticket=forged), "ticket")
        await self.refused("a ticket for another target", opening(target="192.0.2.1:9092", ticket=ticket), "ticket")

    async def accepted(self, what, stream):
        await stream.until(lambda e: e.final or e.ended)
        stream.finish()
        await stream.until(lambda e: e.ended)
        self.expect(stream.data == b"hello" and stream.whole(), f"accepted: {what}", stream)

    async def refused(self, what, flight, code, *words):
        stream = self.request(flight)
        await stream.until(lambda e: e.ended)
        error = stream.error or {}
        self.expect(error.get("code") == code and all(word in error["message"] for word in words), f"refused: {what}", error or stream)

    async def answered(self, what, options, status, *header):
        exchange = self.request(**options)
        await exchange.until(lambda e: e.ended)
        headers = exchange.headers or {}
        good = exchange.status == status and {"culvert-gateway", *header} <= set(headers) and headers["content-type"].startswith("text/plain")
        self.expect(good, f"answered with {status}: {what}", [headers[h] for h in header] + [exchange.body.decode().strip()] if good else exchange)

    async def frames(self):
        """DATA frames of one byte, and frames of unknown types between them."""
        stream = self.request()
        for byte in HELLO + BYTES + END:
            stream.send_unknown_frame()
            stream.send(bytes([byte]))
        await self.accepted("frames of a byte, and of unknown types", stream)

    async def given_up(self):
        """The gateway ends a stream that the agent aborts, cuts or ends with an ERROR. The connection stays open."""
        aborted, cut, failed = (self.request(opening(target="bootstrap")) for _ in range(3))
        for stream in aborted, cut, failed:
            await stream.until(lambda e: e.opened)
        aborted.abort()
        cut.finish()
        failed.fail("client", "the client went away")
        for what, stream in ("RESET_STREAM and STOP_SENDING", aborted), ("FIN without FINAL_DATA", cut), ("an ERROR", failed):
            await stream.until(lambda e: e.ended)
            self.expect(not stream.broken, f"ended: {what}", stream)

    async def silent(self):
        """A gateway waits for OPEN, longer on a spare stream, and sends KEEPALIVEs on an open stream."""
        never, spare, idle = self.request(), self.request(capsule(KEEPALIVE)), self.request(opening(target="bootstrap"))
        await never.until(lambda e: e.ended)
        self.expect(never.error and never.error["code"] == "protocol", "OPEN that does not come", never)
        spare.send(HELLO + BYTES + END)
        await self.accepted("a spare's OPEN at that time", spare)
        await idle.until(lambda e: e.keepalives or e.ended)
        self.expect(idle.keepalives, "KEEPALIVE on a stream that is idle", idle)
        idle.end()
        await self.closed(idle, "which then ends")

    async def all(self):
        silent = asyncio.create_task(self.silent())
        await self.hello()
        await self.tickets(await self.bootstrap())
        await self.frames()
        for what, flight in ECHOED.items():
            await self.accepted(what, self.request(flight))
        for what, refusal in REFUSED.items():
            await self.refused(what, *refusal)
        for what, answer in ANSWERED.items():
            await self.answered(what, *answer)
        await self.given_up()
        await silent
        await self.hello()


async def run(method, host, port, ca_file, token):
    async with dial(host, port, ca_file) as connection:
        checks = Checks(connection, method, token)
        await checks.all()
        return checks.failed


async def main(address, ca_file, token_file):
    host, _, port = address.rpartition(":")
    with open(token_file) as lines:
        token = lines.readline().strip().partition("=")[2]
    return any(await asyncio.gather(*(run(method, host, int(port), ca_file, token) for method in ("CONNECT", "POST"))))


sys.exit(asyncio.run(main(*sys.argv[1:])))
