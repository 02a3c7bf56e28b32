"""An operator and two clients that stand still on request, so that they can be killed there, and what
became of every satoshi of theirs."""

import contextlib
import itertools
import os
import re
import signal
import sqlite3

import psutil
from pyln.client import RpcError
from pyln.testing.fixtures import SqliteDbProvider, getCrashLog
from pyln.testing.utils import LightningNode, NodeFactory

import harness
from harness import FAST, connect_all, create, factories, faulty, fund, wait_for

CAPACITY_SAT = 100_000
# The operator's funding, and what lightningd keeps back for the anchors of its channels.
COINS = [2_000_000] * 3
# Coins that are reserved and of which nothing was stored come free after so many blocks (src/cln/wallet.rs).
RESERVED_BLOCKS = 12
ANCHOR_SCRIPT = "51024e73"
CHANNEL_ANCHOR_SAT = 330
# What lightningd itself logs as broken when its important plugin or a peer's process is shot.
OF_A_KILL = re.compile(
    "Plugin marked as important|Reading sync lightningd|Lost connection to the RPC socket|Broken pipe|"
    "Subd did not close|exited without terminating"
)
# Channels of an attempt that ended after `fundchannel_complete`: closed by both, or, if one was away, by the
# other alone. lightningd goes on listing them.
CLOSED = ("CLOSINGD_COMPLETE", "AWAITING_UNILATERAL")


def plugin_process(node):
    """The plugin's process."""
    children = psutil.Process(node.daemon.proc.pid).children()
    (plugin,) = [child for child in children if child.name().startswith("cln-factory")]
    return plugin


def gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def kill_lightningd(node):
    """`kill -9` of lightningd; its plugin ends by itself, whatever it is doing."""
    plugin = plugin_process(node)
    node.daemon.kill()
    wait_for(lambda: gone(plugin))


def kill_plugin(node):
    """`kill -9` of the plugin: lightningd goes down with it, for it is important."""
    plugin_process(node).send_signal(signal.SIGKILL)
    assert node.daemon.wait() != 0


def kill_unimportant_plugin(node):
    """`kill -9` of a plugin that was loaded with `plugin=`: lightningd goes on without it."""
    plugin = plugin_process(node)
    plugin.send_signal(signal.SIGKILL)
    wait_for(lambda: gone(plugin))
    wait_for(lambda: "factory-status" not in {entry["command"].split()[0] for entry in node.rpc.help()["help"]})
    # Its operator sees it some time, and restarts the node.
    node.stop()


KILLS = {
    "plugin": kill_plugin,
    "lightningd": kill_lightningd,
    "plugin, not important": kill_unimportant_plugin,
}


class World:
    """Three nodes that run `cln-factory-faults`, and an account of their money."""

    def __init__(self, bitcoind, executor, directory, **options):
        os.makedirs(directory)
        self.bitcoind = bitcoind
        self.executor = executor
        self.factory = NodeFactory(
            None, os.path.basename(directory), bitcoind, executor, directory, SqliteDbProvider(directory), LightningNode, {}
        )
        # Nobody falls silent but by a kill; what it takes to notice one is not the matter here.
        patient = {**FAST, "factory-invite-timeout": 60, "factory-ceremony-timeout": 60, "factory-confirmations": 2}
        # A channel that an exit brought on chain would move into the next case's factory by itself, and be closed amid it.
        stays = {"factory-renew": "never"}
        roles = [{**patient, "factory-policy": "never", **options}, stays, stays]
        self.nodes = self.factory.get_nodes(3, opts=[self._options(**role) for role in roles])
        self.lsp, *self.clients = self.nodes
        self.known = set()
        self.payments = itertools.count(1)
        self.anchors = []
        fund(bitcoind, self.lsp, *COINS)
        connect_all(self.lsp, self.clients)
        harness.wait_for_synced(bitcoind, self.nodes)

    @staticmethod
    def _options(**more):
        options = faulty(None, may_fail=True, **more)
        options["important-plugin"] = options.pop("plugin")
        del options["factory-fault"]
        return options

    def node(self, side):
        return self.lsp if side == "lsp" else self.clients[0]

    def load_as(self, node, option):
        """Restarts a node that has its plugin by another option."""
        if option not in node.daemon.opts:
            other = "plugin" if option == "important-plugin" else "important-plugin"
            node.daemon.opts[option] = node.daemon.opts.pop(other)
            node.restart()
            connect_all(self.lsp, self.clients)

    def start(self, node):
        node.start()
        # lightningd ends the first connection after a restart to say that a dead channel is closed.
        wait_for(self.meet)
        harness.wait_for_synced(self.bitcoind, self.nodes)

    def meet(self):
        """Connects whoever isn't; whether the operator's plugin has met all of them."""
        met = {peer["id"] for peer in harness.status(self.lsp)["peers"] if peer["ready"]}
        missing = [client for client in self.clients if client.info["id"] not in met]
        for client in missing:
            with contextlib.suppress(RpcError):
                client.connect(self.lsp)
        return not missing

    def create(self):
        return self.executor.submit(create, self.lsp, self.clients, capacity_sat=CAPACITY_SAT)

    def new_factory(self):
        """The operator's factory that is none of those before, or None."""
        found = [seen for seen in factories(self.lsp) if seen["factory_instance"] not in self.known]
        assert len(found) <= 1, found
        return found[0] if found else None

    def activate(self, factory):
        factory = harness.activate(self.bitcoind, factory, self.lsp, self.clients)
        self.known.add(factory["factory_instance"])
        return factory

    def two_active(self):
        """Two factories whose channels are usable."""
        found = [seen for seen in factories(self.lsp) if seen["state"] == "active"][:2]
        while len(found) < 2:
            found.append(self.in_use())
        return found

    def active(self):
        """A factory whose channels are usable: one that is there, or a new one."""
        for seen in factories(self.lsp):
            if seen["state"] == "active":
                return seen
        return self.in_use()

    def in_use(self):
        """A new factory, with more on each side of its channels than it costs to take that home."""
        factory = self.activate(self.create().result(60))
        self.pay_around(factory)
        return factory

    def pay_around(self, factory, clients=None):
        """Both directions on every channel of the factory, and every node's stored paths are whole."""
        instance = factory["factory_instance"]
        clients = clients or self.clients
        for client in clients:
            channel = harness.channel_in(factory, client)["channel_id"]
            for payer, payee in ((self.lsp, client), (client, self.lsp)):
                label = f"payment {next(self.payments)}"
                harness.pay_over(payer, payee, channel, label, 10_000_000 if payer is self.lsp else 4_000_000)
        for node in [self.lsp, *clients]:
            assert node.rpc.call("factory-verify", {"factory_instance": instance})["valid"]

    # Money.

    def wallets_sat(self):
        """What is confirmed: lightningd also lists the outputs of a closing transaction that can never
        confirm, after a mutual close of a channel whose factory came to nothing."""
        return sum(harness.onchain_msat(node) for node in self.nodes) // 1000

    def channels_sat(self):
        """What both sides of every channel that is in use say is theirs."""
        channels = [channel for node in self.nodes for channel in node.rpc.listpeerchannels()["channels"]]
        msat = sum(int(channel["to_us_msat"]) for channel in channels if channel["state"] == "CHANNELD_NORMAL")
        assert msat % 1000 == 0, channels
        return msat // 1000

    def unspent(self, txid, vout):
        return self.bitcoind.rpc.gettxout(txid, vout, True) is not None

    def in_trees_sat(self):
        """What factories that are on chain hold beyond their channels: fees of their transactions."""
        live = [seen for seen in factories(self.lsp) if "funding_txid" in seen]
        live = [seen for seen in live if self.unspent(seen["funding_txid"], seen["funding_outnum"])]
        return sum(seen["funding_sat"] - sum(client["capacity_sat"] for client in seen["clients"]) for seen in live)

    def money(self):
        """Everything that is theirs, and where the chain is."""
        anchors = sum(sat for txid, vout, sat in self.anchors if self.unspent(txid, vout))
        return {
            "sat": self.wallets_sat() + self.channels_sat() + self.in_trees_sat() + anchors,
            "height": self.bitcoind.rpc.getblockcount(),
        }

    def fees_since(self, height):
        """Fees of all transactions above `height`, sat; remembers the anchors that they have left."""
        fees = 0
        for at in range(height + 1, self.bitcoind.rpc.getblockcount() + 1):
            block = self.bitcoind.rpc.getblock(self.bitcoind.rpc.getblockhash(at), 2)
            for tx in block["tx"][1:]:
                fees += round(tx["fee"] * 10**8)
                self.anchors += [anchor for anchor in anchors_of(tx) if anchor not in self.anchors]
        return fees

    def missing(self, before):
        """Satoshis that were there before and are neither there now nor paid as fees."""
        fees = self.fees_since(before["height"])
        return before["sat"] - self.money()["sat"] - fees

    # Ends.

    def nothing_left(self):
        """What creations that came to nothing have left: reserved coins, and channels beside those that
        were closed (which lightningd keeps listing)."""
        funded = [seen for seen in factories(self.lsp) if seen["state"] in ("active", "exiting", "exited")]
        live = {client["channel_id"] for seen in funded for client in seen["clients"]}
        channels = [channel for node in self.nodes for channel in node.rpc.listpeerchannels()["channels"]]
        over = [c for c in channels if c.get("channel_id") not in live and c["state"] not in CLOSED]
        under_way = [seen for node in self.nodes for seen in harness.status(node)["ceremonies"]]
        return [*over, *under_way, *self.reserved()]

    def reserved(self):
        """Everybody's reserved coins."""
        return [output for node in self.nodes for output in harness.reserved(node)]

    def check_nothing_left(self):
        with contextlib.suppress(AssertionError):
            wait_for(lambda: self.nothing_left() == [], timeout=20)
        assert self.nothing_left() == []

    def stop(self):
        for stopping in [self.executor.submit(node.stop) for node in self.nodes]:
            stopping.exception()
        for node in self.nodes:
            node.daemon.logs_catchup()
            broken = [line for line in node.daemon.logs if "**BROKEN**" in line and not OF_A_KILL.search(line)]
            node.daemon.cleanup_files()
            assert broken == [] and not getCrashLog(node)[0], broken


def records_on_disk(node):
    """Everything that the plugin of a killed node has stored, as the database has it: key and bytes of each
    record."""
    with contextlib.closing(sqlite3.connect(f"{node.daemon.lightning_dir}/regtest/lightningd.sqlite3")) as db:
        entries = [(tuple(key.decode().split("\0")), value) for key, value in db.execute("SELECT key, data FROM datastore")]
    return {key: value.hex() for key, value in entries if key[0] == "cln-factory" and value is not None}


def anchors_of(tx):
    """Outputs of a transaction that are nobody's: its P2A anchor, and those of a commitment."""
    for out in tx["vout"]:
        sat = round(out["value"] * 10**8)
        p2wsh = out["scriptPubKey"]["type"] == "witness_v0_scripthash"
        if out["scriptPubKey"]["hex"] == ANCHOR_SCRIPT or (p2wsh and sat == CHANNEL_ANCHOR_SAT):
            yield tx["txid"], out["n"], sat


def ended(future):
    """What a command said whose node may have been killed meanwhile: its answer, or None."""
    try:
        return future.result(60)
    except (RpcError, ValueError, OSError):
        return None
