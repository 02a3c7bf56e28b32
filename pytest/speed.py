"""Measuring on real nodes: tables, payments that run beside something else, a crowd of clients."""

import collections
import contextlib
import datetime
import itertools
import re
import select
import statistics
import subprocess
import sys
import time

import crowd
import harness
from harness import ROOT, wait_for

# static_remotekey, anchors, scid_alias and zeroconf: what the plugin asks for.
CHANNEL_TYPE = [12, 22, 46, 50]
ZEROCONF = str(ROOT / "pytest" / "plugins" / "zeroconf.py")


def table(head, rows):
    """Markdown."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percentile(values, percent):
    """The smallest value that so many percent are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


# 17 nodes that ask for the tip each second keep a small machine busy with nothing else. And lightningd logs as
# much as it does by default.
QUIET = {"dev-bitcoind-poll": 5, "log-level": "info"}


def lsp_options(**more):
    return harness.lsp_options(**{**harness.FAST, **QUIET, **more})


def client_options(**more):
    """A client that takes ordinary zero-conf channels, too."""
    return harness.plugin_options(**{"plugin": [harness.find_plugin(), ZEROCONF], **QUIET, **more})


@contextlib.contextmanager
def stopwatch():
    """A list that gets the seconds of the block."""
    taken, begun = [], time.monotonic()
    yield taken
    taken.append(time.monotonic() - begun)


def plain_opens(lsp, clients, capacity_sat):
    """What lightningd itself does for the factory's channels, without a factory: one transaction, everything at
    once, zero-conf, the same channel type. Its fastest way to open channels with many."""
    destination = {"amount": capacity_sat, "announce": False, "mindepth": 0, "push_msat": 1000}
    destinations = [
        {"id": client.info["id"], "channel_type": CHANNEL_TYPE, "reserve": 0, **destination} for client in clients
    ]
    opened = lsp.rpc.call("multifundchannel", {"destinations": destinations})
    assert len(opened["channel_ids"]) == len(clients), opened
    return opened


MOVED = re.compile(r"(\S+Z) INFO +plugin-cln-factory: (\w+): (\w+) -> (\w+)")


def stages(lsp):
    """Seconds that each factory spent in each state of its creation, from the operator's log."""
    lsp.daemon.logs_catchup()
    since, spent = {}, collections.defaultdict(list)
    for when, instance, old, new in (found.groups() for found in map(MOVED.search, lsp.daemon.logs) if found):
        now = datetime.datetime.fromisoformat(when)
        if instance in since and old != "funding":
            spent[old].append((now - since[instance]).total_seconds())
        since[instance] = now
    return spent


def wait_for_normal(lsp, count):
    def normal():
        channels = lsp.rpc.listpeerchannels()["channels"]
        return sum(channel["state"] == "CHANNELD_NORMAL" for channel in channels) == count

    wait_for(normal)


class Payments:
    """One payment after the other from one client to another, over the operator, on channels that are there."""

    def __init__(self, payer, lsp, payee, amount_msat=10_000):
        self.payer, self.payee, self.amount_msat = payer, payee, amount_msat
        self.labels = itertools.count()
        first, second = (self.channel(node, lsp) for node in (payer, payee))
        self.scids = [first["alias"]["local"], second["alias"]["remote"]]
        self.lsp = lsp

    @staticmethod
    def channel(client, lsp):
        (channel,) = [c for c in client.rpc.listpeerchannels(lsp.info["id"])["channels"] if c.get("htlcs") is not None]
        return channel

    def pay(self):
        """Seconds from sendpay until the payer has the preimage."""
        label = f"measured {next(self.labels)}"
        invoice = self.payee.rpc.invoice(self.amount_msat, label, label)
        decoded = self.payer.rpc.decode(invoice["bolt11"])
        last = decoded["min_final_cltv_expiry"] + 1
        hops = [(self.lsp, self.amount_msat + 1000, last + 6), (self.payee, self.amount_msat, last)]
        route = [
            {"id": node.info["id"], "channel": scid, "amount_msat": amount, "delay": delay}
            for scid, (node, amount, delay) in zip(self.scids, hops)
        ]
        begun = time.monotonic()
        self.payer.rpc.sendpay(route, invoice["payment_hash"], payment_secret=decoded["payment_secret"])
        self.payer.rpc.waitsendpay(invoice["payment_hash"], 60)
        return time.monotonic() - begun

    def several(self, count):
        return [self.pay() for _ in range(count)]

    def beside(self, going_on):
        """Until something is done that goes on meanwhile."""
        taken = []
        while not going_on.done():
            taken.append(self.pay())
        return taken


class Crowd:
    """Many clients that answer invitations, for the length of a `with`."""

    def __init__(self, node, count, nonces):
        features = node.rpc.getinfo()["our_features"]["init"]
        script = str(ROOT / "pytest" / "crowd.py")
        words = [node.info["id"], node.port, features, count, nonces]
        self.command = [sys.executable, script, *(str(word) for word in words)]
        self.node, self.count = node, count

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, bufsize=0)
        self.expect("connected")
        ids = set(crowd.node_ids(self.count))
        wait_for(lambda: ids <= {peer["id"] for peer in harness.status(self.node)["peers"] if peer["ready"]}, 120)
        return self

    def expect(self, word, timeout=120):
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        assert ready, f"the crowd has not said '{word}' within {timeout} s"
        line = self.process.stdout.readline().decode().strip()
        assert line == word, f"the crowd said '{line}', not '{word}'"

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def summary(name, taken, reference):
    """A row of a table of latencies: milliseconds, and how much slower than the reference."""
    middle, slow = statistics.median(taken), percentile(taken, 95)
    times = f"{middle / statistics.median(reference):.2f}", f"{slow / percentile(reference, 95):.2f}"
    return [name, len(taken), f"{middle * 1e3:.0f} ms", f"{slow * 1e3:.0f} ms", *times]
