"""A machine is gone, and what is left is hsm_secret and the backup file (S9, S39, S40); by docs/recovery.md."""

import os
import pathlib
import shutil

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    activate,
    cli,
    connect_all,
    connect_briefly,
    create,
    factories,
    factory_of,
    fund,
    lsp_options,
    mine,
    mine_until,
    onchain_msat,
    pay,
    pay_over,
    plugin_options,
    spender,
    status,
    wait_for,
    wait_for_synced,
)
from test_chain import statement
from test_commands import needs_cli
from test_restored import older_copy
from test_sales import STOCK, buy, sales, wait_until_usable

CAPACITY = 500_000
NOT_RESTORED = 2509
# What lightningd says of channels that it has from a static backup alone, and of a plugin that stops with it.
LOST = {"may_fail": True, "broken_log": ".*"}


def file_of(directory, name):
    return os.path.join(directory, name)


def backed_up(node_factory, bitcoind, directory, lsp=None, client=None, other=None, addresses=0, **more):
    """An operator with clients alice (`client`) and bob (`other`), a backup file each, and their factory.
    Alice's wallet has given out so many addresses before."""
    names = ["lsp", "alice", "bob"]
    own = [{**FAST, **(lsp or {})}, client or {}, other or {}]
    make = [lsp_options, plugin_options, plugin_options]
    options = [
        make(**{"factory-backup-file": file_of(directory, name), **given})
        for make, name, given in zip(make, names, own)
    ]
    lsp, *clients = node_factory.get_nodes(3, opts=options)
    for _ in range(addresses):
        clients[0].rpc.newaddr("p2tr")
    fund(bitcoind, lsp, 9_000_000)
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, [lsp, *clients])
    factory = create(lsp, clients, capacity_sat=CAPACITY, **more)
    return lsp, clients, activate(bitcoind, factory, lsp, clients)


def wait_until_copied(*nodes):
    def copied(node):
        backup = status(node)["backup"]
        return backup["copied"] == backup["factories"] == 1 and backup["waiting"] == []

    wait_for(lambda: all(copied(node) for node in nodes))


def owned_msat(node):
    """All that the node's wallet has, confirmed or not."""
    return sum(int(output["amount_msat"]) for output in node.rpc.listfunds()["outputs"])


def burn(node, keep=("hsm_secret",)):
    """Everything of the node but these files is gone; a new lightningd starts in its place."""
    node.stop()
    directory = pathlib.Path(node.daemon.lightning_dir) / "regtest"
    for path in directory.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    node.start()


def restore(node, instance, channels=1):
    """As the page says; gives what the preview promised. So many channels are closed by their peers."""
    assert factories(node) == []
    preview = node.rpc.call("factory-restore", {"dry_run": True})
    (one,) = preview["factories"]
    assert one["factory_instance"] == instance and one["outcome"] == "restored" and preview["restored"] == 0
    assert factories(node) == []
    done = node.rpc.call("factory-restore")
    assert done["restored"] == 1 and "restart lightningd" in done["next"], done
    assert done["stubs"] == done["channels"] == channels and "unknown_payouts" not in done, done
    again = node.rpc.call("factory-restore")
    assert again["restored"] == 0 and again["factories"][0]["outcome"] == "known", again
    assert again["stubs"] == again["channels"] == channels and "unknown_payouts" not in again, again
    node.restart()
    wait_for(lambda: [factory["factory_instance"] for factory in factories(node)] == [instance])
    factory = factory_of(node, instance)
    assert factory["channels_lost"] and "backup file" in factory["exit_only"]
    return one


# S39
def test_a_machine_burns_and_the_operator_is_gone(node_factory, bitcoind, directory):
    """Its payout is beyond the addresses that a new wallet looks for by itself."""
    lsp, clients, factory = backed_up(
        node_factory, bitcoind, directory, client=LOST, addresses=60, lifetime_blocks=150, dying_blocks=40
    )
    alice, bob = clients
    instance = factory["factory_instance"]
    pay(lsp, alice, 50_000_000, "to alice")
    wait_until_copied(lsp, alice, bob)
    lsp.stop()
    bob.stop()
    burn(alice)
    promised = restore(alice, instance)
    assert promised["capacity_msat"] == CAPACITY * 1000 and promised["role"] == "client"
    timeout = promised["timeout_block"]
    with pytest.raises(RpcError, match="lost its channels") as refused:
        alice.rpc.call("factory-exit", {"factory_instance": instance})
    assert refused.value.error["code"] == 2501
    mine(bitcoind, timeout - 1 - bitcoind.rpc.getblockcount(), [alice])
    assert bitcoind.rpc.getrawmempool() == [], "nothing is published before it pays"
    mine_until(bitcoind, [alice], lambda: onchain_msat(alice) > (CAPACITY - 10_000) * 1000)
    assert factory_of(alice, instance)["state"] == "distributed"


# S34, S39
def test_a_machine_burns_and_the_operator_closes(node_factory, bitcoind, directory):
    lsp, clients, factory = backed_up(node_factory, bitcoind, directory, client=LOST, lsp={"broken_log": ".*"})
    alice, bob = clients
    instance = factory["factory_instance"]
    pay(lsp, alice, 50_000_000, "to alice")
    wait_until_copied(lsp, alice, bob)
    burn(alice)
    restore(alice, instance)
    connect_briefly(alice, lsp)
    mine_until(bitcoind, [lsp, alice], lambda: onchain_msat(alice) > 49_000_000)
    # Bob's channel is another's, and goes on.
    connect_all(lsp, [bob])
    pay(lsp, bob, 10_000_000, "to bob")


# S34, S39
def test_a_machine_burns_with_what_it_had_bought(node_factory, bitcoind, directory):
    """The operator is there: it publishes path and sale, and closes both channels."""
    lsp, clients, factory = backed_up(
        node_factory, bitcoind, directory, client=LOST, lsp={"broken_log": ".*"}, stock_sat=STOCK
    )
    alice, bob = clients
    instance = factory["factory_instance"]
    pay(lsp, alice, 50_000_000, "to alice")
    bought = buy(alice, factory, 200_000)["channel_id"]
    wait_until_usable(lsp, alice, bought)
    pay_over(lsp, alice, bought, "over what she has bought", 100_000_000)
    (sold,) = sales(alice, factory)
    wait_until_copied(lsp, alice, bob)
    burn(alice)
    restore(alice, instance, channels=2)
    connect_briefly(alice, lsp)
    mine_until(bitcoind, [lsp, *clients], lambda: onchain_msat(alice) > 145_000_000, limit=60)
    assert spender(bitcoind, sold["funding_txid"], sold["funding_outnum"]), "what she bought is closed"
    assert sales(alice, factory)[0]["state"] == "on_chain"


# S39
@needs_cli
def test_a_restore_that_is_cut_off_goes_on(node_factory, bitcoind, directory):
    """lightningd dies while it is asked for addresses; another restore goes on from there. Two at once are one."""
    lsp, clients, factory = backed_up(node_factory, bitcoind, directory, client=LOST, addresses=2_000)
    alice, bob = clients
    instance = factory["factory_instance"]
    wait_until_copied(lsp, alice, bob)
    lsp.stop()
    bob.stop()
    burn(alice)
    first = node_factory.executor.submit(alice.rpc.call, "factory-restore")
    wait_for(lambda: status(alice).get("restoring", {}).get("addresses", 0) >= 100)
    with pytest.raises(RpcError, match="another factory-restore is under way") as refused:
        alice.rpc.call("factory-restore")
    assert refused.value.error["code"] == NOT_RESTORED
    preview = alice.rpc.call("factory-restore", {"dry_run": True})
    assert [one["outcome"] for one in preview["factories"]] == ["known"]
    assert not first.done(), "it was over before anything was seen of it"
    alice.daemon.kill()
    assert first.exception(60) is not None
    alice.start()
    assert [one["factory_instance"] for one in factories(alice)] == [instance]
    given = len(alice.rpc.listaddresses()["addresses"])
    assert given >= 100
    told = cli(alice, "factory-restore")
    assert told.returncode == 0 and "unknown to lightningd's wallet" in told.stdout, told
    assert "unknown_payouts" not in told.stdout, told
    assert "restoring" not in status(alice)
    everything = len(alice.rpc.listaddresses()["addresses"])
    again = alice.rpc.call("factory-restore")
    assert again["restored"] == 0 and again["stubs"] == again["channels"] == 1, again
    assert len(alice.rpc.listaddresses()["addresses"]) == everything > given


# S9, S21, S39
def test_an_operators_machine_burns(node_factory, bitcoind, directory):
    terms = {"lifetime_blocks": 150, "dying_blocks": 40, "stock_sat": STOCK}
    lsp, clients, factory = backed_up(
        node_factory, bitcoind, directory, lsp=LOST, client={"broken_log": ".*"}, **terms
    )
    alice, bob = clients
    instance = factory["factory_instance"]
    pay(lsp, alice, 50_000_000, "to alice")
    wait_until_copied(lsp, alice, bob)
    for client in clients:
        client.stop()
    burn(lsp)
    promised = restore(lsp, instance, channels=2)
    assert promised["role"] == "lsp" and "taken on chain" in promised["next"]
    fund(bitcoind, lsp, 1_000_000)
    timeout = promised["timeout_block"]
    places = factory_of(lsp, instance)["clients"]

    def all_out():
        return all(bitcoind.rpc.gettxout(one["funding_txid"], one["funding_outnum"], False) for one in places)

    # Its clients never come back: it gets them out before distributions pay it nothing.
    mine_until(bitcoind, [lsp], all_out, limit=timeout - bitcoind.rpc.getblockcount())
    assert bitcoind.rpc.getblockcount() < timeout
    # Its stock comes home, to the new wallet.
    mine_until(bitcoind, [lsp], lambda: "stock" in statement(bitcoind, lsp, instance))
    stock = statement(bitcoind, lsp, instance)["stock"]
    assert stock > STOCK - 50_000
    wait_for(lambda: stock * 1000 in [int(coin["amount_msat"]) for coin in lsp.rpc.listfunds()["outputs"]])
    assert all_out(), "what clients have in their channels stays there until they come"


# S9, S34, S39
def test_an_operators_machine_burns_and_its_clients_are_there(node_factory, bitcoind, directory):
    """They close: each has on chain what it had, the operator the rest of their channels and its stock."""
    broken = {"broken_log": ".*"}
    lsp, clients, factory = backed_up(
        node_factory, bitcoind, directory, lsp=LOST, client=broken, other=broken, stock_sat=STOCK
    )
    alice, bob = clients
    instance = factory["factory_instance"]
    pay(lsp, alice, 50_000_000, "to alice")
    pay(lsp, bob, 40_000_000, "to bob")
    wait_until_copied(lsp, alice, bob)
    bob.stop()
    burn(lsp)
    restore(lsp, instance, channels=2)
    wait_for_synced(bitcoind, [lsp, alice])
    # They come back to it, as they would after a while: one while nothing is on chain, the other when its leaf is.
    connect_briefly(alice, lsp)
    mine_until(bitcoind, [lsp, alice], lambda: factory_of(alice, instance)["state"] == "exited")
    bob.start()
    wait_for_synced(bitcoind, [lsp, *clients])
    wait_for(lambda: factory_of(bob, instance)["state"] == "exited")
    connect_briefly(bob, lsp)
    # What it finds of its old coins in the last blocks is no part of this.
    before = owned_msat(lsp)
    # Less what commitments and the way home cost.
    owed = (2 * CAPACITY - 90_000 + STOCK - 100_000) * 1000

    def all_paid():
        have = onchain_msat(alice) > 40_000_000 and onchain_msat(bob) > 30_000_000
        return have and owned_msat(lsp) > before + owed

    mine_until(bitcoind, [lsp, *clients], all_paid, limit=60)
    for one in factory_of(lsp, instance)["clients"]:
        assert spender(bitcoind, one["funding_txid"], one["funding_outnum"]), "its channel was on chain"
    assert statement(bitcoind, lsp, instance)["stock"] > STOCK - 50_000


# Options of a client whose disk is put back to what it was.
DIES = {"may_fail": True, "broken_log": "Lost connection|Cannot broadcast our commitment|Subd did not close"}


def sell_meanwhile(lsp, alice, bob, factory):
    """A sale to alice that bob's file has, and that bob, whose disk is older then, will have forgotten."""
    buy(alice, factory, 200_000)
    wait_for(lambda: len(factory_of(bob, factory["factory_instance"]).get("sales", [])) == 0)
    wait_until_copied(bob)
    lsp.stop()


# S9
def test_a_copied_disk_is_exit_only(node_factory, bitcoind, directory):
    """Its file knows of a sale that the older copy has forgotten: it is back before anybody is told anything."""
    lsp, clients, factory = backed_up(node_factory, bitcoind, directory, client=DIES, stock_sat=STOCK)
    alice, bob = clients
    instance = factory["factory_instance"]
    pay(lsp, bob, 100_000_000, "to bob")
    wait_until_copied(bob)
    with older_copy(bob, lambda: connect_all(lsp, clients)):
        sell_meanwhile(lsp, alice, bob, factory)
    assert "older backup" in factory_of(bob, instance)["exit_only"]
    lsp.start()
    connect_all(lsp, clients)
    with pytest.raises(RpcError, match="exit-only"):
        buy(bob, factory, 100_000)


# S9, S39
def test_a_file_that_is_mounted_late(node_factory, bitcoind, directory):
    """A copied disk starts before its file is there: it begins none anew, and has its records back once the file is."""
    lsp, clients, factory = backed_up(node_factory, bitcoind, directory, client=DIES, stock_sat=STOCK)
    alice, bob = clients
    instance = factory["factory_instance"]
    path = pathlib.Path(file_of(directory, "bob"))
    away = path.with_name("away")
    pay(lsp, bob, 100_000_000, "to bob")
    wait_until_copied(bob)
    with older_copy(bob, lambda: connect_all(lsp, clients)):
        sell_meanwhile(lsp, alice, bob, factory)
        bob.stop()
        path.rename(away)
        bob.start()
    wait_for(lambda: "it was there before" in status(bob)["backup"].get("trouble", ""))
    assert status(bob)["backup"]["copied"] == 0 and "exit_only" not in factory_of(bob, instance)
    assert not path.exists()
    before = away.read_bytes()
    away.rename(path)
    wait_for(lambda: "older backup" in factory_of(bob, instance).get("exit_only", ""))
    wait_until_copied(bob)
    assert "trouble" not in status(bob)["backup"]
    assert len(path.read_bytes()) > len(before), "all that it had is still there, and more"


# S40
def test_what_is_no_backup_of_this_node_is_refused(node_factory, bitcoind, directory):
    lsp, clients, factory = backed_up(node_factory, bitcoind, directory)
    alice, bob = clients
    wait_until_copied(lsp, alice, bob)
    own, other = pathlib.Path(file_of(directory, "alice")), pathlib.Path(file_of(directory, "bob"))
    assert factory["factory_instance"] not in own.read_bytes().hex(), "a keeper learns nothing of it"
    cut = own.with_name("cut")
    cut.write_bytes(own.read_bytes()[:-1])
    strange = own.with_name("strange")
    strange.write_bytes(b"something else")
    for path, why in [
        (other, "not sealed by this node"),
        (cut, "cut off"),
        (strange, "no backup of this plugin"),
        (own.with_name("nowhere"), "no such file"),
        (pathlib.Path(directory), "directory"),
    ]:
        with pytest.raises(RpcError, match=why) as refused:
            alice.rpc.call("factory-restore", {"file": str(path)})
        assert refused.value.error["code"] == NOT_RESTORED
    with pytest.raises(RpcError, match="absolute path"):
        alice.rpc.call("factory-restore", {"file": "backup"})
    known = alice.rpc.call("factory-restore")
    assert known["restored"] == 0 and known["factories"][0]["outcome"] == "known"
    # Somebody else's file is never overwritten, and is said to be one.
    before = other.read_bytes()
    alice.stop()
    alice.daemon.opts["factory-backup-file"] = str(other)
    alice.start()
    wait_for(lambda: [one for one in status(alice)["warnings"] if one["code"] == "backup_file"])
    (warning,) = [one for one in status(alice)["warnings"] if one["code"] == "backup_file"]
    assert "not sealed by this node" in warning["message"]
    assert other.read_bytes() == before


# S39
def test_nothing_is_promised_while_the_disk_is_full(node_factory, bitcoind, directory):
    """The file can't be written: with factory-min-keepers a client has not said stored, and goes on once it can be."""
    folder = pathlib.Path(directory) / "other-disk"
    options = [
        lsp_options(**FAST),
        plugin_options(
            **{
                "factory-backup-file": str(folder / "alice"),
                "factory-min-keepers": 1,
                "factory-no-peer-backup": None,
            }
        ),
    ]
    lsp, alice = node_factory.get_nodes(2, opts=options)
    fund(bitcoind, lsp, 9_000_000)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, [lsp, alice])
    create_later = node_factory.executor.submit(create, lsp, [alice])
    wait_for(lambda: status(alice)["backup"]["waiting"])
    (warning,) = [one for one in status(alice)["warnings"] if one["code"] == "backup_file"]
    assert "No such file" in warning["message"]
    assert factories(lsp)[0]["state"] == "storing"
    folder.mkdir()
    factory = create_later.result()
    activate(bitcoind, factory, lsp, [alice])
    wait_until_copied(alice)


# S39
def test_the_disk_is_full_while_a_copy_is_written(node_factory, bitcoind, directory):
    """What it had is still there, and is said to be all; once there is room it has the rest."""
    lsp, clients, factory = backed_up(node_factory, bitcoind, directory, stock_sat=STOCK)
    alice, bob = clients
    pay(lsp, alice, 50_000_000, "to alice")
    wait_until_copied(lsp, alice, bob)
    path = pathlib.Path(file_of(directory, "alice"))
    before = path.read_bytes()
    # Whatever is written to it finds no room.
    beside = path.with_name("alice.new")
    beside.symlink_to("/dev/full")
    buy(alice, factory, 200_000)
    wait_for(lambda: "No space left on device" in status(alice)["backup"].get("trouble", ""))
    (warning,) = [one for one in status(alice)["warnings"] if one["code"] == "backup_file"]
    assert "No space left on device" in warning["message"]
    assert path.read_bytes() == before
    beside.unlink()
    wait_for(lambda: "trouble" not in status(alice)["backup"])
    wait_until_copied(alice)
    assert len(path.read_bytes()) > len(before)
    assert alice.rpc.call("factory-restore", {"dry_run": True})["factories"][0]["outcome"] == "known"
