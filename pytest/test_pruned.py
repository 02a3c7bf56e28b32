"""A bitcoind that has pruned blocks which a node hasn't seen yet."""

import pathlib
import shutil

import pytest
from bitcoin.rpc import JSONRPCError
from pyln.client import RpcError
from pyln.testing.utils import TailableProc

from harness import (
    channel_in,
    factory_of,
    factory_with,
    mine,
    mine_until,
    onchain_msat,
    pay,
    pay_many,
    read_records,
    status,
    wait_for,
    wait_for_factory,
    wait_for_synced,
)
from test_fees import warnings
from test_storm import restart_with
from world import records_on_disk

PRUNING = ["-txindex=0", "-prune=1", "-fastprune"]
# How long lightningd's backend looks for a pruned block, seconds.
PATIENCE = 3
GIVES_UP = f"getblock [0-9a-f]* timed out after {PATIENCE} seconds"


def gives(bitcoind, height):
    try:
        return bool(bitcoind.rpc.getblock(bitcoind.rpc.getblockhash(height), False))
    except JSONRPCError:
        return False


def large_block(bitcoind):
    """A block of 60 kB, as much as a file has: blocks are pruned by whole files."""
    bitcoind.generate_block(1, wait_for_mempool=pay_many(bitcoind, "5120" + "02" * 32, 1_400, 1_000))


def stop(bitcoind):
    bitcoind.rpc.stop()
    TailableProc.stop(bitcoind)


def at_tip(bitcoind, node):
    """lightningd alone, whatever its plugin does."""
    wait_for(lambda: node.rpc.getinfo()["blockheight"] == bitcoind.rpc.getblockcount())


def without_plugin(node):
    """Restarts a node without the plugin; gives the options that it had."""
    names = [name for name in node.daemon.opts if name == "plugin" or name.startswith("factory-")]
    taken = {name: node.daemon.opts.pop(name) for name in names}
    node.restart()
    return taken


# S25, S33
def test_blocks_that_were_missed_are_pruned(node_factory, bitcoind):
    """For 300 blocks alice was off, and bob had the plugin switched off. Meanwhile the factory came on chain, and
    alice's channel was closed there. alice's lightningd doesn't start without those blocks, and nothing of hers
    changes. bob's runs: the plugin says which block it lacks, takes nothing on the factory's channel, and doesn't
    keep lightningd's backend looking for it. Once the blocks are there both are where they would have been."""
    options = {"bitcoin-retry-timeout": PATIENCE, "may_fail": True, "broken_log": "getrawblockbyheight|backtrace"}
    lsp, (alice, bob), factory = factory_with(node_factory, bitcoind, 2, client=options)
    instance = factory["factory_instance"]
    for client in (alice, bob):
        pay(lsp, client, 100_000_000, "to " + client.info["id"])
    channel = channel_in(factory, bob)
    alice.stop()
    of_alice = records_on_disk(alice)
    of_bob = {key: record for key, record in read_records(bob).items() if key[1] == "factory"}
    taken = without_plugin(bob)
    bob.connect(lsp)
    restart_with(bitcoind, *PRUNING)
    lsp.rpc.call("factory-evict", {"factory_instance": instance})
    mine(bitcoind, 1, [lsp], wait_for_mempool=1)
    missed = bitcoind.rpc.getblockcount()
    wait_for_factory(lsp, instance, "exited")
    lsp.rpc.close(alice.info["id"], 1)
    mine(bitcoind, 1, [lsp], wait_for_mempool=1)
    for _ in range(2):
        large_block(bitcoind)
    for _ in range(12):
        mine(bitcoind, 25, [lsp])
        at_tip(bitcoind, bob)

    chain = pathlib.Path(bitcoind.bitcoin_dir) / "regtest"
    whole = chain.with_name("whole")
    stop(bitcoind)
    shutil.copytree(chain, whole)
    bitcoind.start()
    height = bitcoind.rpc.getblockcount()
    bitcoind.rpc.pruneblockchain(missed + 1)
    assert not gives(bitcoind, missed) and not gives(bitcoind, missed + 1) and gives(bitcoind, height)

    # lightningd's own: its supervisor starts it again and again, and nothing comes of it.
    for _ in range(2):
        alice.daemon.start(wait_for_initialized=False, stderr_redir=True)
        assert alice.daemon.wait() != 0
        assert alice.daemon.is_in_stderr(GIVES_UP)
        assert records_on_disk(alice) == of_alice

    bob.stop()
    bob.daemon.opts.update(taken)
    bob.start()
    bob.connect(lsp)
    wait_for(lambda: "missing_block" in status(bob)["chain"])
    lacks = status(bob)["chain"]["missing_block"]
    assert lacks <= missed and not gives(bitcoind, lacks)
    (warning,) = warnings(bob, "block_missing")
    assert f"block {lacks}:" in warning["message"] and "getblockfrompeer" in warning["action"], warning
    invoice = bob.rpc.invoice(1_000_000, "blind", "blind")
    secret = lsp.rpc.decode(invoice["bolt11"])["payment_secret"]
    hop = {"id": bob.info["id"], "channel": channel["alias"]["remote"], "amount_msat": 1_000_000, "delay": 60}
    wait_for(lambda: channel_in(factory, bob).get("reestablished"))
    lsp.rpc.sendpay([hop], invoice["payment_hash"], payment_secret=secret)
    with pytest.raises(RpcError) as refused:
        lsp.rpc.waitsendpay(invoice["payment_hash"], 120)
    assert refused.value.error["data"]["failcodename"] == "WIRE_TEMPORARY_NODE_FAILURE"
    more = [bitcoind.generate_block(1)[0] for _ in range(5)]
    for node in (lsp, bob):
        at_tip(bitcoind, node)
    bob.daemon.logs_catchup()
    asked = [line for line in bob.daemon.logs if "asked all known peers" in line or "timed out after" in line]
    assert len(asked) < 2 * PATIENCE, asked
    assert read_records(bob).items() >= of_bob.items() and factory_of(bob, instance)["state"] == "active"

    more = [bitcoind.rpc.getblock(hash, False) for hash in more]
    stop(bitcoind)
    shutil.rmtree(chain)
    whole.rename(chain)
    bitcoind.cmd_line = [word for word in bitcoind.cmd_line if word not in PRUNING]
    bitcoind.start()
    for block in more:
        bitcoind.rpc.submitblock(block)
    wait_for_synced(bitcoind, [lsp, bob])
    wait_for_factory(bob, instance, "exited")
    assert warnings(bob, "block_missing") == []
    wait_for(lambda: channel_in(factory, bob).get("reestablished"))
    pay(lsp, bob, 1_000_000, "seeing")
    # As many blocks take their time.
    alice.start(wait_for_bitcoind_sync=False)
    wait_for(lambda: factory_of(alice, instance)["state"] == "exited", timeout=600)
    wait_for(lambda: alice.is_synced_with_bitcoin(), timeout=600)
    mine_until(bitcoind, [lsp, alice, bob], lambda: onchain_msat(alice) > 99_000_000)
