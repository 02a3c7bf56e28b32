"""How fast it is on real nodes, against lightningd itself in the same run:

    pytest -m speed pytest/test_speed.py

Times are compared, not judged by themselves, so that a slow machine does not matter.
"""

import json
import sqlite3
import statistics
import subprocess
import time

import crowd
import pytest
from harness import (
    ROOT,
    activate,
    channel_in,
    cli,
    connect_all,
    create,
    fund,
    mine,
    status,
    wait_for,
    wait_for_synced,
    without_developer,
)
from pyln.client import RpcError
from speed import (
    QUIET,
    Crowd,
    Payments,
    client_options,
    lsp_options,
    percentile,
    plain_opens,
    stages,
    stopwatch,
    summary,
    table,
    wait_for_normal,
)
from test_move import move, quiet, two_factories

pytestmark = [pytest.mark.speed, pytest.mark.slow]

CLIENTS = 16
CAPACITY_SAT = 100_000
ROUNDS = 5
# Seconds that a factory of 16 may take beyond 16 plain opens.
BEYOND = 10
# What a large factory is: its clients, and the transactions that each signs.
MANY = 1000
# A payment beside a ceremony may take so many times what it takes beside plain opens of as many channels.
SLOWER = 3
LATENCIES = ["payments", "number", "median", "95 of 100", "median, times quiet", "95 of 100, times quiet"]


def confirm(bitcoind, nodes):
    """Whatever is in the mempool, and everybody has seen it."""
    mine(bitcoind, 6, nodes, wait_for_mempool=1)


def test_a_factory_of_16_beside_16_plain_opens(node_factory, bitcoind, measured):
    options = [lsp_options(), *[client_options() for _ in range(CLIENTS)]]
    lsp, *clients = nodes = node_factory.get_nodes(CLIENTS + 1, opts=options)
    fund(bitcoind, lsp, *[10_000_000] * 3)
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, nodes)
    plain, factory, channels = [], [], 0
    for _ in range(ROUNDS):
        with stopwatch() as taken:
            plain_opens(lsp, clients, CAPACITY_SAT)
            channels += CLIENTS
            wait_for_normal(lsp, channels)
        plain += taken
        confirm(bitcoind, nodes)
        with stopwatch() as taken:
            create(lsp, clients, capacity_sat=CAPACITY_SAT)
            channels += CLIENTS
            wait_for_normal(lsp, channels)
        factory += taken
        confirm(bitcoind, nodes)
    rows = [
        [at, f"{opens:.2f} s", f"{made:.2f} s", f"{made - opens:.2f} s", f"{made / opens:.2f}"]
        for at, (opens, made) in enumerate(zip(plain, factory), 1)
    ]
    measured(table(["round", "16 plain opens", "factory of 16", "beyond", "times"], rows))
    rows = [[state, f"{statistics.median(spent):.2f} s"] for state, spent in stages(lsp).items()]
    measured(table(["state of the factory", "median"], rows))
    assert statistics.median(factory) - statistics.median(plain) < BEYOND


# S28
def test_payments_beside_ceremonies(node_factory, bitcoind, executor, measured):
    others = CLIENTS - 2
    patient = {"factory-invite-timeout": 300, "factory-ceremony-timeout": 300}
    options = [lsp_options(**patient), *[client_options() for _ in range(CLIENTS)]]
    lsp, payer, payee, *clients = nodes = node_factory.get_nodes(CLIENTS + 1, opts=options)
    fund(bitcoind, lsp, *[10_000_000] * 4)
    connect_all(lsp, [payer, payee, *clients])
    wait_for_synced(bitcoind, nodes)
    payments = payments_over_a_factory(bitcoind, nodes)
    quiet = payments.several(60)
    opens, ceremonies = [], []
    for _ in range(ROUNDS):
        going = executor.submit(plain_opens, lsp, clients, CAPACITY_SAT)
        opens += payments.beside(going)
        going.result()
        confirm(bitcoind, nodes)
        going = executor.submit(create, lsp, clients, capacity_sat=CAPACITY_SAT)
        ceremonies += payments.beside(going)
        going.result()
        confirm(bitcoind, nodes)
    rows = [
        summary("nothing else", quiet, quiet),
        summary(f"beside {others} plain opens", opens, quiet),
        summary(f"beside a ceremony of {others}", ceremonies, quiet),
    ]
    measured(table(LATENCIES, rows))
    assert statistics.median(ceremonies) < SLOWER * statistics.median(opens)
    assert percentile(ceremonies, 95) < SLOWER * percentile(opens, 95)


def payments_over_a_factory(bitcoind, nodes):
    """From the first client to the second, each with a channel of one factory."""
    lsp, payer, payee = nodes[:3]
    factory = create(lsp, [payer, payee], capacity_sat=1_000_000)
    mine(bitcoind, factory["funding_confirmations"], nodes, wait_for_mempool=factory["funding_txid"])
    activate(bitcoind, factory, lsp, [payer, payee])
    lsp.rpc.call("xpay", {"invstring": payer.rpc.invoice(300_000_000, "first", "first")["bolt11"]})
    wait_for(lambda: not channel_in(factory, payer)["htlcs"])
    payments = Payments(payer, lsp, payee)
    payments.several(10)
    return payments


# S28
def test_payments_beside_the_joins_of_a_thousand(node_factory, bitcoind, executor, measured):
    # The crowd falls silent once it has joined: the attempt is over after these seconds.
    silence = {"factory-ceremony-timeout": 3, "factory-max-attempts": 1, "factory-invite-timeout": 300}
    options = [lsp_options(**silence), client_options(), client_options()]
    lsp, payer, payee = nodes = node_factory.get_nodes(3, opts=options)
    fund(bitcoind, lsp, 100_000_000, 10_000_000)
    connect_all(lsp, [payer, payee])
    wait_for_synced(bitcoind, nodes)
    payments = payments_over_a_factory(bitcoind, nodes)
    path = lsp.rpc.call("factory-plan", [MANY, 20_000])["exit"]["transactions"]
    quiet, joins, seconds = payments.several(60), [], []
    # Each of a path's transactions, and as many distributions.
    with Crowd(lsp, MANY, 2 * path) as clients:
        connected = payments.several(60)
        for _ in range(ROUNDS):
            begun = time.monotonic()
            creating = executor.submit(create, lsp, members(MANY), capacity_sat=20_000, ignore_reserve=True)
            told = executor.submit(lambda: [clients.expect("joined"), clients.expect("announced")])
            joins += payments.beside(told)
            told.result()
            seconds.append(time.monotonic() - begun)
            with pytest.raises(RpcError, match="was not created"):
                creating.result()
    rows = [
        summary("nothing else", quiet, quiet),
        summary(f"{MANY} clients connected", connected, quiet),
        summary(f"beside the joins of {MANY}", joins, quiet),
    ]
    rows = table(LATENCIES, rows)
    measured(f"{rows}\n\nFrom factory-create to the last announced channel: {statistics.median(seconds):.1f} s")
    assert statistics.median(joins) < SLOWER * statistics.median(connected)


class Member:
    """As `create` wants it."""

    def __init__(self, node_id):
        self.info = {"id": node_id}


def members(count):
    return [Member(node_id) for node_id in crowd.node_ids(count)]


# Seconds that a balance may take from one factory's channel to another's, the command included.
MOVE = 1


# S37
def test_moves_between_two_factories(node_factory, bitcoind, measured):
    lsp, client, old, new = two_factories(node_factory, bitcoind, lsp=QUIET, client=QUIET)
    taken = []
    for at in range(2 * ROUNDS):
        # There and back: each time it is another channel whose fees the operator waives. The new one keeps a reserve.
        places, amount = ((old, new), 30_000_000) if at % 2 == 0 else ((new, old), 25_000_000)
        with stopwatch() as seconds:
            moved = move(client, *places, amount_msat=amount)
        assert (moved["state"], moved["moved_msat"]) == ("done", amount), moved
        taken += seconds
        quiet(lsp, client)
    row = [len(taken), f"{statistics.median(taken):.2f} s", f"{max(taken):.2f} s"]
    measured(table(["moves from one factory to another", "median", "longest"], [row]))
    assert max(taken) < MOVE


FACTORIES, MEMBERS = 1000, 64
# Seconds from the start of a node to a plugin that has caught up, beyond what a node with an empty store takes.
RESTART = 10


def stored_records(path):
    """The records of an operator of many factories, as benches/scale.rs makes them."""
    command = ["cargo", "bench", "--quiet", "--bench", "scale", "--", str(FACTORIES), str(MEMBERS), "dump", str(path)]
    subprocess.run(command, cwd=ROOT, check=True)
    for line in path.read_text().splitlines():
        instance, number, record = line.split()
        yield "\0".join(["cln-factory", "factory", instance, number]).encode(), bytes.fromhex(record), 0


def start(bitcoind, node):
    """Seconds from exec to a plugin that has looked at every block."""

    def caught_up():
        chain = status(node)["chain"]
        return (chain.get("tip"), chain["behind"]) == (height, 0)

    with stopwatch() as taken:
        node.start()
        height = bitcoind.rpc.getblockcount()
        wait_for(caught_up, timeout=300)
    return taken[0]


def test_restart_with_a_thousand_factories(node_factory, bitcoind, measured, tmp_path):
    # The records say that everything was funded at height 1000.
    bitcoind.generate_block(1_000)
    (lsp,) = node_factory.get_nodes(1, opts=[lsp_options()])
    lsp.stop()
    # A large answer takes three times as long where lightningd looks for leaks.
    without_developer(lsp)
    empty = start(bitcoind, lsp)
    lsp.stop()
    records = list(stored_records(tmp_path / "records"))
    database = sqlite3.connect(str(lsp.daemon.lightning_dir) + "/regtest/lightningd.sqlite3")
    with database:
        database.executemany("INSERT INTO datastore (key, data, generation) VALUES (?, ?, ?)", records)
    database.close()
    full = start(bitcoind, lsp)
    # By lightning-cli: pyln takes longer to read such an answer than all others to make it.
    with stopwatch() as listing:
        listed = cli(lsp, "--raw", "factory-list")
    listed.check_returncode()
    assert len(json.loads(listed.stdout)["factories"]) == FACTORIES
    lsp.stop()
    again = start(bitcoind, lsp)
    size = sum(len(record) for _, record, _ in records)
    rows = [
        ["empty store", f"{empty:.1f} s"],
        [f"{len(records)} records, {size / 1e6:.0f} MB, {bitcoind.rpc.getblockcount() - 1_000} blocks", f"{full:.1f} s"],
        ["the same again, no blocks", f"{again:.1f} s"],
        [f"factory-list, {FACTORIES} factories of {MEMBERS}", f"{listing[0]:.1f} s"],
    ]
    measured(table(["restart to ready", "time"], rows))
    assert again - empty < RESTART
