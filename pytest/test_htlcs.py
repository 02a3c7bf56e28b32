"""HTLCs that are not settled in time take their channel on chain by themselves."""

from pyln.testing.utils import wait_for

from harness import (
    PLUGINS,
    channel_with,
    connect_all,
    create_active,
    lsp_options,
    mine,
    only_factory,
    plugin_options,
    state,
    status,
)


def warned(node):
    """HTLCs that the node warns of, where it should."""
    urgent = only_factory(node).get("urgent_htlcs", [])
    codes = [warning["code"] for warning in status(node)["warnings"]]
    assert ("htlc_deadline" in codes) == (urgent != [])
    return urgent


# S16
def test_held_htlc_starts_the_exit(node_factory, bitcoind):
    """Alice holds an HTLC until blocks_early before its expiry: both sides of her channel begin to take
    it on chain, in time and not before; bob's channel, in the same leaf, goes on. The plugin of the node
    that is restarted in between does too."""
    holding = plugin_options(**{"plugin": [plugin_options()["plugin"], str(PLUGINS / "hold_htlcs.py")]})
    options = [lsp_options(), holding, plugin_options()]
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=options)
    lsp.fundwallet(10_000_000)
    connect_all(lsp, [alice, bob])
    mine(bitcoind, 1, nodes)
    create_active(bitcoind, lsp, [alice, bob])

    invoice = alice.rpc.invoice(50_000_000, "held", "held")
    decoded = lsp.rpc.decode(invoice["bolt11"])
    lsp.rpc.sendpay(
        [{"id": alice.info["id"], "channel": channel_with(alice, lsp)["alias"]["remote"], "amount_msat": 50_000_000,
          "delay": decoded["min_final_cltv_expiry"] + 5}],
        decoded["payment_hash"], payment_secret=decoded["payment_secret"], bolt11=invoice["bolt11"])
    alice.daemon.wait_for_log("holding an HTLC that expires at")

    htlc = channel_with(alice, lsp)["htlcs"][0]
    early = only_factory(alice)["blocks_early"]
    deadline = htlc["expiry"] - early
    # Not said while there is time.
    mine(bitcoind, deadline - 6 - bitcoind.rpc.getblockcount(), nodes)
    assert [warned(node) for node in (lsp, alice, bob)] == [[], [], []]
    # Six blocks before, it is; and that node.
    mine(bitcoind, 1, nodes)
    urgent = {
        "client": 0,
        "channel_id": channel_with(alice, lsp)["channel_id"],
        "cltv_expiry": htlc["expiry"],
        "exit_block": deadline,
    }
    assert [warned(node) for node in (lsp, alice, bob)] == [[urgent], [urgent], []]
    mine(bitcoind, deadline - 1 - bitcoind.rpc.getblockcount(), nodes)
    assert state(alice) == "active" and state(lsp) == "active"
    assert bitcoind.rpc.getrawmempool() == []
    alice.restart()
    connect_all(lsp, [alice])
    mine(bitcoind, 0, nodes)
    wait_for(lambda: warned(alice) == [urgent])
    assert state(alice) == "active"

    mine(bitcoind, 1, nodes)
    wait_for(lambda: state(alice) == "exiting")
    assert warned(alice) == [urgent] and "HTLC" in only_factory(alice)["exit"]["reason"]
    lsp.daemon.wait_for_log("an HTLC of client 0 that expires at {}".format(htlc["expiry"]))
    mine(bitcoind, 1, nodes, wait_for_mempool=1)
    wait_for(lambda: state(alice) == "exited")
    leaf_height = bitcoind.rpc.getblockcount()
    assert leaf_height <= htlc["expiry"] - early + 1

    # lightningd takes over: the commitment confirms, and the operator gets its HTLC back.
    mine(bitcoind, 1, nodes, wait_for_mempool=1)
    wait_for(lambda: channel_with(alice, lsp)["state"] == "ONCHAIN")
    assert bitcoind.rpc.getblockcount() < htlc["expiry"]
    assert channel_with(bob, lsp)["state"] == "CHANNELD_NORMAL"


# S16
def test_a_long_pause_ends_with_the_exit(node_factory, bitcoind):
    """A client that was away when its HTLC's deadline came and went begins to leave as soon as it is back."""
    holding = plugin_options(**{"plugin": [plugin_options()["plugin"], str(PLUGINS / "hold_htlcs.py")]})
    lsp, alice = nodes = node_factory.get_nodes(2, opts=[lsp_options(), holding])
    lsp.fundwallet(10_000_000)
    connect_all(lsp, [alice])
    mine(bitcoind, 1, nodes)
    create_active(bitcoind, lsp, [alice])
    invoice = alice.rpc.invoice(50_000_000, "held", "held")
    pay = lsp.rpc.decode(invoice["bolt11"])
    route = [{"id": alice.info["id"], "channel": channel_with(alice, lsp)["alias"]["remote"],
              "amount_msat": 50_000_000, "delay": pay["min_final_cltv_expiry"] + 5}]
    lsp.rpc.sendpay(route, pay["payment_hash"], payment_secret=pay["payment_secret"], bolt11=invoice["bolt11"])
    alice.daemon.wait_for_log("holding an HTLC that expires at")
    htlc = channel_with(alice, lsp)["htlcs"][0]
    early = only_factory(alice)["blocks_early"]
    # Both are away: nobody has begun.
    lsp.stop()
    alice.stop()
    bitcoind.generate_block(htlc["expiry"] - early - bitcoind.rpc.getblockcount() + 2)
    alice.start()
    wait_for(lambda: state(alice) == "exiting")
    # Not after the next block, or the next but one: now.
    assert only_factory(alice)["exit"]["since_block"] == bitcoind.rpc.getblockcount()
    wait_for(lambda: bitcoind.rpc.getrawmempool() != [])
    mine(bitcoind, 1, [alice], wait_for_mempool=1)
    wait_for(lambda: state(alice) == "exited")
    assert bitcoind.rpc.getblockcount() < htlc["expiry"]
