"""What the plugin promises to lightningd, and that nobody else notices it."""

import json
import subprocess

import pytest
from pyln.client import RpcError
from pyln.testing.utils import wait_for

from harness import FEATURE_BIT, connect_all, find_plugin, lsp_options, plugin_options, status

COMMANDS = {
    "factory-plan",
    "factory-create",
    "factory-invitations",
    "factory-accept",
    "factory-decline",
    "factory-list",
    "factory-show",
    "factory-verify",
    "factory-exit",
    "factory-status",
}


@pytest.fixture
def manifest():
    plugin = find_plugin()
    if plugin is None:
        pytest.skip("no cln-factory binary: run `cargo build` first")
    request = {"jsonrpc": "2.0", "id": "1", "method": "getmanifest", "params": {"allow-deprecated-apis": False}}
    answer = subprocess.run(
        [plugin], input=json.dumps(request) + "\n\n", capture_output=True, text=True, timeout=30
    )
    return json.loads(answer.stdout.split("\n\n")[0])["result"]


def test_manifest(manifest):
    for where in ("init", "node"):
        assert int(manifest["featurebits"][where], 16) == 1 << FEATURE_BIT
    assert manifest["custommessages"] == [32800]
    assert {method["name"] for method in manifest["rpcmethods"]} == COMMANDS
    hooks = {hook["name"]: hook for hook in manifest["hooks"]}
    assert set(hooks) == {"openchannel", "custommsg", "htlc_accepted", "rpc_command"}
    assert hooks["custommsg"]["filters"] == [32800]
    assert {"block_added", "connect", "disconnect", "channel_state_changed", "shutdown"} <= set(
        manifest["subscriptions"]
    )
    assert manifest["notifications"] == [{"method": "factory_state_changed"}]
    assert not manifest["dynamic"]


def test_every_option_has_a_unit_or_a_choice(manifest):
    options = {option["name"]: option for option in manifest["options"]}
    assert "factory-policy" in options
    units = ("in blocks", "in seconds", "in millisatoshi", "satoshi per kiloweight")
    for name, option in options.items():
        assert name.startswith("factory-")
        if option["type"] == "int" and not name.startswith("factory-max-attempts"):
            text = option["description"]
            assert any(unit in text for unit in units) or "per-peer" in name, name


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
    for command in ("factory-accept", "factory-decline", "factory-exit", "factory-show", "factory-verify"):
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
