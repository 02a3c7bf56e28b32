"""The chain: evictions, timeouts, half-published trees, reorganisations, downtime. Whatever happens,
factory-show says where every satoshi of the funding is."""

import json
import re
import subprocess

import pytest
from pyln.client import RpcError

from harness import (
    ANCHOR_SAT,
    FAST,
    activate,
    anchor_of,
    channel_by_id,
    channel_in,
    connect_all,
    create,
    empty_block,
    factories,
    factory_of,
    factory_with,
    fee_of,
    find_binary,
    fund,
    lsp_options,
    mine,
    onchain_msat,
    pay,
    plugin_options,
    spender,
    transaction,
    wait_for,
    wait_for_factory,
    wait_for_synced,
)


# As many clients have two leaves, of four and of three.
TWO_LEAVES = 7


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
    terms = {"capacity_sat": 300_000, "stock_sat": 50_000, "lifetime_blocks": 40, "dying_blocks": 10}
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, (2_000, 2_000, 2_000, 2_000), **terms)
    instance, timeout = factory["factory_instance"], factory["timeout_block"]
    nodes = [lsp, *clients]
    before = onchain_msat(lsp)
    pay(lsp, clients[0], 20_000_000, "to alice")
    (leaf,) = show(lsp, instance)["transactions"]
    mine_to(bitcoind, factory_of(lsp, instance)["deadline_block"], nodes)
    # The leaf, and the child that raises its fee.
    wait_for(lambda: len(bitcoind.rpc.getrawmempool()) == 2)
    mine(bitcoind, 1, nodes, wait_for_mempool=leaf["txid"])
    confirmed = bitcoind.rpc.getblockcount()
    assert factory_of(lsp, instance)["state"] == "exited"
    child = spender(bitcoind, leaf["txid"], anchor_of(transaction(bitcoind, leaf["txid"])))
    # The anchor is the factory's; the rest of the child's fee was in the operator's wallet.
    raised = fee_of(bitcoind, child) - ANCHOR_SAT

    mine_to(bitcoind, confirmed + 4, nodes)
    wait_for(lambda: len(bitcoind.rpc.getrawmempool()) == 1)
    (claim,) = bitcoind.rpc.getrawmempool()
    # S26: fees rise before it confirms, and it follows them.
    for node in nodes:
        node.set_feerates((20_000, 20_000, 20_000, 20_000))
    for _ in range(2):  # What a block tells of fees counts from the next one on.
        empty_block(bitcoind, nodes)
    wait_for(lambda: bitcoind.rpc.getrawmempool() not in ([], [claim]))
    (claim,) = bitcoind.rpc.getrawmempool()
    claim = transaction(bitcoind, claim)
    assert fee_of(bitcoind, claim) >= 20 * claim["weight"]
    mine(bitcoind, 1, nodes)
    assert bitcoind.rpc.getblockcount() < timeout
    totals = statement(bitcoind, lsp, instance)
    assert totals["channel"] == 600_000 and totals["stock"] == 50_000 - fee_of(bitcoind, claim)
    wait_for(lambda: onchain_msat(lsp) - before == (totals["stock"] - raised) * 1000)
    names = [seen["name"] for seen in show(lsp, instance)["on_chain"]]
    assert names == ["the funding transaction", "static transaction 0", "the operator's own spend of stock coin 1"]

    # lightningd closes the channels, and 100 blocks after the last of them it is done.
    assert factory_of(lsp, instance)["state"] == "exited"
    for client in clients:
        channel = channel_in(factory, client)["channel_id"]
        lsp.rpc.close(channel)
        mine(bitcoind, 1, nodes, wait_for_mempool=1)
        wait_for(lambda: channel_by_id(client, channel)["state"] == "ONCHAIN")
    for _ in range(4):
        mine(bitcoind, 27, nodes)
    for node in nodes:
        wait_for_factory(node, instance, "closed")
        seen = factory_of(node, instance)
        assert seen["standing"] == "closed" and "deadline_block" not in seen
        statement(bitcoind, node, instance)
    assert show(lsp, instance)["statement"]["final"]

    # The next start leaves it alone; whoever asks for it gets what it was.
    before = show(alice := clients[0], instance)
    for _ in range(2):
        alice.restart()
        wait_for_synced(bitcoind, [alice])
        assert alice.rpc.call("factory-list")["factories"] == []
    (seen,) = alice.rpc.call("factory-list", {"state": "closed"})["factories"]
    assert seen == factory_of(alice, instance) and seen["state"] == "closed"
    assert show(alice, instance) == before
    assert alice.rpc.call("factory-list", {"state": "active"})["factories"] == []


# S20
def test_a_client_that_was_off_over_the_timeout_takes_its_distribution(node_factory, bitcoind):
    lsp, clients, factory = factory_with(
        node_factory, bitcoind, 2, capacity_sat=300_000, stock_sat=10_000, lifetime_blocks=40, dying_blocks=10
    )
    alice, bob = clients
    instance, timeout = factory["factory_instance"], factory["timeout_block"]
    pay(lsp, alice, 20_000_000, "to alice")
    (whole,) = [entry for entry in show(alice, instance)["distributions"] if entry["coin"] == 0]
    for node in (alice, bob, lsp):
        node.stop()
    # Nobody is there at the timeout, nor the operator ever again.
    bitcoind.generate_block(timeout + 3 - bitcoind.rpc.getblockcount())
    assert bitcoind.rpc.getrawmempool() == []
    alice.start()
    mine(bitcoind, 1, [alice], wait_for_mempool=whole["txid"])
    wait_for_factory(alice, instance, "distributed")
    assert factory_of(alice, instance)["standing"] == "paid_out"
    totals = statement(bitcoind, alice, instance)
    assert totals["distribution"] == 2 * 305_000 and set(totals) == {"distribution", "anchor", "fee"}
    wait_for(lambda: onchain_msat(alice) == 305_000_000)
    account = show(alice, instance)["statement"]
    assert account["final"] and len([line for line in account["lines"] if line["type"] == "distribution"]) == 2
    for _ in range(4):
        mine(bitcoind, 25, [alice])
    wait_for_factory(alice, instance, "closed")


# S24, S26
def test_half_a_tree_by_somebody_else(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, TWO_LEAVES, capacity_sat=200_000)
    alice, bob, carol, _, erin, *_ = clients
    nodes, instance = [lsp, *clients[1:]], factory["factory_instance"]
    for client in clients:
        pay(lsp, client, 30_000_000, "to " + client.info["id"])
    places = {entry["id"]: entry["client"] for entry in factory["clients"]}
    root, leaf = path_of(lsp, instance, places[bob.info["id"]])
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    wait_for(lambda: root["txid"] in bitcoind.rpc.getrawmempool())
    # She begins, and dies.
    alice.stop()
    mine(bitcoind, 1, nodes)
    for node in nodes:
        seen = factory_of(node, instance)
        assert (seen["state"], seen["standing"]) == ("active", "partly_exited")
        whole = show(node, instance)["on_chain"][-1]
        assert whole["txid"] == root["txid"] and not whole["ours"] and len(whole["members"]) == TWO_LEAVES + 1
        statement(bitcoind, node, instance)
    assert carol.daemon.is_in_log(f"{root['txid']} confirmed at height .*not published by us.*channels go on")
    # Channels go on below it.
    pay(bob, carol, 1_000_000, "while half the tree is out", dead_end=True)
    pay(erin, lsp, 1_000_000, "from the other half")
    # The operator is gone for good; bob goes on from where alice stopped.
    lsp.stop()
    up = clients[1:]
    bob_sat = channel_in(factory, bob)["to_us_msat"] // 1000
    bob.rpc.call("factory-exit", {"factory_instance": instance})
    mine(bitcoind, 1, up, wait_for_mempool=leaf["txid"])
    wait_for_factory(bob, instance, "exited")
    totals = statement(bitcoind, bob, instance)
    assert totals["fee"] == root["fee_sat"] + leaf["fee_sat"] and totals["anchor"] == 2 * 240
    in_leaf = [out for out in leaf["outputs"] if out["type"] == "channel"]
    assert totals["channel"] == 200_000 * len(in_leaf)
    assert totals["others"] == factory["funding_sat"] - totals["channel"] - totals["fee"] - totals["anchor"]
    for _ in range(20):
        if onchain_msat(bob):
            break
        mine(bitcoind, 1, up)
    assert bob_sat - 2_000 < onchain_msat(bob) // 1000 <= bob_sat


# S25
def test_a_funding_that_is_reorganised_and_then_double_spent(node_factory, bitcoind):
    lsp, alice, bob = node_factory.get_nodes(3, opts=[lsp_options(**FAST), plugin_options(), plugin_options()])
    fund(bitcoind, lsp, 8_000_000)
    # Signed before the factory is, from the coin that it will be funded with.
    prepared = lsp.rpc.txprepare([{bitcoind.rpc.getnewaddress(): "all"}], feerate="5000perkw")
    signed = lsp.rpc.signpsbt(prepared["psbt"])["signed_psbt"]
    conflict = bitcoind.rpc.finalizepsbt(lsp.rpc.call("setpsbtversion", [signed, 0])["psbt"])["hex"]
    lsp.rpc.txdiscard(prepared["txid"])
    nodes = [lsp, alice, bob]
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, nodes)
    factory = activate(bitcoind, create(lsp, [alice, bob]), lsp, [alice, bob])
    instance = factory["factory_instance"]
    pay(lsp, alice, 10_000_000, "before")

    def cut_off(first):
        """Every block from the funding's on is gone, and `first` is the first of as many others."""
        height = factory_of(alice, instance)["funding_height"]
        longest = bitcoind.rpc.getblockcount()
        bitcoind.rpc.invalidateblock(bitcoind.rpc.getblockhash(height))
        bitcoind.rpc.generateblock(bitcoind.rpc.getnewaddress(), first)
        while bitcoind.rpc.getblockcount() <= longest:
            bitcoind.rpc.generateblock(bitcoind.rpc.getnewaddress(), [])
        wait_for_synced(bitcoind, nodes)

    cut_off([])
    for node in nodes:
        assert factory_of(node, instance)["state"] == "funding"
        assert "statement" not in show(node, instance)
    # S18: nothing moves until it is deep again.
    invoice = alice.rpc.invoice(1_000, "too early", "")["bolt11"]
    with pytest.raises(RpcError):
        lsp.rpc.call("xpay", {"invstring": invoice, "retry_for": 5})
    mine(bitcoind, factory["funding_confirmations"], nodes, wait_for_mempool=factory["funding_txid"])
    for node in nodes:
        wait_for_factory(node, instance, "active")
    pay(lsp, alice, 10_000_000, "after")

    cut_off([conflict])
    for node in nodes:
        assert factory_of(node, instance)["state"] == "funding"
    for _ in range(4):
        mine(bitcoind, 25, nodes)
    for node in (alice, bob):
        wait_for_factory(node, instance, "aborted")
        assert "spent otherwise" in factory_of(node, instance)["failure"]
    # S12: nothing that the operator signed can matter any more.
    wait_for(lambda: factories(lsp) == [])


# S25, S26
def test_a_transaction_is_reorganised_away_in_the_middle_of_an_exit(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, TWO_LEAVES, capacity_sat=200_000)
    alice, instance = clients[0], factory["factory_instance"]
    pay(lsp, alice, 30_000_000, "to alice")
    places = {entry["id"]: entry["client"] for entry in factory["clients"]}
    root, leaf = path_of(lsp, instance, places[alice.info["id"]])
    lsp.stop()
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    mine(bitcoind, 1, clients, wait_for_mempool=root["txid"])
    wait_for(lambda: leaf["txid"] in bitcoind.rpc.getrawmempool())
    height = bitcoind.rpc.getblockcount()
    bitcoind.rpc.invalidateblock(bitcoind.rpc.getblockhash(height))
    for _ in range(2):
        bitcoind.rpc.generateblock(bitcoind.rpc.getnewaddress(), [])
    wait_for_synced(bitcoind, clients)
    assert factory_of(alice, instance)["state"] == "exiting"
    assert set(statement(bitcoind, alice, instance)) == {"unspent"}
    mine(bitcoind, 1, clients, wait_for_mempool=root["txid"])
    assert set(statement(bitcoind, alice, instance)) >= {"fee", "anchor", "others"}
    if factory_of(alice, instance)["state"] != "exited":
        mine(bitcoind, 1, clients, wait_for_mempool=leaf["txid"])
    wait_for_factory(alice, instance, "exited")
    totals = statement(bitcoind, alice, instance)
    assert totals["fee"] == root["fee_sat"] + leaf["fee_sat"]


# S25
def test_a_node_that_was_off_for_300_blocks(node_factory, bitcoind):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, capacity_sat=200_000)
    alice, bob = clients
    instance = factory["factory_instance"]
    pay(lsp, alice, 30_000_000, "to alice")
    alice.stop()
    (leaf,) = show(lsp, instance)["transactions"]
    bob.rpc.call("factory-exit", {"factory_instance": instance})
    mine(bitcoind, 1, [lsp, bob], wait_for_mempool=leaf["txid"])
    for _ in range(12):
        mine(bitcoind, 25, [lsp, bob])
    alice.start()
    wait_for_factory(alice, instance, "exited")
    wait_for_synced(bitcoind, [alice])
    chain = alice.rpc.call("factory-status")["chain"]
    assert chain["behind"] == 0 and chain["blockheight"] == bitcoind.rpc.getblockcount()
    seen = show(alice, instance)["on_chain"][-1]
    assert seen["txid"] == leaf["txid"] and not seen["ours"]
    assert statement(bitcoind, alice, instance)["channel"] == 400_000
    # It is the backend that takes the time.
    pattern = r"blocks (\d+) to (\d+) in (\d+) ms, (\d+) of them for fetching"
    line = alice.daemon.is_in_log(pattern)
    first, last, took_ms, fetching_ms = map(int, re.search(pattern, line).groups())
    assert last - first >= 299
    print(f"catching up takes {took_ms / fetching_ms:.3f} of the time that fetching alone takes")
    assert took_ms < 1.5 * fetching_ms
    alice.connect(lsp)
    pay(lsp, alice, 1_000_000, "on a channel like any other")


# S19
def test_the_last_member_of_64_leaves_without_the_operator(bitcoind):
    """Members are simulated, transactions are real: a real bitcoind judges and relays them."""
    binary = find_binary("factory-lab")
    if binary is None:
        pytest.skip("no factory-lab binary: run `cargo build --bin factory-lab` first")

    def lab(*words):
        words = [binary, "--clients", "64", "--raw", *words]
        return json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=600).stdout)

    wanted = lab()
    address = bitcoind.rpc.decodescript(wanted["script"])["address"]
    funded = bitcoind.rpc.sendtoaddress(address, wanted["amount_sat"] / 10**8)
    bitcoind.generate_block(1, wait_for_mempool=funded)
    (vout,) = [out["n"] for out in transaction(bitcoind, funded)["vout"] if out["sat"] == wanted["amount_sat"]]
    made = lab("--coin", f"{funded}:{vout}")

    assert bitcoind.rpc.sendrawtransaction(made["funding"]) == made["funding_txid"]
    bitcoind.generate_block(1, wait_for_mempool=made["funding_txid"])
    value = transaction(bitcoind, made["funding_txid"])["vout"][made["funding_outnum"]]["sat"]
    # The operator is gone for good; each transaction relays and confirms by itself.
    fees = 0
    for raw in made["path"]:
        txid = bitcoind.rpc.sendrawtransaction(raw)
        fees += round(bitcoind.rpc.getmempoolentry(txid)["fees"]["base"] * 10**8)
        bitcoind.generate_block(1, wait_for_mempool=txid)
    commitment = bitcoind.rpc.sendrawtransaction(made["commitment"])
    bitcoind.generate_block(1, wait_for_mempool=commitment)
    assert made["to_client_sat"] in [out["sat"] for out in transaction(bitcoind, commitment)["vout"]]

    account = made["statement"]
    assert account["problem"] is None and account["funding_sat"] == value
    assert sum(line["amount_sat"] for line in account["lines"]) == value
    for line in account["lines"]:
        tx = transaction(bitcoind, line["txid"])
        if line["outnum"] is not None:
            assert tx["vout"][line["outnum"]]["sat"] == line["amount_sat"], line
    assert sum(line["amount_sat"] for line in account["lines"] if line["type"] == "fee") == fees
    # Everybody else's money is where it was.
    for line in account["lines"]:
        if line["type"] in ("others", "unspent"):
            assert bitcoind.rpc.gettxout(line["txid"], line["outnum"]), line
