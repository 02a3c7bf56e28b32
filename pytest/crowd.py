"""Many clients in one process, that answer an invitation with a join and then fall silent:

    crowd.py NODE_ID PORT FEATURES COUNT NONCES

Prints `connected` once all are; then, for each factory, `joined` when the last join is sent, and
`announced` when everybody was told of its channel: the operator has handled all joins by then.
NONCES: how many a join has to have, as many as its client signs transactions.
"""

import collections
import hashlib
import selectors
import struct
import sys

from pyln.proto.primitives import PrivateKey

import flood

PROTOCOL = bytes.fromhex("28b740c756a6f24a1f710fa230f60ba4862fc03f8d91442aae25dbe0572204ad")
FACTORY, PING, PONG = 32800, 18, 19
LISTED, PIGGYBACK = 2, 4
INVITE, JOIN, EXPECT_CHANNEL = 2, 4, 8
# Two points of the curve: what a nonce is made of.
NONCE = bytes.fromhex(
    "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"
)


def key(index):
    return PrivateKey(hashlib.sha256(b"crowd %d" % index).digest())


def node_ids(count):
    return [key(index).public_key().serializeCompressed().hex() for index in range(count)]


def bigsize(number):
    return struct.pack("!B", number) if number < 0xFD else struct.pack("!BH", 0xFD, number)


def record(kind, value):
    return bigsize(kind) + bigsize(len(value)) + value


def read_bigsize(data):
    if data[0] < 0xFD:
        return data[0], data[1:]
    size = {0xFD: 2, 0xFE: 4, 0xFF: 8}[data[0]]
    return int.from_bytes(data[1 : 1 + size], "big"), data[1 + size :]


def records(data):
    """A TLV stream."""
    found = {}
    while data:
        kind, data = read_bigsize(data)
        length, data = read_bigsize(data)
        found[kind], data = data[:length], data[length:]
    return found


class Client:
    def __init__(self, index, peer, port, features):
        self.key = key(index)
        self.connection = flood.meet(peer, port, features, self.key)
        self.sent = 0
        self.connection.send_message(struct.pack("!HH", FACTORY, LISTED) + record(512, PROTOCOL))
        self.flush()

    def socket(self):
        return self.connection.connection.connection

    def flush(self):
        self.connection.connection.flush()

    def receive(self):
        """The next message; gives type and records of one of the protocol's."""
        message = self.connection.read_message()
        (kind,) = struct.unpack_from("!H", message)
        if kind == PING:
            (size,) = struct.unpack_from("!H", message, 2)
            self.connection.send_message(struct.pack("!HH", PONG, size) + bytes(size))
            self.flush()
        if kind != FACTORY or struct.unpack_from("!H", message, 2) != (PIGGYBACK,):
            return None
        envelope = records(message[4:])
        frame, payload = envelope.get(1025), envelope[1024]
        if not payload:
            return None
        assert frame is None or struct.unpack("!IHH", frame)[2] == 1, "a message in one piece"
        self.owed = None if frame is None else frame[:6]
        (kind,) = struct.unpack_from("!H", payload)
        return kind, records(payload[2:])

    def send(self, payload):
        """A message, or none: then an acknowledgement alone."""
        envelope = record(0, PROTOCOL) + record(1024, payload)
        if payload:
            envelope += record(1025, struct.pack("!IHH", self.sent, 0, 1))
            self.sent += 1
        if self.owed:
            envelope += record(1027, self.owed)
        self.connection.send_message(struct.pack("!HH", FACTORY, PIGGYBACK) + envelope)
        self.flush()

    def join(self, invitation, nonces):
        payout = bytes([22, 0, 20]) + hashlib.sha256(self.key.serializeCompressed()).digest()[:20]
        point = PrivateKey(hashlib.sha256(self.key.serializeCompressed() + invitation[0]).digest())
        fields = {
            0: invitation[0],
            2: invitation[2],
            4: point.public_key().serializeCompressed(),
            6: payout,
            8: bigsize(nonces) + nonces * NONCE,
        }
        stream = b"".join(record(kind, value) for kind, value in fields.items())
        self.send(struct.pack("!H", JOIN) + stream)


def say(word):
    print(word, flush=True)


def main(peer, port, features, count, nonces):
    selector = selectors.DefaultSelector()
    for index in range(count):
        client = Client(index, peer, port, features)
        selector.register(client.socket(), selectors.EVENT_READ, client)
    say("connected")
    joined, announced = collections.Counter(), collections.Counter()
    while True:
        for ready, _ in selector.select():
            client = ready.data
            received = client.receive()
            if received is None:
                continue
            kind, fields = received
            if kind == INVITE:
                client.join(fields, nonces)
                joined[fields[0]] += 1
                if joined[fields[0]] == count:
                    say("joined")
                continue
            client.send(b"")
            if kind == EXPECT_CHANNEL:
                announced[fields[0]] += 1
                if announced[fields[0]] == count:
                    say("announced")


if __name__ == "__main__":
    peer, port, features, count, nonces = sys.argv[1:]
    main(peer, int(port), bytes.fromhex(features), int(count), int(nonces))
