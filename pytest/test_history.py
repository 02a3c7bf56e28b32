"""What happened to a factory, from its records: its sums are those of the wallet, of invoices, of the chain."""

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    channel_of,
    connect_all,
    empty_block,
    factory_of,
    factory_with,
    fee_of,
    fund,
    important,
    lsp_options,
    mine,
    mine_until,
    onchain_msat,
    pay,
    pay_over,
    plugin_options,
    state_of,
    transaction,
    wait_for,
)
from test_fees import child_of
from test_renewal import TERMS, next_factory
from test_sales import buy, sales

PRICE_MSAT = 12_345
# sat/kw: what the tree pays is not enough by itself.
FEES = (2_000, 2_000, 2_000, 2_000)
# What `factory_with` gives an operator.
WALLET_MSAT = 9_000_000_000


def history(node, factory=None, **more):
    if factory:
        more["factory_instance"] = factory["factory_instance"]
    return node.rpc.call("factory-history", more)


def of_event(told, event):
    return [entry for entry in told["entries"] if entry["event"] == event]


def income_of_invoices(node):
    """What lightningd's own books have."""
    events = node.rpc.call("bkpr-listincome")["income_events"]
    return sum(int(event["credit_msat"]) for event in events if event["tag"] == "invoice")


def left_in_wallet(summary):
    """What an operator's wallet should have on chain."""
    spent = summary["spent"]
    gone = summary["put_in_msat"] + spent["funding_fees_msat"] + spent["child_fees_msat"]
    return WALLET_MSAT - gone + summary["came_back_msat"]


def held_to_the_chain(bitcoind, told):
    """Every fee is what the transaction pays."""
    for entry in of_event(told, "confirmed"):
        tx = transaction(bitcoind, entry["txid"])
        assert fee_of(bitcoind, tx) * 1000 == entry["fee_msat"], entry
        if "child" in entry:
            child = transaction(bitcoind, entry["child"]["txid"])
            assert fee_of(bitcoind, child) * 1000 == entry["child"]["fee_msat"], entry


def test_sums_are_those_of_wallet_invoices_and_chain(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, FEES, stock_sat=600_000)
    alice, bob = clients
    nodes, instance = [lsp, *clients], factory["factory_instance"]
    summary = history(lsp, factory)["summary"]
    assert summary["put_in_msat"] == factory["funding_sat"] * 1000
    assert summary["spent_msat"] == summary["spent"]["funding_fees_msat"] > 0
    assert onchain_msat(lsp) == left_in_wallet(summary)

    # A sale: earned by one, spent by the other, in lightningd's books, and nobody else's.
    pay(lsp, alice, 50_000_000, "purse")
    lsp.rpc.call("factory-price", {"base_msat": PRICE_MSAT})
    bought = buy(alice, factory, 200_000, max_price_msat=PRICE_MSAT)
    wait_for(lambda: [one["state"] for one in sales(lsp, factory)] == ["usable"])
    told = history(lsp, factory)
    earned = told["summary"]["earned"]
    assert earned["sales_msat"] == told["summary"]["earned_msat"] == PRICE_MSAT
    paid = [one for one in lsp.rpc.listinvoices()["invoices"] if one["status"] == "paid"]
    assert sum(int(one["amount_received_msat"]) for one in paid) == PRICE_MSAT
    assert told["summary"]["invoices"] == {"received_msat": PRICE_MSAT, "paid_msat": 0}
    wait_for(lambda: income_of_invoices(lsp) == PRICE_MSAT)
    own = history(alice, factory)["summary"]
    assert own["spent_msat"] == own["spent"]["sales_msat"] == PRICE_MSAT and own["earned_msat"] == 0
    assert history(bob, factory)["summary"]["spent_msat"] == 0
    (signed,) = of_event(told, "sale_signed")
    assert signed["clients"][0]["id"] == alice.info["id"] and signed["channel_id"] == bought["channel_id"]
    assert (signed["amount_msat"], signed["price_msat"]) == (200_000_000, PRICE_MSAT)
    assert signed["earned_msat"] == PRICE_MSAT and "height" not in signed
    assert signed["not_before_block"] <= bitcoind.rpc.getblockcount()

    # The operator puts channels on chain, with a child, and takes home what is left of the stock.
    lsp.rpc.call("factory-evict", {"factory_instance": instance})
    (leaf,) = lsp.rpc.call("factory-show", {"factory_instance": instance})["transactions"]
    wait_for(lambda: leaf["txid"] in bitcoind.rpc.getrawmempool())
    empty_block(bitcoind, nodes)
    wait_for(lambda: child_of(bitcoind, leaf["txid"]))
    came_back = lambda: history(lsp, factory)["summary"]["came_back"]
    done = lambda: came_back()["stock_msat"] > 0 and bitcoind.rpc.getrawmempool() == []
    mine_until(bitcoind, nodes, done)
    wait_for(lambda: onchain_msat(lsp) == left_in_wallet(history(lsp, factory)["summary"]))
    told = history(lsp, factory)
    summary = told["summary"]
    assert summary["spent"]["child_fees_msat"] > 0 and summary["earned_msat"] == PRICE_MSAT
    held_to_the_chain(bitcoind, told)
    lines = lsp.rpc.call("factory-show", {"factory_instance": instance})["statement"]["lines"]
    of_type = lambda name: sum(line["amount_sat"] for line in lines if line["type"] == name) * 1000
    assert summary["spent"]["transaction_fees_msat"] == of_type("fee")
    assert summary["came_back"]["stock_msat"] == of_type("stock")
    (eviction,) = of_event(told, "eviction_started")
    assert "factory-evict" in eviction["reason"] and len(eviction["clients"]) == 2
    held_to_the_chain(bitcoind, {"entries": history(alice, factory, kind="chain")["entries"]})

    # The sum of what each entry adds.
    for name in ("earned_msat", "spent_msat", "put_in_msat", "came_back_msat"):
        assert sum(entry.get(name, 0) for entry in told["entries"]) == summary[name], name
    # Page by page it is the same, and so it is after a restart.
    start, pages = 1, []
    while start:
        page = history(lsp, factory, start=start, limit=7)
        assert len(page["entries"]) <= 7 and page["summary"] == summary
        pages += page["entries"]
        start = page.get("next_start")
    assert pages == told["entries"]
    assert [entry["created_index"] for entry in pages] == list(range(1, len(pages) + 1))
    lsp.restart()
    wait_for(lambda: factory_of(lsp, instance)["state"] == "exited")
    assert history(lsp, factory)["entries"] == told["entries"]

    # Filters: kinds and heights.
    some = history(lsp, factory, kind=["sale", "reclaim"])
    assert {entry["kind"] for entry in some["entries"]} == {"sale", "reclaim"}
    assert some["summary"]["earned_msat"] == PRICE_MSAT and some["summary"]["put_in_msat"] == 0
    funded = factory_of(lsp, instance)["funding_height"]
    early = history(lsp, factory, to_height=funded - 1)["entries"]
    late = history(lsp, factory, from_height=funded)["entries"]
    assert early and late and early + late == told["entries"]
    assert history(lsp, limit=0)["entries"] == [] and history(lsp)["summary"] == summary

    # A table, for people.
    text = history(lsp, factory, format="table")["text"]
    assert text.splitlines()[0] == f"factory {instance} (lsp, exited)"
    for words in (leaf["txid"], "static transaction 0 is in a block", "the operator's own spend of stock coin"):
        assert words in text, text
    assert [line.split() for line in text.splitlines() if line.startswith("earned_msat")] == [
        ["earned_msat", str(PRICE_MSAT)]
    ]

    for wrong, words in (
        ({"kind": "sales"}, "one or a list of created, joined"),
        ({"format": "csv"}, "'json' or 'table'"),
        ({"limit": 10_001}, "from 0 to 10000"),
        ({"from_height": 9, "to_height": 8}, "above to_height"),
        ({"start": 3}, "factory_instance"),
    ):
        with pytest.raises(RpcError, match=words) as refused:
            history(lsp, **wrong)
        assert refused.value.error["code"] == -32602
    with pytest.raises(RpcError, match="unknown factory_instance") as refused:
        history(lsp, {"factory_instance": "00" * 32})
    assert refused.value.error["code"] == 2500


def test_a_renewal_is_earned_in_the_new_factory(node_factory, bitcoind):
    price = 2_000_000
    limit = {"factory-max-renewal-price-msat": price, **FAST}
    lsp, (client,), first = factory_with(node_factory, bitcoind, 1, client=limit, **TERMS)
    lsp.rpc.call("factory-price", {"renewal_base_msat": price})
    nodes = [lsp, client]
    pay_over(lsp, client, channel_of(client, first), "purse", 30_000_000)
    mine(bitcoind, first["timeout_block"] - TERMS["dying_blocks"] - bitcoind.rpc.getblockcount(), nodes)
    second = next_factory(bitcoind, lsp, [client])
    assert history(lsp, second)["summary"]["earned_msat"] == 0
    mine_until(bitcoind, nodes, lambda: state_of(client, first) == "left")
    wait_for(lambda: history(lsp, second)["summary"]["earned"]["renewals_msat"] == price)
    (renewed,) = of_event(history(client, second), "renewed")
    assert renewed["other_instance"] == first["factory_instance"] and renewed["spent_msat"] == price
    assert history(lsp, first)["summary"]["earned_msat"] == 0

    # Without an instance: both, the one that began first before the other.
    told = history(lsp)
    assert [one["factory_instance"] for one in told["factories"]] == [
        first["factory_instance"],
        second["factory_instance"],
    ]
    assert told["summary"]["earned_msat"] == told["summary"]["earned"]["renewals_msat"] == price
    assert told["summary"]["put_in_msat"] == sum(one["summary"]["put_in_msat"] for one in told["factories"])
    key = of_event(history(lsp, first, kind="handover"), "key_received")
    assert [entry["clients"][0]["id"] for entry in key] == [client.info["id"]]
    assert of_event(history(client, first), "handed_over")
    moved = of_event(history(client, kind="move"), "move_over")
    assert sum(entry["amount_msat"] for entry in moved) > 0


def test_other_peoples_words_do_nothing_to_a_terminal(node_factory, bitcoind):
    ask = important(plugin_options(**{"factory-policy": "ask"}))
    lsp, alice = nodes = node_factory.get_nodes(2, opts=[lsp_options(), ask])
    fund(bitcoind, lsp, 5_000_000)
    connect_all(lsp, [alice])
    mine(bitcoind, 1, nodes)
    asked = {"clients": [alice.info["id"]], "capacity_sat": 500_000}
    creating = node_factory.executor.submit(lsp.rpc.call, "factory-create", asked)
    wait_for(lambda: alice.rpc.call("factory-invitations")["invitations"])
    (invitation,) = alice.rpc.call("factory-invitations")["invitations"]
    alice.rpc.call("factory-decline", [invitation["factory_instance"], "\x1b[31mno\nearned_msat 9"])
    with pytest.raises(RpcError):
        creating.result(60)
    told = history(lsp, invitation)
    assert told["factories"][0]["state"] == "aborted" and told["entries"][-1]["kind"] == "end"
    assert "\\u{1b}[31mno\\u{a}earned" in told["entries"][-1]["reason"]
    text = history(lsp, invitation, format="table")["text"]
    assert "\x1b" not in text and "\\u{1b}[31mno" in text
    sums = [line.split() for line in text.splitlines() if line.startswith("earned_msat")]
    assert sums == [["earned_msat", "0"]], text
