"""Payments over factory channels, in every direction, before and after a restart of everybody."""

import pytest
from pyln.client import RpcError
from pyln.testing.utils import sync_blockheight

from harness import (
    channel_with,
    connect_all,
    create,
    create_active,
    lsp_options,
    mine,
    only_factory,
    pay,
    plugin_options,
    wait_for,
    wait_for_state,
)


def test_every_direction_and_restart(node_factory, bitcoind):
    options = [lsp_options(), plugin_options(), plugin_options(), {"may_reconnect": True}]
    lsp, alice, bob, stranger = nodes = node_factory.get_nodes(4, opts=options)
    lsp.fundwallet(10_000_000)
    stranger.fundwallet(10_000_000)
    connect_all(lsp, [alice, bob])
    stranger.connect(lsp)
    stranger.rpc.fundchannel(lsp.info["id"], 2_000_000, push_msat=500_000_000)
    bitcoind.generate_block(6, wait_for_mempool=1)
    sync_blockheight(bitcoind, nodes)
    mine(bitcoind, 1, [lsp, alice, bob])
    factory = create_active(bitcoind, lsp, [alice, bob])
    wait_for(lambda: len(alice.rpc.listchannels()["channels"]) >= 2)
    wait_for(lambda: len(bob.rpc.listchannels()["channels"]) >= 2)

    def everywhere(tag):
        pay(lsp, alice, 50_000_000, f"lsp to alice {tag}")
        pay(stranger, bob, 60_000_000, f"stranger to bob {tag}")
        pay(bob, stranger, 10_000_000, f"bob to stranger {tag}")
        pay(alice, bob, 5_000_000, f"alice to bob {tag}")
        pay(bob, alice, 5_000_000, f"bob to alice {tag}")
        pay(alice, lsp, 5_000_000, f"alice to lsp {tag}")

    everywhere("before")
    # S17
    invoice = alice.rpc.invoice(1000, "cltv", "cltv")["bolt11"]
    assert alice.rpc.decode(invoice)["min_final_cltv_expiry"] > factory["blocks_early"]

    for node in (alice, lsp, bob):
        node.restart()
    connect_all(lsp, [alice, bob])
    stranger.connect(lsp)
    for client in (alice, bob):
        wait_for(lambda: channel_with(client, lsp).get("reestablished"))
    wait_for(lambda: channel_with(stranger, lsp).get("reestablished"))
    for node in (lsp, alice, bob):
        wait_for_state(node, "active")
        assert only_factory(node)["factory_instance"] == factory["factory_instance"]
    everywhere("after")


# S18
def test_no_payment_before_the_funding_is_deep_enough(node_factory, bitcoind):
    lsp, alice = nodes = node_factory.get_nodes(2, opts=[lsp_options(), plugin_options()])
    lsp.fundwallet(10_000_000)
    connect_all(lsp, [alice])
    mine(bitcoind, 1, nodes)
    factory = create(lsp, [alice])
    wait_for(lambda: channel_with(lsp, alice)["state"] == "CHANNELD_NORMAL")
    wait_for(lambda: "remote" in channel_with(lsp, alice).get("updates", {}))
    invoice = alice.rpc.invoice(1_000_000, "early", "early")["bolt11"]
    for blocks in range(factory["funding_confirmations"]):
        with pytest.raises(RpcError):
            lsp.rpc.call("xpay", {"invstring": invoice, "retry_for": 1})
        mine(bitcoind, 1, nodes, wait_for_mempool=0 if blocks else factory["funding_txid"])
    wait_for_state(alice, "active")
    wait_for_state(lsp, "active")
    pay(lsp, alice, 1_000_000, "in time")
