"""`kill -9` of the plugin and of lightningd, on each side, at each step of a renewal and of what is taken back after it
(S10, S14, S22, S37, S38). `pytest -m matrix` runs every case, without it a slice runs."""

import itertools

import pytest

from harness import (
    FAST,
    RESERVE_MSAT,
    activate,
    channel_of,
    connect_all,
    create,
    factories,
    factory_with,
    find_plugin,
    fund,
    important,
    lsp_options,
    mine,
    mine_until,
    pay_over,
    plugin_options,
    reserved,
    spender,
    state_of,
    status,
    to_us,
    wait_for,
    wait_for_synced,
)
from test_chain import statement
from test_generations import root_of
from test_move import BOOKKEEPING
from test_renewal import PUSH_MSAT, TERMS, next_factory
from world import KILLS, OF_A_KILL, RESERVED_BLOCKS, ended

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

RENEWAL = {
    "client": """send-move_ask got-move_ready send-move move-ended check-empty send-handover got-handover_stored
        mutual-close""".split(),
    "lsp": "got-move_ask set-fees fees-set send-move_ready got-handover send-handover_stored mutual-close".split(),
}
# Of the funding that takes the factory before the last one back.
RECLAIM = "prepare-funding funding-prepared send-funding".split()
# What CI runs.
SLICE = {("client", "send-handover", "lightningd"), ("lsp", "got-handover", "plugin"), ("lsp", "send-funding", "plugin")}
PURSE_MSAT = 30_000_000
ENDED = ("aborted", "declined")
BROKEN = f"{OF_A_KILL.pattern}|{BOOKKEEPING}"
DIES = {"plugin": find_plugin(faults=True), "may_fail": True, "allow_warning": True, "broken_log": BROKEN}


def cases():
    steps = [(side, step) for side, steps in RENEWAL.items() for step in steps] + [("lsp", step) for step in RECLAIM]
    for (side, step), kill in itertools.product(steps, ("plugin", "lightningd")):
        marks = [pytest.mark.matrix] + ([] if (side, step, kill) in SLICE else [pytest.mark.bulk])
        yield pytest.param(side, step, kill, marks=marks, id=f"{side} {step} {kill}")


def mine_until_still(bitcoind, executor, node, others, limit=12):
    """Mines block by block, until a node stands still."""

    def still():
        return node.daemon.is_in_log("fault: standing still")

    for _ in range(limit):
        mine(bitcoind, 1, others)
        height = bitcoind.rpc.getblockcount()
        seen = executor.submit(wait_for, lambda: status(node)["blockheight"] >= height)
        wait_for(lambda: still() or seen.done())
        if still():
            return
    # Its last step follows on no block.
    wait_for(still)


@pytest.mark.parametrize("side, step, kill", list(cases()))
def test_killed_in_a_renewal(node_factory, bitcoind, side, step, kill):
    operator = lsp_options(**{"factory-push-msat": PUSH_MSAT, "factory-reclaim-blocks": 10, **FAST, **DIES})
    options = [important(operator), *[important(plugin_options(**FAST, **DIES)) for _ in range(2)]]
    nodes, executor = node_factory.get_nodes(3, opts=options), node_factory.executor
    lsp, *clients = nodes
    fund(bitcoind, lsp, 4_000_000)
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, nodes)
    first = activate(bitcoind, create(lsp, clients, **TERMS), lsp, clients)
    victim = lsp if side == "lsp" else clients[0]
    others = [node for node in nodes if node is not victim]

    def revive():
        KILLS[kill](victim)
        victim.start()
        connect_all(lsp, clients)
        mine(bitcoind, 0, nodes)

    for client in clients:
        pay_over(lsp, client, channel_of(client, first), f"purse {client.info['id']}", PURSE_MSAT)
    totals = [status(client)["total_msat"] for client in clients]
    mine(bitcoind, first["timeout_block"] - TERMS["dying_blocks"] - bitcoind.rpc.getblockcount(), nodes)
    second = next_factory(bitcoind, lsp, clients)
    if step not in RECLAIM:
        victim.rpc.call("misbehave", [f"hold-{step}"])
        mine_until_still(bitcoind, executor, victim, others)
        revive()
    mine_until(bitcoind, nodes, lambda: all(state_of(client, first) == "left" for client in clients))
    for client, total in zip(clients, totals):
        assert to_us(client, channel_of(client, first)) == RESERVE_MSAT
        assert status(client)["total_msat"] == total == to_us(client, channel_of(client, second))
        sent = client.rpc.listsendpays()["payments"]
        assert [payment["status"] for payment in sent if payment["status"] != "failed"] == ["complete"]
        pay_over(client, lsp, channel_of(client, second), f"after {client.info['id']}")

    if step in RECLAIM:
        victim.rpc.call("misbehave", [f"hold-{step}"])
        creating = executor.submit(create, lsp, clients, **TERMS)
        victim.daemon.wait_for_log("fault: standing still")
        revive()
        ended(creating)
        known = [first["factory_instance"], second["factory_instance"]]
        made = [seen for seen in factories(lsp) if seen["factory_instance"] not in known]
        third = next((seen for seen in made if seen["state"] not in ENDED), None)
        if third is None:
            # It is forgotten, or given up: before it was stored which coins are reserved. They come free by themselves.
            mine_until(bitcoind, nodes, lambda: not reserved(lsp), RESERVED_BLOCKS + 1)
            third = create(lsp, clients, **TERMS)
        third = activate(bitcoind, third, lsp, clients)
    else:
        third = next_factory(bitcoind, lsp, clients)
    spent = spender(bitcoind, *root_of(first))
    assert spent["txid"] == third["funding_txid"]
    wait_for(lambda: state_of(lsp, first) in ("reclaimed", "closed"))
    for factory in (first, second, third):
        statement(bitcoind, lsp, factory["factory_instance"])


def kill_at_a_step(bitcoind, lsp, client, victim):
    """Kills a node that stands still, and starts it again."""
    victim.daemon.wait_for_log("fault: standing still")
    KILLS["lightningd"](victim)
    victim.start()
    connect_all(lsp, [client])
    mine(bitcoind, 0, [lsp, client])


# S10, S36: its operator's node has opened the channel, and the operator doesn't know; the client doesn't.
@pytest.mark.parametrize("side, step", [("lsp", "channel-funded"), ("client", "got-leave_opened")])
def test_killed_while_a_client_leaves(node_factory, bitcoind, side, step):
    """There is one channel, it is paid for once, and everything goes on by itself."""
    options = {"lsp": {"factory-leave-channels": None, **FAST}, "client": FAST}
    options[side] = {**options[side], **DIES}
    lsp, (client,), factory = factory_with(node_factory, bitcoind, 1, **options)
    old = channel_of(client, factory)
    pay_over(lsp, client, old, "purse", PURSE_MSAT)
    before = to_us(client, old)
    victim = lsp if side == "lsp" else client
    victim.rpc.call("misbehave", [f"hold-{step}"])
    params = {"factory_instance": factory["factory_instance"], "max_price_msat": PURSE_MSAT // 2}
    leaving = node_factory.executor.submit(client.rpc.call, "factory-leave", params)
    kill_at_a_step(bitcoind, lsp, client, victim)
    ended(leaving)
    mine_until(bitcoind, [lsp, client], lambda: state_of(client, factory) == "left")
    wait_for(lambda: [leave["stage"] for leave in status(client)["leaves"]] == ["done"])
    (left,) = status(client)["leaves"]
    price, new = left["price_msat"], left["channel_id"]
    assert price > 0
    assert to_us(client, old) == RESERVE_MSAT + price
    assert to_us(client, new) == status(client)["total_msat"] == before - RESERVE_MSAT - price
    for node, peer in ((lsp, client), (client, lsp)):
        listed = node.rpc.listpeerchannels(peer.info["id"])["channels"]
        assert {channel["channel_id"] for channel in listed} == {old, new}
    pay_over(lsp, client, new, "after")


# S10, S38
def test_killed_while_a_factory_is_taken_back_alone(node_factory, bitcoind):
    """By a transaction that nobody else has: it was to be sent, and isn't stored."""
    options = {"factory-reclaim-blocks": 65_535, **FAST, **DIES}
    lsp, (client,), factory = factory_with(node_factory, bitcoind, 1, lsp=options, client=FAST)
    instance, nodes = factory["factory_instance"], [lsp, client]
    # It has nothing there, and leaves at once.
    client.rpc.call("factory-leave", {"factory_instance": instance})
    wait_for(lambda: state_of(client, factory) == "left")
    lsp.rpc.call("misbehave", ["hold-broadcast"])
    mine_until_still(bitcoind, node_factory.executor, lsp, [client])
    assert bitcoind.rpc.getrawmempool() == []
    kill_at_a_step(bitcoind, lsp, client, lsp)
    mine_until(bitcoind, nodes, lambda: spender(bitcoind, *root_of(factory)) is not None)
    spent = spender(bitcoind, *root_of(factory))
    assert [len(vin["txinwitness"]) for vin in spent["vin"]] == [1], "by key path, and alone"
    wait_for(lambda: state_of(lsp, factory) in ("reclaimed", "closed"))
    totals = statement(bitcoind, lsp, instance)
    assert totals["reclaimed"] > 0 and set(totals) == {"reclaimed", "fee"}, totals
    wait_for(lambda: any(out["txid"] == spent["txid"] for out in lsp.rpc.listfunds()["outputs"]))
