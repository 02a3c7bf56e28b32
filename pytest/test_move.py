"""A client's balance goes from one of its channels with the operator to another, on real nodes (S37)."""

import time

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    PLUGINS,
    RESERVE_MSAT,
    activate,
    channel_by_id,
    channel_in,
    connect_all,
    create,
    factory_with,
    find_plugin,
    mine,
    pay_over,
    status,
    to_us,
    wait_for,
)

PAID_MSAT = 100_000_000
# A move takes 0.2 s on an idle machine; this is what it may take on one that is busy with other tests.
MOVE_SECONDS = 10
# What lightningd says after a kill in the middle of a forward.
BOOKKEEPING = "Unable to calculate fees collected"


def two_factories(node_factory, bitcoind, lsp=None, client=None, **more):
    """An operator and a client in two of its factories, with money in the first; the channels' ids."""
    lsp, (client,), first = factory_with(node_factory, bitcoind, 1, lsp=lsp, client=client, **more)
    second = activate(bitcoind, create(lsp, [client], **more), lsp, [client])
    # As deep as factory-handover-depth asks for: nothing moves there before.
    mine(bitcoind, 6, [lsp, client])
    old, new = (channel_in(factory, client)["channel_id"] for factory in (first, second))
    pay_over(lsp, client, old, "purse", PAID_MSAT)
    return lsp, client, old, new


def quiet(*nodes):
    for node in nodes:
        wait_for(lambda: not any(channel["htlcs"] for channel in node.rpc.listpeerchannels()["channels"]))


def move(node, old, new, amount_msat=None, dry_run=False):
    params = {"from": old, "to": new, "dry_run": dry_run}
    if amount_msat is not None:
        params["amount_msat"] = amount_msat
    return node.rpc.call("factory-move", params)


def moves_open(node):
    return status(node)["moves"]


def check_sides(lsp, client, *channel_ids):
    """Both nodes say the same of each channel, to the millisatoshi."""
    quiet(lsp, client)
    for channel_id in channel_ids:
        total = int(channel_by_id(lsp, channel_id)["total_msat"])
        wait_for(lambda: to_us(client, channel_id) + to_us(lsp, channel_id) == total)


# S37
def test_between_two_factories(node_factory, bitcoind, measured):
    lsp, client, old, new = two_factories(node_factory, bitcoind)
    before = {channel: to_us(client, channel) for channel in (old, new)}
    seen = status(client)
    assert seen["total_msat"] == sum(before.values()) and seen["moves"] == []
    assert {channel["channel_id"]: channel["counted"] for channel in seen["channels"]} == {old: True, new: True}

    planned = move(client, old, new, dry_run=True)
    amount = before[old] - RESERVE_MSAT
    assert planned["parts_msat"] == [amount] and planned["stays_msat"] == RESERVE_MSAT, planned
    assert {channel: to_us(client, channel) for channel in (old, new)} == before, "nothing was done"

    begun = time.monotonic()
    moved = move(client, old, new)
    took = time.monotonic() - begun
    measured(f"one move from one factory to the next: {took:.2f} s, RPC included")
    assert took < MOVE_SECONDS
    assert (moved["state"], moved["moved_msat"], moved["htlcs"]) == ("done", amount, 1), moved
    check_sides(lsp, client, old, new)
    assert (to_us(client, old), to_us(client, new)) == (RESERVE_MSAT, before[new] + amount)
    seen = status(client)
    assert (seen["total_msat"], seen["moves"]) == (sum(before.values()), [])

    # And back over the aliases of lightningd, while the new channel is still the one that is free.
    names = [channel_by_id(client, channel)["alias"]["local"] for channel in (new, old)]
    moved = move(client, *names, amount_msat=40_000_000)
    assert (moved["state"], moved["moved_msat"]) == ("done", 40_000_000), moved
    check_sides(lsp, client, old, new)
    assert to_us(client, old) == RESERVE_MSAT + 40_000_000
    fees = {c["channel_id"]: int(c["fee_base_msat"]) for c in lsp.rpc.listpeerchannels()["channels"]}
    assert fees[old] == 0 and fees[new] > 0, "one channel at a time is free"
    mine(bitcoind, 12, [lsp, client])
    wait_for(lambda: all(int(c["fee_base_msat"]) > 0 for c in lsp.rpc.listpeerchannels()["channels"]))


# S37: on-ramp and off-ramp are the same thing.
def test_from_and_to_an_ordinary_channel(node_factory, bitcoind):
    lsp, client, _, new = two_factories(node_factory, bitcoind)
    opened = lsp.rpc.fundchannel(client.info["id"], 300_000, push_msat=50_000_000, announce=False)
    ordinary = opened["channel_id"]
    mine(bitcoind, 6, [lsp, client], wait_for_mempool=opened["txid"])
    wait_for(lambda: channel_by_id(client, ordinary)["state"] == "CHANNELD_NORMAL")
    wait_for(lambda: "short_channel_id" in channel_by_id(client, ordinary))
    total = status(client)["total_msat"]
    before = to_us(client, new)
    spendable = to_us(client, ordinary) - int(channel_by_id(client, ordinary)["our_reserve_msat"])
    moved = move(client, channel_by_id(client, ordinary)["short_channel_id"], new)
    assert (moved["state"], moved["moved_msat"]) == ("done", spendable), moved
    check_sides(lsp, client, ordinary, new)
    assert to_us(client, new) == before + spendable
    moved = move(client, new, ordinary, amount_msat=20_000_000)
    assert moved["state"] == "done", moved
    check_sides(lsp, client, ordinary, new)
    assert status(client)["total_msat"] == total


def test_what_is_refused(node_factory, bitcoind):
    lsp, client, old, new = two_factories(node_factory, bitcoind)
    with pytest.raises(RpcError, match="same channel"):
        move(client, old, old)
    with pytest.raises(RpcError, match="has no channel"):
        move(client, old, "77" * 32)
    with pytest.raises(RpcError, match="from: should be a channel_id"):
        move(client, "nonsense", new)
    with pytest.raises(RpcError, match="too much, at most"):
        move(client, old, new, amount_msat=PAID_MSAT * 2)
    with pytest.raises(RpcError, match="not the operator of a factory"):
        move(lsp, old, new)
    with pytest.raises(RpcError, match="nothing can go"):
        move(client, new, old)
    client.rpc.disconnect(lsp.info["id"], force=True)
    lsp.stop()
    with pytest.raises(RpcError, match="is not connected"):
        move(client, old, new)
    assert moves_open(client) == []


# S37
@pytest.mark.parametrize("who", ["client", "lsp"])
def test_killed_while_its_htlcs_stand(node_factory, bitcoind, who):
    """Both channels have the HTLC when a node is killed: the total stays what it was, and nothing is sent twice."""
    # Its bookkeeping of what was forwarded is lightningd's own affair.
    options = {who: {"may_fail": True, **({**FAST, "broken_log": BOOKKEEPING} if who == "lsp" else {})}}
    lsp, client, old, new = two_factories(node_factory, bitcoind, **options)
    total, before = status(client)["total_msat"], {channel: to_us(client, channel) for channel in (old, new)}
    amount = before[old] - RESERVE_MSAT
    client.rpc.plugin_start(str(PLUGINS / "hold_htlcs.py"))
    moving = node_factory.executor.submit(move, client, old, new)
    client.daemon.wait_for_log("holding an HTLC that expires at")
    wait_for(lambda: all(channel_by_id(client, channel)["htlcs"] for channel in (old, new)))
    seen = status(client)
    assert seen["total_msat"] == total and len(seen["moves"]) == 1, seen
    victim = lsp if who == "lsp" else client
    victim.daemon.kill()
    victim.start()
    connect_all(lsp, [client])
    if who == "lsp":
        client.rpc.plugin_stop("hold_htlcs.py")
    wait_for(lambda: moves_open(client) == [])
    check_sides(lsp, client, old, new)
    assert (to_us(client, old), to_us(client, new)) == (RESERVE_MSAT, before[new] + amount)
    assert status(client)["total_msat"] == total
    assert [payment["status"] for payment in client.rpc.listsendpays()["payments"]] == ["complete"]
    try:
        assert moving.result(60)["moved_msat"] == amount
    except (RpcError, ValueError, OSError):
        assert who == "client", "the command outlives everything but its own node"


# S37: before the HTLC leaves, after it has arrived, and while the operator is about to let it pass.
@pytest.mark.faults
@pytest.mark.parametrize("who, step", [("client", "send-move"), ("client", "move-ended"), ("lsp", "fees-set")])
def test_killed_in_the_middle(node_factory, bitcoind, who, step):
    dies = {"plugin": find_plugin(faults=True), "may_fail": True}
    options = {who: {**FAST, **dies} if who == "lsp" else dies}
    lsp, client, old, new = two_factories(node_factory, bitcoind, **options)
    victim = lsp if who == "lsp" else client
    total, before = status(client)["total_msat"], {channel: to_us(client, channel) for channel in (old, new)}
    amount = before[old] - RESERVE_MSAT
    victim.rpc.call("misbehave", {"fault": f"hold-{step}"})
    moving = node_factory.executor.submit(move, client, old, new)
    victim.daemon.wait_for_log(f"standing still at {step}")
    victim.daemon.kill()
    victim.start()
    connect_all(lsp, [client])
    # It was asked for once, and goes on by itself.
    wait_for(lambda: moves_open(client) == [])
    check_sides(lsp, client, old, new)
    assert (to_us(client, old), to_us(client, new)) == (RESERVE_MSAT, before[new] + amount)
    assert status(client)["total_msat"] == total
    paid = [payment for payment in client.rpc.listsendpays()["payments"] if payment["status"] == "complete"]
    assert len(paid) == 1, paid
    try:
        assert moving.result(60)["moved_msat"] == amount
    except (RpcError, ValueError, OSError):
        assert who == "client", "the command outlives everything but its own node"
