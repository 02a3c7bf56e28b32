"""Nothing that the plugin hands to lightningd in one piece is too large for it, and nothing holds up its main loop
for long: above some 4 MB in one value of its datastore lightningd dies, and dies again at each listing."""

import json
import subprocess
import threading
import time

import crowd
import pytest
from pyln.client import RpcError
from speed import Crowd

from harness import (
    ROOT,
    cli,
    connect_all,
    create_active,
    factories,
    find_plugin,
    fund,
    lsp_options,
    mine,
    only_factory,
    pay_many,
    plugin_options,
    read_records,
    reserved,
    script_of,
    status,
    transaction,
    wait_for,
    wait_for_synced,
)

# In hex, as it is handed over.
MOST = 256_000
# What lightningd takes for one custom message, its type included.
LARGEST_MESSAGE = 65_535
# The most clients that a factory may have.
MOST_CLIENTS = 4_096
PROTOCOL = "28b740c756a6f24a1f710fa230f60ba4862fc03f8d91442aae25dbe0572204ad"


def small_coins(bitcoind, node, number, sat):
    """Many coins that one payout has made: each one's parent transaction is large."""
    script = script_of(bitcoind, node.rpc.newaddr("bech32")["bech32"])
    bitcoind.generate_block(1, wait_for_mempool=pay_many(bitcoind, script, number, sat))
    wait_for(lambda: len(node.rpc.listfunds()["outputs"]) >= number)


def no_long_values(*nodes):
    for node in nodes:
        longest = max((len(value) for value in read_records(node).values()), default=0)
        assert longest <= MOST, longest


class Watch:
    """How long lightningd lets somebody wait who asks for next to nothing, again and again: `longest`, seconds."""

    def __init__(self, node):
        self.node, self.longest, self.over = node, 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def ask(self):
        while not self.over.is_set():
            begun = time.monotonic()
            self.node.rpc.getinfo()
            self.longest = max(self.longest, time.monotonic() - begun)


# S28
def test_an_operator_with_three_hundred_small_coins(node_factory, bitcoind, measured):
    # No request may take so long that lightningd finds it weird: such a line fails the test.
    lsp, *clients = node_factory.get_nodes(3, opts=[lsp_options(), plugin_options(), plugin_options()])
    small_coins(bitcoind, lsp, 300, 10_000)
    connect_all(lsp, clients)
    mine(bitcoind, 0, [lsp, *clients])
    with Watch(lsp) as watch:
        factory = create_active(bitcoind, lsp, clients, capacity_sat=1_000_000, ignore_reserve=True)
    measured(f"300 small coins: lightningd's main loop was held up for {watch.longest * 1e3:.0f} ms at most")
    funding = transaction(bitcoind, factory["funding_txid"])
    # Nearly all of them, and not all.
    assert 200 < len(funding["vin"]) < 280, len(funding["vin"])
    # lightningd neither chooses coins nor converts PSBTs for us: with so many parents that holds it up.
    assert not lsp.daemon.is_in_log("fundpsbt|setpsbtversion")
    no_long_values(lsp, *clients)
    lsp.restart()
    wait_for(lambda: factories(lsp)[0]["state"] == "active")


# S28
def test_small_coins_stay_where_a_large_one_will_do(node_factory, bitcoind):
    lsp, *clients = node_factory.get_nodes(3, opts=[lsp_options(), plugin_options(), plugin_options()])
    small_coins(bitcoind, lsp, 50, 10_000)
    fund(bitcoind, lsp, 900_000, 5_000_000, 3_000_000)
    connect_all(lsp, clients)
    mine(bitcoind, 0, [lsp, *clients])
    factory = create_active(bitcoind, lsp, clients, capacity_sat=1_000_000)
    funding = transaction(bitcoind, factory["funding_txid"])
    # The smallest that is enough, and change.
    (spent,) = funding["vin"]
    assert transaction(bitcoind, spent["txid"])["vout"][spent["vout"]]["sat"] == 3_000_000
    assert len(funding["vout"]) == 2
    assert len(lsp.rpc.listfunds()["outputs"]) == 50 + 3 and reserved(lsp) == []


# S28
def test_a_wallet_that_cannot_pay_says_so_and_reserves_nothing(node_factory, bitcoind):
    lsp, *clients = node_factory.get_nodes(2, opts=[lsp_options(), plugin_options()])
    # The fee of so many inputs is more than what they have beyond the factory.
    small_coins(bitcoind, lsp, 110, 10_000)
    connect_all(lsp, clients)
    mine(bitcoind, 0, [lsp, *clients])
    with pytest.raises(RpcError, match="the wallet lacks .* sat|would be left in the wallet"):
        create_active(bitcoind, lsp, clients, capacity_sat=1_090_000, ignore_reserve=True)
    assert reserved(lsp) == []


def write_records(node, factories, clients):
    """An operator's records, by the plugin's own code; gives the longest in bytes."""
    socket = f"{node.daemon.lightning_dir}/regtest/lightning-rpc"
    command = ["cargo", "bench", "--quiet", "--locked", "--profile", "dev", "--bench", "scale", "--"]
    command += [str(factories), str(clients), "write", socket]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


# S28
@pytest.mark.bulk
@pytest.mark.slow
def test_the_largest_factory(node_factory, bitcoind, measured):
    # The records say that it was funded at height 1000.
    bitcoind.generate_block(900)
    (lsp,) = node_factory.get_nodes(1, opts=[{"may_reconnect": True}])
    longest = write_records(lsp, 3, MOST_CLIENTS)
    assert longest > 2 * MOST, f"{longest} bytes: it is in several pieces"
    no_long_values(lsp)
    lsp.stop()
    # Everything of it, as an operator has it.
    lsp.daemon.opts.update({"plugin": find_plugin()})
    lsp.start()
    wait_for(lambda: status(lsp)["chain"]["behind"] == 0)
    with Watch(lsp) as watch:
        listed = cli(lsp, "--raw", "factory-list")
    listed.check_returncode()
    found = json.loads(listed.stdout)["factories"]
    assert [len(factory["clients"]) for factory in found] == [MOST_CLIENTS] * 3
    with Watch(lsp) as watching:
        shown = cli(lsp, "--raw", "factory-show", found[0]["factory_instance"])
    shown.check_returncode()
    outputs = [out for tx in json.loads(shown.stdout)["transactions"] for out in tx["outputs"]]
    assert sorted(out["client"] for out in outputs if out["type"] == "channel") == list(range(MOST_CLIENTS))
    measured(
        f"the longest record: {longest} bytes; factory-list of three such factories: {len(listed.stdout) / 1e6:.1f} MB, "
        f"main loop held up for {watch.longest * 1e3:.0f} ms; factory-show of one: {len(shown.stdout) / 1e6:.1f} MB, "
        f"{watching.longest * 1e3:.0f} ms"
    )
    # Nor does it live on by luck: it stops and starts as usual.
    lsp.restart()
    wait_for(lambda: len(status(lsp)["warnings"]) > 0)


# S28
@pytest.mark.slow
def test_a_crowd_that_joins(node_factory, bitcoind):
    count = 300
    silence = {"factory-ceremony-timeout": 5, "factory-max-attempts": 1, "factory-invite-timeout": 120}
    (lsp,) = node_factory.get_nodes(1, opts=[lsp_options(**silence)])
    fund(bitcoind, lsp, 100_000_000)
    wait_for_synced(bitcoind, [lsp])
    path = lsp.rpc.call("factory-plan", [count, 20_000])["exit"]["transactions"]
    with Crowd(lsp, count, 2 * path) as clients:
        params = {"clients": crowd.node_ids(count), "capacity_sat": 20_000, "ignore_reserve": True}
        creating = node_factory.executor.submit(lsp.rpc.call, "factory-create", params)
        clients.expect("joined")
        clients.expect("announced")
        no_long_values(lsp)
        assert len(only_factory(lsp)["clients"]) == count
        # Everybody falls silent: the answer names all of them.
        with pytest.raises(RpcError, match="was not created"):
            creating.result(120)
    lsp.daemon.logs_catchup()
    assert max(len(line) for line in lsp.daemon.logs) < MOST
    assert reserved(lsp) == []


def piggyback(size):
    """A factory message of so many bytes that carries an invitation, which makes no sense."""
    head = f"802000040020{PROTOCOL}fd0400"
    room = size - len(head) // 2 - 3
    return head + f"fd{room:04x}" + "0002" + "ff" * (room - 2)


# S28
def test_the_largest_message(node_factory, bitcoind):
    lsp, client = node_factory.get_nodes(2, opts=[lsp_options(), plugin_options()])
    fund(bitcoind, lsp, 3_000_000)
    connect_all(lsp, [client])
    wait_for_synced(bitcoind, [lsp, client])
    largest = piggyback(LARGEST_MESSAGE)
    assert len(largest) == 2 * LARGEST_MESSAGE
    for sender, receiver in ((client, lsp), (lsp, client)):
        sender.rpc.sendcustommsg(receiver.info["id"], largest)
        # It arrives whole, and the plugin says what is wrong with it.
        receiver.daemon.wait_for_log(f"{sender.info['id']}: ignored a message that doesn't decode")
    # One byte more, and the lightningd that is to send it dies: ours are fragments of half that.
    # Both are as well as before.
    if not client.rpc.listpeers(lsp.info["id"])["peers"]:
        connect_all(lsp, [client])
    create_active(bitcoind, lsp, [client], capacity_sat=1_000_000)


# S28
def test_a_long_line_is_cut(node_factory, bitcoind):
    (lsp,) = node_factory.get_nodes(1, opts=[lsp_options()])
    lsp.stop()
    lsp.start()
    lsp.rpc.datastore(["cln-factory", "child", "x" * 400_000], string="no child")
    lsp.restart()
    mine(bitcoind, 1, [lsp])
    wait_for(lambda: lsp.daemon.is_in_log("a stored child is not understood"))
    # At the start, and maybe at the block.
    lines = [line for line in lsp.daemon.logs if "a stored child is not understood" in line]
    assert all(line.endswith("bytes more)") and 16_000 < len(line) < 17_000 for line in lines), lines


# S28
def test_thousands_of_clients_that_nobody_knows(node_factory, bitcoind):
    (lsp,) = node_factory.get_nodes(1, opts=[lsp_options()])
    fund(bitcoind, lsp, 3_000_000)
    with pytest.raises(RpcError, match="is not connected"):
        lsp.rpc.call("factory-create", {"clients": crowd.node_ids(MOST_CLIENTS), "capacity_sat": 20_000})
    assert status(lsp)["ceremonies"] == []
