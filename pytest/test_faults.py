"""Members that fall silent, lie or crash: named, left out of the retry, and nothing left behind.

Who lies here runs `cln-factory-faults`, the same plugin with misbehaviour on request
(factory-runtime/src/faults.rs).
"""

import sqlite3

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    activate,
    connect_all,
    create,
    factories,
    factory_of,
    faulty,
    fund,
    lsp_options,
    mine,
    pay,
    plugin_options,
    reserved,
    status,
    wait_for,
    wait_for_factory,
    wait_for_synced,
)

pytestmark = pytest.mark.faults
PATIENCE = {**FAST, "factory-invite-timeout": 6, "factory-ceremony-timeout": 6, "factory-max-attempts": 12}


def start(node_factory, bitcoind, options, coins=(8_000_000,)):
    lsp, *clients = nodes = node_factory.get_nodes(len(options), opts=options)
    fund(bitcoind, lsp, *coins)
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, nodes)
    return lsp, clients


def left_behind(lsp, client):
    """What a client that was left out before `fundchannel_complete` still has: nothing."""
    channels = client.rpc.listpeerchannels()["channels"]
    with_lsp = lsp.rpc.listpeerchannels(client.info["id"])["channels"]
    return channels + with_lsp + reserved(client)


def confirmed(bitcoind, factory):
    return bitcoind.rpc.gettxout(factory["funding_txid"], factory["funding_outnum"], False) is not None


def reserved_by_others(lsp, bitcoind, factory):
    """Inputs that are kept back although the factory's funding doesn't spend them."""
    wait_for(lambda: factory["funding_txid"] in bitcoind.rpc.getrawmempool() or confirmed(bitcoind, factory))
    funding = bitcoind.rpc.getrawtransaction(factory["funding_txid"], True)
    spent = {(vin["txid"], vin["vout"]) for vin in funding["vin"]}
    return [out for out in reserved(lsp) if (out["txid"], out["output"]) not in spent]


# S4, S29, S30
def test_whoever_fails_is_named_and_left_out(node_factory, bitcoind):
    faults = {
        "drop-join": "no answer in time in phase inviting from {id}",
        "bad-nonce": "{id}: public nonce 0 is not two points of the curve",
        "drop-expecting": "no answer in time in phase opening from {id}",
        "drop-partial_signatures": "no answer in time in phase signing from {id}",
        "bad-partial": "{id} sent a bad partial signature",
        "drop-stored": "no answer in time in phase storing from {id}",
    }
    honest = [plugin_options(), plugin_options()]
    options = [lsp_options(**PATIENCE), *honest, *[faulty(fault) for fault in faults]]
    lsp, clients = start(node_factory, bitcoind, options)
    good, bad = clients[:2], clients[2:]
    for client, fault in zip(bad, faults):
        assert client.daemon.is_in_log(f"FOR TESTS ONLY: this node misbehaves on purpose: {fault}")

    factory = create(lsp, clients, capacity_sat=200_000)
    assert [client["id"] for client in factory["clients"]] == [client.info["id"] for client in good]
    reasons = {entry["id"]: entry["reason"] for entry in factory["left_out"]}
    assert set(reasons) == {client.info["id"] for client in bad}
    for client, expected in zip(bad, faults.values()):
        assert expected.format(id=client.info["id"]) in reasons[client.info["id"]], (expected, reasons)
    assert factory["attempt"] == len(bad) + 1

    # Nothing is left behind, on either side.
    wait_for(lambda: reserved_by_others(lsp, bitcoind, factory) == [])
    for client in bad:
        wait_for(lambda: left_behind(lsp, client) == [])
        wait_for(lambda: all(seen["state"] == "aborted" for seen in factories(client)))
        assert status(client)["ceremonies"] == []
    # The others lost nothing but time.
    activate(bitcoind, factory, lsp, good)
    for client in good:
        (channel,) = client.rpc.listpeerchannels()["channels"]
        assert channel["state"] == "CHANNELD_NORMAL"
    pay(lsp, good[0], 20_000_000, "to the first")
    pay(good[0], good[1], 5_000_000, "to the second", dead_end=True)


# S4, S29, S30
def test_one_that_vanishes_between_ready_and_complete(node_factory, bitcoind):
    options = [lsp_options(**PATIENCE), plugin_options(), plugin_options(), faulty("vanish-stored")]
    lsp, (alice, bob, carol) = start(node_factory, bitcoind, options)
    creating = node_factory.executor.submit(create, lsp, [alice, bob, carol], capacity_sat=200_000)
    carol.daemon.wait_for_log("fault: stored of attempt 1 not sent")
    carol.stop()
    factory = creating.result(60)
    instance = factory["factory_instance"]
    assert [client["id"] for client in factory["clients"]] == [alice.info["id"], bob.info["id"]]
    (left_out,) = factory["left_out"]
    assert left_out["id"] == carol.info["id"] and carol.info["id"] in left_out["reason"]
    wait_for(lambda: reserved_by_others(lsp, bitcoind, factory) == [])
    assert lsp.rpc.listpeerchannels(carol.info["id"])["channels"] == []
    activate(bitcoind, factory, lsp, [alice, bob])
    for client in (alice, bob):
        assert len(client.rpc.listpeerchannels()["channels"]) == 1, "the first attempt left no channel"
    pay(lsp, alice, 20_000_000, "to alice")
    pay(alice, bob, 5_000_000, "alice to bob", dead_end=True)

    # When she is back, nothing waits for her and she waits for nothing.
    carol.start()
    connect_all(lsp, [carol])
    wait_for_factory(carol, instance, "aborted")
    assert left_behind(lsp, carol) == []


# S12: the ceremony stands still at each of its steps, and any node dies there.
STEPS = ["join", "expecting", "partial_signatures", "stored", "channel_checked"]


@pytest.mark.parametrize("who", ["lsp", "client"])
def test_killed_at_every_step(node_factory, bitcoind, who):
    """One client holds the first attempt at each step in turn, and another node is killed or stopped
    there: afterwards the factory exists with all, or not at all."""
    slow = {**FAST, "factory-invite-timeout": 60, "factory-ceremony-timeout": 60, "factory-confirmations": 1}
    options = [lsp_options(**slow), plugin_options(may_fail=True), faulty(f"drop-first-{STEPS[0]}")]
    options[0]["may_fail"] = True
    lsp, (alice, bob) = start(node_factory, bitcoind, options, coins=[2_000_000] * 3)
    victim = lsp if who == "lsp" else alice
    known = set()
    for at, step in enumerate(STEPS):
        creating = node_factory.executor.submit(create, lsp, [alice, bob], capacity_sat=150_000)
        bob.daemon.wait_for_log(f"fault: {step} of attempt 1 not sent")
        (instance,) = {seen["factory_instance"] for seen in factories(lsp)} - known
        known.add(instance)
        # Alternately without and with warning.
        victim.daemon.kill() if at % 2 == 0 else victim.stop()
        victim.start()
        connect_all(lsp, [alice, bob])
        if who == "client" and step in ("join", "channel_checked"):
            # Before the channels are opened, and after they are committed, the attempt outlives a
            # member's absence. Who hasn't answered is asked again when it connects.
            bob.rpc.disconnect(lsp.info["id"], force=True)
            connect_all(lsp, [bob])
        wait_for_factory(lsp, instance, "funding")
        try:
            creating.result(60)
        except (RpcError, ValueError, OSError):
            assert who == "lsp", "the command outlives everything but its own node"
        factory = factory_of(lsp, instance)
        # Nobody is blamed for it, and nobody is missing (S4).
        assert [client["id"] for client in factory["clients"]] == [alice.info["id"], bob.info["id"]], factory
        assert "left_out" not in factory, factory
        mine(bitcoind, 1, [lsp, alice, bob], wait_for_mempool=factory["funding_txid"])
        for node in (lsp, alice, bob):
            wait_for_factory(node, instance, "active")
            assert factory_of(node, instance)["funding_txid"] == factory["funding_txid"]
            assert node.rpc.call("factory-verify", {"factory_instance": instance})["valid"]
        wait_for(lambda: reserved_by_others(lsp, bitcoind, factory) == [])
        if step != STEPS[-1]:
            bob.daemon.opts["factory-fault"] = f"drop-first-{STEPS[at + 1]}"
            bob.restart()
            connect_all(lsp, [bob])
    pay(lsp, alice, 20_000_000, "after all that, to alice")
    pay(lsp, bob, 20_000_000, "after all that, to bob")


def database(node):
    return f"{node.daemon.lightning_dir}/regtest/lightningd.sqlite3"


# S18
def test_a_foreign_script_in_the_leaf(node_factory, bitcoind):
    """The leaf pays another script than the client's channel has: the client compares both funding
    keys in lightningd's own record, says what is wrong, and relies on nothing."""
    broken = plugin_options(broken_log="the leaf does not pay our channel")
    options = [faulty("drop-first-channel_committed", **PATIENCE), broken, plugin_options()]
    options[0]["factory-policy"] = "never"
    options[0]["factory-ceremony-timeout"] = 60
    lsp, (alice, bob) = start(node_factory, bitcoind, options)
    creating = node_factory.executor.submit(create, lsp, [alice, bob], capacity_sat=200_000)
    # Both channels are committed on both sides, and the leaf is signed; nobody has looked at it yet.
    lsp.daemon.wait_for_logs([r"fault: channel_committed of attempt 1 not sent"] * 2)
    (seen,) = factories(alice)
    instance, channel_id = seen["factory_instance"], alice.rpc.listpeerchannels()["channels"][0]["channel_id"]
    assert seen["state"] == "storing"
    # lightningd writes the whole row once more, from memory, when it hears of the other side's fees.
    wait_for(lambda: "remote" in alice.rpc.listpeerchannels()["channels"][0].get("updates", {}))
    # What a lie of the operator comes to: the channel in lightningd has other keys than the leaf pays.
    with sqlite3.connect(database(alice), timeout=10) as db:
        other = "02" + "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        changed = db.execute(
            "UPDATE channels SET fundingkey_remote = ? WHERE full_channel_id = ?",
            (bytes.fromhex(other), bytes.fromhex(channel_id)),
        )
        assert changed.rowcount == 1
    db.close()
    # The next block makes her look.
    bitcoind.generate_block(1)
    alice.daemon.wait_for_log(f"{instance}: the leaf does not pay our channel: .*funding script")
    wait_for_factory(alice, instance, "aborted")
    assert "does not pay our channel" in factory_of(alice, instance)["failure"]
    factory = creating.result(60)
    (left_out,) = factory["left_out"]
    assert left_out["id"] == alice.info["id"] and "does not pay our channel" in left_out["reason"]
    assert [client["id"] for client in factory["clients"]] == [bob.info["id"]]
    # Bob has a channel that works; hers was never used.
    activate(bitcoind, factory, lsp, [bob])
    pay(lsp, bob, 20_000_000, "to bob")
    assert all(channel["to_us_msat"] <= 1000 for channel in alice.rpc.listpeerchannels()["channels"])


# S18
def test_a_channel_that_is_not_the_leafs(node_factory, bitcoind):
    """The operator completes the open that the client accepted on a transaction of its own, and says
    that it is the leaf's: a zero-conf channel, usable for lightningd at once. Nothing moves on it."""
    options = [faulty("other-channel", **PATIENCE), plugin_options()]
    options[0]["factory-policy"] = "never"
    options[0]["factory-ceremony-timeout"] = 60
    lsp, (alice,) = start(node_factory, bitcoind, options)
    creating = node_factory.executor.submit(create, lsp, [alice], capacity_sat=200_000)
    lsp.daemon.wait_for_log("fault: completing .* channel on")
    wait_for(lambda: [c["state"] for c in alice.rpc.listpeerchannels()["channels"]] == ["CHANNELD_NORMAL"])
    wait_for(lambda: "remote" in alice.rpc.listpeerchannels()["channels"][0].get("updates", {}))
    (seen,) = factories(alice)
    alice.daemon.wait_for_log(f"{seen['factory_instance']}: this node has no channel on our leaf")
    invoice = alice.rpc.invoice(5_000_000, "on nothing", "on nothing")["bolt11"]
    with pytest.raises(RpcError):
        lsp.rpc.call("xpay", {"invstring": invoice, "retry_for": 5})
    assert alice.daemon.is_in_log("failing an HTLC of 5000000 msat")
    assert alice.rpc.listinvoices("on nothing")["invoices"][0]["status"] == "unpaid"
    # Also after a restart, while lightningd still has that channel.
    alice.restart()
    connect_all(lsp, [alice])
    wait_for(lambda: alice.rpc.listpeerchannels()["channels"][0].get("reestablished"))
    with pytest.raises(RpcError):
        lsp.rpc.call("xpay", {"invstring": invoice, "retry_for": 5})
    assert alice.rpc.listinvoices("on nothing")["invoices"][0]["status"] == "unpaid"
    assert factory_of(alice, seen["factory_instance"])["state"] in ("storing", "aborted")
    # The operator never got a `channel_checked`, so an honest engine doesn't fund (S11).
    assert factory_of(lsp, seen["factory_instance"])["state"] == "opening"
    assert bitcoind.rpc.getrawmempool() == []
    creating.cancel()
