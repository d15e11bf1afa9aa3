"""The agent's end of culvert's tunnel over HTTP/3, by extended CONNECT or POST, after docs/tunnel.md and nothing else.

It keeps what it receives, for the checks to look at; an agent would pass it on.
"""
import asyncio
import json
import ssl
from contextlib import asynccontextmanager

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio.client import connect
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection, Setting, encode_frame
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset
from aioquic.quic.packet import QuicProtocolVersion

DATA, KEEPALIVE, FINAL_DATA, TICKET, OPEN, OPENED, ERROR = 1, 2, 3, 4, 5, 7, 9
JSON = {TICKET, OPEN, OPENED, ERROR}
MAX_JSON = 16384
VERSION = "1.0"
SILENCE = 15  # seconds after which an end shows that it lives
PATIENCE = 60  # seconds that a check waits at most; the gateway waits for 45


class Broken(Exception):
    """The gateway broke the format. The code is sent to it."""

    def __init__(self, message, code="protocol"):
        super().__init__(message)
        self.code = code


def varint(number, size=None):
    """An integer of RFC 9000, in 1, 2, 4 or 8 bytes, or in as few as it needs."""
    size = size or next(n for n in (1, 2, 4, 8) if number < 1 << 8 * n - 2)
    return (number | size.bit_length() - 1 << 8 * size - 2).to_bytes(size, "big")


def capsule(kind, value=b"", size=None):
    if isinstance(value, dict):
        value = json.dumps(value).encode()
    return varint(kind, size) + varint(len(value), size) + value


class Capsules:
    """Parses capsules from bytes that may be split anywhere."""

    def __init__(self):
        self.buffer = bytearray()
        self.kind = None  # of the capsule that has begun
        self.left = 0  # bytes of it that are still to come

    def feed(self, data):
        """Yields (type, value): bytes as they come, those of FINAL_DATA as DATA before it, JSON when complete, and nothing for unknown types."""
        self.buffer += data
        while self.begun():
            if self.kind in JSON:
                if len(self.buffer) < self.left:
                    return
                yield self.kind, self.parse(self.take())
            else:
                piece = self.take()
                if self.kind in (DATA, FINAL_DATA) and piece:
                    yield DATA, piece
                if self.left:
                    return
                if self.kind in (KEEPALIVE, FINAL_DATA):
                    yield self.kind, None
            self.kind = None

    def begun(self):
        """Whether the head of a capsule is complete."""
        if self.kind is not None:
            return True
        numbers, at = [], 0
        while len(numbers) < 2:
            if at == len(self.buffer) or at + (size := 1 << (self.buffer[at] >> 6)) > len(self.buffer):
                return False
            numbers.append(int.from_bytes(self.buffer[at:at + size], "big") & (1 << 8 * size - 2) - 1)
            at += size
        del self.buffer[:at]
        self.kind, self.left = numbers
        if self.kind in JSON and self.left > MAX_JSON:
            raise Broken(f"{self.left} bytes of JSON")
        if self.kind == OPEN or self.kind % 2 and self.kind not in JSON | {DATA, FINAL_DATA}:
            raise Broken(f"capsule of type {self.kind}; this end speaks {VERSION}")
        return True

    def take(self):
        piece = bytes(self.buffer[:self.left])
        del self.buffer[:self.left]
        self.left -= len(piece)
        return piece

    @staticmethod
    def parse(value):
        try:
            return dict(json.loads(value))
        except (TypeError, ValueError) as cause:
            raise Broken(f"JSON: {cause}") from cause


class Exchange:
    """One request and its response: one stream, if the status is 200."""

    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.changed = asyncio.Event()
        self.status = self.headers = None
        self.body = bytearray()  # of an answer that is not 200
        self.raw = bytearray()  # of one that is
        self.capsules = Capsules()
        self.opened = self.error = None
        self.data = bytearray()
        self.tickets = []  # (value, how many bytes of data were there before it)
        self.keepalives = 0
        self.final = self.said_final = False  # FINAL_DATA came, went
        self.done = False  # nothing more may be sent
        self.ended = None  # how the gateway ended its direction: "FIN", "reset 0x..." or "connection lost"
        self.stopped = None  # the code of its STOP_SENDING
        self.broken = None  # how it broke the format
        self.alive = asyncio.get_running_loop().call_later(SILENCE, self.send, capsule(KEEPALIVE))

    def __str__(self):
        told = {"status": self.status, "data": len(self.data), "tickets": len(self.tickets), "keepalives": self.keepalives, "final": self.final,
                "error": self.error, "broken": self.broken, "ended": self.ended, "stopped": self.stopped, "body": self.body.decode()}
        return ", ".join(f"{name} {value}" for name, value in told.items() if value)

    def whole(self):
        """Whether the stream has ended in order."""
        return self.final and self.ended == "FIN" and not self.broken and self.stopped is None

    def send(self, *capsules, last=False):
        self.alive.cancel()
        if self.done:
            return
        self.done = last
        if not last:
            self.alive = asyncio.get_running_loop().call_later(SILENCE, self.send, capsule(KEEPALIVE))
        self.connection.http.send_data(self.number, b"".join(capsules), end_stream=last)
        self.connection.transmit()

    def send_unknown_frame(self):
        """Sends an HTTP/3 frame of a reserved type."""
        self.connection._quic.send_stream_data(self.number, encode_frame(0x21, b"skip me"))

    def end(self):
        """Sends FINAL_DATA. The request ends when both sides have sent it."""
        self.send(capsule(FINAL_DATA))
        self.said_final = True
        self.close_if_done()

    def close_if_done(self):
        if self.final and self.said_final:
            self.finish()

    def finish(self):
        """Ends the request (FIN)."""
        self.send(last=True)

    def abort(self):
        self.alive.cancel()
        self.done = True
        quic = self.connection._quic
        quic.reset_stream(self.number, ErrorCode.H3_REQUEST_CANCELLED)
        quic.stop_stream(self.number, ErrorCode.H3_NO_ERROR)
        self.connection.transmit()

    def answered(self, headers):
        self.headers = {name.decode(): value.decode() for name, value in headers}
        self.status = int(self.headers[":status"])

    def received(self, data):
        if self.status != 200:
            self.body += data
        elif not self.broken:
            self.raw += data
            try:
                for kind, value in self.capsules.feed(data):
                    self.took(kind, value)
            except Broken as broken:
                self.broken = str(broken)
                self.fail(broken.code, self.broken)

    def took(self, kind, value):
        if self.error:
            raise Broken(f"capsule of type {kind} behind ERROR")
        if kind == KEEPALIVE:
            self.keepalives += 1
        elif kind == ERROR:
            self.error = value
            self.abort()
        elif (kind == OPENED) == bool(self.opened):
            raise Broken("OPENED must come once, and first")
        elif kind == OPENED:
            self.opened = value
            if not compatible(str(value.get("version"))):
                raise Broken(f"the agent speaks {VERSION}, the gateway {value.get('version')}", "version")
        elif self.final:
            raise Broken(f"capsule of type {kind} behind FINAL_DATA")
        elif kind == DATA:
            self.data += value
        elif kind == TICKET:
            self.tickets.append((value, len(self.data)))
        else:
            self.final = True
            self.close_if_done()

    def fail(self, code, message):
        """Ends the stream in both directions with an ERROR; the gateway aborts the exchange when it has read that."""
        self.send(capsule(ERROR, {"code": code, "message": message}), last=True)

    async def until(self, done):
        """Waits until the condition is true."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not done(self):
                    if self.broken:
                        raise Broken(self.broken)
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise TimeoutError(f"nothing more within {PATIENCE} s: {self}") from None


def compatible(version):
    """Whether this version is compatible with that one."""
    try:
        (major, minor), ours = map(int, version.split(".")), [int(n) for n in VERSION.split(".")]
    except ValueError:
        return False
    return major == ours[0] and abs(minor - ours[1]) <= 1


class Connection(QuicConnectionProtocol):
    """A QUIC connection that carries exchanges."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.http = H3Connection(self._quic)
        self.exchanges = {}
        self.settings = asyncio.get_running_loop().create_future()

    def request(self, *capsules, method="CONNECT", token=None, path="/culvert", protocol="culvert", headers={}):
        """Sends a request together with the first capsules."""
        number = self._quic.get_next_available_stream_id()
        self.exchanges[number] = exchange = Exchange(self, number)
        fields = {":method": method, ":scheme": "https", ":authority": self.authority, ":path": path}
        fields |= {":protocol": protocol} if method == "CONNECT" else {"content-type": "application/octet-stream"}
        if token:
            fields["culvert-authorization"] = f"Bearer {token}"
        fields |= headers
        self.http.send_headers(number, [(name.encode(), value.encode()) for name, value in fields.items()])
        exchange.send(*capsules)
        return exchange

    def quic_event_received(self, event):
        for happened in self.http.handle_event(event):
            exchange = self.exchanges[happened.stream_id]
            exchange.changed.set()
            if isinstance(happened, HeadersReceived):
                exchange.answered(happened.headers)
            elif isinstance(happened, DataReceived):
                exchange.received(happened.data)
            if happened.stream_ended:
                self.ended(exchange, "FIN")
        if isinstance(event, StreamReset):
            self.ended(self.exchanges[event.stream_id], f"reset {event.error_code:#x}")
        elif isinstance(event, StopSendingReceived):
            self.exchanges[event.stream_id].stopped = event.error_code
        elif isinstance(event, ConnectionTerminated):
            for exchange in self.exchanges.values():
                self.ended(exchange, "connection lost")
        if self.http.received_settings and not self.settings.done():
            self.settings.set_result(self.http.received_settings)

    @staticmethod
    def ended(exchange, how):
        exchange.ended = exchange.ended or how
        exchange.alive.cancel()
        exchange.changed.set()


@asynccontextmanager
async def dial(host, port, ca_file):
    """Connects, and returns when the gateway has announced extended CONNECT."""
    window = 1 << 20
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, supported_versions=[QuicProtocolVersion.VERSION_1], idle_timeout=30,
        max_stream_data=window, max_data=130 * window,  # 64 streams that nobody reads stop no other, though aioquic gives credit by halves
        verify_mode=ssl.CERT_REQUIRED, cafile=ca_file)
    async with connect(host, port, configuration=configuration, create_protocol=Connection) as connection:
        connection.authority = f"{host}:{port}"
        async with asyncio.timeout(PATIENCE):
            settings = await connection.settings
        if settings.get(Setting.ENABLE_CONNECT_PROTOCOL) != 1:
            raise Broken("no SETTINGS_ENABLE_CONNECT_PROTOCOL")
        yield connection
