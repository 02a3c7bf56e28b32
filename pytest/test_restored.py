"""Nodes that come back with an older copy of what they have stored (S9), and what their peers make of it."""

import contextlib
import pathlib
import shutil

import pytest
from pyln.client import RpcError

from harness import (
    connect_all,
    factory_of,
    factory_with,
    forget,
    mine_until,
    onchain_msat,
    pay,
    pay_over,
    read_records,
    spender,
    wait_for,
    wait_for_synced,
)
from test_jit import stop_and_see
from test_sales import NOT_SOLD, STOCK, buy, sales, wait_until_usable


@contextlib.contextmanager
def older_copy(node, reconnect):
    """What happens meanwhile the node has forgotten: its directory is as it was before."""
    directory = pathlib.Path(node.daemon.lightning_dir) / "regtest"
    older = directory.with_name("older")
    node.stop()
    shutil.copytree(directory, older, ignore=shutil.ignore_patterns("lightning-rpc"))
    node.start()
    reconnect()
    yield
    node.stop()
    shutil.rmtree(directory)
    older.rename(directory)
    node.start()


# S8, S9
def test_a_client_with_an_older_copy_signs_nothing_more_and_can_leave(node_factory, bitcoind):
    """Its operator knows of a sale that it has forgotten, and would sell that stock again with its signature."""
    dies = {"may_fail": True, "broken_log": "Lost connection|Plugin marked as important|Reading sync lightningd"}
    # With copies it would be told at once (test_keepers.py).
    dies["factory-no-peer-backup"] = None
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, client=dies, stock_sat=STOCK)
    alice, bob = clients
    instance = factory["factory_instance"]
    pay(lsp, bob, 100_000_000, "to bob")
    known = read_records(bob)
    buy(alice, factory, 200_000)
    wait_for(lambda: [one["state"] for one in sales(lsp, factory)] == ["usable"])
    # Its channel is as it was: of its database this alone would be older.
    bob.daemon.kill()
    forget(bob, known)
    bob.start()
    connect_all(lsp, clients)
    assert "exit_only" not in factory_of(bob, instance), "nothing has told it yet"
    for restarted in (False, True):
        if restarted:
            bob.restart()
            connect_all(lsp, clients)
        with pytest.raises(RpcError, match="another client takes no part"):
            buy(alice, factory, 100_000)
        wait_for(lambda: "exit_only" in factory_of(bob, instance))
        assert "restored from a backup" in factory_of(bob, instance)["exit_only"]
        assert len(sales(lsp, factory)) == 1 and sales(bob, factory) == []
    with pytest.raises(RpcError, match="exit-only"):
        buy(bob, factory, 100_000)
    # Payments go on, and so does the way out.
    pay(lsp, bob, 10_000_000, "goes on")
    assert bob.rpc.call("factory-verify", {"factory_instance": instance})["valid"]
    lsp.stop()
    bob.rpc.call("factory-exit", {"factory_instance": instance})
    mine_until(bitcoind, clients, lambda: onchain_msat(bob) > 108_000_000)


# S9, S19, S34
def test_an_operator_with_an_older_copy_takes_nothing_that_it_has_sold(node_factory, bitcoind):
    """Neither its plugin nor its lightningd knows of the channel that alice has bought, nor of what she was paid
    over it. She hears of that, and has all of it on chain before the operator could take the stock. Nor does bob
    lose anything, should his channel be older there, too."""
    # lightningd's own, of the node that has an old state.
    old_state = {"broken_log": "Cannot broadcast our commitment tx: they have a future one|Subd did not close"}
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, lsp=old_state, stock_sat=STOCK)
    alice, bob = clients
    nodes, instance = [lsp, *clients], factory["factory_instance"]
    for client in clients:
        pay(lsp, client, 50_000_000, "to " + client.info["id"])
    with older_copy(lsp, lambda: connect_all(lsp, clients)):
        bought = buy(alice, factory, 200_000)
        wait_until_usable(lsp, alice, bought["channel_id"])
        pay_over(lsp, alice, bought["channel_id"], "on the one that she has bought", 100_000_000)
    connect_all(lsp, clients)
    assert sales(lsp, factory) == [] and len(sales(alice, factory)) == 1
    with pytest.raises(RpcError):
        buy(bob, factory, 300_000)
    assert sales(bob, factory) == []
    wait_for(lambda: factory_of(alice, instance)["state"] in ("exiting", "exited"))
    (sold,) = sales(alice, factory)
    mine_until(bitcoind, nodes, lambda: onchain_msat(alice) > 145_000_000, limit=60)
    assert spender(bitcoind, sold["funding_txid"], sold["funding_outnum"]), "her bought channel came on chain"
    assert sales(alice, factory)[0]["state"] == "on_chain"
    bob.rpc.call("factory-exit", {"factory_instance": instance})
    mine_until(bitcoind, nodes, lambda: onchain_msat(bob) > 45_000_000)


# S9, S33
def test_an_operator_that_has_lost_a_step_signs_nothing_more(node_factory, bitcoind):
    """What it can't read is a step of several factories: which of them lack it can't be known."""
    broken = {"broken_log": "a step of several factories is lost"}
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, lsp=broken, stock_sat=STOCK)
    alice, bob = clients
    instance = factory["factory_instance"]
    lsp.rpc.datastore(key=["cln-factory", "journal", "0000"], hex="0101ff", mode="must-create")
    for number in range(2):
        lsp.restart()
        connect_all(lsp, clients)
        wait_for_synced(bitcoind, [lsp, *clients])
        assert "the journal can't be read" in factory_of(lsp, instance)["exit_only"]
        with pytest.raises(RpcError) as refused:
            buy(alice, factory, 100_000)
        assert refused.value.error["code"] == NOT_SOLD
        assert sales(lsp, factory) == [] == sales(alice, factory)
        pay(lsp, alice, 60_000_000, f"goes on {number}")
    kinds = {key[1] for key in read_records(lsp)}
    assert "damaged-journal" in kinds and "journal" not in kinds
    # Whoever wants to leaves, the operator too, and it knows where everything is.
    stop_and_see(lsp, bob)
    lsp.rpc.call("factory-exit", {"factory_instance": instance})
    mine_until(bitcoind, [lsp, alice], lambda: onchain_msat(alice) > 115_000_000)
    statement = lsp.rpc.call("factory-show", {"factory_instance": instance})["statement"]
    assert "broken" not in statement and statement["sum_sat"] == statement["funding_sat"], statement
