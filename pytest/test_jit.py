"""Purchases of liquidity when a client that has to sign is away."""

import pytest
from pyln.client import RpcError

from harness import PLUGINS, channel_by_id, connect_all, factory_of, factory_with, find_plugin, mine, pay, wait_for
from test_prices import AMOUNT_SAT, PURSE_MSAT, credit, settled, to_us
from test_sales import NOT_SOLD, STOCK, buy, sales

PRICE_MSAT = 123_456
JIT = {"factory-jit": None}


def stop_and_see(lsp, client):
    """Until the operator's node knows that a client is away."""
    peer = client.info["id"]
    client.stop()
    wait_for(lambda: not any(one["connected"] for one in lsp.rpc.listpeers(peer)["peers"]))


def jit_channels(node, factory):
    return factory_of(node, factory["factory_instance"]).get("jit_channels", [])


def test_an_ordinary_channel_in_place_of_a_sale(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, lsp=JIT, client=JIT, stock_sat=STOCK)
    alice, bob = clients
    pay(lsp, alice, PURSE_MSAT, "purse")
    lsp.rpc.call("factory-price", {"base_msat": PRICE_MSAT})
    stop_and_see(lsp, bob)
    shown = buy(alice, factory, AMOUNT_SAT, dry_run=True)
    assert (shown["price_msat"], shown["away"]) == (PRICE_MSAT, 1)
    before = to_us(alice)
    bought = buy(alice, factory, AMOUNT_SAT, max_price_msat=PRICE_MSAT)
    # How many, not who.
    assert bought["kind"] == "jit" and "another client" in bought["reason"]
    assert bob.info["id"] not in bought["reason"]
    assert (bought["price_msat"], bought["amount_sat"]) == (PRICE_MSAT, AMOUNT_SAT)
    settled(lsp, alice)
    assert to_us(alice) == before - PRICE_MSAT
    # It is on chain, and as usable as any other.
    channel = channel_by_id(alice, bought["channel_id"])
    assert channel["funding_txid"] == bought["funding_txid"] and int(channel["total_msat"]) == AMOUNT_SAT * 1000
    mine(bitcoind, 6, [lsp, alice], wait_for_mempool=bought["funding_txid"])
    wait_for(lambda: channel_by_id(alice, bought["channel_id"])["state"] == "CHANNELD_NORMAL")
    for node in (lsp, alice):
        (listed,) = jit_channels(node, factory)
        assert (listed["channel_id"], listed["client"]) == (bought["channel_id"], 0)
        assert not sales(node, factory) and credit(node, factory) == 0
    wait_for(lambda: "remote" in channel_by_id(lsp, bought["channel_id"]).get("updates", {}))
    pay(lsp, alice, 500_000_000, "over both")
    # Its end is the factory's business no more than any other channel's; the stock is sold as before.
    bob.start()
    connect_all(lsp, [bob])
    assert buy(alice, factory, AMOUNT_SAT, max_price_msat=PRICE_MSAT)["kind"] == "sale"


def test_without_the_policy_it_ends(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, lsp=JIT, stock_sat=STOCK)
    alice, bob = clients
    stop_and_see(lsp, bob)
    with pytest.raises(RpcError, match="another client.*factory-jit") as refused:
        buy(alice, factory, AMOUNT_SAT)
    assert refused.value.error["code"] == NOT_SOLD
    assert len(alice.rpc.listpeerchannels()["channels"]) == 1 and not jit_channels(lsp, factory)


def test_a_sale_waits_for_a_client_that_comes_back(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, lsp={"factory-sale-wait": 60}, stock_sat=STOCK)
    alice, bob = clients
    stop_and_see(lsp, bob)
    bought = node_factory.executor.submit(buy, alice, factory, AMOUNT_SAT)
    lsp.daemon.wait_for_log(f"waiting for {bob.info['id']}")
    bob.start()
    connect_all(lsp, [bob])
    assert bought.result(60)["kind"] == "sale"


# S29
def test_an_open_that_is_never_answered(node_factory, bitcoind):
    """The operator disconnects, keeps nothing reserved, and the price is credit for the next purchase."""
    lsp, clients, factory = factory_with(
        node_factory, bitcoind, 2, lsp={**JIT, "factory-ceremony-timeout": 8}, client=JIT, stock_sat=STOCK
    )
    alice, bob = clients
    pay(lsp, alice, PURSE_MSAT, "purse")
    lsp.rpc.call("factory-price", {"base_msat": PRICE_MSAT})
    stop_and_see(lsp, bob)
    alice.rpc.plugin_start(str(PLUGINS / "ignore_opens.py"))
    with pytest.raises(RpcError, match=f"{PRICE_MSAT} msat are paid already"):
        buy(alice, factory, AMOUNT_SAT, max_price_msat=PRICE_MSAT)
    assert alice.daemon.is_in_log("no answer to an open of") and lsp.daemon.is_in_log("does not answer the open")
    settled(lsp, alice)
    wait_for(lambda: credit(lsp, factory) == credit(alice, factory) == PRICE_MSAT)
    assert not any(output["reserved"] for output in lsp.rpc.listfunds()["outputs"])
    alice.rpc.plugin_stop("ignore_opens.py")
    connect_all(lsp, [alice])
    mine(bitcoind, 1, [lsp, alice])
    assert buy(alice, factory, AMOUNT_SAT, max_price_msat=PRICE_MSAT)["kind"] == "jit"
    wait_for(lambda: credit(lsp, factory) == credit(alice, factory) == 0)


# S36
@pytest.mark.faults
def test_a_neighbour_that_withholds_its_signature(node_factory, bitcoind):
    """A paid sale that is never signed becomes an ordinary channel for its price; who kept it gets nothing."""
    short = {"factory-sale-blocks": 4, "factory-ceremony-timeout": 5}
    options = {**JIT, **short}
    client = {"plugin": find_plugin(faults=True), **options}
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, lsp=options, client=client, stock_sat=STOCK)
    alice, bob = clients
    bob.rpc.call("misbehave", {"fault": "drop-sale_partial_signatures"})
    pay(lsp, alice, PURSE_MSAT, "purse")
    lsp.rpc.call("factory-price", {"base_msat": PRICE_MSAT})
    before = to_us(alice)
    with pytest.raises(RpcError):
        buy(alice, factory, AMOUNT_SAT, max_price_msat=PRICE_MSAT)
    settled(lsp, alice)
    # With what the operator pushed into the channel that was to be sold.
    assert to_us(alice) == before - PRICE_MSAT + 1_000
    mine(bitcoind, 5, [lsp, alice])
    wait_for(lambda: len(jit_channels(alice, factory)) == len(jit_channels(lsp, factory)) == 1)
    assert (credit(lsp, factory), credit(alice, factory)) == (0, 0)
    assert lsp.daemon.is_in_log(f"was not finished within 4 blocks .*{bob.info['id']}")
    with pytest.raises(RpcError, match="did not finish a sale"):
        buy(bob, factory, AMOUNT_SAT, max_price_msat=PRICE_MSAT)


# S14
@pytest.mark.faults
def test_a_stop_in_the_middle_of_it(node_factory, bitcoind):
    """The operator dies when lightningd has opened the channel and the plugin has not heard of it."""
    dies = {"plugin": find_plugin(faults=True), "may_fail": True, **JIT}
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, lsp=dies, client=JIT, stock_sat=STOCK)
    alice, bob = clients
    pay(lsp, alice, PURSE_MSAT, "purse")
    lsp.rpc.call("factory-price", {"base_msat": PRICE_MSAT})
    stop_and_see(lsp, bob)
    lsp.rpc.call("misbehave", {"fault": "hold-channel-funded"})
    bought = node_factory.executor.submit(buy, alice, factory, AMOUNT_SAT, max_price_msat=PRICE_MSAT)
    lsp.daemon.wait_for_log("standing still at channel-funded")
    lsp.daemon.kill()
    with pytest.raises(RpcError, match=f"{PRICE_MSAT} msat are paid already"):
        bought.result(60)
    lsp.start()
    connect_all(lsp, [alice])
    wait_for(lambda: len(jit_channels(alice, factory)) == len(jit_channels(lsp, factory)) == 1)
    assert (credit(lsp, factory), credit(alice, factory)) == (0, 0)
    (listed,) = jit_channels(alice, factory)
    assert int(channel_by_id(alice, listed["channel_id"])["total_msat"]) == AMOUNT_SAT * 1000
