"""Peers keep copies (S9, S39, S40): the operator for its clients, others that serve; by docs/recovery.md."""

import pathlib

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    activate,
    connect_all,
    connect_briefly,
    create,
    factories,
    factory_of,
    factory_with,
    fund,
    lsp_options,
    mine,
    mine_until,
    onchain_msat,
    pay,
    pay_over,
    plugin_options,
    status,
    wait_for,
    wait_for_synced,
    wait_until_ready,
)
from test_restore import CAPACITY, LOST, NOT_RESTORED, backed_up, burn, file_of, restore
from test_restored import older_copy
from test_sales import STOCK, buy, sales, wait_until_usable


def copied(node):
    backup = status(node)["backup"]
    return backup["copied"] == backup["factories"] == 1 and backup["waiting"] == []


def shelf(keeper, owner):
    """Names of the copies that a keeper has of a peer's."""
    listed = keeper.rpc.listdatastore(["cln-factory", "kept", owner.info["id"]])["datastore"]
    return [copy["key"][3] for copy in listed]


def found(node):
    """What peers have given back; nothing as long as there is nothing."""
    try:
        return node.rpc.call("factory-restore", {"dry_run": True})
    except RpcError as error:
        assert error.error["code"] == NOT_RESTORED and "no connected peer" in error.error["message"], error
        return None


def befriend(node, keeper):
    """Whoever has a channel is served from the next connection on."""
    node.rpc.disconnect(keeper.info["id"], force=True)
    node.connect(keeper)
    wait_until_ready(node, [keeper])


def meet(node, keeper):
    """Connects until the keeper has given back what it has: the first time its lightningd hears that a channel is
    unknown here, which ends the connection, and the channel."""

    def given_back():
        if not [peer for peer in node.rpc.listpeers()["peers"] if peer["connected"]]:
            connect_briefly(node, keeper)
        return found(node)

    wait_for(given_back)
    return found(node)


# S39, S40
def test_a_machine_burns_and_its_operator_has_kept_all(node_factory, bitcoind):
    """Only hsm_secret is left, and no file: the operator gives back what it kept, and closes the channel."""
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, client=LOST, lsp={"broken_log": ".*"})
    alice, bob = clients
    instance = factory["factory_instance"]
    pay(lsp, alice, 50_000_000, "to alice")
    wait_for(lambda: copied(alice) and copied(bob))
    (peer,) = status(alice)["backup"]["peers"]
    assert peer == {"id": lsp.info["id"], "copied": 1}
    assert status(lsp)["backup"]["peers"] == [], "an operator asks its clients for nothing"
    # Two copies: records, and the channel's static backup. Their names say nothing.
    wait_for(lambda: len(shelf(lsp, alice)) == 2)
    assert instance not in str(lsp.rpc.listdatastore(["cln-factory", "kept", alice.info["id"]]))
    burn(alice)
    assert factories(alice) == []
    assert found(alice) is None
    preview = meet(alice, lsp)
    (one,) = preview["factories"]
    assert one["factory_instance"] == instance and one["outcome"] == "restored"
    assert preview["peers"] == [lsp.info["id"]] and "file" not in preview and preview["channels"] == 1
    done = alice.rpc.call("factory-restore")
    assert done["restored"] == 1 and done["stubs"] == 1, done
    alice.restart()
    wait_for(lambda: [factory["factory_instance"] for factory in factories(alice)] == [instance])
    restored = factory_of(alice, instance)
    assert restored["channels_lost"] and f"peer {lsp.info['id']}" in restored["exit_only"]
    # The operator gives nothing back any more, and nothing is left for lightningd to take.
    again = alice.rpc.call("factory-restore")
    assert again["restored"] == again["channels"] == 0 and again["factories"] == [], again
    mine_until(bitcoind, [lsp, alice], lambda: onchain_msat(alice) > 49_000_000)
    # Bob's channel is another's, and goes on.
    connect_all(lsp, [bob])
    pay(lsp, bob, 10_000_000, "to bob")


# S39
def test_a_machine_burns_and_only_a_peer_is_left(node_factory, bitcoind):
    """The operator is gone for good; a peer that serves has kept all: the whole capacity after the timeout."""
    serves = plugin_options(**{"factory-keep-for-peers": None, "broken_log": ".*"})
    lsp, keeper = node_factory.get_nodes(2, opts=[lsp_options(**FAST), serves])
    (alice,) = node_factory.get_nodes(1, opts=[plugin_options(**{"factory-keeper": keeper.info["id"], **LOST})])
    fund(bitcoind, lsp, 9_000_000)
    node_factory.join_nodes([keeper, alice], wait_for_announce=False)
    befriend(alice, keeper)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, [lsp, keeper, alice])
    factory = create(lsp, [alice], lifetime_blocks=150, dying_blocks=40)
    instance = activate(bitcoind, factory, lsp, [alice])["factory_instance"]
    pay(lsp, alice, 50_000_000, "to alice")
    wait_for(lambda: status(alice)["backup"]["copied_twice"] == 1)
    lsp.stop()
    burn(alice)
    preview = meet(alice, keeper)
    assert preview["peers"] == [keeper.info["id"]]
    (one,) = preview["factories"]
    assert alice.rpc.call("factory-restore")["restored"] == 1
    alice.restart()
    wait_for(lambda: factories(alice))
    mine(bitcoind, one["timeout_block"] - 1 - bitcoind.rpc.getblockcount(), [alice])
    funding = factory_of(alice, instance)["funding_txid"]
    assert bitcoind.rpc.gettxout(funding, factory_of(alice, instance)["funding_outnum"]), "nothing is published before it pays"
    before = onchain_msat(alice)
    mine_until(bitcoind, [alice], lambda: onchain_msat(alice) > before + (CAPACITY - 10_000) * 1000)
    assert factory_of(alice, instance)["state"] == "distributed"


# S9, S39
def test_a_keeper_that_comes_later_has_more(node_factory, bitcoind, directory):
    """Alice is restored from a file that doesn't know what she bought; a peer that serves, met afterwards, does."""
    serves = plugin_options(**{"factory-keep-for-peers": None, "broken_log": ".*"})
    (keeper,) = node_factory.get_nodes(1, opts=[serves])
    client = {"factory-keeper": keeper.info["id"], **LOST}
    lsp, clients, factory = backed_up(
        node_factory, bitcoind, directory, client=client, lsp={"broken_log": ".*"}, stock_sat=STOCK
    )
    alice, bob = clients
    instance = factory["factory_instance"]
    node_factory.join_nodes([keeper, alice], wait_for_announce=False)
    befriend(alice, keeper)
    wait_for_synced(bitcoind, [lsp, keeper, *clients])
    pay(lsp, alice, 50_000_000, "to alice")

    def copied_by_all():
        peers = status(alice)["backup"]["peers"]
        return copied(alice) and [peer["copied"] for peer in peers] == [1, 1]

    wait_for(copied_by_all)
    path = pathlib.Path(file_of(directory, "alice"))
    older = path.read_bytes()
    bought = buy(alice, factory, 200_000)["channel_id"]
    wait_until_usable(lsp, alice, bought)
    pay_over(lsp, alice, bought, "over what she has bought", 100_000_000)
    wait_for(copied_by_all)
    lsp.stop()
    burn(alice)
    # As if its disk had been away since.
    path.write_bytes(older)
    restore(alice, instance)
    assert sales(alice, factory) == []

    def caught_up():
        # Its first connection ends at once: the channel between them is unknown here.
        if not [peer for peer in alice.rpc.listpeers()["peers"] if peer["connected"]]:
            connect_briefly(alice, keeper)
        return "what was missing is back" in factory_of(alice, instance)["exit_only"]

    wait_for(caught_up)
    (warning,) = [one for one in status(alice)["warnings"] if one["code"] == "newer_copy"]
    assert warning["factory_instance"] == instance and "factory-restore again" in warning["action"]
    assert factory_of(alice, instance)["channels_lost"] and len(sales(alice, factory)) == 1
    wait_for(lambda: alice.rpc.call("factory-restore", {"dry_run": True})["channels"] == 2)
    done = alice.rpc.call("factory-restore")
    assert done["restored"] == 0 and done["stubs"] == done["channels"] == 2, done
    lsp.start()
    alice.restart()
    assert "newer_copy" not in [one["code"] for one in status(alice)["warnings"]]
    connect_briefly(alice, lsp)
    mine_until(bitcoind, [lsp, *clients], lambda: onchain_msat(alice) > 145_000_000, limit=60)
    assert sales(alice, factory)[0]["state"] == "on_chain"


# S9
def test_an_older_disk_is_caught_up_by_its_operator(node_factory, bitcoind):
    """It has forgotten a neighbour's sale: it has it back before it signs anything, and agrees to nothing more."""
    dies = {"may_fail": True, "broken_log": "Lost connection|Cannot broadcast our commitment|Subd did not close"}
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, client=dies, stock_sat=STOCK)
    alice, bob = clients
    instance = factory["factory_instance"]
    pay(lsp, bob, 100_000_000, "to bob")
    wait_for(lambda: copied(bob))
    with older_copy(bob, lambda: connect_all(lsp, clients)):
        buy(alice, factory, 200_000)
        wait_for(lambda: copied(bob))
    bob.connect(lsp)
    wait_for(lambda: "exit_only" in factory_of(bob, instance))
    assert "its copy with a peer" in factory_of(bob, instance)["exit_only"]
    assert bob.daemon.is_in_log("nothing is signed before it has shown them")
    with pytest.raises(RpcError, match="exit-only"):
        buy(bob, factory, 100_000)
    assert bob.daemon.is_in_log("restart lightningd, so that the chain is read again")
    # The next start finds what came back.
    bob.restart()
    assert "its copy with a peer" in factory_of(bob, instance)["exit_only"]


# S39, S40
def test_a_peer_that_serves(node_factory, bitcoind):
    """A second keeper, beside the operator, that isn't in the factory; whoever doesn't serve says so."""
    serves, silent = plugin_options(**{"factory-keep-for-peers": None}), plugin_options()
    lsp, keeper, other = node_factory.get_nodes(3, opts=[lsp_options(**FAST), serves, silent])
    keepers = [keeper.info["id"], other.info["id"]]
    (alice,) = node_factory.get_nodes(1, opts=plugin_options(**{"factory-keeper": keepers, "factory-min-keepers": 2}))
    fund(bitcoind, lsp, 9_000_000)
    node_factory.join_nodes([keeper, alice], wait_for_announce=False)
    befriend(alice, keeper)
    # With this one there is no channel.
    alice.connect(other)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, [lsp, keeper, other, alice])
    activate(bitcoind, create(lsp, [alice]), lsp, [alice])
    wait_for(lambda: status(alice)["backup"]["copied_twice"] == 1)
    assert "next" not in status(alice)["backup"]
    peers = {peer["id"]: peer for peer in status(alice)["backup"]["peers"]}
    assert peers[lsp.info["id"]]["copied"] == peers[keeper.info["id"]]["copied"] == 1
    refused = peers[other.info["id"]]
    assert refused["copied"] == 0 and "its clients and its channels' peers only" in refused["trouble"]
    wait_for(lambda: len(shelf(keeper, alice)) == 2)
    assert shelf(other, alice) == []
    # With one of the two gone nothing new is bound: a second factory waits.
    keeper.stop()
    second = node_factory.executor.submit(create, lsp, [alice])
    wait_for(lambda: status(alice)["backup"]["waiting"])
    keeper.start()
    alice.connect(keeper)
    activate(bitcoind, second.result(), lsp, [alice])


# S40
def test_no_copies_with_peers(node_factory, bitcoind):
    """Whoever wants none has none, and is told what that means."""
    lsp, (alice,), _ = factory_with(node_factory, bitcoind, 1, client={"factory-no-peer-backup": None})
    backup = status(alice)["backup"]
    assert backup["copied"] == 0 and backup["peers"] == [] and "nobody has a copy" in backup["next"]
    assert shelf(lsp, alice) == []
