"""What tests of the plugin have in common."""

import contextlib
import os
import pathlib
import sqlite3
import subprocess
import time

from pyln.client import RpcError
from pyln.testing.utils import TIMEOUT

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "pytest" / "plugins"
FEATURE_BIT = 271
# What a client always keeps in its channel with the operator: lightningd's dust limit.
RESERVE_MSAT = 546_000


# Exits that are as short as they can be, and deadlines that a test can wait for.
FAST = {
    "factory-confirm-blocks": 1,
    "factory-margin-blocks": 2,
    "factory-stock-csv": 5,
    "factory-sale-wait": 2,
}


# A client's bounds as wide as they can be: these tests have factories that nobody should want with real money.
WIDE = {
    "factory-min-confirm-blocks": 1,
    "factory-min-margin-blocks": 0,
    "factory-min-stock-csv": 1,
    "factory-min-lifetime-blocks": 1,
    "factory-min-dying-blocks": 0,
    "factory-min-confirmations": 1,
}


def wait_for(success, timeout=TIMEOUT):
    """Until `success`. Looks every 100 ms."""
    deadline = time.monotonic() + timeout
    while not success():
        assert time.monotonic() < deadline, f"not within {timeout} s: {success}"
        time.sleep(0.1)


def find_plugin(faults=False):
    """The binary: $CLN_FACTORY, or the newest that cargo built. With `faults`, the one that
    misbehaves on request: $CLN_FACTORY_FAULTS, or what `cargo build --features faults` made."""
    variable, name = ("CLN_FACTORY_FAULTS", "cln-factory-faults") if faults else ("CLN_FACTORY", "cln-factory")
    if variable in os.environ:
        path = pathlib.Path(os.environ[variable])
        return str(path) if path.exists() else None
    return find_binary(name)


def find_binary(name):
    """The newest binary of this name that cargo built."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [target / profile / name for profile in ("release", "debug")]
    built = [path for path in built if path.exists()]
    return str(max(built, key=lambda path: path.stat().st_mtime)) if built else None


def plugin_options(**more):
    """Options of a node that runs the plugin and accepts every invitation."""
    options = {
        "plugin": find_plugin(),
        "factory-policy": "auto",
        # Their first channel with the operator is the factory's.
        "factory-allow-lsp": "any",
        # The default of a day makes every test mine a day's blocks.
        "factory-margin-blocks": 12,
        # Wallets of tests are small.
        "factory-reserve-feerate": 2_500,
        **WIDE,
        "log-level": "debug",
        "may_reconnect": True,
    }
    options.update(more)
    return options


def important(options):
    """The same options, with the plugin loaded as an operator should."""
    options["important-plugin"] = options.pop("plugin")
    return options


def lsp_options(**more):
    return plugin_options(**{"factory-policy": "never", **more})


def faulty(fault, **more):
    """Options of a node that does this wrong on purpose (factory-runtime/src/faults.rs)."""
    return plugin_options(**{"plugin": find_plugin(faults=True), "factory-fault": fault, **more})


def holding(**more):
    """Options of a node that runs the plugin, and holds each HTLC that it is to receive until it stops."""
    return plugin_options(**{"plugin": [find_plugin(), str(PLUGINS / "hold_htlcs.py")], **more})


def restart_holding_nothing(node):
    """Asked again after a restart, a node that held HTLCs knows that they are its own, and takes them."""
    node.stop()
    node.daemon.opts["plugin"] = find_plugin()
    node.start()


def cli(node, *words):
    """lightning-cli, as a person would call it."""
    command = ["lightning-cli", "--network=regtest", f"--lightning-dir={node.daemon.lightning_dir}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


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
    for client in clients:
        wait_until_ready(client, [lsp])


def connect_briefly(node, peer):
    """Connects two nodes of which one has lost a channel: hearing of that ends the connection, maybe before lightningd
    has answered. It comes again by itself, or by another call."""
    try:
        node.rpc.connect(peer.info["id"], "localhost", peer.port)
    except RpcError as error:
        assert "disconnected during connection" in error.error["message"], error


def factory_with(node_factory, bitcoind, count, feerates=None, lsp=None, client=None, **more):
    """An operator and clients in an active factory. Feerates: sat/kw for 2, 6, 12 and 100 blocks. `lsp` and
    `client` are further options of theirs, `more` parameters of factory-create."""
    options = [lsp_options(**{**FAST, **(lsp or {})}), *[plugin_options(**(client or {})) for _ in range(count)]]
    lsp, *clients = node_factory.get_nodes(count + 1, opts=options)
    if feerates:
        for node in (lsp, *clients):
            node.set_feerates(feerates)
    fund(bitcoind, lsp, 9_000_000)
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, [lsp, *clients])
    factory = create(lsp, clients, **more)
    return lsp, clients, activate(bitcoind, factory, lsp, clients)


def mine(bitcoind, blocks, nodes, wait_for_mempool=0):
    """Mines, and waits until lightningd and the plugin of every node have seen it."""
    bitcoind.generate_block(blocks, wait_for_mempool=wait_for_mempool)
    height = bitcoind.rpc.getblockcount()
    for node in nodes:
        wait_for(lambda: node.rpc.getinfo()["blockheight"] == height)
        wait_for(lambda: status(node)["blockheight"] >= height)


def mine_until(bitcoind, nodes, done, limit=40):
    """Mines block by block, whatever is in the mempool, until `done`."""
    for _ in range(limit):
        if done():
            return
        mine(bitcoind, 1, nodes)
    assert done(), f"not within {limit} blocks"


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


def xpay(payer, invoice):
    """lightningd's `xpay`. It gives up, rather than take another channel, where the one that it has chosen begins to be
    closed in that moment, as an old factory's does in a renewal: whoever pays once more is not refused."""
    for last in (False, True):
        try:
            return payer.rpc.call("xpay", {"invstring": invoice})
        except RpcError as refused:
            if last or "in state CHANNELD_SHUTTING_DOWN" not in refused.error["message"]:
                raise


def pay(payer, payee, amount_msat, label, dead_end=False):
    """Pays an invoice, and waits until the payee knows it.

    Where the operator has no public channel, lightningd takes its clients for dead ends and gives
    route hints through it only when it is told to (`dead_end`).
    """
    more = {}
    if dead_end:
        incoming = payee.rpc.call("listincoming")["incoming"]
        more["exposeprivatechannels"] = [channel["short_channel_id"] for channel in incoming]
    invoice = payee.rpc.invoice(amount_msat, label, label, **more)["bolt11"]
    result = xpay(payer, invoice)
    paid = payee.rpc.listinvoices(label)["invoices"][0]
    assert paid["status"] == "paid", paid
    # An HTLC that is paid but not yet removed by both sides is still one that has to be settled in time.
    for node in (payer, payee):
        wait_for(lambda: not any(channel.get("htlcs") for channel in node.rpc.listpeerchannels()["channels"]))
    return result


def send(payer, hops, invoice):
    """Begins to pay an invoice. Hops: of each the node, the short_channel_id that leads to it, what it gets in
    msat, and within how many blocks."""
    # Delays count from the payer's own height.
    wait_for(lambda: payer.rpc.getinfo()["blockheight"] >= hops[0][0].rpc.getinfo()["blockheight"])
    route = [
        {"id": node.info["id"], "channel": scid, "amount_msat": amount, "delay": delay}
        for node, scid, amount, delay in hops
    ]
    secret = payer.rpc.decode(invoice["bolt11"])["payment_secret"]
    payer.rpc.sendpay(route, invoice["payment_hash"], payment_secret=secret, bolt11=invoice["bolt11"])


def send_direct(payer, payee, invoice, channel_id, more=1):
    """Begins to pay an invoice over one channel with its payee. The HTLC gets as many blocks as the invoice asks
    for and `more`."""
    decoded = payer.rpc.decode(invoice["bolt11"])
    scid = scid_of(channel_by_id(payer, channel_id))
    hop = (payee, scid, int(decoded["amount_msat"]), decoded["min_final_cltv_expiry"] + more)
    send(payer, [hop], invoice)


def pay_over(payer, payee, channel_id, label, amount_msat=1_000_000):
    """Pays over one channel and no other."""
    invoice = payee.rpc.invoice(amount_msat, label, label)
    send_direct(payer, payee, invoice, channel_id)
    payer.rpc.waitsendpay(invoice["payment_hash"], 30)
    for node in (payer, payee):
        wait_for(lambda: not channel_by_id(node, channel_id)["htlcs"])


def send_over(payer, lsp, payee, invoice, channel_id, more=0, delay=None):
    """Begins to pay an invoice of a client over the operator, on one channel of the client's. The last HTLC
    gets as many blocks as the invoice asks for and `more`, or `delay`."""
    decoded = payer.rpc.decode(invoice["bolt11"])
    amount, delay = int(decoded["amount_msat"]), delay or decoded["min_final_cltv_expiry"] + 1 + more
    (first,) = [c for c in payer.rpc.listpeerchannels(lsp.info["id"])["channels"] if c["state"] == "CHANNELD_NORMAL"]
    # Of a channel that isn't announced, lightningd forwards by its alias alone.
    second = channel_by_id(lsp, channel_id)["alias"]["local"]
    hops = [(lsp, scid_of(first), amount + amount // 100 + 1000, delay + 6), (payee, second, amount, delay)]
    send(payer, hops, invoice)


def scid_of(channel):
    """How its node names a channel when it pays; one that is off chain has an alias alone."""
    return channel.get("short_channel_id", channel["alias"]["local"])


def onchain_msat(node):
    """What the node's wallet can spend, confirmed."""
    outputs = node.rpc.listfunds()["outputs"]
    return sum(int(output["amount_msat"]) for output in outputs if output["status"] == "confirmed")


def factory_of(node, instance):
    """One factory as a node sees it."""
    found = node.rpc.call("factory-list", {"factory_instance": instance})["factories"]
    assert len(found) == 1, found
    return found[0]


def state_of(node, factory):
    """A factory's state as a node sees it."""
    return factory_of(node, factory["factory_instance"])["state"]


def wait_for_factory(node, instance, *wanted):
    wait_for(lambda: factory_of(node, instance)["state"] in wanted)


def channel_in(factory, client):
    """lightningd's channel of a client in a factory, as the client sees it."""
    (place,) = factory_of(client, factory["factory_instance"])["clients"]
    return channel_by_id(client, place["channel_id"])


def channel_of(client, factory):
    """Id of a client's own channel in a factory."""
    return channel_in(factory, client)["channel_id"]


def channel_by_id(node, channel_id):
    channels = node.rpc.listpeerchannels()["channels"]
    found = [channel for channel in channels if channel.get("channel_id") == channel_id]
    assert len(found) == 1, (channel_id, channels)
    return found[0]


def to_us(node, channel_id):
    """What a node has in one channel, msat."""
    return int(channel_by_id(node, channel_id)["to_us_msat"])


def activate(bitcoind, factory, lsp, clients):
    """Mines until every channel of a factory that was created is usable."""
    nodes, instance = [lsp, *clients], factory["factory_instance"]
    confirmed = bitcoind.rpc.gettxout(factory["funding_txid"], factory["funding_outnum"], False)
    wait_for_mempool = 0 if confirmed else factory["funding_txid"]
    mine(bitcoind, factory["funding_confirmations"], nodes, wait_for_mempool=wait_for_mempool)
    for node in nodes:
        wait_for_factory(node, instance, "active")
    for client in clients:
        wait_for(lambda: channel_in(factory, client)["state"] == "CHANNELD_NORMAL")
        # Route hints need the operator's channel_update.
        wait_for(lambda: "remote" in channel_in(factory, client).get("updates", {}))
    return factory_of(lsp, instance)


def script_of(bitcoind, address):
    """Its scriptPubKey, hex."""
    return bitcoind.rpc.validateaddress(address)["scriptPubKey"]


def pay_many(bitcoind, script, count, sat):
    """Sends so many outputs to one script in one transaction, which takes an instant: `sendmany` wants an address for
    each. Gives its txid."""
    coin = max(bitcoind.rpc.listunspent(), key=lambda coin: coin["amount"])
    fee = 500_000
    rest = round(coin["amount"] * 10**8) - count * sat - fee
    outputs = [(sat, script)] * count + [(rest, script_of(bitcoind, bitcoind.rpc.getnewaddress()))]
    spends = bytes.fromhex(coin["txid"])[::-1].hex() + coin["vout"].to_bytes(4, "little").hex() + "00fdffffff"
    number = f"{len(outputs):02x}" if len(outputs) < 0xFD else "fd" + len(outputs).to_bytes(2, "little").hex()
    encoded = "".join(
        value.to_bytes(8, "little").hex() + f"{len(to) // 2:02x}" + to for value, to in outputs
    )
    raw = "02000000" + "01" + spends + number + encoded + "00000000"
    signed = bitcoind.rpc.signrawtransactionwithwallet(raw)["hex"]
    return bitcoind.rpc.sendrawtransaction(signed, 0)


def fund(bitcoind, node, *amounts):
    """Confirmed coins of these amounts, in one block."""
    for amount in amounts:
        bitcoind.rpc.sendtoaddress(node.rpc.newaddr("bech32")["bech32"], amount / 10**8)
    before = len(node.rpc.listfunds()["outputs"])
    bitcoind.generate_block(1, wait_for_mempool=len(amounts))
    wait_for(lambda: len(node.rpc.listfunds()["outputs"]) >= before + len(amounts))


def read_records(node):
    """Everything that the plugin has stored of its own: key and bytes of each record. Copies that it keeps for others
    come and go as theirs do."""
    found, keys = {}, [["cln-factory"]]
    while keys:
        for entry in node.rpc.listdatastore(keys.pop())["datastore"]:
            if entry["key"][1] in ("kept", "shelf"):
                continue
            if "hex" in entry:
                found[tuple(entry["key"])] = entry["hex"]
            else:
                keys.append(entry["key"])
    return found


def forget(node, known):
    """Takes what the plugin of a killed node has stored of its factories since `known` out of the database, as if that
    were older. Not while the node runs: a record that came in between would leave a gap."""
    with contextlib.closing(sqlite3.connect(f"{node.daemon.lightning_dir}/regtest/lightningd.sqlite3")) as db:
        keys = [tuple(key.decode().split("\0")) for (key,) in db.execute("SELECT key FROM datastore")]
        newer = [key for key in keys if key[:2] == ("cln-factory", "factory") and key not in known]
        with db:
            db.executemany("DELETE FROM datastore WHERE key = ?", [("\0".join(key).encode(),) for key in newer])
    assert newer, "there is nothing to be forgotten"


def reserved(node):
    """Outputs of the wallet that something keeps back."""
    return [output for output in node.rpc.listfunds()["outputs"] if output["reserved"]]


def wait_for_synced(bitcoind, nodes):
    """Until every node's plugin has handled the last block."""
    mine(bitcoind, 0, nodes)


def transaction(bitcoind, txid):
    """A transaction, decoded, with its amounts in satoshi."""
    tx = bitcoind.rpc.getrawtransaction(txid, True)
    for output in tx["vout"]:
        output["sat"] = round(output["value"] * 10**8)
    return tx


def spender(bitcoind, txid, vout):
    """The confirmed transaction that spends an output, or None. Looks at the last 400 blocks."""
    tip = bitcoind.rpc.getblockcount()
    for height in range(tip, max(tip - 400, 0), -1):
        block = bitcoind.rpc.getblock(bitcoind.rpc.getblockhash(height), 2)
        for tx in block["tx"]:
            for spent in tx["vin"]:
                if spent.get("txid") == txid and spent.get("vout") == vout:
                    return transaction(bitcoind, tx["txid"])
    return None


def without_developer(node):
    """A node as an operator would run it, from its next start on."""
    node.daemon.early_opts.remove("--developer")
    # With it, lightningd and its daemons note who made each allocation.
    node.daemon.env.pop("LIGHTNINGD_DEV_MEMLEAK", None)
    for option in [option for option in node.daemon.opts if option.startswith("dev-")]:
        del node.daemon.opts[option]


def start_without_developer(nodes):
    """Starts nodes that pyln-testing made with start=False, as an operator would run them."""
    for node in nodes:
        without_developer(node)
    for node in nodes:
        node.start()


ANCHOR_SCRIPT = "51024e73"
ANCHOR_SAT = 240


def anchor_of(tx):
    """The place of a transaction's P2A output."""
    return next(output["n"] for output in tx["vout"] if output["scriptPubKey"]["hex"] == ANCHOR_SCRIPT)


def empty_block(bitcoind, nodes):
    """A block whose miner takes nothing: what waits, waits on."""
    bitcoind.rpc.generateblock(bitcoind.rpc.getnewaddress(), [])
    mine(bitcoind, 0, nodes)


def fee_of(bitcoind, tx):
    """What a transaction pays, in satoshi."""
    spent = [transaction(bitcoind, vin["txid"])["vout"][vin["vout"]]["sat"] for vin in tx["vin"]]
    return sum(spent) - sum(output["sat"] for output in tx["vout"])
