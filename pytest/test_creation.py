"""Creation with four and eight clients, and payments in all directions, before and after a restart
of everybody."""

from pyln.testing.utils import sync_blockheight

from harness import (
    FAST,
    activate,
    channel_by_id,
    channel_in,
    connect_all,
    create,
    factory_of,
    fund,
    lsp_options,
    mine,
    onchain_msat,
    pay,
    pay_over,
    plugin_options,
    start_without_developer,
    wait_for,
    wait_for_factory,
    wait_for_state,
    wait_for_synced,
)


def make_nodes(node_factory, bitcoind, count):
    """An operator, `count` clients, and a stranger with a public channel to the operator."""
    options = [lsp_options(**FAST), *[plugin_options() for _ in range(count)], {"may_reconnect": True}]
    nodes = node_factory.get_nodes(count + 2, opts=options)
    lsp, clients, stranger = nodes[0], nodes[1:-1], nodes[-1]
    fund(bitcoind, lsp, 8_000_000, 8_000_000, 8_000_000)
    fund(bitcoind, stranger, 5_000_000)
    connect_all(lsp, clients)
    stranger.connect(lsp)
    stranger.rpc.fundchannel(lsp.info["id"], 4_000_000, push_msat=1_000_000_000)
    return lsp, clients, stranger


def ordinary_channel(lsp, client):
    """A channel that is none of the plugin's business."""
    return lsp.rpc.fundchannel(client.info["id"], 300_000, push_msat=100_000_000, announce=False)["channel_id"]


def restart_everybody(bitcoind, lsp, clients, stranger):
    for node in (*clients, lsp, stranger):
        node.restart()
    connect_all(lsp, clients)
    stranger.connect(lsp)
    wait_for_synced(bitcoind, [lsp, *clients])
    for node in (*clients, stranger):
        channels = lambda: node.rpc.listpeerchannels(lsp.info["id"])["channels"]  # noqa: E731
        normal = lambda: [c for c in channels() if c["state"] == "CHANNELD_NORMAL"]  # noqa: E731
        wait_for(lambda: normal() and all(channel.get("reestablished") for channel in normal()))


def test_four_clients_all_directions(node_factory, bitcoind):
    lsp, clients, stranger = make_nodes(node_factory, bitcoind, 4)
    ordinary = ordinary_channel(lsp, clients[0])
    bitcoind.generate_block(6, wait_for_mempool=2)
    sync_blockheight(bitcoind, [lsp, *clients, stranger])
    wait_for_synced(bitcoind, [lsp, *clients])
    wait_for(lambda: channel_by_id(clients[0], ordinary)["state"] == "CHANNELD_NORMAL")
    pay_over(lsp, clients[0], ordinary, "ordinary before")

    factory = create(lsp, clients, stock_sat=20_000)
    # S18: the factory's channels carry nothing yet; the ordinary one goes on.
    pay_over(lsp, clients[0], ordinary, "ordinary meanwhile")
    pay_over(clients[0], lsp, ordinary, "ordinary meanwhile, back")
    factory = activate(bitcoind, factory, lsp, clients)
    for node in clients:
        wait_for(lambda: len(node.rpc.listchannels()["channels"]) >= 2)

    def everywhere(tag):
        for at, client in enumerate(clients):
            following = clients[(at + 1) % len(clients)]
            pay(lsp, client, 20_000_000, f"lsp to {at} {tag}")
            pay(stranger, client, 30_000_000, f"stranger to {at} {tag}")
            pay(client, following, 5_000_000, f"{at} to its neighbour {tag}")
            pay(client, stranger, 4_000_000, f"{at} to stranger {tag}")
            pay(client, lsp, 3_000_000, f"{at} to lsp {tag}")

    everywhere("before")
    pay_over(clients[0], lsp, ordinary, "ordinary after")
    restart_everybody(bitcoind, lsp, clients, stranger)
    for node in (lsp, *clients):
        # The same factory on every node, down to its outpoint.
        seen = factory_of(node, factory["factory_instance"])
        assert (seen["state"], seen["funding_txid"]) == ("active", factory["funding_txid"])
    everywhere("after")
    pay_over(lsp, clients[0], ordinary, "ordinary after all restarted")


def test_eight_clients_two_levels_and_a_stateful_exit(node_factory, bitcoind):
    lsp, clients, stranger = make_nodes(node_factory, bitcoind, 8)
    bitcoind.generate_block(6, wait_for_mempool=1)
    sync_blockheight(bitcoind, [lsp, *clients, stranger])
    wait_for_synced(bitcoind, [lsp, *clients])

    factory = create(lsp, clients)
    shown = lsp.rpc.call("factory-show", {"factory_instance": factory["factory_instance"]})
    assert len(shown["transactions"]) == 3, "a root and two leaves of four"
    activate(bitcoind, factory, lsp, clients)
    for node in clients:
        wait_for(lambda: len(node.rpc.listchannels()["channels"]) >= 2)

    def everywhere(tag):
        for at, client in enumerate(clients):
            pay(stranger, client, 30_000_000, f"stranger to {at} {tag}")
        for at, client in enumerate(clients):
            # The last pays across the leaves.
            pay(client, clients[(at + 1) % len(clients)], 5_000_000, f"{at} to its neighbour {tag}")
        for at, client in enumerate(clients[::3]):
            pay(client, stranger, 4_000_000, f"{at} to stranger {tag}")
            pay(client, lsp, 3_000_000, f"{at} to lsp {tag}")
            pay(lsp, client, 2_000_000, f"lsp to {at} {tag}")

    everywhere("before")
    restart_everybody(bitcoind, lsp, clients, stranger)
    everywhere("after")

    # A second factory beside the first: stateful, five clients, one of whom leaves.
    members = clients[:5]
    second = create(lsp, members, profile="stateful", capacity_sat=400_000)
    activate(bitcoind, second, lsp, members)
    instance = second["factory_instance"]
    leaver, watcher = members[0], members[4]
    shown = leaver.rpc.call("factory-show", {"factory_instance": instance})
    waits = [tx["relative_locktime"] for tx in shown["transactions"] if "relative_locktime" in tx]
    assert waits == [144], shown
    kickoff, state, leaf = leaver_path(shown)

    nodes = [lsp, *clients]
    leaver.rpc.call("factory-exit", {"factory_instance": instance})
    mine(bitcoind, 1, nodes, wait_for_mempool=kickoff)
    # The exiting node is away while the timelock runs, and goes on by itself afterwards (S26).
    leaver.stop()
    others = [node for node in nodes if node is not leaver]
    mine(bitcoind, 142, others)
    leaver.start()
    wait_for_synced(bitcoind, nodes)
    # One block to go: consensus refuses it still, and nobody has tried.
    assert state not in bitcoind.rpc.getrawmempool()
    mine(bitcoind, 1, nodes)
    mine(bitcoind, 1, nodes, wait_for_mempool=state)
    mine(bitcoind, 1, nodes, wait_for_mempool=leaf)
    wait_for_factory(leaver, instance, "exited")
    wait_for(lambda: channel_in(second, leaver)["state"] in ("AWAITING_UNILATERAL", "CLOSINGD_COMPLETE", "ONCHAIN"))
    # Whoever stays keeps its channels, in this factory and in the other.
    wait_for(lambda: channel_in(second, watcher)["state"] == "CHANNELD_NORMAL")
    pay(stranger, watcher, 1_000_000, "after the exit")
    assert factory_of(watcher, instance)["state"] == "active"
    assert factory_of(leaver, factory["factory_instance"])["state"] == "active"


def leaver_path(shown):
    """Transaction ids of a client's path, the first to publish first."""
    by_kind = {tx["kind"]: tx["txid"] for tx in shown["transactions"] if "txid" in tx}
    assert set(by_kind) == {"kickoff", "state", "static"}, shown
    return by_kind["kickoff"], by_kind["state"], by_kind["static"]


def test_nodes_without_developer(node_factory, bitcoind):
    """Nothing may rest on what lightningd has only with --developer."""
    options = [lsp_options(**FAST, **{"factory-confirmations": 1}), plugin_options(), plugin_options()]
    nodes = node_factory.get_nodes(3, opts=[{"start": False, **option} for option in options])
    start_without_developer(nodes)
    lsp, alice, bob = nodes
    assert not any(word.startswith("--dev") for node in nodes for word in node.daemon.cmd_line)
    lsp.rpc.connect(alice.info["id"], "localhost", alice.port)
    lsp.rpc.connect(bob.info["id"], "localhost", bob.port)
    fund(bitcoind, lsp, 5_000_000)
    connect_all(lsp, [alice, bob])
    wait_for_synced(bitcoind, nodes)
    factory = create(lsp, [alice, bob])
    activate(bitcoind, factory, lsp, [alice, bob])
    pay(lsp, alice, 50_000_000, "to alice")
    pay(lsp, bob, 50_000_000, "to bob")
    pay(bob, lsp, 5_000_000, "from bob")
    alice.restart()
    alice.connect(lsp)
    wait_for(lambda: channel_in(factory, alice).get("reestablished"))
    # Its plugin reads the chain again first.
    wait_for_state(alice, "active")
    pay(alice, lsp, 5_000_000, "after a restart")
    assert onchain_msat(alice) == 0
