"""Fees of exit transactions: a child from the wallet raises them, is replaced as fees rise, and never
pays more than what is at stake. Every satoshi is accounted for."""

from bitcoin.rpc import InvalidAddressOrKeyError

from harness import (
    ANCHOR_SAT,
    anchor_of,
    empty_block,
    factory_with,
    fund,
    mine,
    pay,
    plugin_options,
    reserved,
    status,
    transaction,
    wait_for,
    wait_for_factory,
    wait_for_synced,
)

COIN = 200_000
# sat/kw: for 2, 6, 12 and 100 blocks.
LOW = (3_000, 2_500, 2_000, 1_000)


def child_of(bitcoind, parent):
    """The transaction in the mempool that spends an output of another, decoded, and as `package_sat` what
    both pay; None if there is none."""
    while True:
        # One look at everything: a child may be replaced at any moment.
        found = [
            (txid, entry)
            for txid, entry in bitcoind.rpc.getrawmempool(True).items()
            if parent in entry["depends"]
        ]
        if not found:
            return None
        ((txid, entry),) = found
        try:
            package = round(entry["fees"]["ancestor"] * 10**8)
            return {**transaction(bitcoind, txid), "package_sat": package}
        except InvalidAddressOrKeyError:
            pass  # Replaced since: look again.


def warnings(node, code):
    return [warning for warning in status(node)["warnings"] if warning["code"] == code]


def fees_of(parent, child):
    """What both pay, in satoshi, and their weight."""
    return child["package_sat"], parent["weight"] + child["weight"]


def begin_exit(bitcoind, client, instance):
    client.rpc.call("factory-exit", {"factory_instance": instance})
    (path,) = client.rpc.call("factory-show", {"factory_instance": instance})["transactions"]
    wait_for(lambda: path["txid"] in bitcoind.rpc.getrawmempool())
    return path, transaction(bitcoind, path["txid"])


# S26
def test_child_is_replaced_twice_as_fees_rise(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, LOW)
    alice = clients[0]
    instance = factory["factory_instance"]
    pay(lsp, alice, 100_000_000, "at stake")
    fund(bitcoind, alice, COIN)
    wait_for_synced(bitcoind, [lsp, *clients])
    path, parent = begin_exit(bitcoind, alice, instance)
    wait_for(lambda: child_of(bitcoind, path["txid"]))

    children = []
    for feerate in (2_000, 6_000, 12_000):
        alice.set_feerates((feerate * 3 // 2, feerate, feerate, feerate // 2))
        empty_block(bitcoind, [alice])

        def reached():
            child = child_of(bitcoind, path["txid"])
            sat, weight = fees_of(parent, child)
            return sat * 1000 >= weight * feerate

        wait_for(reached)
        children.append(child_of(bitcoind, path["txid"]))
        sat, weight = fees_of(parent, children[-1])
        # Signatures are reckoned at their largest, 2 weight units, and each of both in whole vbytes.
        assert sat * 1000 <= (weight + 9) * feerate + 1000, (sat, weight, feerate)
        (report,) = status(alice)["publishing"]
        assert report["txid"] == path["txid"] and report["target_perkw"] == feerate
        assert report["child_txid"] == children[-1]["txid"]
    assert len({child["txid"] for child in children}) == 3
    # One coin, one change address, whatever the fee.
    assert len({tuple((spent["txid"], spent["vout"]) for spent in child["vin"]) for child in children}) == 1
    assert len({child["vout"][0]["scriptPubKey"]["hex"] for child in children}) == 1
    assert len(reserved(alice)) == 1
    # Falling fees leave it alone.
    alice.set_feerates(LOW)
    empty_block(bitcoind, [alice])
    assert child_of(bitcoind, path["txid"])["txid"] == children[-1]["txid"]

    # A restart goes on with the same child.
    alice.restart()
    alice.set_feerates((30_000, 20_000, 20_000, 10_000))
    empty_block(bitcoind, [alice])
    wait_for(lambda: child_of(bitcoind, path["txid"])["txid"] != children[-1]["txid"])
    child = child_of(bitcoind, path["txid"])
    assert [spent["txid"] for spent in child["vin"]] == [spent["txid"] for spent in children[0]["vin"]]

    sat, _ = fees_of(parent, child)
    child_fee = sat - path["fee_sat"]
    mine(bitcoind, 1, [lsp, *clients], wait_for_mempool=[path["txid"], child["txid"]])
    wait_for_factory(alice, instance, "exited")
    # Where every satoshi went: the anchor and the coin into change and fee, nothing else.
    assert len(child["vin"]) == 2 and len(child["vout"]) == 1
    change = child["vout"][0]["sat"]
    assert COIN + ANCHOR_SAT == change + child_fee
    wait_for(lambda: [out for out in alice.rpc.listfunds()["outputs"] if out["txid"] == child["txid"]])
    (back,) = [out for out in alice.rpc.listfunds()["outputs"] if out["txid"] == child["txid"]]
    assert back["amount_msat"] == change * 1000 and not back["reserved"]
    # Nothing is kept back and nothing is remembered.
    empty_block(bitcoind, [alice])
    wait_for(lambda: alice.rpc.listdatastore(["cln-factory", "child"])["datastore"] == [])
    assert reserved(alice) == []


# S26
def test_an_empty_wallet_says_what_is_missing(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, LOW)
    alice = clients[0]
    instance = factory["factory_instance"]
    pay(lsp, alice, 100_000_000, "at stake")
    wait_for_synced(bitcoind, [lsp, *clients])
    path, parent = begin_exit(bitcoind, alice, instance)
    wait_for(lambda: warnings(alice, "fee_not_raised"))
    (report,) = status(alice)["publishing"]
    missing = report["missing_sat"]
    (warning,) = warnings(alice, "fee_not_raised")
    assert f"{missing} sat" in warning["message"] and str(report["deadline"]) in warning["message"]
    assert warning["factory_instance"] == instance
    assert child_of(bitcoind, path["txid"]) is None

    # Unconfirmed coins don't help yet: a version 3 transaction has one unconfirmed parent.
    address = alice.rpc.newaddr("p2tr")["p2tr"]
    bitcoind.rpc.sendtoaddress(address, COIN / 10**8)
    empty_block(bitcoind, [alice])
    (report,) = status(alice)["publishing"]
    assert report["missing_sat"] == missing
    assert child_of(bitcoind, path["txid"]) is None

    # A block takes the coin but not the exit.
    (coin,) = [txid for txid in bitcoind.rpc.getrawmempool() if txid != path["txid"]]
    bitcoind.rpc.generateblock(bitcoind.rpc.getnewaddress(), [coin])
    mine(bitcoind, 0, [alice])
    wait_for(lambda: child_of(bitcoind, path["txid"]))
    child = child_of(bitcoind, path["txid"])
    wait_for(lambda: warnings(alice, "fee_not_raised") == [])
    sat, weight = fees_of(parent, child)
    assert sat * 1000 >= weight * LOW[2]
    child_fee = sat - path["fee_sat"]
    mine(bitcoind, 1, [lsp, *clients], wait_for_mempool=[path["txid"], child["txid"]])
    wait_for_factory(alice, instance, "exited")
    assert COIN + ANCHOR_SAT == child["vout"][0]["sat"] + child_fee


# S26
def test_what_the_last_blocks_took_counts_up_to_four_times_the_rest(node_factory, bitcoind):
    """Three full blocks in a row took more than the estimates say. Then they say a number from the moon, and aren't
    believed."""
    (node,) = node_factory.get_nodes(1, opts=[plugin_options()])
    node.set_feerates(LOW)
    proxy = node.daemon.rpcproxy
    for quarter, expected in (
        (8, {"feerate_perkw": LOW[0], "source": "backend"}),
        (40, {"feerate_perkw": 10_000, "source": "blocks"}),
        (4_000, {"feerate_perkw": 4 * LOW[0], "source": "blocks", "said_perkw": 1_000_000}),
    ):
        proxy.mock_rpc("getblockstats", {"feerate_percentiles": [1, *[quarter] * 4], "total_weight": 3_990_000})
        empty_block(bitcoind, [node])
        wait_for(lambda: {"blocks": 2, **expected} in status(node).get("feerates", {}).get("estimates", []))
    proxy.mock_rpc("getblockstats")
    # What is said of other times is left alone.
    for blocks, feerate in ((6, LOW[1]), (12, LOW[2]), (100, LOW[3])):
        others = [one["feerate_perkw"] for one in status(node)["feerates"]["estimates"] if one["blocks"] == blocks]
        assert others == [feerate]


# S26
def test_never_more_than_what_is_at_stake(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, LOW)
    alice = clients[0]
    instance = factory["factory_instance"]
    balance = 2_000
    pay(lsp, alice, balance * 1000, "little")
    fund(bitcoind, alice, COIN)
    wait_for_synced(bitcoind, [lsp, *clients])
    alice.set_feerates((90_000, 60_000, 60_000, 30_000))
    empty_block(bitcoind, [alice])
    path, parent = begin_exit(bitcoind, alice, instance)
    wait_for(lambda: child_of(bitcoind, path["txid"]))
    child = child_of(bitcoind, path["txid"])
    sat, _ = fees_of(parent, child)
    # Her balance: what she was paid, and what she had from the beginning.
    assert sat - path["fee_sat"] == balance + 1
    wait_for(lambda: warnings(alice, "fee_not_raised"))
    (warning,) = warnings(alice, "fee_not_raised")
    assert "all that is at stake" in warning["message"]
    mine(bitcoind, 1, [lsp, *clients], wait_for_mempool=[path["txid"], child["txid"]])
    assert child["vout"][0]["sat"] == COIN + ANCHOR_SAT - balance - 1


# S26
def test_somebody_elses_low_child_is_replaced(node_factory, bitcoind):
    """Pinning: a large child with a low feerate on the anchor, which anybody can spend."""
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, LOW)
    alice, bob = clients
    instance = factory["factory_instance"]
    for client in clients:
        pay(lsp, client, 100_000_000, "to " + client.info["id"])
        fund(bitcoind, client, COIN)
    wait_for_synced(bitcoind, [lsp, *clients])
    path, parent = begin_exit(bitcoind, alice, instance)
    wait_for(lambda: child_of(bitcoind, path["txid"]))
    ours = child_of(bitcoind, path["txid"])
    # Bob's child pays more than Alice's for twice the size, as far as version 3 lets him.
    anchor = anchor_of(parent)
    fee = round(bitcoind.rpc.getmempoolentry(ours["txid"])["fees"]["base"] * 10**8)
    coin = bitcoind.rpc.listunspent()[0]
    outputs = [{bitcoind.rpc.getnewaddress(): 0.00001} for _ in range(3)]
    spent_sat = round(coin["amount"] * 10**8) + ANCHOR_SAT
    pin_fee = fee * 3
    outputs.append({bitcoind.rpc.getnewaddress(): f"{(spent_sat - 3_000 - pin_fee) / 10**8:.8f}"})
    inputs = [{"txid": path["txid"], "vout": anchor}, {"txid": coin["txid"], "vout": coin["vout"]}]
    raw = bitcoind.rpc.createrawtransaction(inputs, outputs)
    raw = "03" + raw[2:]
    signed = bitcoind.rpc.signrawtransactionwithwallet(raw)["hex"]
    pin = bitcoind.rpc.sendrawtransaction(signed)
    assert child_of(bitcoind, path["txid"])["txid"] == pin
    alice.set_feerates((9_000, 6_000, 6_000, 3_000))
    empty_block(bitcoind, [alice])
    wait_for(lambda: child_of(bitcoind, path["txid"])["txid"] != pin)
    child = child_of(bitcoind, path["txid"])
    assert child["vin"][1]["txid"] == ours["vin"][1]["txid"], "with the coin that she had reserved"
    sat, weight = fees_of(parent, child)
    assert sat * 1000 >= weight * 6_000
    mine(bitcoind, 1, [lsp, *clients], wait_for_mempool=[path["txid"], child["txid"]])
    assert child["vout"][0]["sat"] == COIN + ANCHOR_SAT - (sat - path["fee_sat"])
