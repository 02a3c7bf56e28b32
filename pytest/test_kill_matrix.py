"""`kill -9` of the plugin and of lightningd, on each side, at each step of a factory's life.

A node stands still at the step (`misbehave hold-<step>` of cln-factory-faults, or a line of a log, or
what is on chain), is killed there and started again, like every node. Afterwards the factory is usable
or nothing of it is left (S12), and not a satoshi is missing.

`pytest -m matrix` runs everything, and `--kill-matrix=FILE` writes the table; without it a slice runs.
"""

import contextlib
import itertools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

import harness
from conftest import StrictBitcoinD
from harness import factories, factory_of, mine, reserved, status, wait_for
from world import COINS, KILLS, RESERVED_BLOCKS, World, ended, gone, plugin_process, records_on_disk

# One world after the other: with pytest-xdist, in one process.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(300), pytest.mark.xdist_group("worlds")]

# Messages are `send-` (stored, not yet sent) and `got-` (arrived, not yet looked at), others are calls of
# lightningd and their outcomes; `:2` is the second client's.
CEREMONY = {
    "lsp": """create send-invite got-join got-join:2 prepare-funding funding-prepared send-expect_channel
        got-expecting start-channel channel-started channel-started:2 send-propose send-propose:2
        got-partial_signatures got-partial_signatures:2 send-ready send-ready:2 got-stored got-stored:2
        complete-channel complete-channel:2 funding_created channel-completed channel-completed:2
        send-channel_committed got-channel_checked got-channel_checked:2 send-funding
        send-funding_broadcast""".split(),
    "client": """got-invite new-payout payout-ready send-join got-expect_channel send-expecting open-channel
        got-propose send-partial_signatures got-ready send-stored funding_created got-channel_committed
        check-channel channel-checked send-channel_checked got-funding_broadcast""".split(),
}
# And after it.
CHAIN = ["in mempool", "confirmed"]
EXIT = ["exit", "broadcast", "exit in mempool", "close-channel"]
# Of a step that concerns two factories: a block with both fundings, or with both exits. Before it is looked at;
# the step is in the journal; it is, and the start that should fold it is killed halfway; one of two records is
# in its place; both are, and the journal is still there.
TWO = ["two fundings", "two exits"]
WRITTEN = ["block", "journal", "journal, folded", "folded", "folded:2"]
# What CI runs: one step of each kind, each side and each kill at least twice.
SLICE = {
    ("got-join:2", "lsp", "plugin"),
    ("complete-channel:2", "lsp", "lightningd"),
    ("send-funding", "lsp", "plugin"),
    ("send-partial_signatures", "client", "lightningd"),
    ("channel-checked", "client", "plugin"),
    ("broadcast", "client", "lightningd"),
    ("two fundings: journal, folded", "lsp", "plugin"),
    ("two exits: folded", "client", "lightningd"),
}
# A plugin that isn't important is not what we recommend: a step of each kind.
UNIMPORTANT = ["got-join", "send-ready", "complete-channel", "in mempool"]
# Where an operator that tries only once is killed (or its client is) before all have stored.
ONCE = ["got-join", "send-propose", "got-stored:2", "complete-channel:2"]
WORLD_LASTS = 8
# Where the operator dies before it could store which coins it had reserved: they come free by themselves
# after RESERVED_BLOCKS.
BEFORE_RESERVED_IS_STORED = ("funding-prepared", "send-expect_channel")
# The wallet is at it while channels are opened: whether it is done, and that is stored, is a matter of time.
MAYBE_BEFORE_RESERVED_IS_STORED = ("got-expecting", "start-channel", "channel-started", "channel-started:2")
# The same where a node dies between reserving the coins of an exit's child and noting it (src/cln/bump.rs).
CHILD_BLOCKS = 36


def cases():
    for side in ("lsp", "client"):
        for step, what in itertools.product(CEREMONY[side] + CHAIN + EXIT, ("plugin", "lightningd")):
            yield step, side, what, {}
        for step in UNIMPORTANT if side == "lsp" else ["send-join", "send-stored", "channel-checked", "in mempool"]:
            yield step, side, "plugin, not important", {}
        for kind, at, what in itertools.product(TWO, WRITTEN, ("plugin", "lightningd")):
            yield f"{kind}: {at}", side, what, {}
    for step, side in itertools.product(ONCE, ("lsp", "client")):
        # The client is killed while the operator stands still.
        yield step, side, "lightningd", {"factory-max-attempts": 1}


def parameters():
    for step, side, what, options in cases():
        marks = [pytest.mark.matrix]
        if (step, side, what) not in SLICE or options:
            marks.append(pytest.mark.bulk)
        once = " once" if options else ""
        yield pytest.param(step, side, what, options, marks=marks, id=f"{step} {side} {what}{once}")


class Worlds:
    """The world of the case at hand. Every few cases it is a new one: an old one has many channels."""

    def __init__(self, directory):
        self.directory = directory
        self.executor = ThreadPoolExecutor(max_workers=20)
        self.bitcoind = StrictBitcoinD(bitcoin_dir=os.path.join(directory, "bitcoind"))
        self.bitcoind.start()
        self.bitcoind.generate_block(101)
        self.count = itertools.count(1)
        self.world, self.options, self.left = None, None, 0
        self.failed = False

    def get(self, options):
        if self.left == 0 or self.options != options:
            self.end_world()
            directory = os.path.join(self.directory, f"world-{next(self.count)}")
            self.world, self.options, self.left = World(self.bitcoind, self.executor, directory, **options), options, WORLD_LASTS
        self.left -= 1
        return self.world

    def end_world(self):
        world, self.world, self.left = self.world, None, 0
        if world:
            world.stop()

    def end(self):
        self.end_world()
        self.bitcoind.stop()
        self.executor.shutdown(wait=False)
        if not self.failed:
            shutil.rmtree(self.directory)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    worlds = Worlds(str(tmp_path_factory.mktemp("matrix")))
    yield worlds
    worlds.end()


@pytest.fixture
def get_world(worlds, request):
    yield worlds.get
    report = getattr(request.node, "rep_call", None)
    if report is None or report.failed:
        worlds.failed = True
        # The next case is none the worse for it.
        worlds.end_world()


def stand_still(world, node, step, begin):
    """Begins, and waits until the node stands still at the step."""
    node.rpc.call("misbehave", [f"hold-{step}"])
    begun = begin()
    node.daemon.wait_for_log(f"fault: standing still at {step.split(':')[0]}")
    return begun


def reach(world, node, step):
    """Creates a factory until the step. Gives the command that is under way."""
    if step == "funding_created":
        log = world.clients[0].daemon
        log.logs_catchup()
        # Not one of a factory before.
        log.logsearch_start = len(log.logs)
        creating = world.create()
        log.wait_for_log("peer_in WIRE_FUNDING_CREATED")
        return creating
    if step not in CHAIN:
        return stand_still(world, node, step, world.create)
    creating = world.create()
    factory = creating.result(60)
    wait_for(lambda: factory["funding_txid"] in world.bitcoind.rpc.getrawmempool())
    if step == "confirmed":
        mine(world.bitcoind, 1, world.nodes)
        assert factory_of(node, factory["factory_instance"])["state"] == "funding"
    return creating


def settled(world):
    """What became of the creation, once it is decided: the operator's view, or True for nothing."""
    found = world.new_factory()
    under_way = [seen for node in world.nodes for seen in status(node)["ceremonies"]]
    if found is None or found["state"] == "aborted":
        return not under_way
    return found if found["state"] not in ("joining", "signing", "storing", "opening") else None


def killed_in_creation(world, step, side, what, once):
    node = world.node(side)
    # A client that is killed while the operator, which won't try again, stands still.
    creating = reach(world, world.lsp if once else node, step)
    KILLS[what](node)
    if once and side == "client":
        KILLS[what](world.lsp)
        world.lsp.start()
    world.start(node)
    wait_for(lambda: settled(world))
    told, factory = ended(creating), world.new_factory()
    if factory is None or factory["state"] == "aborted":
        assert told is None
        return come_to_nothing(world, factory)
    # Nobody is blamed for a kill, and nobody is missing (S4).
    if "left_out" in factory:
        return left_out(world, factory, node, step, what)
    assert len(factory["clients"]) == 2, factory
    factory = world.activate(factory)
    world.pay_around(factory)
    return "resumed" if factory["attempt"] == 1 else f"attempt {factory['attempt']}"


def left_out(world, factory, node, step, what):
    """A client whose plugin dies in the hook that would accept the channel: its lightningd, on its own for
    a moment, refuses the channel. The others go on without it."""
    assert step == "open-channel" and what != "lightningd", factory
    (out,) = factory["left_out"]
    assert out["id"] == node.info["id"] and "They sent ERROR" in out["reason"], factory
    others = [client for client in world.clients if client is not node]
    factory = harness.activate(world.bitcoind, factory, world.lsp, others)
    world.known.add(factory["factory_instance"])
    world.pay_around(factory, others)
    harness.wait_for_factory(node, factory["factory_instance"], "aborted")
    return "left out"


def come_to_nothing(world, factory):
    """No member waits for a factory that isn't."""
    instance = factory and factory["factory_instance"]
    world.known.add(instance)
    for client in world.clients:
        seen = [seen for seen in factories(client) if seen["factory_instance"] == instance]
        assert all(one["state"] == "aborted" for one in seen), seen
    return "aborted" if factory else "forgotten"


def killed_in_exit(world, step, side, what):
    node, factory = world.node(side), world.active()
    instance = factory["factory_instance"]
    path = node.rpc.call("factory-show", {"factory_instance": instance})["transactions"]
    assert len(path) == 1, path
    txid = path[0]["txid"]

    def leave():
        return world.executor.submit(node.rpc.call, "factory-exit", {"factory_instance": instance})

    def leave_and_confirm():
        leaving = leave()
        mine_blind(world, txid)
        return leaving

    if step == "exit in mempool":
        leaving = leave()
    else:
        leaving = stand_still(world, node, step, leave_and_confirm if step == "close-channel" else leave)
    if step == "exit in mempool":
        wait_for(lambda: txid in world.bitcoind.rpc.getrawmempool())
    KILLS[what](node)
    world.start(node)
    ended(leaving)
    if step == "exit":
        # It was killed before it stored that it leaves.
        world.pay_around(factory)
        return "forgotten"
    if step != "close-channel":
        mine(world.bitcoind, 1, world.nodes, wait_for_mempool=txid)
    close_after_exit(node, instance)
    return "resumed"


def close_after_exit(node, instance):
    """Until a node is out of a factory, and lightningd closes its channels there."""
    harness.wait_for_factory(node, instance, "exited")
    for place in factory_of(node, instance)["clients"]:
        wait_for(lambda: harness.channel_by_id(node, place["channel_id"])["state"] != "CHANNELD_NORMAL")


def killed_in_a_step_of_two(world, step, side, what):
    """One block brings both factories forward, and the node is killed while it writes that down."""
    kind, _, stops = step.partition(": ")
    first, *more = stops.split(", ")
    node = world.node(side)
    if kind == "two exits":
        two = [factory["factory_instance"] for factory in world.two_active()]
        txids = [leave(node, instance) for instance in two]
    else:
        created = [world.create().result(60) for _ in TWO]
        two = [factory["factory_instance"] for factory in created]
        world.known.update(two)
        txids = [factory["funding_txid"] for factory in created]
    wait_for(lambda: set(txids) <= set(world.bitcoind.rpc.getrawmempool()))
    before = harness.read_records(node)
    (block,) = stand_still(world, node, first, lambda: world.bitcoind.generate_block(1))
    height = world.bitcoind.rpc.getblock(block)["height"]
    KILLS[what](node)
    entries = written(node, before, two, first)
    for stop in more:
        kill_in_start(node, stop, what)
        assert written(node, before, two, stop) == entries
    world.start(node)
    # Both have it, once, and the journal is empty.
    now = harness.read_records(node)
    assert not any(key[1] == "journal" for key in now)
    again = set()
    for instance, txid in zip(two, txids):
        new = [now[key] for key in sorted(now) if key[:3] == place_of(instance) and key not in before]
        step_of_it, *more = new
        assert bytes.fromhex(txid)[::-1].hex() in step_of_it
        if entries is None:
            assert more == [], new
        else:
            # The block was not noted as handled: the start takes back what it doesn't know to be in the chain (S25),
            # in one step too, and the block comes again.
            assert [step_of_it] == [record for key, record in entries.items() if key[2] == instance]
            assert len(more) == 2, new
            reorganised, same = more
            assert same == step_of_it
            again.add(reorganised)
        for member in world.nodes:
            shown = member.rpc.call("factory-show", {"factory_instance": instance})
            assert confirmed_height(shown, kind) == height
            assert factory_of(member, instance)["state"] == ("funding" if kind == "two fundings" else "exited")
    assert len(again) == (1 if entries else 0)
    if kind == "two exits":
        for instance in two:
            close_after_exit(node, instance)
            if side == "client":
                world.pay_around(factory_of(world.lsp, instance), world.clients[1:])
    else:
        for factory in created:
            world.pay_around(world.activate(factory))
    return "resumed" if entries else "again"


def leave(node, instance):
    """Has a node leave a factory. Gives the transaction that brings it there."""
    leaf, *_sales = node.rpc.call("factory-exit", {"factory_instance": instance})["path"]
    return leaf["txid"]


def kill_in_start(node, stop, what):
    """Starts a node whose plugin stands still while it starts, and kills it there."""
    node.daemon.opts["factory-fault"] = f"hold-{stop}"
    node.daemon.start(wait_for_initialized=False)
    node.daemon.wait_for_log(f"fault: standing still at {stop}")
    del node.daemon.opts["factory-fault"]
    plugin = plugin_process(node)
    if what == "plugin":
        KILLS[what](node)
    else:
        node.daemon.kill()
        # It stands still before it has answered `init`, and doesn't see that lightningd is gone.
        plugin.kill()
    wait_for(lambda: gone(plugin))


def place_of(instance):
    return ("cln-factory", "factory", instance)


def written(node, before, two, stop):
    """The step as the journal of a killed node has it, key and record of each factory, or None if there is no
    journal. As much of it is in its place as the stop says."""
    now = records_on_disk(node)
    journal = [record for key, record in sorted(now.items()) if key[:2] == ("cln-factory", "journal")]
    new = {key: record for key, record in now.items() if key[1] == "factory" and key not in before}
    assert {key: now.get(key) for key in before if key[1] == "factory"} == {
        key: record for key, record in before.items() if key[1] == "factory"
    }
    if stop == "block":
        assert journal == [] and new == {}
        return None
    (part,) = journal
    entries = journalled(bytes.fromhex(part))
    assert sorted(instance for _, _, instance, _ in entries) == sorted(two)
    folded = {"journal": 0, "folded": 1, "folded:2": 2}[stop]
    assert new == dict(list(entries.items())[:folded])
    return entries


def journalled(part):
    """What a journal of one part holds, in its order (factory-runtime/src/store/journal.rs)."""
    assert part[:2] == b"\1\1", part
    entries, rest = {}, part[2:]
    while rest:
        instance, sequence, length = rest[:32].hex(), int.from_bytes(rest[32:36], "big"), int.from_bytes(rest[36:40], "big")
        entries[*place_of(instance), f"{sequence:08}"] = rest[40 : 40 + length].hex()
        rest = rest[40 + length :]
    return entries


def confirmed_height(shown, kind):
    """Where a factory's funding, or the way out of it, is in the chain."""
    if kind == "two fundings":
        return shown["funding_height"]
    (path,) = shown["transactions"]
    return path["confirmed_height"]


def mine_blind(world, txid):
    """A block with a transaction, while a plugin may stand still."""
    wait_for(lambda: txid in world.bitcoind.rpc.getrawmempool())
    world.bitcoind.generate_block(1)


def mine_until_complete(world, before):
    """Until commitments, sweeps and all are on chain, and nothing is missing."""
    for _ in range(20):
        if world.bitcoind.rpc.getrawmempool() == [] and world.missing(before) == 0:
            return
        mine(world.bitcoind, 1, world.nodes)
    assert world.missing(before) == 0


# S27
def wait_until_free(world):
    """Until no coin is kept back for a child that isn't needed any more."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: world.reserved() == [], timeout=5)
    if world.reserved():
        mine(world.bitcoind, CHILD_BLOCKS, world.nodes)
    assert world.reserved() == []


# S12, S14
@pytest.mark.parametrize("step, side, what, options", list(parameters()))
def test_kill(get_world, kill_matrix, step, side, what, options):
    world = get_world(options)
    node = world.node(side)
    world.load_as(node, "plugin" if "not important" in what else "important-plugin")
    of_two = step.startswith(tuple(TWO))
    leaves = step in EXIT or step.startswith("two exits")
    if leaves:
        (world.two_active if of_two else world.active)()
    before = world.money()
    if of_two:
        outcome = killed_in_a_step_of_two(world, step, side, what)
    elif leaves:
        outcome = killed_in_exit(world, step, side, what)
    else:
        outcome = killed_in_creation(world, step, side, what, bool(options))
    if leaves and outcome != "forgotten":
        mine_until_complete(world, before)
        wait_until_free(world)
    else:
        if side == "lsp" and step in BEFORE_RESERVED_IS_STORED:
            assert 0 < len(world.nothing_left()) <= len(COINS)
            mine(world.bitcoind, RESERVED_BLOCKS, world.nodes)
        if side == "lsp" and step in MAYBE_BEFORE_RESERVED_IS_STORED:
            wait_for(lambda: world.nothing_left() == reserved(world.lsp))
            if reserved(world.lsp):
                mine(world.bitcoind, RESERVED_BLOCKS, world.nodes)
        world.check_nothing_left()
        assert world.missing(before) == 0
    kill_matrix(step, side, what, options, outcome)
