"""Every bad input to a command gets a clear error that names what is wrong, and changes nothing."""

import re

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    WIDE,
    activate,
    connect_all,
    create,
    factories,
    fund,
    lsp_options,
    only_factory,
    pay,
    plugin_options,
    reserved,
    state,
    wait_for,
    wait_for_synced,
)

BAD_CLIENT, WRONG_STATE, UNKNOWN, NOT_CREATED = 2502, 2501, 2500, 2504
CANNOT_AFFORD, INVALID = 301, -32602


def refused(node, command, params, code, *texts):
    """The command fails with this code, and its message has all of these texts."""
    with pytest.raises(RpcError) as error:
        node.rpc.call(command, params)
    assert error.value.error["code"] == code, error.value.error
    for text in texts:
        assert text in error.value.error["message"], error.value.error


def untouched(lsp):
    """Nothing is left of a command that was refused."""
    assert factories(lsp) == []
    assert lsp.rpc.listdatastore("cln-factory")["datastore"] == []
    assert reserved(lsp) == []
    assert lsp.rpc.listpeerchannels()["channels"] == []


def test_clients_and_amounts(node_factory, bitcoind):
    options = [
        lsp_options(**FAST),
        plugin_options(),
        plugin_options(**{"factory-policy": "never"}),
        {"may_reconnect": True},
        plugin_options(),
    ]
    lsp, good, unwilling, plain, offline = nodes = node_factory.get_nodes(5, opts=options)
    fund(bitcoind, lsp, 1_000_000)
    connect_all(lsp, [good, unwilling])
    plain.connect(lsp)
    wait_for_synced(bitcoind, [lsp, good, unwilling])
    ids = [node.info["id"] for node in nodes]
    me, good_id, unwilling_id, plain_id, offline_id = ids

    def create_refused(clients, code, *texts, **more):
        params = {"clients": clients, "capacity_sat": 100_000, **more}
        refused(lsp, "factory-create", params, code, *texts)
        untouched(lsp)

    create_refused([good_id, plain_id], BAD_CLIENT, plain_id, "has no factory plugin")
    create_refused([good_id, offline_id], BAD_CLIENT, f"{offline_id} is not connected")
    create_refused([good_id, good_id], BAD_CLIENT, f"{good_id} is named twice")
    create_refused([good_id, me], BAD_CLIENT, f"{me} is this node itself")
    # All of them at once.
    create_refused([plain_id, offline_id, me], BAD_CLIENT, plain_id, offline_id, me)
    create_refused([], INVALID, "at least one client")
    create_refused([good_id], INVALID, "100", capacity_sat=100)
    create_refused([{"id": good_id, "capacity_sat": 200}], INVALID, "200")
    create_refused([{"id": good_id, "capacity": 20_000}], INVALID, "capacity")
    create_refused([good_id], INVALID, "stock", stock_sat=10)
    create_refused([good_id], CANNOT_AFFORD, "the wallet has", "1000000", capacity_sat=999_990)
    create_refused([good_id], INVALID, "lifetime_blocks", lifetime_blocks=10, dying_blocks=10)
    create_refused([good_id], INVALID, "feerate", feerate="cheap")
    create_refused([good_id], INVALID, "profile", profile="round")
    # Nobody is left to make a factory with.
    refused(
        lsp, "factory-create", {"clients": [unwilling_id], "capacity_sat": 100_000}, NOT_CREATED,
        unwilling_id, "policy is never",
    )  # fmt: skip
    assert reserved(lsp) == [] and lsp.rpc.listpeerchannels()["channels"] == []
    assert factories(unwilling) == []
    # One who won't doesn't keep the other from it.
    factory = create(lsp, [unwilling, good], capacity_sat=100_000)
    assert [client["id"] for client in factory["clients"]] == [good_id]
    (left_out,) = factory["left_out"]
    assert left_out["id"] == unwilling_id and "policy is never" in left_out["reason"]


def test_terms_below_a_clients_bounds(node_factory, bitcoind):
    """S32: with the defaults of a client, and those of an operator whose settings are a thief's."""
    careful = plugin_options(**{name: None for name in WIDE})
    careful = {name: value for name, value in careful.items() if value is not None}
    options = [lsp_options(**{"factory-confirm-blocks": 1, "factory-margin-blocks": 144}), careful]
    lsp, alice = nodes = node_factory.get_nodes(2, opts=options)
    fund(bitcoind, lsp, 5_000_000)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, nodes)
    params = {"clients": [alice.info["id"]], "capacity_sat": 200_000}
    why = "confirm_blocks is 1: this node takes 4 to 65535 (min-confirm-blocks)"
    refused(lsp, "factory-create", params, NOT_CREATED, alice.info["id"], why)
    assert factories(alice) == [] and alice.daemon.is_in_log(re.escape(why))
    assert reserved(lsp) == [] and lsp.rpc.listpeerchannels()["channels"] == []


def test_an_exit_that_takes_too_long(node_factory):
    (node,) = node_factory.get_nodes(1, opts=[lsp_options(**{"factory-confirm-blocks": 700})])
    refused(node, "factory-plan", [8, 100_000, 0, "stateful"], INVALID, "the longest exit takes", "2016")
    refused(node, "factory-plan", [8, 100_000], INVALID, "dying period", "the longest exit, 1412 blocks")
    # One transaction over everybody still fits.
    assert node.rpc.call("factory-plan", [8, 100_000, 0, "flat"])["blocks_early"] <= 2016


def test_ask_accept_decline_and_wrong_states(node_factory, bitcoind):
    ask = {"factory-policy": "ask"}
    options = [lsp_options(**FAST, **{"factory-invite-timeout": 60}), plugin_options(**ask), plugin_options(**ask)]
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=options)
    fund(bitcoind, lsp, 5_000_000)
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, nodes)

    invitations = lambda node: node.rpc.call("factory-invitations")["invitations"]  # noqa: E731
    creating = node_factory.executor.submit(create, lsp, [alice, bob], capacity_sat=200_000)
    for client in (alice, bob):
        wait_for(lambda: len(invitations(client)) == 1)
    (invitation,) = invitations(alice)
    instance = invitation["factory_instance"]
    assert invitation["lsp"] == lsp.info["id"]
    assert (invitation["capacity_sat"], invitation["clients"], invitation["price_msat"]) == (200_000, 2, 0)
    assert state(alice) == "invited"

    # Not before it is accepted, and not by whoever invited.
    named = {"factory_instance": instance}
    refused(alice, "factory-exit", named, WRONG_STATE, instance, "invited")
    refused(alice, "factory-verify", named, WRONG_STATE, instance)
    read = {**named, "terms_hash": invitation["terms_hash"]}
    refused(lsp, "factory-accept", read, WRONG_STATE, "this node's own factory")
    refused(alice, "factory-accept", named, INVALID, "missing required parameter: terms_hash")
    refused(alice, "factory-accept", {**named, "terms_hash": "ab"}, INVALID, "terms_hash of 64 hex digits")
    refused(lsp, "factory-decline", named, WRONG_STATE, "this node's own factory")
    refused(lsp, "factory-exit", named, WRONG_STATE, "joining")
    unknown = {"factory_instance": "cd" * 32}
    refused(alice, "factory-accept", {**read, **unknown}, UNKNOWN, "cd" * 32)
    for command in ("factory-decline", "factory-exit", "factory-show", "factory-verify"):
        refused(alice, command, unknown, UNKNOWN, "cd" * 32)

    # S28: as much as is told to the operator, and with nothing in it that acts on its terminal.
    too_long = {**named, "reason": "x" * 70_000}
    refused(bob, "factory-decline", too_long, INVALID, "reason: 70000 characters", "0 to 200")
    bob.rpc.call("factory-decline", {**named, "reason": "not today \x1b[31m\u202e"})
    refused(bob, "factory-accept", read, WRONG_STATE, "declined")
    # S32: bob is left out; alice's invitation is renewed, and what she has read is not what she would accept.
    wait_for(lambda: only_factory(alice)["attempt"] == 2)
    (again,) = invitations(alice)
    assert again["clients"] == 1 and again["terms_hash"] != invitation["terms_hash"]
    refused(alice, "factory-accept", read, WRONG_STATE, again["terms_hash"], "read factory-invitations again")
    assert state(alice) == "invited"
    alice.rpc.call("factory-accept", {**named, "terms_hash": again["terms_hash"]})
    factory = creating.result(60)
    assert [client["id"] for client in factory["clients"]] == [alice.info["id"]]
    (left_out,) = factory["left_out"]
    assert left_out["id"] == bob.info["id"]
    assert "not today \\u{1b}[31m\\u{202e}" in left_out["reason"]
    assert not lsp.daemon.is_in_log("\x1b") and not lsp.daemon.is_in_log("\u202e")
    assert state(bob) == "declined" and bob.rpc.listpeerchannels()["channels"] == []
    refused(alice, "factory-accept", read, WRONG_STATE, "no longer an invitation")
    refused(alice, "factory-decline", named, WRONG_STATE, "no longer an invitation")
    assert invitations(alice) == []
    activate(bitcoind, factory, lsp, [alice])
    pay(lsp, alice, 20_000_000, "after asking")
