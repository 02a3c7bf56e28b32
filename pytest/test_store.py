"""A store that can't write: nothing is sent, nothing has changed, whoever asked is told, and it all goes
on once there is room again."""

import os
import re
import resource

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    PLUGINS,
    activate,
    channel_in,
    connect_all,
    create,
    factories,
    factory_of,
    faulty,
    fund,
    lsp_options,
    mine,
    pay,
    plugin_options,
    reserved,
    status,
    wait_for,
    wait_for_factory,
    wait_for_synced,
)

UNAVAILABLE = 2503
CANNOT_STORE = "cannot store: .*datastore: database or disk is full"
PATIENCE = {**FAST, "factory-confirmations": 1, "factory-invite-timeout": 60, "factory-ceremony-timeout": 60}


def on_a_disk(options):
    """The node's plugin, and one that makes its disk full on request."""
    options["plugin"] = [options["plugin"], str(PLUGINS / "full_disk.py")]
    # What the plugin says of it.
    options["broken_log"] = "cannot store"
    return options


def disk(node, state):
    node.rpc.call("disk", [state])


def start(node_factory, bitcoind, lsp, *clients):
    lsp, *clients = node_factory.get_nodes(1 + len(clients), opts=[lsp, *clients])
    meet(bitcoind, lsp, clients)
    return lsp, clients


def meet(bitcoind, lsp, clients):
    fund(bitcoind, lsp, 3_000_000, 3_000_000)
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, [lsp, *clients])


def refused(call):
    with pytest.raises(RpcError) as error:
        call()
    assert error.value.error["code"] == UNAVAILABLE, error.value.error
    assert re.search(CANNOT_STORE, error.value.error["message"]), error.value.error


# S14
def test_nothing_happens_that_cannot_be_stored(node_factory, bitcoind):
    lsp, (alice, bob) = start(
        node_factory, bitcoind, on_a_disk(lsp_options(**PATIENCE)), on_a_disk(plugin_options()), plugin_options()
    )
    nodes = [lsp, alice, bob]

    # The operator's disk is full: no factory, no coin set aside, nobody hears of it.
    disk(lsp, "full")
    refused(lambda: create(lsp, [alice, bob], capacity_sat=200_000))
    assert [factories(node) for node in nodes] == [[], [], []]
    assert reserved(lsp) == [] and status(lsp)["ceremonies"] == []
    disk(lsp, "free")

    # A client's is: it doesn't join. The others wait for it.
    disk(alice, "full")
    creating = node_factory.executor.submit(create, lsp, [alice, bob], capacity_sat=200_000)
    alice.daemon.wait_for_log(CANNOT_STORE)
    assert factories(alice) == []
    wait_for(lambda: [one["waiting_for"] for one in status(lsp)["ceremonies"]] == [[alice.info["id"]]])
    disk(alice, "free")
    # It is invited again when it connects.
    alice.rpc.disconnect(lsp.info["id"], force=True)
    connect_all(lsp, [alice])
    factory = activate(bitcoind, creating.result(60), lsp, [alice, bob])
    instance = factory["factory_instance"]
    assert factory["attempt"] == 1 and "left_out" not in factory
    pay(lsp, alice, 20_000_000, "to alice")

    # Payments need nothing stored.
    disk(lsp, "full")
    disk(alice, "full")
    pay(alice, bob, 1_000_000, "with full disks", dead_end=True)

    # An exit that can't be stored is none: it would be forgotten at the next restart.
    refused(lambda: alice.rpc.call("factory-exit", {"factory_instance": instance}))
    assert factory_of(alice, instance)["state"] == "active" and bitcoind.rpc.getrawmempool() == []

    # A block that matters comes again and again until it is stored, and those after it wait.
    disk(alice, "free")
    exit = alice.rpc.call("factory-exit", {"factory_instance": instance})
    height = bitcoind.rpc.getblockcount()
    bitcoind.generate_block(2, wait_for_mempool=exit["path"][0]["txid"])
    wait_for_factory(alice, instance, "exited")
    lsp.daemon.wait_for_log(f"block {height + 1} not handled yet: {CANNOT_STORE}")
    assert status(lsp)["blockheight"] == height and factory_of(lsp, instance)["state"] == "active"
    disk(lsp, "free")
    mine(bitcoind, 1, nodes)
    assert "confirmed_height" in lsp.rpc.call("factory-show", {"factory_instance": instance})["transactions"][0]
    assert channel_in(factory, bob)["state"] == "CHANNELD_NORMAL"


# S14, S29
@pytest.mark.faults
def test_a_start_that_cannot_be_stored_is_tried_again(node_factory, bitcoind):
    """The operator died in a ceremony, and its disk is full when it comes back: the ceremony is taken up
    as soon as there is room."""
    options = on_a_disk(faulty("hold-got-stored", **PATIENCE, **{"factory-policy": "never", "may_fail": True}))
    lsp, (alice,) = start(node_factory, bitcoind, options, plugin_options())
    creating = node_factory.executor.submit(create, lsp, [alice], capacity_sat=200_000)
    lsp.daemon.wait_for_log("standing still at got-stored")
    lsp.daemon.kill()
    creating.exception(60)
    del lsp.daemon.opts["factory-fault"]
    lsp.daemon.env["DISK"] = "full"
    lsp.start()
    lsp.daemon.wait_for_log("trying again to store what happened: cannot store")
    # Everything but the engine works, and says how it is.
    (factory,) = factories(lsp)
    assert factory["state"] == "storing" and status(lsp)["ceremonies"] == []
    assert reserved(lsp) != []
    lsp.daemon.wait_for_log("trying again to store what happened: cannot store")
    disk(lsp, "free")
    connect_all(lsp, [alice])
    instance = factory["factory_instance"]
    wait_for_factory(lsp, instance, "funding")
    activate(bitcoind, factory_of(lsp, instance), lsp, [alice])
    assert factory_of(lsp, instance)["attempt"] == 2
    pay(lsp, alice, 20_000_000, "to alice")


def size(node):
    return os.path.getsize(f"{node.daemon.lightning_dir}/regtest/lightningd.sqlite3")


# S10, S14
def test_a_disk_that_is_really_full(node_factory, bitcoind):
    """No file of lightningd takes another byte: SQLite can't write its journal, and lightningd ends at the
    first transaction. Nothing is lost of what was said before, and nothing was said that isn't there."""
    options = lsp_options(**PATIENCE, may_fail=True, broken_log=".*")
    options["important-plugin"] = options.pop("plugin")
    options["start"] = False
    lsp, alice, bob = node_factory.get_nodes(3, opts=[options, plugin_options(), plugin_options()])
    # A write then fails, as on a full disk, instead of ending the process.
    lsp.daemon.cmd_prefix = ["env", "--ignore-signal=XFSZ"]
    lsp.start()
    meet(bitcoind, lsp, [alice, bob])
    factory = activate(bitcoind, create(lsp, [alice, bob], capacity_sat=200_000), lsp, [alice, bob])
    pay(lsp, alice, 20_000_000, "to alice")

    resource.prlimit(lsp.daemon.proc.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    creating = node_factory.executor.submit(create, lsp, [alice, bob], capacity_sat=200_000)
    assert lsp.daemon.wait() != 0
    # What it noted of plugins (conftest's drop_half_written) found no room either.
    lsp.daemon.was_killed = True
    assert creating.exception(60) is not None
    assert bitcoind.rpc.getrawmempool() == []

    # With room again everything is as it was.
    lsp.start()
    connect_all(lsp, [alice, bob])
    (known,) = factories(lsp)
    assert (known["factory_instance"], known["state"]) == (factory["factory_instance"], "active")
    assert reserved(lsp) == [] and factories(alice) == [factory_of(alice, known["factory_instance"])]
    wait_for(lambda: channel_in(factory, alice).get("reestablished"))
    pay(alice, lsp, 5_000_000, "from alice")
    second = activate(bitcoind, create(lsp, [alice, bob], capacity_sat=200_000), lsp, [alice, bob])
    assert second["factory_instance"] != factory["factory_instance"]
