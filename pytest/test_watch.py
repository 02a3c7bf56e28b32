"""lightningd closes, splices or loses a factory's channel by itself, or because somebody told it to (S34); and
route hints of invoices where the operator has no public channel."""

import contextlib
import pathlib
import shutil
import threading

import pytest
from pyln.client import RpcError

from harness import (
    channel_by_id,
    channel_in,
    channel_with,
    connect_all,
    connect_briefly,
    factory_of,
    factory_with,
    faulty,
    fund,
    holding,
    mine,
    mine_until,
    onchain_msat,
    pay,
    send_direct,
    spender,
    status,
    wait_for,
    wait_for_factory,
)

CLOSED = ("AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN", "ONCHAIN", "CLOSINGD_COMPLETE", "CHANNELD_AWAITING_SPLICE")
UNTRUE = ("nothing to do", "goes on", "usable")


def place_of(node, factory, client=0):
    """A client of a factory as a node sees it."""
    (place,) = [c for c in factory_of(node, factory["factory_instance"])["clients"] if c["client"] == client]
    return place


def tells_the_truth(node, factory, client=0):
    """Of a channel that is over nothing is said as if it went on."""
    place, whole = place_of(node, factory, client), factory_of(node, factory["factory_instance"])
    if whole["role"] == "client":
        assert not any(word in whole["next_action"] for word in UNTRUE), whole["next_action"]
    assert place["state"] in ("leaving", "on_chain"), place
    assert place["channel_state"] in CLOSED, place


def is_out(bitcoind, place):
    """Whether a channel's funding output is on chain and spent."""
    return spender(bitcoind, place["funding_txid"], place["funding_outnum"]) is not None


def leaves(bitcoind, nodes, others, factory, place):
    """Without a block and without a word each of these nodes takes the channel on chain."""
    for node in nodes:
        wait_for(lambda: place_of(node, factory)["state"] == "leaving")
        reason = factory_of(node, factory["factory_instance"])["exit"]["reason"]
        assert "lightningd" in reason, reason
        codes = [warning["code"] for warning in status(node)["warnings"]]
        assert "channel_ended" in codes, codes
        tells_the_truth(node, factory)
    mine_until(bitcoind, [*nodes, *others], lambda: is_out(bitcoind, place))
    for node in nodes:
        tells_the_truth(node, factory)


def hears_of_it(client, lsp):
    """lightningd tells a peer of a failed channel when that wants to go on with it: after a new connection."""
    client.rpc.disconnect(lsp.info["id"], True)
    client.connect(lsp)


# S34
def test_the_wrong_commands_are_stopped(node_factory, bitcoind):
    lsp, (alice, bob), factory = factory_with(node_factory, bitcoind, 2)
    instance = factory["factory_instance"]
    place, channel = place_of(alice, factory), channel_in(factory, alice)
    channel_id, peer = place["channel_id"], lsp.info["id"]
    forms = [channel_id, channel["alias"]["local"], peer]
    calls = [("close", {"id": form, "unilateraltimeout": 1}) for form in forms]
    calls += [("close", [peer, 1])]
    calls += [(method, {"channel": form, "amount": 10_000}) for method in ("splicein", "spliceout") for form in forms]
    calls += [("splice_init", {"channel_id": channel_id, "relative_amount": 10_000})]
    calls += [("dev-splice", {"script_or_json": f"{channel_id} -> 10000"})]
    calls += [("dev-forget-channel", {"id": peer, "channel_id": channel_id, "force": True})]
    calls += [("dev-forget-channel", {"id": peer})]
    for method, params in calls:
        with pytest.raises(RpcError) as stopped:
            alice.rpc.call(method, params)
        message = stopped.value.error["message"]
        assert f"factory-exit {instance}" in message and channel_id in message, (method, params, message)
    with pytest.raises(RpcError, match="factory-evict"):
        lsp.rpc.close(alice.info["id"])
    assert channel_in(factory, alice)["state"] == "CHANNELD_NORMAL"
    assert place_of(alice, factory)["state"] == "usable"

    # A channel that is none of the factory's is nobody's business, and with two a peer's id means neither.
    fund(bitcoind, lsp, 2_000_000)
    opened = lsp.rpc.fundchannel(alice.info["id"], 500_000)["channel_id"]
    mine(bitcoind, 6, [lsp, alice, bob], wait_for_mempool=1)
    wait_for(lambda: channel_by_id(alice, opened)["state"] == "CHANNELD_NORMAL")
    with pytest.raises(RpcError, match="multiple channels"):
        alice.rpc.close(peer)
    assert alice.rpc.close(opened)["type"] == "mutual"
    # Once it is on chain by itself, it is lightningd's.
    lsp.rpc.call("factory-evict", {"factory_instance": instance, "clients": [0]})
    mine_until(bitcoind, [lsp, alice, bob], lambda: place_of(alice, factory)["state"] == "on_chain")
    wait_for(lambda: "short_channel_id" in channel_by_id(alice, channel_id))
    assert alice.rpc.close(channel_id)["type"] == "mutual"
    wait_for(lambda: "closed" in factory_of(alice, instance)["next_action"])


# S34
@pytest.mark.parametrize("who", ["client", "operator"])
def test_one_side_fails_the_channel(node_factory, bitcoind, who):
    """Its peer gets an error. Both sides leave, the client's neighbour goes on."""
    lsp, (alice, bob), factory = factory_with(node_factory, bitcoind, 2)
    pay(lsp, alice, 100_000_000, "first")
    place = place_of(alice, factory)
    fails, other = (alice, lsp) if who == "client" else (lsp, alice)
    fails.rpc.call("dev-fail", [other.info["id"]])
    hears_of_it(alice, lsp)
    leaves(bitcoind, [alice, lsp], [bob], factory, place)
    mine_until(bitcoind, [lsp, alice, bob], lambda: onchain_msat(alice) > 0)
    pay(lsp, bob, 10_000_000, "goes on")


# S34
@pytest.mark.parametrize("when", ["peer away", "plugin off"])
def test_nobody_hears_of_it(node_factory, bitcoind, when):
    """The operator is gone; or the client's plugin isn't loaded when it happens."""
    lsp, (alice, bob), factory = factory_with(node_factory, bitcoind, 2)
    pay(lsp, alice, 100_000_000, "first")
    place, plugin = place_of(alice, factory), alice.daemon.opts["plugin"]
    if when == "plugin off":
        alice.stop()
        del alice.daemon.opts["plugin"]
        options = {name: value for name, value in alice.daemon.opts.items() if name.startswith("factory-")}
        for name in options:
            del alice.daemon.opts[name]
        alice.start()
    lsp.stop()
    alice.rpc.call("dev-fail", [lsp.info["id"]])
    wait_for(lambda: channel_with(alice, lsp)["state"] == "AWAITING_UNILATERAL")
    if when == "plugin off":
        alice.stop()
        alice.daemon.opts.update(plugin=plugin, **options)
        alice.start()
    leaves(bitcoind, [alice], [bob], factory, place)
    mine_until(bitcoind, [alice, bob], lambda: onchain_msat(alice) > 0)
    # The operator comes back to it.
    lsp.start()
    wait_for(lambda: place_of(lsp, factory)["state"] == "on_chain")


# S34
@pytest.mark.parametrize("how", ["close", "splice"])
def test_an_operator_without_a_guard(node_factory, bitcoind, how):
    """The operator's node stops neither `close` nor a splice; the client can't, but it notices. A channel that both
    have closed together comes on chain too, also after a restart."""
    # lightningd's own, of a splice of what it doesn't find on chain.
    broken = {"broken_log": "channel control unable to find txid"} if how == "splice" else {}
    lax = faulty("lax-htlcs", **{"factory-policy": "never", **broken})
    lsp, (alice, bob), factory = factory_with(node_factory, bitcoind, 2, lsp=lax, client=broken)
    pay(lsp, alice, 100_000_000, "first")
    place = place_of(alice, factory)
    if how == "close":
        assert lsp.rpc.close(alice.info["id"])["type"] == "mutual"
        wait_for(lambda: channel_in(factory, alice)["state"] == "CLOSINGD_COMPLETE")
        wait_for_factory(alice, factory["factory_instance"], "exiting")
        alice.restart()
    else:
        # It never returns.
        params = {"channel": place["channel_id"], "amount": 50_000}
        threading.Thread(target=quietly, args=(lsp, "splicein", params), daemon=True).start()
    leaves(bitcoind, [alice], [lsp, bob], factory, place)
    wait_for(lambda: place_of(lsp, factory)["state"] == "on_chain")
    mine_until(bitcoind, [lsp, alice, bob], lambda: onchain_msat(alice) > 0)


def quietly(node, method, params):
    with contextlib.suppress(Exception):
        node.rpc.call(method, params)


# S34
def test_with_a_held_htlc(node_factory, bitcoind):
    """The channel fails while an HTLC hangs on it: the commitment is on chain before that expires, and it comes back."""
    lsp, (alice,), factory = factory_with(node_factory, bitcoind, 1, client=holding())
    place = place_of(alice, factory)
    invoice = alice.rpc.invoice(50_000_000, "held", "held")
    send_direct(lsp, alice, invoice, place["channel_id"], more=5)
    alice.daemon.wait_for_log("holding an HTLC that expires at")
    expiry = channel_in(factory, alice)["htlcs"][0]["expiry"]
    lsp.rpc.call("dev-fail", [alice.info["id"]])
    hears_of_it(alice, lsp)
    leaves(bitcoind, [alice, lsp], [], factory, place)
    commitment = spender(bitcoind, place["funding_txid"], place["funding_outnum"])
    assert bitcoind.rpc.getblock(commitment["blockhash"])["height"] < expiry
    mine_until(bitcoind, [lsp, alice], lambda: failed_back(lsp, invoice["payment_hash"]), limit=120)


def failed_back(node, payment_hash):
    return node.rpc.listsendpays(payment_hash=payment_hash)["payments"][0]["status"] == "failed"


# S34
def test_an_old_copy_of_a_clients_directory(node_factory, bitcoind):
    """A client comes back with an old copy: both sides see it and leave. Then with the true one: its money is there."""
    # lightningd's own, of the node that has an old state.
    old_state = {"broken_log": "Cannot broadcast our commitment tx: they have a future one"}
    lsp, (alice, bob), factory = factory_with(node_factory, bitcoind, 2, client=old_state)
    place = place_of(alice, factory)
    directory = pathlib.Path(alice.daemon.lightning_dir) / "regtest"
    old, true = directory.with_name("old"), directory.with_name("true")
    alice.stop()
    shutil.copytree(directory, old, ignore=shutil.ignore_patterns("lightning-rpc"))
    alice.start()
    connect_all(lsp, [alice])
    pay(lsp, alice, 100_000_000, "newer")
    alice.stop()
    directory.rename(true)
    old.rename(directory)
    alice.start()
    connect_briefly(alice, lsp)
    for node in (lsp, alice):
        wait_for(lambda: place_of(node, factory)["state"] in ("leaving", "on_chain"))
        tells_the_truth(node, factory)
    alice.stop()
    shutil.rmtree(directory)
    true.rename(directory)
    alice.start()
    mine_until(bitcoind, [lsp, alice, bob], lambda: is_out(bitcoind, place))
    mine_until(bitcoind, [lsp, alice, bob], lambda: onchain_msat(alice) >= 99_000_000)
    tells_the_truth(alice, factory)
    pay(lsp, bob, 10_000_000, "goes on")


def test_a_plain_invoice_has_a_route_hint(node_factory, bitcoind):
    """README's set-up: an operator without public channels, and two clients that pay each other."""
    lsp, (alice, bob), factory = factory_with(node_factory, bitcoind, 2)
    pay(lsp, alice, 100_000_000, "first")
    answer = bob.rpc.invoice(10_000_000, "plain", "plain")
    assert "warning_deadends" not in answer, answer
    (hint,) = bob.rpc.decode(answer["bolt11"])["routes"]
    assert hint[0]["pubkey"] == lsp.info["id"]
    alice.rpc.call("xpay", {"invstring": answer["bolt11"]})
    assert bob.rpc.listinvoices("plain")["invoices"][0]["status"] == "paid"
    # What the user says counts, and so does what lightningd does by itself while the operator is away.
    none = bob.rpc.invoice(10_000_000, "private", "private", exposeprivatechannels=False)
    assert "routes" not in bob.rpc.decode(none["bolt11"])
    lsp.stop()
    wait_for(lambda: not channel_in(factory, bob)["peer_connected"])
    assert "bolt11" in bob.rpc.invoice(10_000_000, "alone", "alone")
