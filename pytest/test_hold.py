"""HTLCs for a client that isn't connected: held by the operator up to its limits, and delivered or failed."""

import pytest
from pyln.client import RpcError

from harness import (
    activate,
    connect_all,
    create,
    factory_of,
    fund,
    lsp_options,
    mine,
    mine_until,
    plugin_options,
    send_over,
    spender,
    wait_for,
)

TEMPORARY_CHANNEL_FAILURE = 0x1007
AMOUNT = 20_000_000


def factory_and_stranger(node_factory, bitcoind, **options):
    """A factory with one client, and somebody who has an ordinary channel with its operator."""
    opts = [lsp_options(**options), plugin_options(), {"may_reconnect": True}]
    lsp, alice, stranger = nodes = node_factory.get_nodes(3, opts=opts)
    fund(bitcoind, lsp, 3_000_000)
    fund(bitcoind, stranger, 3_000_000)
    connect_all(lsp, [alice])
    stranger.connect(lsp)
    stranger.rpc.fundchannel(lsp.info["id"], 2_000_000, announce=False)
    mine(bitcoind, 6, [lsp, alice], wait_for_mempool=1)
    wait_for(lambda: stranger.rpc.listpeerchannels()["channels"][0]["state"] == "CHANNELD_NORMAL")
    factory = create(lsp, [alice])
    return nodes, activate(bitcoind, factory, lsp, [alice])


def stop_client(lsp, client):
    """The client is away, and its operator has noticed."""
    client.stop()
    wait_for(lambda: not any(peer["connected"] for peer in lsp.rpc.listpeers(client.info["id"])["peers"]))


def held(lsp, factory):
    return factory_of(lsp, factory["factory_instance"]).get("held_htlcs", [])


def failcode(payer, payment_hash):
    with pytest.raises(RpcError) as failed:
        payer.rpc.waitsendpay(payment_hash, 30)
    return failed.value.error["data"]["failcode"]


def test_paid_after_connecting(node_factory, bitcoind):
    """The payee is away: its HTLC waits, also over a restart of the operator, and is paid once it comes.
    Nobody else waits meanwhile."""
    options = {"factory-hold-time": 600}
    (lsp, alice, stranger), factory = factory_and_stranger(node_factory, bitcoind, **options)
    invoices = [alice.rpc.invoice(AMOUNT, f"held {i}", "held") for i in range(2)]
    own = lsp.rpc.invoice(AMOUNT, "meanwhile", "meanwhile")["bolt11"]
    stop_client(lsp, alice)

    channel_id = factory["clients"][0]["channel_id"]
    send_over(stranger, lsp, alice, invoices[0], channel_id)
    wait_for(lambda: len(held(lsp, factory)) == 1)
    (waiting,) = held(lsp, factory)
    assert (waiting["id"], waiting["channel_id"]) == (alice.info["id"], channel_id)
    assert waiting["amount_msat"] == AMOUNT and 0 < waiting["seconds_left"] <= 600
    assert waiting["last_block"] < waiting["cltv_expiry"] - factory["blocks_early"]
    stranger.rpc.call("xpay", {"invstring": own})
    assert len(held(lsp, factory)) == 1

    lsp.restart()
    stranger.connect(lsp)
    wait_for(lambda: len(held(lsp, factory)) == 1)
    send_over(stranger, lsp, alice, invoices[1], channel_id)
    wait_for(lambda: len(held(lsp, factory)) == 2)

    alice.start()
    connect_all(lsp, [alice])
    for invoice in invoices:
        assert stranger.rpc.waitsendpay(invoice["payment_hash"], 60)["status"] == "complete"
    assert held(lsp, factory) == []


def test_failed_back_at_each_limit(node_factory, bitcoind):
    """Number, amount, blocks and time; and without the option at once."""
    options = {"factory-hold-time": 600, "factory-hold-max": 2, "factory-hold-max-msat": 2 * AMOUNT + 1}
    (lsp, alice, stranger), factory = factory_and_stranger(node_factory, bitcoind, **options)
    invoices = [alice.rpc.invoice(AMOUNT, f"held {i}", "held") for i in range(4)]
    big = alice.rpc.invoice(AMOUNT + 2, "big", "big")
    stop_client(lsp, alice)
    channel_id = factory["clients"][0]["channel_id"]

    def send(invoice, more=0):
        send_over(stranger, lsp, alice, invoice, channel_id, more)
        return invoice["payment_hash"]

    first = send(invoices[0])
    wait_for(lambda: len(held(lsp, factory)) == 1)
    assert failcode(stranger, send(big)) == TEMPORARY_CHANNEL_FAILURE
    lsp.daemon.wait_for_log("factory-hold-max-msat")
    second = send(invoices[1], more=2)
    wait_for(lambda: len(held(lsp, factory)) == 2)
    assert failcode(stranger, send(invoices[2])) == TEMPORARY_CHANNEL_FAILURE
    lsp.daemon.wait_for_log("2 HTLCs are held already")

    # Blocks: each is failed back after its last, and nothing goes on chain.
    one, other = held(lsp, factory)
    assert other["last_block"] == one["last_block"] + 2
    mine(bitcoind, one["last_block"] - bitcoind.rpc.getblockcount(), [lsp])
    assert len(held(lsp, factory)) == 2
    mine(bitcoind, 1, [lsp])
    assert failcode(stranger, first) == TEMPORARY_CHANNEL_FAILURE
    assert len(held(lsp, factory)) == 1
    mine(bitcoind, 2, [lsp])
    assert failcode(stranger, second) == TEMPORARY_CHANNEL_FAILURE
    assert held(lsp, factory) == []
    assert factory_of(lsp, factory["factory_instance"])["state"] == "active"
    assert bitcoind.rpc.getrawmempool() == []

    # Time.
    lsp.stop()
    lsp.daemon.opts["factory-hold-time"] = 2
    lsp.start()
    stranger.connect(lsp)
    wait_for(lambda: stranger.rpc.listpeerchannels()["channels"][0]["reestablished"])
    late = send(invoices[3], more=20)
    lsp.daemon.wait_for_log("holding an HTLC")
    assert failcode(stranger, late) == TEMPORARY_CHANNEL_FAILURE
    lsp.daemon.wait_for_log("did not come in time")

    # Off.
    lsp.stop()
    del lsp.daemon.opts["factory-hold-time"]
    lsp.start()
    stranger.connect(lsp)
    wait_for(lambda: stranger.rpc.listpeerchannels()["channels"][0]["reestablished"])
    alice.start()
    connect_all(lsp, [alice])
    off = alice.rpc.invoice(AMOUNT, "off", "off")
    stop_client(lsp, alice)
    assert failcode(stranger, send(off)) == TEMPORARY_CHANNEL_FAILURE
    assert not lsp.daemon.is_in_log("holding an HTLC", start=lsp.daemon.logsearch_start)


# S35, S16
def test_an_incoming_channel_that_goes_on_chain(node_factory, bitcoind):
    """While their HTLCs wait for alice, the payer closes its channel: the one that can still be claimed on
    chain is delivered, and is; dust can't be, and is failed."""
    options = {"factory-hold-time": 600}
    (lsp, alice, stranger), factory = factory_and_stranger(node_factory, bitcoind, **options)
    big = alice.rpc.invoice(AMOUNT, "big", "big")
    dust = alice.rpc.invoice(300_000, "dust", "dust")
    stop_client(lsp, alice)
    channel_id = factory["clients"][0]["channel_id"]
    for invoice in (big, dust):
        # Time for the close, and for alice.
        send_over(stranger, lsp, alice, invoice, channel_id, more=20)
    wait_for(lambda: len(held(lsp, factory)) == 2)

    (ordinary,) = stranger.rpc.listpeerchannels(lsp.info["id"])["channels"]
    (expiry,) = [htlc["expiry"] for htlc in ordinary["htlcs"] if htlc["amount_msat"] > AMOUNT]
    stranger.rpc.close(lsp.info["id"], 1)
    mine(bitcoind, 1, [lsp], wait_for_mempool=1)
    wait_for(lambda: len(held(lsp, factory)) == 1)
    lsp.daemon.wait_for_log("msat can't be claimed")
    assert held(lsp, factory)[0]["amount_msat"] == AMOUNT

    alice.start()
    connect_all(lsp, [alice])
    wait_for(lambda: alice.rpc.listinvoices("big")["invoices"][0]["status"] == "paid")
    assert alice.rpc.listinvoices("dust")["invoices"][0]["status"] == "unpaid"
    # The operator has the preimage, and claims what it paid for.
    commitment = spender(bitcoind, ordinary["funding_txid"], ordinary["funding_outnum"])
    in_sat = next(htlc["amount_msat"] for htlc in ordinary["htlcs"] if htlc["amount_msat"] > AMOUNT) // 1000
    (output,) = [out["n"] for out in commitment["vout"] if out["sat"] == in_sat]
    mine_until(bitcoind, [lsp], lambda: spender(bitcoind, commitment["txid"], output))
    assert bitcoind.rpc.getblockcount() < expiry
    assert factory_of(lsp, factory["factory_instance"])["state"] == "active"
