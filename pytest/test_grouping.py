"""Clients that are online at the same times share a sub-factory."""

from harness import connect_all, create, fund, lsp_options, plugin_options, wait_for_synced

HOURS = 168
ALWAYS, NEVER = 200, 0


def habits(clients):
    """What an operator's node has noted when every other client is there by day, and the others by night."""
    day = bytes(ALWAYS if hour % 24 < 12 else NEVER for hour in range(HOURS))
    night = bytes(NEVER if hour % 24 < 12 else ALWAYS for hour in range(HOURS))
    entries = (
        bytes.fromhex(client.info["id"]) + (night if number % 2 else day) for number, client in enumerate(clients)
    )
    # Next week's hours are still to come.
    return bytes(8) + b"".join(sorted(entries))


def test_who_is_online_at_the_same_times_goes_together(node_factory, bitcoind):
    lsp, *clients = node_factory.get_nodes(5, opts=[lsp_options(), *[plugin_options() for _ in range(4)]])
    ids = [client.info["id"] for client in clients]
    fund(bitcoind, lsp, 9_000_000)
    plan = {"clients": ids, "capacity_sat": 500_000, "stock_sat": 100_000}
    # Nothing was noted yet.
    assert "sale_online_percent" not in lsp.rpc.call("factory-plan", plan)
    lsp.rpc.datastore(key=["cln-factory", "habits", "0000"], hex=habits(clients).hex())
    lsp.restart()
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, [lsp, *clients])
    assert lsp.rpc.call("factory-plan", plan)["sale_online_percent"] == 100
    assert lsp.rpc.call("factory-plan", {**plan, "group": False})["sale_online_percent"] == 0
    assert lsp.rpc.call("factory-create", {**plan, "dry_run": True})["sale_online_percent"] == 100
    factory = create(lsp, clients, stock_sat=100_000)
    order = [ids.index(client["id"]) for client in factory["clients"]]
    assert order == [0, 2, 1, 3]
