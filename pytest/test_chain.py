"""The chain: evictions, timeouts, half-published trees, reorganisations, downtime. Whatever happens,
factory-show says where every satoshi of the funding is."""

from pyln.client import RpcError
from pyln.testing.utils import wait_for

import pytest

from harness import (
    FAST,
    activate,
    channel_by_id,
    channel_in,
    connect_all,
    create,
    factory_of,
    fund,
    lsp_options,
    mine,
    onchain_msat,
    pay,
    plugin_options,
    transaction,
    wait_for_factory,
    wait_for_synced,
)

OPTIONS = FAST


def factory_with(node_factory, bitcoind, count, **more):
    options = [lsp_options(**OPTIONS), *[plugin_options() for _ in range(count)]]
    lsp, *clients = node_factory.get_nodes(count + 1, opts=options)
    fund(bitcoind, lsp, 8_000_000)
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, [lsp, *clients])
    factory = create(lsp, clients, **more)
    return lsp, clients, activate(bitcoind, factory, lsp, clients)


def show(node, instance):
    return node.rpc.call("factory-show", {"factory_instance": instance})


def statement(bitcoind, node, instance):
    """The account of a factory, held against the chain to the satoshi: totals by type."""
    account = show(node, instance)["statement"]
    assert "broken" not in account
    totals = {}
    for line in account["lines"]:
        totals[line["type"]] = totals.get(line["type"], 0) + line["amount_sat"]
        if "outnum" in line:
            assert transaction(bitcoind, line["txid"])["vout"][line["outnum"]]["sat"] == line["amount_sat"], line
        if line["type"] == "unspent":
            assert bitcoind.rpc.gettxout(line["txid"], line["outnum"], False), line
    assert sum(totals.values()) == account["funding_sat"] == account["sum_sat"], account
    return totals


def mine_to(bitcoind, height, nodes):
    """Block by block, so that what is published in one can be in the next."""
    while bitcoind.rpc.getblockcount() < height:
        mine(bitcoind, 1, nodes)


def path_of(node, instance, client):
    """The transactions from the funding to a client's leaf, from factory-show."""
    nodes = {tx["index"]: tx for tx in show(node, instance)["transactions"]}
    (index,) = [
        i for i, tx in nodes.items()
        if any(out["type"] == "channel" and out["client"] == client for out in tx["outputs"])
    ]  # fmt: skip
    path = []
    while index is not None:
        path.insert(0, nodes[index])
        index = nodes[index].get("parent", {}).get("index")
    return path


# S21
def test_one_silent_client_out_of_eight_is_evicted(node_factory, bitcoind):
    lsp, clients, factory = factory_with(
        node_factory, bitcoind, 8, capacity_sat=200_000, lifetime_blocks=60, dying_blocks=10
    )
    instance, timeout = factory["factory_instance"], factory["timeout_block"]
    silent, *others = reversed(clients)
    nodes = [lsp, *others]
    pay(lsp, silent, 20_000_000, "to the silent one")
    place = next(c["client"] for c in factory["clients"] if c["id"] == silent.info["id"])
    silent.stop()

    dry = lsp.rpc.call("factory-evict", {"factory_instance": instance, "clients": [place], "dry_run": True})
    assert dry["state"] == "active" and bitcoind.rpc.getrawmempool() == []
    path = path_of(lsp, instance, place)
    assert [tx["txid"] for tx in dry["path"]] == [tx["txid"] for tx in path]
    assert dry["eviction"]["vbytes"] == sum(tx["vbytes"] for tx in path) < dry["whole_tree"]["vbytes"]
    assert dry["eviction"]["latest_block"] < timeout
    for wrong, text in (([8], "client 8"), (["nobody"], "nobody"), ([place, 0], None)):
        call = {"factory_instance": instance, "clients": wrong, "dry_run": True}
        if text is None:
            assert len(lsp.rpc.call("factory-evict", call)["clients"]) == 2
        else:
            with pytest.raises(RpcError, match=text):
                lsp.rpc.call("factory-evict", call)
    with pytest.raises(RpcError, match="operator"):
        others[0].rpc.call("factory-evict", {"factory_instance": instance})

    lsp.rpc.call("factory-evict", {"factory_instance": instance, "clients": [silent.info["id"]]})
    for tx in path:
        mine(bitcoind, 1, nodes, wait_for_mempool=tx["txid"])
    seen = factory_of(lsp, instance)
    states = {entry["client"]: entry["state"] for entry in seen["clients"]}
    assert states.pop(place) == "on_chain"
    assert seen["state"] == "active"
    # Those in the same leaf came out with it, the rest is where it was; everybody goes on.
    assert set(states.values()) == {"on_chain", "usable"}, states
    for other in others:
        pay(lsp, other, 1_000_000, "after " + other.info["id"])
    totals = statement(bitcoind, lsp, instance)
    assert totals["channel"] == 200_000 * (1 + list(states.values()).count("on_chain"))
    assert totals["fee"] == sum(tx["fee_sat"] for tx in path)
    assert totals["anchor"] == 240 * len(path)

    # The rest follows by itself before the timeout, and the silent one finds its channel as it was.
    mine_to(bitcoind, timeout, nodes)
    wait_for_factory(lsp, instance, "exited")
    totals = statement(bitcoind, lsp, instance)
    assert totals["channel"] == 8 * 200_000 and "unspent" not in totals and "distribution" not in totals
    silent.start()
    silent.connect(lsp)
    wait_for_factory(silent, instance, "exited")
    assert channel_in(factory, silent)["state"] == "CHANNELD_NORMAL"
    assert channel_in(factory, silent)["to_us_msat"] == 20_001_000
    statement(bitcoind, silent, instance)


# S21
def test_stock_comes_home_and_the_factory_is_closed(node_factory, bitcoind):
    lsp, clients, factory = factory_with(
        node_factory, bitcoind, 2, capacity_sat=300_000, stock_sat=50_000, lifetime_blocks=40, dying_blocks=10
    )
    instance, timeout = factory["factory_instance"], factory["timeout_block"]
    nodes = [lsp, *clients]
    before = onchain_msat(lsp)
    pay(lsp, clients[0], 20_000_000, "to alice")
    (leaf,) = show(lsp, instance)["transactions"]
    mine_to(bitcoind, factory_of(lsp, instance)["deadline_block"], nodes)
    mine(bitcoind, 1, nodes, wait_for_mempool=leaf["txid"])
    confirmed = bitcoind.rpc.getblockcount()
    assert factory_of(lsp, instance)["state"] == "exited"
    mine_to(bitcoind, confirmed + 4, nodes)
    wait_for(lambda: len(bitcoind.rpc.getrawmempool()) == 1)
    mine(bitcoind, 1, nodes)
    assert bitcoind.rpc.getblockcount() < timeout
    totals = statement(bitcoind, lsp, instance)
    assert totals["channel"] == 600_000 and 49_000 < totals["stock"] < 50_000
    wait_for(lambda: onchain_msat(lsp) - before == totals["stock"] * 1000)
    names = [seen["name"] for seen in show(lsp, instance)["on_chain"]]
    assert names == ["the funding transaction", "static transaction 0", "the operator's own spend of stock coin 1"]

    # lightningd closes the channels, and 100 blocks after the last of them it is done.
    assert factory_of(lsp, instance)["state"] == "exited"
    for client in clients:
        channel = channel_in(factory, client)["channel_id"]
        lsp.rpc.close(channel)
        mine(bitcoind, 1, nodes, wait_for_mempool=1)
        wait_for(lambda: channel_by_id(client, channel)["state"] == "ONCHAIN")
    mine(bitcoind, 105, nodes)
    for node in nodes:
        wait_for_factory(node, instance, "closed")
        seen = factory_of(node, instance)
        assert seen["standing"] == "closed" and "deadline_block" not in seen
        statement(bitcoind, node, instance)
    assert show(lsp, instance)["statement"]["final"]
