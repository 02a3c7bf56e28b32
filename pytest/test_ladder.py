"""A ladder on real nodes: factories follow on each other by themselves, over a restart of the operator; a pause stops
it between two steps; and whoever is due and away is woken by the operator's own program (S22, S37, S38)."""

import stat

import pytest
from harness import (
    FAST,
    RESERVE_MSAT,
    channel_in,
    connect_all,
    factories,
    factory_of,
    factory_with,
    mine,
    mine_until,
    pay_over,
    state_of,
    status,
    wait_for,
)
from pyln.client import RpcError
from test_renewal import heard, hearing

TERMS = {"capacity_sat": 300_000, "lifetime_blocks": 160, "dying_blocks": 60}
LADDER = {
    "command": "set",
    "rung_blocks": 15,
    "lifetime_blocks": 160,
    "dying_blocks": 60,
    "smallest": 1,
    "largest": 8,
    "enough_percent": 100,
    "wait_blocks": 5,
}


def ladder(node, **params):
    return node.rpc.call("factory-ladder", params)


def due_block(factory):
    return factory["timeout_block"] - TERMS["dying_blocks"]


def mine_to(bitcoind, height, nodes):
    """Block by block: a ladder looks at each."""
    while bitcoind.rpc.getblockcount() < height:
        mine(bitcoind, 1, nodes)


def rungs(node):
    """What the ladder has begun and what came to something, the oldest first."""
    made = [rung for rung in ladder(node)["factories"] if rung["state"] not in ("aborted", "declined")]
    return sorted(made, key=lambda rung: rung["timeout_block"])


def follow(bitcoind, lsp, clients, number):
    """Until the ladder's factory of this number is active, and everybody has left the one before."""
    nodes = [lsp, *clients]
    wait_for(lambda: len(rungs(lsp)) == number and rungs(lsp)[-1]["state"] == "funding")
    made = rungs(lsp)[-1]
    mine_until(bitcoind, nodes, lambda: all(state_of(client, made) == "active" for client in clients))
    return factory_of(lsp, made["factory_instance"])


def wake_program(directory):
    """A program that notes what it was called with, each argument on a line of its own."""
    program, notes = directory / "wake me.sh", directory / "notes"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$#" "$@" >> "{notes}"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program, notes


# S22, S37, S38
def test_ladder(node_factory, bitcoind, tmp_path):
    program, notes = wake_program(tmp_path)
    options = {"plugin": hearing(), "factory-reclaim-blocks": 10, "factory-wake-command": str(program), **FAST}
    lsp, clients, first = factory_with(node_factory, bitcoind, 2, lsp=options, client=FAST, **TERMS)
    nodes = [lsp, *clients]
    assert ladder(lsp)["state"] == "none"

    # What makes no sense is refused, and says what would do.
    with pytest.raises(RpcError, match="fewer than 4 rungs of 16.*at least 64, or rung_blocks at most 15"):
        ladder(lsp, **{**LADDER, "rung_blocks": 16})
    with pytest.raises(RpcError, match="no ladder is set"):
        ladder(lsp, command="pause")

    # A preview changes nothing.
    preview = ladder(lsp, **LADDER, dry_run=True)["preview"]
    assert preview["clients"] == 2
    assert [case["in_time_percent"] for case in preview["cases"]] == [100, 90, 70]
    assert preview["warnings"] == []
    at_first = preview["rungs"][0]
    assert (at_first["clients"], at_first["factories"]) == (2, 1)
    supposed = ladder(lsp, **LADDER, dry_run=True, clients=64, capacity_sat=100_000)["preview"]
    assert supposed["clients"] == 64
    assert ladder(lsp)["state"] == "none"

    assert ladder(lsp, **LADDER)["state"] == "running"
    paid = 30_000_000
    pay_over(lsp, clients[0], channel_in(first, clients[0])["channel_id"], "purse", paid)
    totals = [status(client)["total_msat"] for client in clients]

    # The first rung that opens when it is due: nobody says anything.
    mine_to(bitcoind, due_block(first) - 1, nodes)
    assert rungs(lsp) == []
    mine_to(bitcoind, due_block(first), nodes)
    second = follow(bitcoind, lsp, clients, 1)
    mine_until(bitcoind, nodes, lambda: all(state_of(client, first) == "left" for client in clients))
    # What was planned is what was made.
    assert second["funding_sat"] == at_first["funding_sat"]
    for client, total in zip(clients, totals):
        # What stayed behind is made up for.
        assert status(client)["total_msat"] == max(total, RESERVE_MSAT)

    # The operator is restarted in between; nothing is forgotten.
    lsp.restart()
    connect_all(lsp, clients)
    assert ladder(lsp)["state"] == "running"
    assert len(rungs(lsp)) == 1

    # Paused, nothing is begun, though everybody is here.
    assert ladder(lsp, command="pause")["state"] == "paused"
    mine_to(bitcoind, due_block(second) + 2, nodes)
    assert len(rungs(lsp)) == 1
    assert "resume" in ladder(lsp)["next_action"]
    wait_for(lambda: len(ladder(lsp)["due"]) == 2)

    # Resumed, with one of them away: it is woken, once a rung.
    away = clients[1]
    away.stop()
    wait_for(lambda: [due["connected"] for due in ladder(lsp)["due"]].count(False) == 1)
    assert not notes.exists() and heard(lsp, "factory_wake") == []
    assert ladder(lsp, command="resume")["state"] == "running"
    mine(bitcoind, 1, [lsp, clients[0]])
    wait_for(notes.exists)
    wait_for(lambda: len(notes.read_text().splitlines()) == 5)
    (woken,) = [due for due in ladder(lsp)["due"] if due["id"] == away.info["id"]]
    expected = ["4", second["factory_instance"], away.info["id"], str(woken["by_block"]), "renewal"]
    assert notes.read_text().splitlines() == expected
    assert woken["woken_block"] == bitcoind.rpc.getblockcount()
    # Whatever listens there hears the same.
    wait_for(lambda: heard(lsp, "factory_wake"))
    expected = {
        "factory_instance": second["factory_instance"],
        "id": away.info["id"],
        "by_block": woken["by_block"],
        "reason": "renewal",
    }
    assert heard(lsp, "factory_wake") == [expected]

    # It comes, in the same rung or the next: a second time around for everybody.
    away.start()
    connect_all(lsp, [away])
    mine_until(bitcoind, nodes, lambda: len(rungs(lsp)) >= 2)
    mine_until(bitcoind, nodes, lambda: all(state_of(client, second) == "left" for client in clients), limit=60)
    for client in clients:
        (newest,) = [each for each in factories(client) if each["state"] == "active"]
        pay_over(lsp, client, channel_in(newest, client)["channel_id"], f"after {client.info['id']}", 1_000_000)
    # Nothing of the first two was evicted.
    log = lsp.daemon.is_in_log("evicting")
    assert log is None, log
    assert ladder(lsp, command="stop")["state"] == "none"
