"""Liquidity that costs something."""

import pytest
from pyln.client import RpcError

from harness import channel_by_id, channel_in, connect_all, factory_of, factory_with, find_plugin, mine, pay, wait_for
from test_sales import NOT_SOLD, STOCK, buy, sales, wait_until_usable

AMOUNT_SAT = 200_000
PURSE_MSAT = 50_000_000


def to_us(node):
    """What a node has in its open channels, msat: lightningd goes on listing those of sales that came to nothing."""
    channels = node.rpc.listpeerchannels()["channels"]
    return sum(int(channel["to_us_msat"]) for channel in channels if channel["state"].startswith("CHANNELD_"))


def settled(*nodes):
    for node in nodes:
        wait_for(lambda: not any(channel.get("htlcs") for channel in node.rpc.listpeerchannels()["channels"]))


def credit(node, factory):
    (place,) = [one for one in factory_of(node, factory["factory_instance"])["clients"] if one["client"] == 0]
    return place.get("credit_msat", 0)


def test_a_price_is_shown_refused_and_paid(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, stock_sat=STOCK)
    alice, bob = clients
    pay(lsp, alice, PURSE_MSAT, "purse")
    free = {"base_msat": 0, "ppm": 0, "renewal_base_msat": 0, "renewal_ppm": 0}
    assert lsp.rpc.call("factory-price") == free
    asked = {**free, "base_msat": 12_345, "ppm": 10_000}
    assert lsp.rpc.call("factory-price", {"base_msat": 12_345, "ppm": 10_000}) == asked
    wrong = {"ppm": 1_000_001, "base_msat": -1, "base": 1, "renewal_ppm": 1_000_001}
    for params, text in (({name: value}, name) for name, value in wrong.items()):
        with pytest.raises(RpcError, match=text) as refused:
            lsp.rpc.call("factory-price", params)
        assert refused.value.error["code"] == -32602
    # It outlives a restart.
    lsp.restart()
    connect_all(lsp, clients)
    assert lsp.rpc.call("factory-price") == asked
    wait_until_usable(lsp, alice, channel_in(factory, alice)["channel_id"])

    shown = buy(alice, factory, AMOUNT_SAT, dry_run=True)
    price = shown["price_msat"]
    seen = factory_of(lsp, factory["factory_instance"])
    left = seen["timeout_block"] - bitcoind.rpc.getblockcount()
    lifetime = seen["timeout_block"] - seen["funding_height"]
    assert price == 12_345 + AMOUNT_SAT * 1000 * 10_000 * left // (lifetime * 1_000_000)
    assert not sales(alice, factory)

    # Without a limit, or with one that is too low, nothing changes.
    before = [to_us(node) for node in (lsp, *clients)]
    for limit in ({}, {"max_price_msat": price - 1}):
        with pytest.raises(RpcError, match=f"max_price_msat={price}") as refused:
            buy(alice, factory, AMOUNT_SAT, **limit)
        assert refused.value.error["code"] == NOT_SOLD
    assert [to_us(node) for node in (lsp, *clients)] == before
    assert not lsp.rpc.listinvoices()["invoices"] and len(alice.rpc.listpeerchannels()["channels"]) == 1

    # Bought: alice has paid its price, to the msat, and nobody anything else.
    bought = buy(alice, factory, AMOUNT_SAT, max_price_msat=price)
    assert bought["price_msat"] == price and "credit_msat" not in bought
    settled(lsp, alice)
    pushed = int(channel_by_id(alice, bought["channel_id"])["to_us_msat"])
    capacity = AMOUNT_SAT * 1000
    assert to_us(alice) == before[1] - price + pushed
    assert to_us(lsp) == before[0] + price + capacity - pushed
    assert to_us(bob) == before[2]
    (invoice,) = lsp.rpc.listinvoices()["invoices"]
    assert invoice["status"] == "paid" and int(invoice["amount_received_msat"]) == price
    assert [one["price_msat"] for one in sales(lsp, factory)] == [price]
    wait_until_usable(lsp, alice, bought["channel_id"])
    pay(lsp, alice, 600_000_000, "over both")

    # Whoever has too little is told so, and has lost nothing.
    lsp.rpc.call("factory-price", {"base_msat": 900_000_000})
    before = to_us(bob)
    with pytest.raises(RpcError, match="have to be paid over one channel"):
        buy(bob, factory, 50_000, max_price_msat=10**12)
    wait_for(lambda: to_us(bob) == before)
    assert not sales(bob, factory)
    lsp.rpc.call("factory-price", {"base_msat": 0, "ppm": 0})
    buy(bob, factory, 50_000)
    mine(bitcoind, 1, [lsp, *clients])
    assert len(sales(lsp, factory)) == 2


# S14
@pytest.mark.faults
def test_what_was_paid_for_nothing_is_credit(node_factory, bitcoind):
    """The operator dies with the buyer's money in its hands, before anybody has signed."""
    dies = {"plugin": find_plugin(faults=True), "may_fail": True}
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, lsp=dies, stock_sat=STOCK)
    alice = clients[0]
    pay(lsp, alice, PURSE_MSAT, "purse")
    price = 54_321
    lsp.rpc.call("factory-price", {"base_msat": price})
    before = to_us(alice)
    lsp.rpc.call("misbehave", {"fault": "hold-invoice-ended"})
    bought = node_factory.executor.submit(buy, alice, factory, AMOUNT_SAT, max_price_msat=price)
    lsp.daemon.wait_for_log("standing still at invoice-ended")
    settled(alice)
    wait_for(lambda: credit(alice, factory) == price)
    lsp.daemon.kill()
    with pytest.raises(RpcError, match=f"{price} msat are paid already"):
        bought.result(60)
    lsp.start()
    connect_all(lsp, clients)
    wait_for(lambda: credit(lsp, factory) == credit(alice, factory) == price)
    wait_until_usable(lsp, alice, channel_in(factory, alice)["channel_id"])
    # The half open channel is gone, and the next purchase is paid.
    again = buy(alice, factory, AMOUNT_SAT, max_price_msat=price)
    assert again["price_msat"] == price and "credit_msat" not in again
    assert (credit(lsp, factory), credit(alice, factory)) == (0, 0)
    settled(lsp, alice)
    assert int(channel_in(factory, alice)["to_us_msat"]) == before - price
    assert len([one for one in lsp.rpc.listinvoices()["invoices"] if one["status"] == "paid"]) == 1
