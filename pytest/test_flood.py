"""S28: a peer that floods factory messages, while payments run between others."""

import json
import statistics
import subprocess
import sys
import time

import flood
from harness import (
    FAST,
    ROOT,
    activate,
    connect_all,
    create,
    factories,
    fund,
    lsp_options,
    plugin_options,
    status,
    wait_for,
    wait_for_synced,
)
from world import plugin_process

PAYMENTS = 15
# Bytes that the plugin may grow by: several times what one peer is allowed to have waiting.
ROOM = 32 << 20
# An odd type that nobody listens to: what the flooder and lightningd's own work cost.
OF_NO_INTEREST = "9c41" + "00" * 60
CUT_OFF = f"{flood.node_id()}: disconnecting: too fast"
PROTOCOL = "28b740c756a6f24a1f710fa230f60ba4862fc03f8d91442aae25dbe0572204ad"


def piggyback(message):
    """A factory message that carries one of our protocol's."""
    size = len(message) // 2
    length = f"{size:02x}" if size < 0xFD else f"fd{size:04x}"
    return f"802000040020{PROTOCOL}fd0400{length}{message}"


def factory_messages():
    """Well-formed ones, one of each kind, and garbage between them."""
    vectors = json.loads((ROOT / "tests" / "vectors" / "wire.json").read_text())
    yield vectors["envelopes"][0]["hex"]
    for message in vectors["messages"]:
        yield piggyback(message["hex"])
        yield "8020" + "5a" * 60
        yield piggyback("ff" * 200)


class Flood:
    """Runs for the length of a `with`."""

    def __init__(self, node, messages):
        # The node's own features, so that it finds nothing missing.
        features = node.rpc.getinfo()["our_features"]["init"]
        script = str(ROOT / "pytest" / "flood.py")
        self.command = [sys.executable, script, node.info["id"], str(node.port), features, *messages]
        self.node = node

    def __enter__(self):
        self.process = subprocess.Popen(self.command)
        wait_for(lambda: flood.node_id() in {peer["id"] for peer in self.node.rpc.listpeers()["peers"]})

    def __exit__(self, *_):
        assert self.process.poll() is None, "it flooded to the end"
        self.process.kill()
        self.process.wait()
        wait_for(lambda: flood.node_id() not in {peer["id"] for peer in self.node.rpc.listpeers()["peers"]})


def latencies(payer, payee, tag):
    """Seconds that each of some payments takes."""
    hints = [channel["short_channel_id"] for channel in payee.rpc.call("listincoming")["incoming"]]
    taken = []
    for number in range(PAYMENTS):
        label = f"{tag} {number}"
        invoice = payee.rpc.invoice(1_000_000, label, label, exposeprivatechannels=hints)["bolt11"]
        begun = time.monotonic()
        payer.rpc.call("xpay", {"invstring": invoice})
        taken.append(time.monotonic() - begun)
    return statistics.median(taken)


def records(node):
    return node.rpc.call("listdatastore", {"key": ["cln-factory", "factory"]})["datastore"]


# S28
def test_payments_do_not_notice_a_flood(node_factory, bitcoind):
    # lightningd's own limits step in as well.
    flooded = {"factory-confirmations": 1, "broken_log": "Throttling incoming peer|Peer did not close"}
    options = [lsp_options(**FAST, **flooded), plugin_options(), plugin_options()]
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=options)
    fund(bitcoind, lsp, 3_000_000)
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, nodes)
    factory = create(lsp, [alice, bob], capacity_sat=200_000)
    activate(bitcoind, factory, lsp, [alice, bob])
    lsp.rpc.call("xpay", {"invstring": alice.rpc.invoice(100_000_000, "first", "first")["bolt11"]})
    plugin, before = plugin_process(lsp), records(lsp)
    quiet = latencies(alice, bob, "quiet")
    at_rest = plugin.memory_info().rss
    with Flood(lsp, [OF_NO_INTEREST]):
        of_no_interest = latencies(alice, bob, "of no interest")
    with Flood(lsp, factory_messages()):
        lsp.daemon.wait_for_log(CUT_OFF)
        flooded = latencies(alice, bob, "flooded")
        # Cut off again, as often as it comes back.
        lsp.daemon.wait_for_log(CUT_OFF)
        grown = plugin.memory_info().rss - at_rest
    print(
        f"median of a payment: {quiet:.3f} s, beside a flood of no interest {of_no_interest:.3f} s, "
        f"beside a flood of factory messages {flooded:.3f} s; the plugin grew by {grown >> 10} KiB"
    )
    assert flooded < 3 * max(quiet, of_no_interest)
    assert grown < ROOM
    # Nothing of it is left.
    assert records(lsp) == before and len(factories(lsp)) == 1
    known = {peer["id"] for peer in status(lsp)["peers"]}
    assert known == {alice.info["id"], bob.info["id"]}
