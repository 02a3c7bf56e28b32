"""Nothing that the plugin hands to lightningd in one piece is too large for it: above some 4 MB in one value
of its datastore lightningd dies, and dies again at each listing."""

from harness import connect_all, create_active, factories, lsp_options, mine, plugin_options, read_records, wait_for

# In hex, as it is handed over.
MOST = 256_000


def small_coins(bitcoind, node, number, sat):
    """Many coins that one payout has made: each one's parent transaction is large."""
    addresses = [node.rpc.newaddr("bech32")["bech32"] for _ in range(number)]
    bitcoind.rpc.sendmany("", {address: sat / 10**8 for address in addresses})
    bitcoind.generate_block(1, wait_for_mempool=1)
    wait_for(lambda: len(node.rpc.listfunds()["outputs"]) >= number)


# S28
def test_an_operator_with_three_hundred_small_coins(node_factory, bitcoind):
    # lightningd's own selection among so many coins.
    slow = lsp_options(broken_log="That's weird: Request fundpsbt took")
    lsp, *clients = node_factory.get_nodes(3, opts=[slow, plugin_options(), plugin_options()])
    small_coins(bitcoind, lsp, 300, 10_000)
    connect_all(lsp, clients)
    mine(bitcoind, 0, [lsp, *clients])
    create_active(bitcoind, lsp, clients, capacity_sat=1_000_000, ignore_reserve=True)
    # lightningd doesn't convert PSBTs for us: with so many parents that holds up everything else.
    assert not lsp.daemon.is_in_log("setpsbtversion")
    for node in (lsp, *clients):
        longest = max(len(value) for value in read_records(node).values())
        assert longest <= MOST, longest
    lsp.restart()
    wait_for(lambda: factories(lsp)[0]["state"] == "active")
