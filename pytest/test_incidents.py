"""Incidents of other people's nodes, re-enacted. Others of them are where they belong: a peer's error and an old
copy of a directory in test_watch.py, 300 blocks away in test_chain.py, control characters in what a peer says in
test_bad_input.py."""

import os
import pathlib
import shutil

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    PLUGINS,
    activate,
    channel_by_id,
    channel_with,
    connect_all,
    connect_briefly,
    create,
    factories,
    factory_of,
    factory_with,
    faulty,
    fund,
    lsp_options,
    mine,
    mine_until,
    onchain_msat,
    pay,
    plugin_options,
    read_records,
    reserved,
    send_over,
    spender,
    status,
    wait_for,
    wait_for_factory,
    wait_for_synced,
)
from speed import Crowd
from test_fees import LOW, child_of, warnings
from test_sales import STOCK, buy, wait_until_usable
from test_storm import COIN, restart_with
from test_watch import is_out, leaves, place_of
from world import plugin_process

REFUSAL = "min relay fee not met, 10 < 1000"


def refuse_transactions(node):
    """The node's bitcoind takes no transaction from it, until `take_transactions`."""

    def refused(request):
        return {"id": request["id"], "result": None, "error": {"code": -26, "message": REFUSAL}}

    for method in ("sendrawtransaction", "submitpackage"):
        node.daemon.rpcproxy.mock_rpc(method, refused)


def take_transactions(node):
    for method in ("sendrawtransaction", "submitpackage"):
        node.daemon.rpcproxy.mock_rpc(method, None)


def paths(node, instance):
    return node.rpc.call("factory-show", {"factory_instance": instance})["transactions"]


# lightningd's own.
UNABLE = {"broken_log": "Unable to estimate any fees"}


def test_a_client_without_fee_estimates_is_left_out_with_its_nodes_reason(node_factory, bitcoind):
    """Its lightningd takes no channel at the operator's feerate. The others go on."""
    options = [lsp_options(**FAST), plugin_options(feerates=None, **UNABLE), plugin_options()]
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=options)
    fund(bitcoind, lsp, 3_000_000)
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, nodes)
    factory = create(lsp, [alice, bob])
    (left_out,) = factory["left_out"]
    assert left_out["id"] == alice.info["id"] and "feerate" in left_out["reason"], left_out
    factory = activate(bitcoind, factory, lsp, [bob])
    pay(lsp, bob, 10_000_000, "goes on")


def test_an_operator_without_fee_estimates_creates_nothing_and_says_why(node_factory, bitcoind):
    options = [lsp_options(feerates=None, **FAST, **UNABLE), plugin_options()]
    lsp, alice = nodes = node_factory.get_nodes(2, opts=options)
    fund(bitcoind, lsp, 3_000_000)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, nodes)
    with pytest.raises(RpcError, match="fee"):
        create(lsp, [alice])
    assert reserved(lsp) == []
    lsp.set_feerates((15_000, 11_000, 7_500, 3_750))
    mine(bitcoind, 1, nodes)
    activate(bitcoind, create(lsp, [alice]), lsp, [alice])


# S26
@pytest.mark.parametrize("who", ["client", "operator"])
def test_an_exit_without_fee_estimates_ends_as_any(node_factory, bitcoind, who):
    """They are gone since the factory was made, as after a long time off on a node that was started anew."""
    lsp, (alice,), factory = factory_with(node_factory, bitcoind, 1, lsp=UNABLE, client=UNABLE)
    pay(lsp, alice, 100_000_000, "first")
    leaves = alice if who == "client" else lsp
    fund(bitcoind, leaves, 200_000)
    leaves.daemon.rpcproxy.mock_rpc("estimatesmartfee", None)
    leaves.restart()
    connect_all(lsp, [alice])
    leaves.rpc.call("factory-exit", {"factory_instance": factory["factory_instance"]})
    mine_until(bitcoind, [lsp, alice], lambda: onchain_msat(alice) > 99_000_000)


# S26
def test_an_exit_that_is_refused_goes_on_once_an_empty_wallet_gets_coins(node_factory, bitcoind):
    """The mempool has come to ask for more than the tree pays, and the clients' wallets are empty. All nodes are
    restarted, bitcoind too, and one coin arrives: the transaction goes with its child, and everybody gets out."""
    # sat/kw: less than channels pay for their commitments, and less than what the tree pays (500).
    minimum = 750
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, LOW)
    alice, bob = clients
    nodes, instance = [lsp, *clients], factory["factory_instance"]
    for client in clients:
        pay(lsp, client, 100_000_000, "to " + client.info["id"])
    wait_for_synced(bitcoind, nodes)
    restart_with(bitcoind, f"-minrelaytxfee={minimum * 4 / 10**8:.8f}")
    for client in clients:
        client.rpc.call("factory-exit", {"factory_instance": instance})
    (path,) = paths(alice, instance)

    def is_refused(node):
        """Both: it isn't in the mempool, and a coin is what is missing."""
        found = [warning["message"] for warning in warnings(node, "fee_not_raised")]
        return any(path["txid"] in text and "sat" in text for text in found)

    for restarted in (False, True):
        if restarted:
            restart_with(bitcoind)
            for node in nodes:
                node.restart()
            connect_all(lsp, clients)
            wait_for_synced(bitcoind, nodes)
        for client in clients:
            wait_for(lambda: is_refused(client))
            assert factory_of(client, instance)["state"] == "exiting"
        mine(bitcoind, 1, nodes)
        assert bitcoind.rpc.getrawmempool() == []

    fund(bitcoind, alice, COIN)
    wait_for(lambda: path["txid"] in bitcoind.rpc.getrawmempool())
    child = child_of(bitcoind, path["txid"])
    entry = bitcoind.rpc.getmempoolentry(path["txid"])
    assert path["fee_sat"] * 1000 < entry["weight"] * minimum
    assert child["package_sat"] * 1000 >= (entry["weight"] + child["weight"]) * minimum
    mine(bitcoind, 1, nodes, wait_for_mempool=child["txid"])
    for client in clients:
        wait_for_factory(client, instance, "exited")
        wait_for(lambda: warnings(client, "fee_not_raised") == [])
    own = {bob: 0, alice: COIN * 1000}
    mine_until(bitcoind, nodes, lambda: all(onchain_msat(node) > own[node] + 95_000_000 for node in clients))
    for place in factory["clients"]:
        assert is_out(bitcoind, place)


# S25, S10
def test_a_funding_that_the_mempool_refuses_is_sent_again(node_factory, bitcoind):
    """Nobody is told that it failed, nothing else spends its coins, and once it is taken all goes on."""
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=[lsp_options(**FAST), plugin_options(), plugin_options()])
    fund(bitcoind, lsp, 3_000_000)
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, nodes)
    refuse_transactions(lsp)
    factory = create(lsp, [alice, bob])
    instance = factory["factory_instance"]
    lsp.daemon.wait_for_log(f"{instance}: sending the funding: .*{REFUSAL}")
    kept = reserved(lsp)
    assert len(kept) == 1
    lsp.restart()
    connect_all(lsp, [alice, bob])
    mine(bitcoind, 2, nodes)
    lsp.daemon.wait_for_log(f"{instance}: sending the funding: .*{REFUSAL}")
    for node in nodes:
        assert factory_of(node, instance)["state"] == "funding"
    assert [coin["txid"] for coin in reserved(lsp)] == [coin["txid"] for coin in kept]
    take_transactions(lsp)
    mine(bitcoind, 1, nodes)
    factory = activate(bitcoind, factory, lsp, [alice, bob])
    assert factory["attempt"] == 1
    pay(lsp, alice, 10_000_000, "first")


# S12, S25
def test_a_coin_that_is_spent_before_the_funding_is_sent_ends_it_on_both_sides(node_factory, bitcoind):
    """The operator's seed is used elsewhere, too: its coin goes away while bitcoind refuses the funding."""
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=[lsp_options(**FAST), plugin_options(), plugin_options()])
    fund(bitcoind, lsp, 3_000_000)
    prepared = lsp.rpc.txprepare([{bitcoind.rpc.getnewaddress(): "all"}], feerate="5000perkw")
    signed = lsp.rpc.signpsbt(prepared["psbt"])["signed_psbt"]
    elsewhere = bitcoind.rpc.finalizepsbt(lsp.rpc.call("setpsbtversion", [signed, 0])["psbt"])["hex"]
    lsp.rpc.txdiscard(prepared["txid"])
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, nodes)
    refuse_transactions(lsp)
    instance = create(lsp, [alice, bob])["factory_instance"]
    lsp.daemon.wait_for_log(f"{instance}: sending the funding: .*{REFUSAL}")
    bitcoind.rpc.sendrawtransaction(elsewhere)
    mine(bitcoind, 1, nodes)
    take_transactions(lsp)
    # It could still be reorganised away: nobody forgets what is signed.
    mine(bitcoind, 1, nodes)
    for node in nodes:
        assert factory_of(node, instance)["state"] == "funding"
    for _ in range(4):
        mine(bitcoind, 25, nodes)
    for client in (alice, bob):
        wait_for_factory(client, instance, "aborted")
        assert "spent otherwise" in factory_of(client, instance)["failure"]
    wait_for(lambda: factories(lsp) == [])
    assert reserved(lsp) == []
    # And the next one works.
    fund(bitcoind, lsp, 3_000_000)
    wait_for_synced(bitcoind, nodes)
    activate(bitcoind, create(lsp, [alice, bob]), lsp, [alice, bob])


# S15, S16
@pytest.mark.parametrize("order", ["before", "after"])
def test_another_plugin_that_holds_htlcs_or_changes_them_starts_no_exit(node_factory, bitcoind, order):
    """At the operator, loaded before ours or after it. What it lets go too late fails, here or at the client."""
    opts = [lsp_options(**FAST), plugin_options(), {"may_reconnect": True}]
    lsp, alice, stranger = node_factory.get_nodes(3, opts=opts)
    for node in (lsp, stranger):
        fund(bitcoind, node, 3_000_000)
    connect_all(lsp, [alice])
    stranger.connect(lsp)
    stranger.rpc.fundchannel(lsp.info["id"], 2_000_000, announce=False)
    mine(bitcoind, 6, [lsp, alice], wait_for_mempool=1)
    factory = activate(bitcoind, create(lsp, [alice]), lsp, [alice])
    instance, channel = factory["factory_instance"], factory["clients"][0]["channel_id"]
    lsp.stop()
    # lightningd asks them in the order in which it loads them.
    plugins = [lsp.daemon.opts["plugin"], str(PLUGINS / "other_htlcs.py")]
    lsp.daemon.opts["plugin"] = plugins if order == "after" else plugins[::-1]
    lsp.start()
    connect_all(lsp, [alice])
    stranger.connect(lsp)
    wait_for(lambda: stranger.rpc.listpeerchannels()["channels"][0].get("reestablished"))
    wait_for(lambda: channel_by_id(lsp, channel).get("reestablished"))
    judge = lsp if order == "before" else alice

    def fails(invoice):
        with pytest.raises(RpcError):
            stranger.rpc.waitsendpay(invoice["payment_hash"], 60)
        for node in (lsp, alice):
            wait_for(lambda: not channel_by_id(node, channel)["htlcs"])
        mine(bitcoind, 1, [lsp, alice])
        for node in (lsp, alice):
            assert factory_of(node, instance)["state"] == "active"
        assert bitcoind.rpc.getrawmempool() == []

    held, changed = [alice.rpc.invoice(20_000_000, label, label) for label in ("held", "changed")]
    send_over(stranger, lsp, alice, held, channel)
    lsp.daemon.wait_for_log("holding another's HTLC")
    asked = stranger.rpc.decode(held["bolt11"])["min_final_cltv_expiry"] + 1
    mine(bitcoind, asked - factory["blocks_early"] + 1, [lsp, alice])
    assert lsp.rpc.call("let-go") == {"count": 1}
    judge.daemon.wait_for_log("failing an HTLC of .* the least that leaves time for an exit")
    fails(held)

    send_over(stranger, lsp, alice, changed, channel)
    fails(changed)


# S25
def test_a_rescan_with_a_channel_on_chain_changes_nothing(node_factory, bitcoind):
    """lightningd tells of old blocks again: they are no reorganisation, and what was seen is seen once."""
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2)
    alice, bob = clients
    nodes, instance = [lsp, alice, bob], factory["factory_instance"]
    for client in clients:
        pay(lsp, client, 100_000_000, "to " + client.info["id"])
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    (place,) = [entry for entry in factory["clients"] if entry["id"] == alice.info["id"]]
    mine_until(bitcoind, nodes, lambda: spender(bitcoind, place["funding_txid"], place["funding_outnum"]))
    # Not all of it is swept yet.
    mine(bitcoind, 1, nodes)

    def seen(node):
        shown = node.rpc.call("factory-show", {"factory_instance": instance})
        return shown["on_chain"], shown["statement"], factory_of(node, instance)["state"]

    before = [seen(node) for node in nodes]
    for node in nodes:
        node.stop()
        node.daemon.opts["rescan"] = 15
        node.start()
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, nodes)
    assert [seen(node) for node in nodes] == before
    mine_until(bitcoind, nodes, lambda: onchain_msat(alice) > 99_000_000)
    pay(lsp, bob, 10_000_000, "goes on")


# S34
@pytest.mark.parametrize("who", ["client", "operator"])
def test_a_node_with_its_seed_and_emergency_recover_gets_its_money(node_factory, bitcoind, who):
    """All else is lost, the plugin's records too. Its peers' lightningd only notes that it begins at nothing (it was
    paid before); the plugin sees that, closes the channel, and takes it on chain."""
    # lightningd's own, of a channel that is known by its backup alone.
    recovers = {"broken_log": "ERROR: Unknown commitment #.*, recovering our funds|Cannot find the open_event for"}
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, **{"lsp" if who == "operator" else "client": recovers})
    alice, bob = clients
    nodes, instance = [lsp, *clients], factory["factory_instance"]
    lost, others = (alice, [lsp]) if who == "client" else (lsp, clients)
    known = [channel["channel_id"] for channel in lost.rpc.listpeerchannels()["channels"]]
    directory = pathlib.Path(lost.daemon.lightning_dir) / "regtest"
    gone = directory.with_name("gone")
    # As of the day when the channels were opened. With a newer one lightningd v26.06 takes the peer's commitment for
    # one that it knows, and stumbles over it.
    static = (directory / "emergency.recover").read_bytes()
    for client in clients:
        pay(lsp, client, 100_000_000, "to " + client.info["id"])
    lost.stop()
    directory.rename(gone)
    directory.mkdir()
    shutil.copy(gone / "hsm_secret", directory)
    (directory / "emergency.recover").write_bytes(static)
    lost.start()
    before = onchain_msat(lost)
    assert factories(lost) == []
    assert sorted(lost.rpc.emergencyrecover()["stubs"]) == sorted(known)
    if who == "operator":
        # It isn't known where clients are: they come back to it.
        for client in clients:
            connect_briefly(client, lsp)
    for other in others:
        wait_for(lambda: channel_with(other, lost)["state"] == "AWAITING_UNILATERAL")
    first = others[0]
    leaves(bitcoind, [first], [node for node in nodes if node is not first], factory, place_of(first, factory))
    for place in factory["clients"] if who == "operator" else factory["clients"][:1]:
        mine_until(bitcoind, nodes, lambda: is_out(bitcoind, place))
    for other in others:
        assert "lightningd" in factory_of(other, instance)["exit"]["reason"]
    # Its own commitments it doesn't have any more: the others' pay it.
    share = 99_000_000 if who == "client" else 790_000_000
    mine_until(bitcoind, nodes, lambda: onchain_msat(lost) - before > share)
    if who == "client":
        pay(lsp, bob, 10_000_000, "goes on")


# S34
@pytest.mark.faults
def test_a_thief_with_the_operators_credentials_closes_all_channels_and_nobody_loses(node_factory, bitcoind):
    """The operator's own guard is off. With half of the clients lightningd agrees on a closing transaction that
    can't confirm, with those that are away it fails the channel: all come on chain."""
    lax = faulty("lax-htlcs", **{"factory-policy": "never"})
    lsp, clients, factory = factory_with(node_factory, bitcoind, 4, lsp=lax)
    nodes = [lsp, *clients]
    for client in clients:
        pay(lsp, client, 100_000_000, "to " + client.info["id"])
    here, away = clients[:2], clients[2:]
    for client in away:
        client.stop()
        wait_for(lambda: not channel_with(lsp, client)["peer_connected"])
    for client in here:
        assert lsp.rpc.close(client.info["id"])["type"] == "mutual"
    for client in away:
        assert lsp.rpc.close(client.info["id"], 1)["type"] == "unilateral"
    for client in here:
        wait_for_factory(client, factory["factory_instance"], "exiting", "exited")
    for client in away:
        client.start()
        client.connect(lsp)
    mine_until(bitcoind, nodes, lambda: all(onchain_msat(client) > 99_000_000 for client in clients), limit=60)
    for client in clients:
        (place,) = [c for c in factory_of(client, factory["factory_instance"])["clients"] if "channel_state" in c]
        assert place["state"] == "on_chain"


# S28
def test_200_clients_that_reconnect_at_once_hold_nobody_up(node_factory, bitcoind):
    """As after a restart of the operator's network: payments run meanwhile, and nothing is left of those that go."""
    lsp, (alice, bob), _ = factory_with(node_factory, bitcoind, 2)
    members = {alice.info["id"], bob.info["id"]}
    pay(lsp, alice, 100_000_000, "first")
    process, records = plugin_process(lsp), read_records(lsp)
    at_rest = process.memory_info().rss
    for number in range(3):
        paid = node_factory.executor.submit(pay, alice, bob, 1_000_000, f"meanwhile {number}", dead_end=True)
        with Crowd(lsp, 200, 1):
            paid.result(60)
            assert len(status(lsp)["peers"]) == 202
        wait_for(lambda: {peer["id"] for peer in status(lsp)["peers"]} == members)
    assert process.memory_info().rss - at_rest < 32 << 20
    assert read_records(lsp) == records
    pay(alice, bob, 1_000_000, "afterwards", dead_end=True)


def with_passphrase(node, passphrase):
    """Whoever starts the node types this, twice where lightningd makes its seed anew."""
    start = node.daemon.start

    def typed(stdin=None, **more):
        reading, writing = os.pipe()
        os.write(writing, f"{passphrase}\n{passphrase}\n".encode())
        os.close(writing)
        start(stdin=reading, **more)
        os.close(reading)

    node.daemon.start = typed


def start_locked(node, passphrase="correct horse"):
    """The first start of a node that was made with `hsm-passphrase` and start=False: lightningd makes its seed anew."""
    seed = pathlib.Path(node.daemon.lightning_dir) / "regtest" / "hsm_secret"
    seed.unlink()
    with_passphrase(node, passphrase)
    node.start()
    assert seed.read_bytes()[:32] != bytes(32), "with a passphrase it begins with a hash"


# S5, S19
def test_seeds_that_are_locked_with_a_passphrase(node_factory, bitcoind):
    """The operator's and a client's `hsm_secret`: factory keys are the same after each start."""
    locked = {"hsm-passphrase": None, "start": False}
    nodes = node_factory.get_nodes(2, opts=[lsp_options(**FAST, **locked), plugin_options(**locked)])
    for node in nodes:
        start_locked(node)
    lsp, alice = nodes
    fund(bitcoind, lsp, 3_000_000)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, nodes)
    factory = create(lsp, [alice], stock_sat=STOCK)
    for node in nodes:
        node.restart()
    connect_all(lsp, [alice])
    factory = activate(bitcoind, factory, lsp, [alice])
    pay(lsp, alice, 100_000_000, "first")
    # With keys that were made before the restart.
    bought = buy(alice, factory, 100_000)
    wait_until_usable(lsp, alice, bought["channel_id"])
    for node in nodes:
        assert node.rpc.call("factory-verify", {"factory_instance": factory["factory_instance"]})["valid"]
    lsp.stop()
    alice.rpc.call("factory-exit", {"factory_instance": factory["factory_instance"]})
    mine_until(bitcoind, [alice], lambda: onchain_msat(alice) > 98_000_000)
