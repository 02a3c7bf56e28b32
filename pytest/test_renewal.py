"""A factory renews itself on real nodes: its clients move to the next one, hand their keys over, and its funding
output is an input of the one after (S22, S37, S38)."""

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    PLUGINS,
    RESERVE_MSAT,
    activate,
    channel_by_id,
    channel_of,
    connect_all,
    create,
    factory_of,
    factory_with,
    find_plugin,
    fund,
    lsp_options,
    mine,
    mine_until,
    pay_over,
    plugin_options,
    state_of,
    status,
    to_us,
    wait_for,
    wait_for_synced,
    wait_until_ready,
)
from promises import Response, hold, notifications

# What keeps a client's reserve in the old channel from being a loss: it comes with the new one.
PUSH_MSAT = RESERVE_MSAT
TERMS = {"capacity_sat": 300_000, "lifetime_blocks": 160, "dying_blocks": 100}


def hearing():
    """The plugin, and one that keeps what it says of renewals."""
    return [find_plugin(), str(PLUGINS / "hear.py")]


def heard(node, topic):
    """What a node's plugin has said there since it started, each as it was promised."""
    said = node.rpc.call("heard", [topic])["heard"]
    for body in said:
        hold(Response, notifications()[topic], body, topic)
    return said


def next_factory(bitcoind, lsp, clients):
    """The operator's next rung: its clients come by themselves."""
    return activate(bitcoind, create(lsp, clients, **TERMS), lsp, clients)


# S22, S37, S38
def test_three_generations(node_factory, bitcoind):
    # The default, a day before the last moment, is before the first moment here.
    options = {"factory-push-msat": PUSH_MSAT, "factory-reclaim-blocks": 10, **FAST}
    lsp, clients, first = factory_with(node_factory, bitcoind, 2, lsp=options, client=FAST, **TERMS)
    nodes = [lsp, *clients]
    paid = [30_000_000, 50_000_000]
    for client, amount in zip(clients, paid):
        pay_over(lsp, client, channel_of(client, first), f"purse {amount}", amount)
    totals = [status(client)["total_msat"] for client in clients]
    dying = first["timeout_block"] - TERMS["dying_blocks"]
    mine(bitcoind, dying - bitcoind.rpc.getblockcount(), nodes)
    assert [state_of(client, first) for client in clients] == ["dying", "dying"]

    second = next_factory(bitcoind, lsp, clients)
    # Depth, a move, a handover, a mutual close: nobody says anything.
    mine_until(bitcoind, nodes, lambda: all(state_of(client, first) == "left" for client in clients))
    for client, total in zip(clients, totals):
        old, new = (channel_of(client, factory) for factory in (first, second))
        assert to_us(client, old) == RESERVE_MSAT
        # No dip, no double: what stayed behind came with the new channel.
        assert status(client)["total_msat"] == total + PUSH_MSAT - RESERVE_MSAT == to_us(client, new)
        wait_for(lambda: channel_by_id(client, old)["state"] == "CLOSINGD_COMPLETE")
    for client in clients:
        pay_over(lsp, client, channel_of(client, second), f"after {client.info['id']}", 1_000_000)

    root = f"{first['funding_txid']}:{first['funding_outnum']}"
    third = next_factory(bitcoind, lsp, clients)
    funding = bitcoind.rpc.getrawtransaction(third["funding_txid"], True)
    spent = [f"{vin['txid']}:{vin['vout']}" for vin in funding["vin"]]
    assert root in spent, "the first factory's output is an input of the third's funding"
    place = spent.index(root)
    assert len(funding["vin"][place]["txinwitness"]) == 1, "by key path"
    wait_for(lambda: state_of(lsp, first) in ("reclaimed", "closed"))
    # Nothing else of it ever came on chain.
    assert bitcoind.rpc.getrawmempool() == []


# S22, S32
def test_a_renewal_has_a_price(node_factory, bitcoind):
    """Shown before, within what the client may pay, and paid once the new channel is there: by what stays behind."""
    price, purse = 2_000_000 + 300_000, 30_000_000
    limit = {"factory-max-renewal-price-msat": price, **FAST}
    lsp, (client,), first = factory_with(node_factory, bitcoind, 1, client=limit, **TERMS)
    assert "price_msat" not in factory_of(lsp, first["factory_instance"])["clients"][0]
    lsp.rpc.call("factory-price", {"renewal_base_msat": 2_000_000, "renewal_ppm": 1_000})
    nodes = [lsp, client]
    pay_over(lsp, client, channel_of(client, first), "purse", purse)
    total = status(client)["total_msat"]
    mine(bitcoind, first["timeout_block"] - TERMS["dying_blocks"] - bitcoind.rpc.getblockcount(), nodes)
    plan = lsp.rpc.call("factory-create", {"clients": [client.info["id"]], **TERMS, "dry_run": True})
    assert plan["renewal_price_msat"] == price

    second = next_factory(bitcoind, lsp, [client])
    assert factory_of(lsp, second["factory_instance"])["clients"][0]["price_msat"] == price
    (renewal,) = status(client)["renewals"]
    assert (renewal["stage"], renewal["price_msat"]) == ("depth", price)
    # Nothing of it is paid yet.
    assert status(client)["total_msat"] == total + PUSH_MSAT
    mine_until(bitcoind, nodes, lambda: state_of(client, first) == "left")
    assert to_us(client, channel_of(client, first)) == RESERVE_MSAT + price
    assert status(client)["total_msat"] == total + PUSH_MSAT - RESERVE_MSAT - price
    place = lambda: factory_of(lsp, second["factory_instance"])["clients"][0]
    wait_for(lambda: place().get("renewal_paid_msat") == price)

    # A factory-price that is more than the client takes: it stays, and both are told why.
    mine(bitcoind, second["timeout_block"] - TERMS["dying_blocks"] - bitcoind.rpc.getblockcount(), nodes)
    lsp.rpc.call("factory-price", {"renewal_base_msat": 2_000_001})
    with pytest.raises(RpcError):
        create(lsp, [client], **TERMS)
    (failed,) = [one for one in status(client)["renewals"] if one["stage"] != "done"]
    assert f"price_msat is {price + 1}" in failed["failed"]["message"]


# S37
def test_a_client_of_two_operators(node_factory, bitcoind):
    """Each operator's factory is followed by its own next one; balances stay with whom they are."""
    options = {"factory-push-msat": PUSH_MSAT, "factory-reclaim-blocks": 10, **FAST}
    lsps = node_factory.get_nodes(2, opts=[lsp_options(**options)] * 2)
    (client,) = node_factory.get_nodes(1, opts=[plugin_options(**FAST)])
    nodes, firsts = [*lsps, client], []
    for lsp in lsps:
        fund(bitcoind, lsp, 3_000_000)
        connect_all(lsp, [client])
    wait_for_synced(bitcoind, nodes)
    for lsp, amount in zip(lsps, (20_000_000, 70_000_000)):
        first = activate(bitcoind, create(lsp, [client], **TERMS), lsp, [client])
        pay_over(lsp, client, channel_of(client, first), f"purse {amount}", amount)
        firsts.append(first)
    total = status(client)["total_msat"]
    dying = max(first["timeout_block"] for first in firsts) - TERMS["dying_blocks"]
    mine(bitcoind, dying - bitcoind.rpc.getblockcount(), nodes)
    nexts = [next_factory(bitcoind, lsp, [client]) for lsp in lsps]
    mine_until(bitcoind, nodes, lambda: all(state_of(client, first) == "left" for first in firsts))
    for lsp, first, following, amount in zip(lsps, firsts, nexts, (20_000_000, 70_000_000)):
        assert factory_of(client, following["factory_instance"])["lsp"] == lsp.info["id"]
        assert to_us(client, channel_of(client, following)) == amount + PUSH_MSAT
        wait_for(lambda: channel_by_id(client, channel_of(client, first))["state"] == "CLOSINGD_COMPLETE")
    assert status(client)["total_msat"] == total


# S22
def test_a_renewal_that_is_not_done_grows_louder(node_factory, bitcoind):
    """The operator's invitation is refused, and then the operator is gone: a program hears of it more and more often,
    with what it waits for and what failed, and factory-status says the same."""
    terms = {"capacity_sat": 300_000, "lifetime_blocks": 70, "dying_blocks": 40}
    options = {"plugin": hearing(), **FAST}
    lsp, (client,), first = factory_with(node_factory, bitcoind, 1, client=options, **terms)
    due = first["timeout_block"] - terms["dying_blocks"]

    def renewal():
        (found,) = status(client)["renewals"]
        return found

    def mine_until_left(blocks):
        """Until so many are left, at which something is said. Gives what both say."""
        mine(bitcoind, renewal()["blocks_left"] - blocks, [client])
        wait_for(lambda: heard(client, "factory_renewal")[-1]["blocks_left"] == blocks)
        return renewal(), heard(client, "factory_renewal")

    mine(bitcoind, due - 1 - bitcoind.rpc.getblockcount(), [lsp, client])
    assert status(client)["renewals"] == [] and heard(client, "factory_renewal") == []
    mine(bitcoind, 1, [lsp, client])
    seen = renewal()
    assert (seen["stage"], seen["since_block"], seen["level"]) == ("invitation", due, "info")
    assert "keep the node online" in seen["advice"]
    wait_for(lambda: heard(client, "factory_renewal"))
    expected = {
        "factory_instance": first["factory_instance"],
        "by_block": seen["by_block"],
        "blocks_left": seen["by_block"] - due,
        "level": "info",
        "waits_for": f"{seen['waits_for']}; {seen['advice']}",
    }
    assert heard(client, "factory_renewal") == [expected]

    # Dearer than this client takes.
    lsp.rpc.call("factory-price", {"renewal_base_msat": 1_000, "renewal_ppm": 0})
    with pytest.raises(RpcError):
        create(lsp, [client], **terms)
    wait_for(lambda: "failed" in renewal())
    lsp.stop()
    wait_for(lambda: not renewal()["connected"])
    whole = renewal()["blocks_left"]
    assert whole == expected["blocks_left"] and renewal()["level"] == "info"

    half = whole // 2
    seen, said = mine_until_left(half)
    assert [one["blocks_left"] for one in said] == [whole, half]
    failed = seen["failed"]
    assert "price_msat is 1000" in failed["message"], failed
    assert seen["level"] == said[-1]["level"] == "unusual"
    assert said[-1]["failed"] == f"at height {failed['block']}: {failed['message']}"
    assert "operator is not connected" in seen["advice"]
    assert said[-1]["waits_for"] == f"{seen['waits_for']}; {seen['advice']}"

    # In the end at each block.
    seen, said = mine_until_left(3)
    assert seen["level"] == "broken"
    left = [one["blocks_left"] for one in said]
    assert left == sorted(set(left), reverse=True) and left[-4:] == [6, 5, 4, 3]
    levels = ["info", "unusual", "broken"]
    assert [one["level"] for one in said] == sorted((one["level"] for one in said), key=levels.index)
    assert [one["level"] for one in said[-4:]] == ["broken"] * 4
    assert said[-1]["by_block"] == seen["by_block"] == expected["by_block"]


# S22
def test_who_is_due_connects_by_itself(node_factory, bitcoind):
    """To an operator that has announced where it is: nobody else says anything, nor does lightningd."""
    alone = {"dev-no-reconnect": None, **FAST}
    options = [lsp_options(**{"dev-allow-localhost": None, **FAST}), plugin_options(**alone), {"may_reconnect": True}]
    lsp, client, stranger = node_factory.get_nodes(3, opts=options)
    fund(bitcoind, lsp, 5_000_000, 5_000_000)
    connect_all(lsp, [client])
    stranger.connect(lsp)
    lsp.rpc.fundchannel(stranger.info["id"], 1_000_000)
    mine(bitcoind, 6, [lsp, client], wait_for_mempool=1)
    first = activate(bitcoind, create(lsp, [client], **TERMS), lsp, [client])
    wait_for(lambda: (client.rpc.listnodes(lsp.info["id"])["nodes"] or [{}])[0].get("addresses"))

    mine(bitcoind, first["timeout_block"] - TERMS["dying_blocks"] - 2 - bitcoind.rpc.getblockcount(), [lsp, client])
    client.rpc.disconnect(lsp.info["id"], force=True)
    wait_for(lambda: status(client)["peers"] == [])
    # There is nothing to come for yet.
    mine(bitcoind, 1, [lsp, client])
    assert status(client)["peers"] == []
    mine(bitcoind, 1, [lsp, client])
    client.daemon.wait_for_log(f"{lsp.info['id']}: connecting: done")
    wait_until_ready(client, [lsp])
    wait_until_ready(lsp, [client])
    (renewal,) = status(client)["renewals"]
    assert renewal["connected"] and renewal["stage"] == "invitation"
    # And so it is there when it is invited.
    second = next_factory(bitcoind, lsp, [client])
    mine_until(bitcoind, [lsp, client], lambda: state_of(client, first) == "left")
    assert factory_of(client, second["factory_instance"])["state"] == "active"
