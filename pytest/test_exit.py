"""Leaving: with the operator gone for good and with it alive, by the operator itself, and by the
timeout. Money is accounted for to the satoshi."""

from harness import (
    ANCHOR_SCRIPT,
    channel_by_id,
    channel_in,
    factory_of,
    factory_with,
    mine,
    mine_until,
    onchain_msat,
    pay,
    spender,
    transaction,
    wait_for,
    wait_for_factory,
)

CHANNEL_ANCHOR_SAT = 330


def leaf_of(bitcoind, client, instance):
    """The transaction with the client's channel, from the chain, and the place of the channel in it."""
    place = factory_of(client, instance)["clients"][0]
    return transaction(bitcoind, place["funding_txid"]), place["funding_outnum"]


# S19
def test_exit_without_the_operator_to_the_satoshi(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 4, stock_sat=20_000)
    alice, *others = clients
    instance = factory["factory_instance"]
    pay(lsp, alice, 123_456_000, "to alice")
    pay(alice, others[0], 10_000_000, "alice to bob", dead_end=True)
    pay(lsp, others[1], 50_000_000, "to carol")
    alice_sat = channel_in(factory, alice)["to_us_msat"] // 1000
    verified = alice.rpc.call("factory-verify", {"factory_instance": instance})
    assert verified["valid"] and verified["exit"]["brings_msat"] // 1000 == alice_sat

    # The operator is gone for good.
    lsp.stop()
    shown = alice.rpc.call("factory-exit", {"factory_instance": instance, "dry_run": True})
    assert shown["state"] == "active", "a dry run changes nothing"
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    (path,) = alice.rpc.call("factory-show", {"factory_instance": instance})["transactions"]
    wait_for(lambda: path["txid"] in bitcoind.rpc.getrawmempool())
    # S26: an exit survives a restart of the node that leaves.
    alice.restart()
    wait_for_factory(alice, instance, "exiting")
    mine(bitcoind, 1, clients, wait_for_mempool=path["txid"])
    wait_for_factory(alice, instance, "exited")
    leaf, vout = leaf_of(bitcoind, alice, instance)
    assert leaf["txid"] == path["txid"]
    mine_until(bitcoind, clients, lambda: onchain_msat(alice) > 0)

    # Where every satoshi of the funding output went.
    funding = transaction(bitcoind, factory["funding_txid"])
    funded = funding["vout"][factory["funding_outnum"]]["sat"]
    assert funded == factory["funding_sat"]
    assert spender(bitcoind, factory["funding_txid"], factory["funding_outnum"])["txid"] == leaf["txid"]
    channels = {client["funding_outnum"]: client["capacity_sat"] for client in factory["clients"]}
    anchors = [out["n"] for out in leaf["vout"] if out["scriptPubKey"]["hex"] == ANCHOR_SCRIPT]
    stocks = [out["n"] for out in leaf["vout"] if out["n"] not in channels and out["n"] not in anchors]
    value = {out["n"]: out["sat"] for out in leaf["vout"]}
    assert {n: value[n] for n in channels} == channels
    assert [value[n] for n in stocks] == [20_000, 20_000]
    assert len(anchors) == 1
    leaf_fee = funded - sum(value.values())
    assert leaf_fee == path["fee_sat"] > 0

    commitment = spender(bitcoind, leaf["txid"], vout)
    outputs = {out["n"]: out["sat"] for out in commitment["vout"]}
    commitment_fee = value[vout] - sum(outputs.values())
    ours = [n for n, sat in outputs.items() if sat == alice_sat]
    assert len(ours) == 1, (outputs, alice_sat)
    channel_anchors = [n for n, sat in outputs.items() if sat == CHANNEL_ANCHOR_SAT]
    operators = [n for n in outputs if n not in ours + channel_anchors]
    assert len(operators) == 1 and len(channel_anchors) == 2

    sweep = spender(bitcoind, commitment["txid"], ours[0])
    swept = sum(out["sat"] for out in sweep["vout"])
    sweep_fee = alice_sat + sum(
        CHANNEL_ANCHOR_SAT for spent in sweep["vin"] if spent["vout"] in channel_anchors
    ) - swept
    in_wallet = onchain_msat(alice) // 1000
    assert in_wallet == swept, "her balance less the fee of her own sweep, and nothing else"

    # Everything that nobody has touched is still there, unspent.
    for n in [*channels, *stocks]:
        assert n == vout or bitcoind.rpc.gettxout(leaf["txid"], n), n
    assert bitcoind.rpc.gettxout(commitment["txid"], operators[0])
    parts = {
        "fees": leaf_fee + commitment_fee + sweep_fee,
        "alice's wallet": in_wallet,
        "the operator's output of alice's channel": outputs[operators[0]],
        "anchors of her commitment": CHANNEL_ANCHOR_SAT * len(channel_anchors),
        "the leaf's anchor": value[anchors[0]],
        "stock": sum(value[n] for n in stocks),
        "the others' channels": sum(value[n] for n in channels if n != vout),
    }
    assert sum(parts.values()) == funded, parts

    # The others keep their channels and what they have in them.
    for other in others:
        assert channel_in(factory, other)["state"] == "CHANNELD_NORMAL"
        assert other.rpc.call("factory-verify", {"factory_instance": instance})["valid"]


def test_exit_while_the_others_go_on(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 4)
    alice, bob, carol, _ = clients
    nodes, instance = [lsp, *clients], factory["factory_instance"]
    for client in clients:
        pay(lsp, client, 80_000_000, "to " + client.info["id"])
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    # Twice is once.
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    (path,) = alice.rpc.call("factory-show", {"factory_instance": instance})["transactions"]
    mine(bitcoind, 1, nodes, wait_for_mempool=path["txid"])
    pay(bob, carol, 5_000_000, "as soon as the leaf confirms", dead_end=True)
    mine_until(bitcoind, nodes, lambda: onchain_msat(alice) > 79_000_000)
    for client in (bob, carol):
        assert channel_in(factory, client)["state"] == "CHANNELD_NORMAL"
    pay(bob, carol, 5_000_000, "afterwards", dead_end=True)
    pay(lsp, bob, 5_000_000, "lsp to bob afterwards")
    pay(carol, lsp, 5_000_000, "carol to lsp afterwards")


def test_the_operators_own_exit(node_factory, bitcoind):
    # Two leaves.
    lsp, clients, factory = factory_with(node_factory, bitcoind, 7)
    nodes, instance = [lsp, *clients], factory["factory_instance"]
    for client in clients:
        pay(lsp, client, 60_000_000, "to " + client.info["id"])
    lsp.rpc.call("factory-exit", {"factory_instance": instance})
    wait_for_factory(lsp, instance, "exiting")
    shown = lsp.rpc.call("factory-show", {"factory_instance": instance})["transactions"]
    assert len(shown) == 3
    mine(bitcoind, 1, nodes, wait_for_mempool=shown[0]["txid"])
    mine(bitcoind, 1, nodes, wait_for_mempool=[tx["txid"] for tx in shown[1:]])
    wait_for_factory(lsp, instance, "exited")
    paid = lambda: all(onchain_msat(client) > 59_000_000 for client in clients)  # noqa: E731
    mine_until(bitcoind, nodes, paid)
    # Everything that was published is the factory's.
    for tx in shown:
        assert transaction(bitcoind, tx["txid"])["confirmations"] > 0


# S20
def test_distribution_after_the_timeout(node_factory, bitcoind):
    lsp, clients, factory = factory_with(
        node_factory, bitcoind, 3, capacity_sat=300_000, stock_sat=10_000, lifetime_blocks=40, dying_blocks=10
    )
    alice, bob, carol = clients
    instance = factory["factory_instance"]
    pay(lsp, alice, 20_000_000, "to alice")
    lsp.stop()
    timeout = factory["timeout_block"]
    shown = bob.rpc.call("factory-show", {"factory_instance": instance})
    (whole,) = [entry for entry in shown["distributions"] if entry["coin"] == 0]
    assert whole["locktime"] == timeout

    mine(bitcoind, timeout - 1 - bitcoind.rpc.getblockcount(), clients)
    for client in clients:
        assert factory_of(client, instance)["state"] == "dying"
    assert bitcoind.rpc.getrawmempool() == []
    mine(bitcoind, 1, clients)
    mine(bitcoind, 1, clients, wait_for_mempool=whole["txid"])
    for client in clients:
        wait_for_factory(client, instance, "distributed")

    # The operator gets nothing; every client its whole capacity, and its share of the stock.
    paid = transaction(bitcoind, whole["txid"])
    outputs = [out["sat"] for out in paid["vout"] if out["scriptPubKey"]["hex"] != ANCHOR_SCRIPT]
    # Two in one sub-factory share its stock; the third has one to itself.
    assert sorted(outputs) == [305_000, 305_000, 310_000], paid
    for client, sat in ((alice, 305_000), (bob, 305_000), (carol, 310_000)):
        wait_for(lambda: onchain_msat(client) == sat * 1000)
    # Nothing that stood on the factory is relied on any more.
    assert channel_by_id(alice, factory["clients"][0]["channel_id"])["state"] != "ONCHAIN"
