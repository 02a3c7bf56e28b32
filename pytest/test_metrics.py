"""Numbers for monitoring (factory-metrics-bind): what Prometheus would read, against what the commands say."""

import http.client
import re
import shutil
import socket
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pyln.client import RpcError
from pyln.testing.utils import reserve_unused_port

from harness import (
    FAST,
    ROOT,
    activate,
    connect_all,
    create,
    factories,
    fund,
    lsp_options,
    mine,
    plugin_options,
    status,
    wait_for,
    wait_for_synced,
)

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def ask(port, path="/metrics", method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-type"), answer.read().decode()
    finally:
        connection.close()


def serves(port):
    """Whether somebody answers there by now."""
    try:
        return ask(port)[0] == 200
    except ConnectionRefusedError:
        return False


class Page:
    """A page, as Prometheus reads it."""

    def __init__(self, port):
        code, content_type, self.text = ask(port)
        assert (code, content_type) == (200, OPENMETRICS), self.text
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name, **labels):
        return self.samples["cln_factory_" + name, frozenset(labels.items())]

    def get(self, name, **labels):
        return self.samples.get(("cln_factory_" + name, frozenset(labels.items())))


def agrees(node, port):
    """Whether the page says what the commands say. Both are of one moment only while nothing changes."""
    page, said, listed = Page(port), status(node), factories(node)
    for role in ("lsp", "client"):
        for state in {"active", "funding", "joining", "exiting", *(factory["state"] for factory in listed)}:
            count = sum(factory["state"] == state and factory["role"] == role for factory in listed)
            if page("factories", role=role, state=state) != count:
                return False
    reserve = said["reserve"]
    return (
        page("available") == 1
        and page("blocks_behind") == said["chain"]["behind"] == 0
        and page("handled_height") == said["blockheight"]
        and page("members_connected") == len([peer for peer in said["peers"] if peer["ready"]])
        and page("transactions_due") == len(said["publishing"])
        and page("copies_wanted") == said["backup"]["factories"]
        and page("copies_missing") == said["backup"]["factories"] - said["backup"]["copied"]
        and page("copies_single") == said["backup"]["copied"] - said["backup"]["copied_twice"]
        and page("reserve_exit_sat") == reserve["exit_sat"]
        and page("reserve_channels_sat") == reserve["channels_sat"]
        and page("reserve_wallet_sat") == reserve["wallet_sat"]
        and page("reserve_coins_at_once") == reserve["coins_at_once"]
        and page("reserve_coins_ready") == reserve["coins_ready"]
        and page("reserve_covered") == reserve["covered"]
    )


def test_numbers_are_those_of_the_commands(node_factory, bitcoind):
    ports = [reserve_unused_port() for _ in range(2)]
    bind = [{"factory-metrics-bind": f"127.0.0.1:{port}"} for port in ports]
    options = [lsp_options(**FAST, **bind[0]), plugin_options(**bind[1]), plugin_options()]
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=options)
    fund(bitcoind, lsp, 3_000_000)
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, nodes)
    for port in ports:
        wait_for(lambda: serves(port))
    # Before anything has happened every metric with fixed labels is there, at 0.
    page = Page(ports[0])
    assert page("refusals_total", what="htlc", kind="expiry_too_soon") == 0
    assert page("factories", role="lsp", state="active") == 0 and page("members") == 0
    assert page.get("nearest_deadline_blocks", kind="htlc") is None
    assert page("important") == 0
    writes = page("store_seconds_count")

    factory = create(lsp, [alice, bob])
    instance = factory["factory_instance"]
    wait_for(lambda: Page(ports[0])("factories", role="lsp", state="funding") == 1)
    factory = activate(bitcoind, factory, lsp, [alice, bob])
    for node, port in zip((lsp, alice), ports):
        wait_for(lambda: agrees(node, port))
    page, client = Page(ports[0]), Page(ports[1])
    assert page("members") == page("members_connected") == 2
    assert client("members") == client("members_connected") == 1
    assert client("factories", role="client", state="active") == 1
    assert page("store_seconds_count") > writes and page("store_failures_total") == 0
    assert page("block_seconds_count") >= 1 and page("tip_seconds_count") >= 1
    assert client("hook_seconds_count", hook="openchannel") == 1
    for state in ("joining", "signing", "storing", "funding"):
        assert page("creation_state_seconds_count", state=state) >= 1, state
    assert page("state_changes_total", state="active") == 1
    assert page("creation_age_seconds") == 0
    # The deadline that factory-list names.
    (listed,) = factories(lsp)
    height = status(lsp)["blockheight"]
    left = page("factory_deadline_blocks", factory_instance=instance)
    assert left == listed["deadline_block"] - height == page("nearest_deadline_blocks", kind="factory")
    # What is refused counts, by its kind.
    with pytest.raises(RpcError):
        lsp.rpc.call("factory-show", {"factory_instance": "ab" * 32})
    with pytest.raises(RpcError):
        lsp.rpc.call("close", {"id": alice.info["id"]})
    refused = lambda kind, what: Page(ports[0])("refusals_total", what=what, kind=kind)  # noqa: E731
    wait_for(lambda: refused("unknown_factory", "command") == 1)
    wait_for(lambda: refused("guarded_channel", "lightning_command") == 1)
    # One that goes, and an exit.
    bob.stop()
    wait_for(lambda: Page(ports[0])("members_connected") == 1)
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    wait_for(lambda: Page(ports[1])("transactions_due") >= 1)
    assert Page(ports[1])("factories", role="client", state="exiting") == 1
    mine(bitcoind, 1, [lsp, alice])
    wait_for(lambda: Page(ports[1])("transactions_due") == len(status(alice)["publishing"]))
    # Everything that the page has is in the docs, whatever has happened.
    text = (ROOT / "docs" / "operations.md").read_text()
    docs = set(re.findall(r"^\| `(cln_factory_[a-z_]+)` \|", text, re.MULTILINE))
    suffix = {"counter": "_total", "info": "_info"}
    for page in (Page(port) for port in ports):
        assert {family.name + suffix.get(family.type, "") for family in page.families.values()} <= docs


def test_nothing_else_is_served_and_nobody_waits_for_long(node_factory):
    port = reserve_unused_port()
    (node,) = node_factory.get_nodes(1, opts=[lsp_options(**{"factory-metrics-bind": f"127.0.0.1:{port}"})])
    wait_for(lambda: serves(port))
    assert ask(port, "/healthz")[::2] == (200, "ok\n")
    for path in ("/", "/metrics/..", "/status"):
        assert ask(port, path)[0] == 404, path
    for method in ("POST", "DELETE", "HEAD"):
        assert ask(port, method=method)[0] == 405, method
    # Of this machine, one address.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))
    # Whoever says nothing takes a place for some seconds, and no answer from the node.
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    assert status(node)["available"]
    for connection in silent:
        connection.close()
    assert ask(port)[0] == 200


def test_an_address_that_others_reach_has_to_be_meant(node_factory):
    port = reserve_unused_port()
    (node,) = node_factory.get_nodes(1, opts=[plugin_options(**{"factory-metrics-bind": f"0.0.0.0:{port}"})])
    said = rf"other machines reach 0\.0\.0\.0:{port}.*use 127\.0\.0\.1:{port}, or, .*public:0\.0\.0\.0:{port}"
    assert node.daemon.is_in_log(said)
    with pytest.raises(RpcError, match="Unknown command"):
        status(node)
    with pytest.raises(ConnectionRefusedError):
        ask(port)
    node.stop()
    node.daemon.opts["factory-metrics-bind"] = f"public:0.0.0.0:{port}"
    node.start()
    wait_for(lambda: serves(port))
    assert Page(port)("available") == 1


def test_a_port_in_use_leaves_the_node_guarded(node_factory, bitcoind):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = lsp_options(**FAST, **{"factory-metrics-bind": f"127.0.0.1:{port}"})
        options["broken_log"] = said = f"factory-metrics-bind: cannot listen on 127.0.0.1:{port}: .*choose another address"
        lsp, alice = nodes = node_factory.get_nodes(2, opts=[options, plugin_options()])
        wait_for(lambda: lsp.daemon.is_in_log(said))
        (warning,) = [warning for warning in status(lsp)["warnings"] if warning["code"] == "metrics"]
        assert str(port) in warning["message"]
        # A factory is made all the same.
        fund(bitcoind, lsp, 3_000_000)
        connect_all(lsp, [alice])
        wait_for_synced(bitcoind, nodes)
        activate(bitcoind, create(lsp, [alice]), lsp, [alice])
    # It is taken as soon as it is free.
    wait_for(lambda: serves(port))
    assert Page(port)("factories", role="lsp", state="active") == 1
    assert not [warning for warning in status(lsp)["warnings"] if warning["code"] == "metrics"]


@pytest.mark.parametrize("words", [["check", "rules", "docs/alerts.yml"], ["test", "rules", "pytest/alerts_test.yml"]])
def test_the_rules_for_alerts(words):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH (Debian's package prometheus has it)")
    done = subprocess.run([promtool, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
