"""Commands as a person meets them: lightning-cli, help, progress, positions and names."""

import shutil
import subprocess
import sys

import pytest
from pyln.client import RpcError

from harness import (
    cli,
    connect_all,
    create,
    find_plugin,
    important,
    lsp_options,
    mine,
    only_factory,
    plugin_options,
    status,
    wait_for,
    wait_for_state,
)
from promises import MANIFEST, Response, hold, load, notifications

LISTENER = '''#!{python}
"""Keeps what it hears of factories, for a test."""
from pyln.client import Plugin

plugin = Plugin()
heard = []


@plugin.subscribe("factory_state_changed")
def changed(factory_state_changed, **kwargs):
    heard.append(factory_state_changed)


@plugin.method("heard")
def tell(plugin):
    return {"heard": heard}


plugin.run()
'''


needs_cli = pytest.mark.skipif(shutil.which("lightning-cli") is None, reason="not on PATH: lightning-cli")


@pytest.mark.usefixtures("bitcoind")
def test_help_lists_every_option():
    node_help = subprocess.run(
        ["lightningd", "--network=regtest", f"--plugin={find_plugin()}", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    for option in load(MANIFEST)["options"]:
        assert f"--{option['name']}" in node_help


@needs_cli
def test_creation_draws_its_progress(node_factory, bitcoind, tmp_path):
    listener = tmp_path / "listener.py"
    listener.write_text(LISTENER.replace("{python}", sys.executable))
    listener.chmod(0o755)
    options = [lsp_options(plugin=[find_plugin(), str(listener)]), plugin_options(), plugin_options()]
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=options)
    lsp.fundwallet(10_000_000)
    connect_all(lsp, [alice, bob])
    mine(bitcoind, 1, nodes)
    made = cli(lsp, "factory-create", f'["{alice.info["id"]}", "{bob.info["id"]}"]', "500000")
    assert made.returncode == 0, made
    instance = only_factory(lsp)["factory_instance"]
    assert f"# factory {instance}" in made.stdout
    full = f"3/3 |{'=' * 60}|"
    for stage in range(1, 6):
        assert f"Stage {stage}/5 {full}" in made.stdout, made.stdout
    heard = lsp.rpc.call("heard")["heard"]
    for change in heard:
        hold(Response, notifications()["factory_state_changed"], change, "factory_state_changed")
        assert change["factory_instance"] == instance
    assert [change["new_state"] for change in heard] == ["joining", "signing", "storing", "opening", "funding"]
    assert "old_state" not in heard[0]


@needs_cli
def test_help_and_errors_on_the_command_line(node_factory):
    (node,) = node_factory.get_nodes(1, opts=[lsp_options()])
    for method in load(MANIFEST)["rpcmethods"]:
        # Not through lightning-cli, which would open a manual page.
        (entry,) = node.rpc.help(method["name"])["help"]
        assert entry["command"] == f"{method['name']} {method['usage']}"
    plan = cli(node, "-k", "factory-plan", "clients=4", "capacity_sat=100000sat", "feerate=1000perkw")
    assert plan.returncode == 0 and '"feerate_perkw": 1000' in plan.stdout, plan
    refused = cli(node, "factory-plan", "4", "100000", "0", "static", "fast")
    assert refused.returncode != 0 and "feerate" in refused.stdout, refused


def test_positions_names_and_forms_of_a_plan(node_factory):
    (node,) = node_factory.get_nodes(1, opts=[lsp_options()])
    someone = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    other = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"
    plain = node.rpc.call("factory-plan", [2, 100_000])
    assert node.rpc.call("factory-plan", {"clients": [someone, other], "capacity_sat": "0.001btc"}) == plain
    own = [{"id": someone, "capacity_sat": 50_000}, {"id": other, "capacity_sat": 150_000}]
    assert node.rpc.call("factory-plan", {"clients": own})["capacity_sat"] == 200_000
    assert node.rpc.call("factory-plan", [2, 100_000, None, None, "4000perkb"])["feerate_perkw"] == 1000
    stateful = node.rpc.call("factory-plan", {"clients": 8, "capacity_sat": 100_000, "profile": "stateful"})
    assert stateful["profile"] == "stateful"


def test_what_a_factory_shows_of_itself(node_factory, bitcoind):
    options = [important(lsp_options()), important(plugin_options())]
    lsp, alice = nodes = node_factory.get_nodes(2, opts=options)
    lsp.fundwallet(10_000_000)
    connect_all(lsp, [alice])
    mine(bitcoind, 1, nodes)
    dry = lsp.rpc.call("factory-create", {"clients": [alice.info["id"]], "capacity_sat": 500_000, "dry_run": True})
    assert dry["wallet_sat"] > dry["funding_sat"]
    factory = create(lsp, [alice])
    instance = factory["factory_instance"]
    assert status(lsp)["warnings"] == status(alice)["warnings"] == []
    mine(bitcoind, factory["funding_confirmations"], nodes, wait_for_mempool=factory["funding_txid"])
    for node in nodes:
        wait_for_state(node, "active")
        assert node.rpc.call("factory-list", [None, "active"])["factories"] == [only_factory(node)]
        assert node.rpc.call("factory-list", [instance, "dying"]) == {"factories": []}
        for form in ("json", "text", "svg"):
            node.rpc.call("factory-show", [instance, form])
        assert node.rpc.call("factory-verify", [instance])["valid"]
        before = node.rpc.call("factory-exit", {"factory_instance": instance, "dry_run": True})
        assert before["state"] == "active" and before["dry_run"]
        assert len(before["path"]) == before["exit"]["transactions"]
        assert sum(step["vbytes"] for step in before["path"]) == before["exit"]["vbytes"]
        assert only_factory(node)["state"] == "active"
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    mine(bitcoind, 1, nodes, wait_for_mempool=1)
    wait_for_state(alice, "exited")
    assert alice.rpc.call("factory-exit", [instance])["path"][0]["confirmed_height"] > 0
    mine(bitcoind, 1, nodes)
    (client,) = only_factory(alice)["clients"]
    assert client["state"] == "on_chain"
    (channel,) = alice.rpc.listpeerchannels()["channels"]
    assert client["channel_id"] == channel["channel_id"]
    assert client.get("short_channel_id") == channel.get("short_channel_id")


def test_an_invitation_waits_to_be_answered(node_factory, bitcoind):
    ask = important(plugin_options(**{"factory-policy": "ask"}))
    lsp, alice = nodes = node_factory.get_nodes(2, opts=[lsp_options(), ask])
    lsp.fundwallet(10_000_000)
    connect_all(lsp, [alice])
    mine(bitcoind, 1, nodes)
    creating = node_factory.executor.submit(create, lsp, [alice])
    wait_for(lambda: alice.rpc.call("factory-invitations")["invitations"])
    (invitation,) = alice.rpc.call("factory-invitations")["invitations"]
    assert invitation["lsp"] == lsp.info["id"]
    (warning,) = status(alice)["warnings"]
    assert warning["code"] == "invitation" and "factory-accept" in warning["action"]
    (ceremony,) = status(lsp)["ceremonies"]
    assert ceremony["stage"] == "invitations" and ceremony["waiting_for"] == [alice.info["id"]]
    # The default leaves a person time.
    assert 200 < ceremony["seconds_left"] <= 300
    # S32: every number that this node has bounds for, and how far it is from them.
    bounds = {bound["term"]: bound for bound in invitation["bounds"]}
    assert bounds["margin_blocks"]["value"] == invitation["margin_blocks"] == 12
    assert bounds["margin_blocks"]["options"] == ["factory-min-margin-blocks"]
    assert "stock_csv" not in bounds and bounds["feerate_perkw"]["value"] == invitation["feerate_perkw"]
    assert all(bound["fit"] in ("within", "near") for bound in bounds.values()), bounds
    read = [invitation["factory_instance"], invitation["terms_hash"]]
    accepted = alice.rpc.call("factory-accept", read)["factory"]
    assert accepted["role"] == "client"
    assert creating.result(60)["state"] == "funding"
    with pytest.raises(RpcError, match="no longer an invitation"):
        alice.rpc.call("factory-decline", [invitation["factory_instance"]])


def test_a_decline_is_told_with_its_reason(node_factory, bitcoind):
    ask = plugin_options(**{"factory-policy": "ask"})
    lsp, alice = nodes = node_factory.get_nodes(2, opts=[lsp_options(), ask])
    lsp.fundwallet(10_000_000)
    connect_all(lsp, [alice])
    mine(bitcoind, 1, nodes)
    creating = node_factory.executor.submit(create, lsp, [alice])
    wait_for(lambda: alice.rpc.call("factory-invitations")["invitations"])
    (invitation,) = alice.rpc.call("factory-invitations")["invitations"]
    alice.rpc.call("factory-decline", [invitation["factory_instance"], "too small"])
    with pytest.raises(RpcError, match="too small") as error:
        creating.result(60)
    assert error.value.error["code"] == 2504


def test_a_funding_that_does_not_confirm_is_warned_of(node_factory, bitcoind):
    options = [important(lsp_options()), important(plugin_options())]
    lsp, alice = nodes = node_factory.get_nodes(2, opts=options)
    lsp.fundwallet(10_000_000)
    connect_all(lsp, [alice])
    mine(bitcoind, 1, nodes)
    factory = create(lsp, [alice])
    address = bitcoind.rpc.getnewaddress()
    for _ in range(12):
        # Empty blocks: the funding stays in the mempool.
        bitcoind.rpc.generateblock(address, [])
    for node in nodes:
        wait_for(lambda: [warning["code"] for warning in status(node)["warnings"]] == ["funding_unconfirmed"])
        (warning,) = status(node)["warnings"]
        assert factory["funding_txid"] in warning["message"]
        assert warning["factory_instance"] == factory["factory_instance"]
    mine(bitcoind, 3, nodes, wait_for_mempool=factory["funding_txid"])
    for node in nodes:
        # From now on there is something to leave, and the client's wallet is empty.
        reserve = [] if node is lsp else ["reserve"]
        wait_for(lambda: [warning["code"] for warning in status(node)["warnings"]] == reserve)
