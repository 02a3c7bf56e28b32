"""A peer that sends as fast as it can, and connects again whenever it is cut off. Runs as a process of
its own:

    flood.py NODE_ID PORT FEATURES MESSAGE…

MESSAGEs are hex, sent in turn, over and over, until the process is killed.
"""

import itertools
import socket
import struct
import sys

from pyln.proto.primitives import PrivateKey
from pyln.proto.wire import connect

KEY = PrivateKey(bytes([7] * 32))
INIT = 16
# Messages between two looks at whether the connection still stands: a batch is one write.
BATCH = 100


class Buffered:
    """A socket that is written to in large pieces, and never in half of one."""

    def __init__(self, connection):
        self.connection, self.buffer = connection, bytearray()

    def send(self, data):
        self.buffer += data

    def recv(self, size):
        self.flush()
        return self.connection.recv(size, socket.MSG_WAITALL)

    def flush(self):
        self.connection.sendall(self.buffer)
        self.buffer.clear()


def node_id():
    return KEY.public_key().serializeCompressed().hex()


def meet(peer, port, features, key=KEY):
    """A connection over which both have said `init`."""
    connection = connect(key, bytes.fromhex(peer), "127.0.0.1", port)
    connection.connection = Buffered(connection.connection)
    connection.send_message(struct.pack("!HHH", INIT, 0, len(features)) + features)
    connection.read_message()
    return connection


def flood(connection, messages):
    turns = itertools.cycle(messages)
    while True:
        for message in itertools.islice(turns, BATCH):
            connection.send_message(message)
        connection.connection.flush()


if __name__ == "__main__":
    peer, port, features, *messages = sys.argv[1:]
    messages = [bytes.fromhex(message) for message in messages]
    while True:
        try:
            flood(meet(peer, int(port), bytes.fromhex(features)), messages)
        except (OSError, ValueError):
            # Cut off: again.
            pass
