"""Nodes whose lightningd has its database in PostgreSQL (`wallet=postgres://…`), on a real server.

Without one on this machine (Debian's package `postgresql`) these are skipped, and say so.
"""

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    activate,
    channel_by_id,
    channel_of,
    connect_all,
    create,
    factories,
    factory_of,
    factory_with,
    faulty,
    fund,
    lsp_options,
    mine_until,
    onchain_msat,
    pay,
    plugin_options,
    reserved,
    status,
    wait_for,
    wait_for_factory,
    wait_for_synced,
)
from postgres import IN_URI, PASSWORD, Server, find_server
from test_sales import STOCK, buy, wait_until_usable
from world import CLOSED

# Here with their nodes on PostgreSQL: which HTLCs have failed is read there, and a seed is none of its business.
from test_htlcs import test_an_htlc_that_ends_after_it_was_listed  # noqa: F401
from test_incidents import test_seeds_that_are_locked_with_a_passphrase  # noqa: F401

PROGRAMS = find_server()
MISSING = "no PostgreSQL server: neither postgres and initdb on PATH, nor in /usr/lib/postgresql/*/bin"
pytestmark = pytest.mark.skipif(PROGRAMS is None, reason=MISSING)


@pytest.fixture
def db_provider(monkeypatch):
    # lightningd vacuums a new database otherwise, which takes longer than a test.
    monkeypatch.setenv("LIGHTNINGD_POSTGRES_NO_VACUUM", "1")
    server = Server(PROGRAMS)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def troubles(node):
    """What the node says of its database, where it can't be read."""
    return [warning for warning in status(node)["warnings"] if warning["code"] == "wallet_db"]


def said_by_plugin(node):
    node.daemon.logs_catchup()
    return [line for line in node.daemon.logs if "plugin-cln-factory" in line]


def check_secrets(nodes):
    """S7: no password in any line of a plugin's."""
    for node in nodes:
        lines = said_by_plugin(node)
        assert lines and not [line for line in lines if PASSWORD in line or IN_URI in line]


# S18, S19
def test_a_factory_from_creation_to_exit(node_factory, bitcoind, db_provider):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, stock_sat=STOCK)
    alice, bob = clients
    nodes = [lsp, alice, bob]
    for node in nodes:
        assert node.rpc.listconfigs("wallet")["configs"]["wallet"]["value_str"].startswith("postgres://")
        assert troubles(node) == []
    pay(lsp, alice, 100_000_000, "to alice")
    pay(alice, bob, 10_000_000, "alice to bob", dead_end=True)
    bought = buy(alice, factory, 100_000)["channel_id"]
    wait_until_usable(lsp, alice, bought)

    for node in nodes:
        node.restart()
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, nodes)
    for channel_id in (bought, channel_of(alice, factory), channel_of(bob, factory)):
        wait_for(lambda: channel_by_id(lsp, channel_id).get("reestablished"))
    pay(lsp, bob, 5_000_000, "after a restart")
    for node in nodes:
        assert node.rpc.call("factory-verify", {"factory_instance": factory["factory_instance"]})["valid"]
    # Each look is a connection of its own, and over.
    wait_for(lambda: db_provider.connections_of_plugins() == [])
    check_secrets(nodes)

    lsp.stop()
    alice.rpc.call("factory-exit", {"factory_instance": factory["factory_instance"]})
    mine_until(bitcoind, clients, lambda: onchain_msat(alice) > 85_000_000)


# S18
def test_a_client_that_cannot_read_its_database_refuses_and_says_what_to_do(node_factory, bitcoind, db_provider):
    """Its role may not open another connection, and then not read a column. Nothing of hers changes; the others go on, and so
    does she once it is mended."""
    options = [lsp_options(**FAST), plugin_options(), plugin_options()]
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=options)
    fund(bitcoind, lsp, 3_000_000, 3_000_000, 3_000_000)
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, nodes)
    role = alice.db.name

    def left_out(number, to_do):
        """A creation without alice, who has told her operator why, and no more than that."""
        factory = create(lsp, [alice, bob], capacity_sat=200_000)
        assert [client["id"] for client in factory["clients"]] == [bob.info["id"]]
        (refused,) = factory["left_out"]
        assert refused["id"] == alice.info["id"] and to_do in refused["reason"], refused
        for place in (PASSWORD, role, "127.0.0.1", str(db_provider.root)):
            assert place not in refused["reason"]
        wait_for(lambda: [seen["state"] for seen in factories(alice)] == ["aborted"] * number)
        assert [seen for seen in factories(alice) if to_do in seen["failure"]]
        wait_for(lambda: all(one["state"] in CLOSED for one in alice.rpc.listpeerchannels()["channels"]))
        assert onchain_msat(alice) == 0 and reserved(alice) == [] and status(alice)["ceremonies"] == []
        (warning,) = troubles(alice)
        assert to_do in warning["message"] and "docs/install.md" in warning["action"], warning
        return activate(bitcoind, factory, lsp, [bob])

    db_provider.query(f"ALTER ROLE {role} CONNECTION LIMIT 1")
    left_out(1, "raise the connection limit")
    # For whoever looks after it, by its name.
    assert [line for line in said_by_plugin(alice) if f'too many connections for role "{role}"' in line]
    db_provider.query(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    assert troubles(alice) == []

    db_provider.hide(role, "channels", "funding_pubkey_local")
    left_out(2, "GRANT SELECT ON channels, channel_htlcs")
    assert [line for line in said_by_plugin(alice) if "permission denied for table channels" in line]
    db_provider.show(role, "channels")
    assert troubles(alice) == []

    factory = activate(bitcoind, create(lsp, [alice], capacity_sat=200_000), lsp, [alice])
    pay(lsp, alice, 20_000_000, "to alice")
    assert factory_of(alice, factory["factory_instance"])["state"] == "active"
    check_secrets(nodes)


# S10, S12
@pytest.mark.faults
def test_the_server_goes_away_amid_a_creation(node_factory, bitcoind, db_provider):
    """lightningd can't do without its database and ends, and the plugin with it. What was stored is there again when the
    server is, and the creation ends with everybody in it."""
    db_provider.only = {2}
    slow = {**FAST, "factory-invite-timeout": 60, "factory-ceremony-timeout": 60, "factory-confirmations": 1}
    ends = plugin_options(may_fail=True, broken_log=".*")
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=[lsp_options(**slow), ends, faulty("drop-first-stored")])
    fund(bitcoind, lsp, 3_000_000, 3_000_000)
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, nodes)
    creating = node_factory.executor.submit(create, lsp, [alice, bob], capacity_sat=200_000)
    bob.daemon.wait_for_log("fault: stored of attempt 1 not sent")
    (seen,) = factories(lsp)
    instance = seen["factory_instance"]

    db_provider.halt()
    with pytest.raises((RpcError, ValueError, OSError)):
        alice.rpc.newaddr()
    assert alice.daemon.wait() != 0
    alice.daemon.was_killed = True
    db_provider.run()
    alice.start()
    connect_all(lsp, [alice, bob])
    wait_for_factory(lsp, instance, "funding")
    creating.result(60)
    factory = factory_of(lsp, instance)
    assert [client["id"] for client in factory["clients"]] == [alice.info["id"], bob.info["id"]]
    assert "left_out" not in factory, factory
    activate(bitcoind, factory, lsp, [alice, bob])
    pay(lsp, alice, 20_000_000, "to alice")
    pay(alice, bob, 5_000_000, "alice to bob", dead_end=True)
