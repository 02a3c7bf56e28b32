"""The plugin in a real node: nobody else notices it, and it says clearly what it can't do."""

import time

import pytest
from pyln.client import RpcError

from harness import connect_all, find_plugin, lsp_options, plugin_options, status, wait_for


def test_a_peer_without_the_plugin_notices_nothing(node_factory):
    with_plugin, without = node_factory.get_nodes(2, opts=[plugin_options(), {}])
    with_plugin.connect(without)
    wait_for(lambda: status(with_plugin)["blockheight"] > 0)
    with_plugin.fundwallet(10**6)
    with_plugin.rpc.fundchannel(without.info["id"], 500_000)
    assert status(with_plugin)["peers"] == []
    assert not without.daemon.is_in_log("8020")
    with pytest.raises(RpcError, match="has no factory plugin") as error:
        with_plugin.rpc.call("factory-create", {"clients": [without.info["id"]], "capacity_sat": 50_000})
    assert error.value.error["code"] == 2502


def test_plugins_meet_and_meet_again(node_factory):
    lsp, client = node_factory.get_nodes(2, opts=[lsp_options(), plugin_options()])
    connect_all(lsp, [client])
    wait_for(lambda: status(client)["peers"] == [{"id": lsp.info["id"], "ready": True}])
    client.restart()
    connect_all(lsp, [client])


def test_bad_options_say_what_is_wrong(node_factory):
    (node,) = node_factory.get_nodes(1, opts=[plugin_options(**{"factory-policy": "maybe"})])
    assert node.daemon.is_in_log("expected never, ask or auto, got 'maybe'")
    with pytest.raises(RpcError, match="Unknown command"):
        status(node)


def test_an_important_plugin_that_cannot_start_stops_the_node(node_factory):
    options = plugin_options(**{"important-plugin": find_plugin(), "factory-confirmations": 0})
    for name in ("plugin", "may_reconnect"):
        del options[name]
    # lightningd's own plugins complain as well when it goes.
    expected = "Plugin marked as important|Reading sync lightningd|Lost connection to the RPC socket"
    node = node_factory.get_node(options=options, start=False, may_fail=True, broken_log=expected)
    node.daemon.start(wait_for_initialized=False)
    assert node.daemon.wait(60) != 0
    assert node.daemon.is_in_log("factory-confirmations: 0 is out of range, it may be 1 to 65535")


def test_bad_parameters_change_nothing(node_factory):
    lsp, client = node_factory.get_nodes(2, opts=[lsp_options(), plugin_options()])
    connect_all(lsp, [client])
    me, peer = lsp.info["id"], client.info["id"]
    nobody = "02" + "11" * 32
    instance = "ab" * 32

    def refused(command, params, code, text):
        with pytest.raises(RpcError) as error:
            lsp.rpc.call(command, params)
        assert error.value.error["code"] == code, error.value.error
        assert text in error.value.error["message"], error.value.error

    refused("factory-create", {}, -32602, "missing required parameter: clients")
    refused("factory-create", {"clients": [], "capacity_sat": 50_000}, -32602, "at least one client")
    refused("factory-create", {"clients": [peer]}, -32602, "capacity_sat")
    refused("factory-create", {"clients": ["02ab"], "capacity_sat": 50_000}, -32602, "node id")
    refused("factory-create", {"clients": [peer], "capacity_sat": "lots"}, -32602, "'lots'")
    refused("factory-create", {"clients": [peer], "capacity_sat": 100}, -32602, "100")
    refused("factory-create", {"clients": [peer, peer], "capacity_sat": 50_000}, 2502, "named twice")
    refused("factory-create", {"clients": [me], "capacity_sat": 50_000}, 2502, "this node itself")
    refused("factory-create", {"clients": [nobody], "capacity_sat": 50_000}, 2502, f"{nobody} is not connected")
    refused("factory-create", {"clients": [peer], "capacity_sat": 50_000}, 301, "the wallet has 0 sat")
    refused("factory-create", {"clients": [peer], "capacity_sat": 50_000, "shape": 1}, -32602, "shape")
    accept = {"factory_instance": instance, "terms_hash": "ef" * 32}
    refused("factory-accept", accept, 2500, instance)
    refused("factory-accept", {"factory_instance": instance}, -32602, "missing required parameter: terms_hash")
    for command in ("factory-decline", "factory-exit", "factory-show", "factory-verify"):
        refused(command, {"factory_instance": instance}, 2500, instance)
        refused(command, {"factory_instance": "ab"}, -32602, "64 hex digits")
    refused("factory-list", {"state": "happy"}, -32602, "happy")
    refused("factory-plan", [0, 50_000], -32602, "at least one client")
    refused("factory-plan", [4, 50_000, 0, "round"], -32602, "round")
    assert lsp.rpc.call("factory-list") == {"factories": []}


def test_plan(node_factory):
    (node,) = node_factory.get_nodes(1, opts=[lsp_options()])
    plan = node.rpc.call("factory-plan", [8, 100_000])
    assert plan["clients"] == 8
    assert plan["capacity_sat"] == 800_000
    parts = ("capacity_sat", "stock_sat", "anchors_sat", "fee_sat")
    assert plan["funding_sat"] == sum(plan[part] for part in parts)
    assert plan["exit"]["transactions"] <= plan["transactions"]
    assert plan["blocks_early"] >= plan["exit"]["blocks"]
    # What else there is: the chosen shape is one of them, and no other is better than it.
    for clients, stock in ((8, 0), (8, 50_000), (127, 50_000), (4_096, 50_000)):
        started = time.monotonic()
        plan = node.rpc.call("factory-plan", [clients, 100_000, stock])
        assert time.monotonic() - started < 10
        alternatives = plan["alternatives"]
        (own,) = [shape for shape in alternatives if shape["default"]]
        assert own["shape"] == plan["shape"] and own["exit"]["vbytes"] >= plan["exit"]["vbytes"]
        assert 1 < len(alternatives) <= 48
        for other in alternatives:
            assert ("sale_members" in other) == (stock > 0)
            assert other == own or worse_somewhere(other, own)
    with pytest.raises(RpcError, match="100000 clients: a factory has 1 to 4096, split them into several"):
        node.rpc.call("factory-plan", [100_000, 50_000])


def worse_somewhere(other, than):
    numbers = lambda shape: (  # noqa: E731
        shape["exit"]["vbytes"], shape.get("sale_members", 0), shape["partial_signatures"],
    )  # fmt: skip
    return any(ours > theirs for ours, theirs in zip(numbers(other), numbers(than)))
