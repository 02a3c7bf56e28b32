"""bitcoind is away for a while: in a ceremony, while payments run, and in an exit.

A minute of it is no other than a few seconds: lightningd asks every second (here; every 30 s otherwise),
the plugin at every block. Neither gives up.
"""

from pyln.testing.utils import TailableProc

from harness import (
    FAST,
    activate,
    channel_in,
    connect_all,
    create,
    factory_of,
    fund,
    lsp_options,
    mine,
    mine_until,
    onchain_msat,
    pay,
    plugin_options,
    reserved,
    wait_for,
    wait_for_factory,
    wait_for_synced,
)


def go_away(bitcoind, nodes):
    """bitcoind ends, and lightningd of each node has asked it in vain a few times."""
    bitcoind.rpc.stop()
    TailableProc.stop(bitcoind)
    for node in nodes:
        proxy = node.daemon.rpcproxy
        # Only to count.
        proxy.mock_rpc("getblockhash", lambda request: None)
        wait_for(lambda: proxy.mock_counts["getblockhash"] > 3)


def come_back(bitcoind, nodes, blocks, wait_for_mempool=0):
    """bitcoind is there again, and blocks are found in a row."""
    bitcoind.start()
    mine(bitcoind, blocks, nodes, wait_for_mempool=wait_for_mempool)


# S25, S26
def test_bitcoind_goes_away_and_comes_back(node_factory, bitcoind):
    options = [lsp_options(**FAST, **{"factory-confirmations": 2}), plugin_options(), plugin_options()]
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=options)
    clients = [alice, bob]
    fund(bitcoind, lsp, 3_000_000, 3_000_000)
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, nodes)

    # In a ceremony: all but its last step is done without the chain.
    go_away(bitcoind, nodes)
    factory = create(lsp, clients, capacity_sat=200_000)
    instance = factory["factory_instance"]
    lsp.daemon.wait_for_log(f"{instance}: sending the funding: sendpsbt: Error broadcasting")
    for node in nodes:
        wait_for_factory(node, instance, "funding")
    # The coins are still kept for it: nothing else spends them meanwhile.
    kept = {(output["txid"], output["output"]) for output in reserved(lsp)}
    assert kept
    bitcoind.start()
    # It is sent again once bitcoind answers: no block has to come for that.
    wait_for(lambda: factory["funding_txid"] in bitcoind.rpc.getrawmempool())
    funding = bitcoind.rpc.getrawtransaction(factory["funding_txid"], True)
    assert {(spent["txid"], spent["vout"]) for spent in funding["vin"]} == kept
    factory = activate(bitcoind, factory, lsp, clients)
    assert factory["attempt"] == 1

    # While payments run: they need no chain, nor does a restart of one of the nodes that has it back in
    # time.
    go_away(bitcoind, nodes)
    for number in range(3):
        pay(lsp, alice, 20_000_000, f"to alice {number}")
        pay(alice, bob, 5_000_000, f"to bob {number}", dead_end=True)
    bob.stop()
    bob.daemon.start(wait_for_initialized=False)
    come_back(bitcoind, [lsp, alice], blocks=20)
    bob.daemon.wait_for_log("Server started with public key")
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, nodes)
    for node in nodes:
        # S25: nobody took the silence for a reorganisation.
        assert not node.daemon.is_in_log("no longer part of the chain|Reorg")
        assert factory_of(node, instance)["state"] == "active"
    wait_for(lambda: channel_in(factory, bob).get("reestablished"))
    pay(bob, lsp, 2_000_000, "from bob")

    # In an exit.
    go_away(bitcoind, nodes)
    exit = alice.rpc.call("factory-exit", {"factory_instance": instance})
    txid = exit["path"][0]["txid"]
    alice.daemon.wait_for_log(f"{instance}: .* {txid}: the node's backend fails: ")
    assert factory_of(alice, instance)["state"] == "exiting"
    # Sent again as soon as bitcoind answers, for the next block.
    bitcoind.start()
    mine(bitcoind, 1, nodes, wait_for_mempool=txid)
    wait_for_factory(alice, instance, "exited")
    mine_until(bitcoind, nodes, lambda: onchain_msat(alice) > 40_000_000)
    assert channel_in(factory, bob)["state"] == "CHANNELD_NORMAL"
