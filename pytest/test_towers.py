"""Who sleeps is watched for (S40): a tower has finished transactions and no keys, on stock nodes."""

import pytest

from harness import (
    FAST,
    activate,
    channel_in,
    connect_all,
    create,
    factory_with,
    fund,
    lsp_options,
    mine,
    mine_until,
    onchain_msat,
    pay,
    plugin_options,
    spender,
    status,
    transaction,
    wait_for,
    wait_for_synced,
    wait_until_ready,
)
from test_sales import STOCK, buy, sales


def watched(client, at_least=1):
    """What the tower has, once nothing is missing."""

    def complete():
        towers = status(client)["towers"]
        return towers and towers[0]["missing"] == 0 and towers[0]["appointments"] >= at_least

    wait_for(complete)
    (tower,) = status(client)["towers"]
    return tower


def signed(client, factory, appointments):
    """What a tower has signed: that it has so many."""

    def receipts():
        answer = client.rpc.call("factory-export", {"factory_instance": factory["factory_instance"]})
        return [one for one in answer.get("receipts", []) if f" {appointments} appointments " in one["message"]]

    wait_for(receipts)
    (receipt,) = receipts()
    return receipt


@pytest.fixture
def guarded(node_factory, bitcoind):
    """An operator, alice and her tower, and a factory of hers and bob's with stock."""
    watches = plugin_options(**{"factory-watch-for": "peers"})
    lsp, tower, bob = node_factory.get_nodes(3, opts=[lsp_options(**FAST), watches, plugin_options()])
    (alice,) = node_factory.get_nodes(1, opts=[plugin_options(**{"factory-tower": tower.info["id"]})])
    fund(bitcoind, lsp, 9_000_000)
    # Whoever has a channel is watched for from the next connection on.
    node_factory.join_nodes([tower, alice], wait_for_announce=False)
    alice.rpc.disconnect(tower.info["id"], force=True)
    alice.connect(tower)
    wait_until_ready(alice, [tower])
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, [lsp, tower, alice, bob])
    factory = create(lsp, [alice, bob], stock_sat=STOCK, lifetime_blocks=200, dying_blocks=40)
    factory = activate(bitcoind, factory, lsp, [alice, bob])
    watched(alice)
    return lsp, alice, bob, tower, factory


def by_hand(bitcoind, package, nodes):
    """Publishes what leads to channels, one after the other, as an operator without a plugin would."""
    for one in package["transactions"]:
        if one["part"] == "path":
            mine(bitcoind, one["input_confirmations"] - 1, nodes)
            bitcoind.rpc.sendrawtransaction(one["tx"])
            mine(bitcoind, 1, nodes, wait_for_mempool=one["txid"])


# S26, S40
def test_an_operator_waits_for_the_stock_while_its_buyer_sleeps(guarded, bitcoind):
    """It publishes the tree and no sale: the tower publishes that before the operator may take what it sold."""
    lsp, alice, bob, tower, factory = guarded
    before = watched(alice)["appointments"]
    buy(alice, factory, 60_000)
    wait_for(lambda: sales(lsp, factory))
    had = watched(alice, at_least=before)
    assert had["pays_msat"] == 0 and had["until_block"] > bitcoind.rpc.getblockcount()
    assert [peer["id"] for peer in status(tower)["watches_for"]] == [alice.info["id"]]
    mine(bitcoind, 1, [lsp, alice, bob, tower])
    receipt = signed(alice, factory, had["appointments"])
    assert receipt["id"] == tower.info["id"]
    assert bob.rpc.checkmessage(receipt["message"], receipt["zbase"], tower.info["id"])["verified"]
    package = lsp.rpc.call("factory-export", {"factory_instance": factory["factory_instance"]})
    for node in (lsp, alice, bob):
        node.stop()
    by_hand(bitcoind, package, [tower])
    (sold,) = [one for one in package["transactions"] if one["part"] == "sale"]
    wait_for(lambda: sold["txid"] in bitcoind.rpc.getrawmempool())
    mine(bitcoind, 1, [tower], wait_for_mempool=sold["txid"])
    stock = transaction(bitcoind, sold["input"]["txid"])
    sale = transaction(bitcoind, sold["txid"])
    assert stock["confirmations"] - sale["confirmations"] < int(FAST["factory-stock-csv"])
    # Whoever wakes finds what it bought in a channel on chain.
    alice.start()
    wait_for_synced(bitcoind, [alice, tower])
    assert spender(bitcoind, sold["input"]["txid"], sold["input"]["outnum"])["txid"] == sold["txid"]


# S40
def test_an_operator_uses_a_revoked_commitment_while_its_client_sleeps(guarded, bitcoind):
    """The tower publishes lightningd's penalty: all that was to be the operator's is alice's."""
    lsp, alice, bob, tower, factory = guarded
    before = watched(alice)["appointments"]
    revoked = lsp.rpc.call("dev-sign-last-tx", {"id": alice.info["id"]})["tx"]
    pay(lsp, alice, 150_000_000, "to alice")
    after = watched(alice, at_least=before + 1)["appointments"]
    assert after > before
    capacity = channel_in(factory, alice)["total_msat"]
    package = lsp.rpc.call("factory-export", {"factory_instance": factory["factory_instance"]})
    for node in (lsp, alice, bob):
        node.stop()
    by_hand(bitcoind, package, [tower])
    txid = bitcoind.rpc.sendrawtransaction(revoked)
    mine(bitcoind, 1, [tower], wait_for_mempool=txid)
    # The tower alone is there.
    theirs = max(range(len(transaction(bitcoind, txid)["vout"])), key=lambda at: transaction(bitcoind, txid)["vout"][at]["sat"])
    wait_for(lambda: bitcoind.rpc.getrawmempool())
    mine(bitcoind, 1, [tower], wait_for_mempool=1)
    assert spender(bitcoind, txid, theirs) is not None
    alice.start()
    mine_until(bitcoind, [alice, tower], lambda: onchain_msat(alice) > int(capacity) * 9 // 10)


# S19, S40
def test_nobody_is_there_at_the_timeout_but_the_tower(guarded, bitcoind):
    """It publishes the distribution, after a restart of its own too: whoever wakes years later has its capacity."""
    lsp, alice, bob, tower, factory = guarded
    watched(alice)
    for node in (lsp, alice, bob):
        node.stop()
    tower.restart()
    timeout = factory["timeout_block"]
    mine(bitcoind, timeout - bitcoind.rpc.getblockcount() - 1, [tower])
    assert spender(bitcoind, factory["funding_txid"], factory["funding_outnum"]) is None
    mine_until(
        bitcoind,
        [tower],
        lambda: spender(bitcoind, factory["funding_txid"], factory["funding_outnum"]) is not None,
        limit=4,
    )
    alice.start()
    capacity = 500_000_000
    mine_until(bitcoind, [alice, tower], lambda: onchain_msat(alice) >= capacity * 9 // 10, limit=6)


def test_a_tower_that_serves_nobody_says_so(node_factory, bitcoind):
    """Whoever names a tower that doesn't watch for it hears of it in factory-status."""
    (tower,) = node_factory.get_nodes(1, opts=[plugin_options()])
    named = {"factory-tower": tower.info["id"]}
    _, (alice,), _ = factory_with(node_factory, bitcoind, 1, client=named)
    alice.connect(tower)
    wait_until_ready(alice, [tower])

    def warned():
        return [one for one in status(alice)["warnings"] if one["code"] == "tower_away"]

    wait_for(warned)
    assert "factory-watch-for" in warned()[0]["action"]
    assert status(alice)["towers"] == [] and status(tower)["watches_for"] == []
