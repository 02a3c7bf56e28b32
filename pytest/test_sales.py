"""Buying liquidity: second channels out of a sub-factory's stock, with nothing on chain."""

import pytest
from pyln.client import RpcError

from harness import (
    channel_by_id,
    connect_all,
    factory_of,
    factory_with,
    forget,
    mine,
    onchain_msat,
    pay,
    read_records,
    wait_for,
    wait_for_factory,
)

NOT_SOLD = 2505
STOCK = 600_000


def buy(client, factory, amount_sat, **more):
    """Again, as the answer says, as long as neighbours haven't stored the one before."""
    params = {"factory_instance": factory["factory_instance"], "amount_sat": amount_sat, **more}
    bought = []

    def done():
        try:
            bought.append(client.rpc.call("factory-buy", params))
        except RpcError as error:
            if "another sale of this sub-factory is under way" not in error.error["message"]:
                raise
        return bought

    wait_for(done)
    return bought[0]


def sales(node, factory):
    return factory_of(node, factory["factory_instance"]).get("sales", [])


def wait_until_usable(lsp, client, channel_id):
    wait_for(lambda: channel_by_id(client, channel_id)["state"] == "CHANNELD_NORMAL")
    for node in (lsp, client):
        wait_for(lambda: "remote" in channel_by_id(node, channel_id).get("updates", {}))


# S8, S19
def test_two_purchases_and_a_neighbours(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 4, stock_sat=STOCK)
    alice, bob, carol, _ = clients
    instance = factory["factory_instance"]

    shown = buy(alice, factory, 200_000, dry_run=True)
    assert (shown["sale"], shown["stock_sat"]) == (1, STOCK) and not sales(alice, factory)
    bought = [buy(alice, factory, 200_000), buy(bob, factory, 100_000), buy(alice, factory, 150_000)]
    assert [one["sale"] for one in bought] == [1, 2, 3]
    early = [one["blocks_early"] for one in bought]
    assert early == sorted(set(early)) and early[0] > factory["blocks_early"] - 1, "each waits for those before it"
    wait_for(lambda: [one["state"] for one in sales(lsp, factory)] == ["usable"] * 3)
    assert [one["client"] for one in sales(lsp, factory)] == [0, 1, 0]
    assert len(sales(alice, factory)) == 2 and len(sales(bob, factory)) == 1
    assert not sales(carol, factory), "whoever is in another sub-factory has no part in it"
    for client, one in zip((alice, bob, alice), bought):
        wait_until_usable(lsp, client, one["channel_id"])

    # More than the first channel holds: both are used.
    pay(lsp, alice, 600_000_000, "more than one channel")
    pay(lsp, bob, 50_000_000, "to bob")
    pay(alice, bob, 20_000_000, "alice to bob", dead_end=True)
    for node in (lsp, alice, bob):
        node.restart()
    connect_all(lsp, clients)
    for one in bought:
        wait_for(lambda: channel_by_id(lsp, one["channel_id"]).get("reestablished"))
    pay(lsp, alice, 10_000_000, "after a restart")

    # The operator is gone for good: alice takes all of it by herself, through bob's sale.
    channels = [channel for channel in alice.rpc.listpeerchannels()["channels"]]
    assert len(channels) == 3
    balance = sum(int(channel["to_us_msat"]) // 1000 for channel in channels)
    lsp.stop()
    verified = alice.rpc.call("factory-verify", {"factory_instance": instance})
    assert verified["valid"] and 0 <= verified["exit"]["brings_msat"] // 1000 - balance < len(channels)
    assert (verified["checked"]["sales"], verified["checked"]["channels"]) == (3, 3)
    left = alice.rpc.call("factory-exit", {"factory_instance": instance})
    assert [step["sale"] for step in left["path"] if step["kind"] == "sale"] == [1, 2, 3]
    assert left["exit"]["transactions"] == len(left["path"])
    for _ in range(12):
        mine(bitcoind, 1, clients)
    wait_for_factory(alice, instance, "exited")
    assert [one["state"] for one in sales(alice, factory)] == ["on_chain"] * 2
    for one in sales(alice, factory):
        wait_for(lambda: channel_by_id(alice, one["channel_id"])["state"] == "ONCHAIN")
    # lightningd's own delay for its outputs, and everything is in the wallet but the fees.
    for _ in range(8):
        mine(bitcoind, 1, clients)
    wait_for(lambda: onchain_msat(alice) // 1000 > balance - 20_000)
    assert onchain_msat(alice) // 1000 < balance


# S8, S9
def test_one_stock_is_sold_once(node_factory, bitcoind):
    """By two who ask at once, and by an operator that dies and has forgotten."""
    dies = {"may_fail": True, "broken_log": "Lost connection|Plugin marked as important|Reading sync lightningd"}
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, lsp=dies, stock_sat=STOCK)
    before = read_records(lsp)
    params = {"factory_instance": factory["factory_instance"], "amount_sat": 100_000}
    asked = [node_factory.executor.submit(client.rpc.call, "factory-buy", params) for client in clients]
    failed = [error for error in (one.exception(60) for one in asked) if error]
    assert len(failed) == 1 and "try again" in str(failed[0]), failed
    wait_for(lambda: [one["state"] for one in sales(lsp, factory)] == ["usable"])
    (sold,) = sales(lsp, factory)

    lsp.daemon.kill()
    forget(lsp, before)
    lsp.start()
    connect_all(lsp, clients)
    assert sales(lsp, factory) == []
    records = [read_records(client) for client in clients]
    for client in clients:
        # The first shows it what it has forgotten, and from then on it says so itself (S9).
        with pytest.raises(RpcError, match="the operator's records are older|restored from a backup") as refused:
            buy(client, factory, 150_000)
        assert refused.value.error["code"] == NOT_SOLD
    # Nobody has signed anything more, and what was sold is where it was.
    assert sales(lsp, factory) == []
    for client, known in zip(clients, records):
        signed = {key for key in read_records(client) if key[1] == "factory"}
        assert signed == {key for key in known if key[1] == "factory"}
    (seen,) = [one for client in clients for one in sales(client, factory)]
    assert (seen["channel_id"], seen["capacity_sat"]) == (sold["channel_id"], 100_000)


# S24
def test_an_exit_ends_sales_of_its_leaf_only(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 8, capacity_sat=200_000, stock_sat=STOCK)
    nodes = {node.info["id"]: node for node in clients}
    order = [nodes[entry["id"]] for entry in sorted(factory["clients"], key=lambda entry: entry["client"])]
    instance = factory["factory_instance"]
    path = lsp.rpc.call("factory-evict", {"factory_instance": instance, "clients": [0], "dry_run": True})["path"]
    order[0].rpc.call("factory-exit", {"factory_instance": instance})
    for tx in path:
        mine(bitcoind, 1, [lsp, *clients], wait_for_mempool=tx["txid"])
    states = {entry["client"]: entry["state"] for entry in factory_of(lsp, instance)["clients"]}
    assert states[1] == "on_chain" and states[7] == "usable", states
    with pytest.raises(RpcError, match="on chain"):
        buy(order[1], factory, 100_000)
    # The other leaf goes on as before, and so do the channels of both.
    bought = buy(order[7], factory, 100_000)
    wait_until_usable(lsp, order[7], bought["channel_id"])
    pay(lsp, order[7], 250_000_000, "more than its first channel holds")
    pay(lsp, order[1], 1_000_000, "on chain by now")


def test_refusals(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, stock_sat=STOCK)
    alice, bob = clients
    for amount in (9_999, STOCK, 0):
        with pytest.raises(RpcError, match=f"{amount} sat can't be sold: ask for 10000 to "):
            buy(alice, factory, amount)
    with pytest.raises(RpcError, match="operator"):
        buy(lsp, factory, 100_000)
    # Neighbours that are away are counted, not named.
    bob_id = bob.info["id"]
    bob.stop()
    wait_for(lambda: not lsp.rpc.listpeers(bob_id)["peers"] or not lsp.rpc.listpeers(bob_id)["peers"][0]["connected"])
    with pytest.raises(RpcError, match="not connected: another client") as refused:
        buy(alice, factory, 100_000)
    assert refused.value.error["code"] == NOT_SOLD and bob_id not in str(refused.value)
    assert not sales(lsp, factory) and len(alice.rpc.listpeerchannels()["channels"]) == 1
    bob.start()
    connect_all(lsp, [bob])
    buy(alice, factory, 100_000)
    # S24: once an exit has begun nothing is sold there.
    bob.rpc.call("factory-exit", {"factory_instance": factory["factory_instance"]})
    mine(bitcoind, 1, [lsp, *clients], wait_for_mempool=1)
    with pytest.raises(RpcError, match="on chain"):
        buy(alice, factory, 100_000)
