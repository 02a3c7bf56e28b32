"""What tests of the plugin have in common."""

import os
import pathlib

from pyln.testing.utils import sync_blockheight, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "pytest" / "plugins"
FEATURE_BIT = 271


def find_plugin():
    """The binary: $CLN_FACTORY, or the newest that cargo built."""
    if "CLN_FACTORY" in os.environ:
        path = pathlib.Path(os.environ["CLN_FACTORY"])
        return str(path) if path.exists() else None
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [target / profile / "cln-factory" for profile in ("release", "debug")]
    built = [path for path in built if path.exists()]
    return str(max(built, key=lambda path: path.stat().st_mtime)) if built else None


def plugin_options(**more):
    """Options of a node that runs the plugin and accepts every invitation."""
    options = {
        "plugin": find_plugin(),
        "factory-policy": "auto",
        # The default of a day makes every test mine a day's blocks.
        "factory-margin-blocks": 12,
        "log-level": "debug",
        "may_reconnect": True,
    }
    options.update(more)
    return options


def lsp_options(**more):
    return plugin_options(**{"factory-policy": "never", **more})


def status(node):
    return node.rpc.call("factory-status")


def factories(node):
    return node.rpc.call("factory-list")["factories"]


def only_factory(node):
    found = factories(node)
    assert len(found) == 1, found
    return found[0]


def state(node):
    return only_factory(node)["state"]


def wait_for_state(node, *wanted):
    wait_for(lambda: state(node) in wanted)


def wait_until_ready(lsp, clients):
    """Until the plugins have met."""

    def ready():
        peers = {peer["id"] for peer in status(lsp)["peers"] if peer["ready"]}
        return peers.issuperset(client.info["id"] for client in clients)

    wait_for(ready)


def connect_all(lsp, clients):
    for client in clients:
        client.connect(lsp)
    wait_until_ready(lsp, clients)


def mine(bitcoind, blocks, nodes, wait_for_mempool=0):
    """Mines, and waits until lightningd and the plugin of every node have seen it."""
    bitcoind.generate_block(blocks, wait_for_mempool=wait_for_mempool)
    sync_blockheight(bitcoind, nodes)
    height = bitcoind.rpc.getblockcount()
    for node in nodes:
        wait_for(lambda: status(node)["blockheight"] >= height)


def create(lsp, clients, capacity_sat=500_000, **more):
    """Runs factory-create, and gives the factory as it answered."""
    params = {"clients": [client.info["id"] for client in clients], "capacity_sat": capacity_sat, **more}
    return lsp.rpc.call("factory-create", params)["factory"]


def create_active(bitcoind, lsp, clients, **more):
    """A factory whose channels are usable."""
    factory = create(lsp, clients, **more)
    nodes = [lsp, *clients]
    mine(bitcoind, factory["funding_confirmations"], nodes, wait_for_mempool=factory["funding_txid"])
    for node in nodes:
        wait_for_state(node, "active")
    for client in clients:
        wait_for(lambda: channel_with(client, lsp)["state"] == "CHANNELD_NORMAL")
        # Route hints need the operator's channel_update.
        wait_for(lambda: "remote" in channel_with(client, lsp).get("updates", {}))
    return only_factory(lsp)


def channel_with(node, peer):
    channels = node.rpc.listpeerchannels(peer.info["id"])["channels"]
    assert len(channels) == 1, channels
    return channels[0]


def pay(payer, payee, amount_msat, label):
    """Pays an invoice, and waits until the payee knows it."""
    invoice = payee.rpc.invoice(amount_msat, label, label)["bolt11"]
    result = payer.rpc.call("xpay", {"invstring": invoice})
    paid = payee.rpc.listinvoices(label)["invoices"][0]
    assert paid["status"] == "paid", paid
    return result


def onchain_msat(node):
    """What the node's wallet can spend, confirmed."""
    outputs = node.rpc.listfunds()["outputs"]
    return sum(int(output["amount_msat"]) for output in outputs if output["status"] == "confirmed")
