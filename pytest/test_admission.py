"""HTLCs that leave no time for an exit, outlive the factory or are too much dust are refused, with BOLT 4's
codes; this node's own payments and invoices have enough blocks from the start."""

import pytest
from pyln.client import RpcError

from harness import (
    activate,
    channel_by_id,
    connect_all,
    create,
    factory_of,
    faulty,
    fund,
    holding,
    lsp_options,
    mine,
    pay,
    plugin_options,
    restart_holding_nothing,
    send,
    send_over,
    wait_for,
)

EXPIRY_TOO_SOON, EXPIRY_TOO_FAR, TEMPORARY_CHANNEL_FAILURE = 0x100E, 21, 0x1007
WRONG_STATE = 2501
LIFETIME, DYING = 300, 20


def world(node_factory, bitcoind, lsp, alice, public=False, **stranger):
    """A factory with one client, and somebody with an ordinary channel with its operator."""
    nodes = node_factory.get_nodes(3, opts=[lsp, alice, {"may_reconnect": True, **stranger}])
    lsp, alice, stranger = nodes
    fund(bitcoind, lsp, 3_000_000)
    fund(bitcoind, stranger, 3_000_000)
    connect_all(lsp, [alice])
    stranger.connect(lsp)
    stranger.rpc.fundchannel(lsp.info["id"], 2_000_000, announce=public, push_msat=500_000_000)
    mine(bitcoind, 6, [lsp, alice], wait_for_mempool=1)
    wait_for(lambda: stranger.rpc.listpeerchannels()["channels"][0]["state"] == "CHANNELD_NORMAL")
    factory = create(lsp, [alice], lifetime_blocks=LIFETIME, dying_blocks=DYING)
    factory = activate(bitcoind, factory, lsp, [alice])
    return nodes, factory, factory["clients"][0]["channel_id"]


def hop(node, channel, delay, amount_msat):
    # Of a channel that isn't announced, lightningd forwards by its alias alone.
    return node, channel["alias"]["local"], amount_msat, delay


def failed(payer, invoice):
    """Who refused, by its place in the route, and with which code."""
    with pytest.raises(RpcError) as refused:
        payer.rpc.waitsendpay(invoice["payment_hash"], 30)
    data = refused.value.error["data"]
    return data["erring_index"], data["failcode"]


# S15
def test_forwarded(node_factory, bitcoind):
    """The operator refuses to forward what is too short, or too long, for its client's channel; nothing
    else, and nothing of a flood."""
    (lsp, alice, stranger), factory, channel_id = world(node_factory, bitcoind, lsp_options(), plugin_options())
    early = factory["blocks_early"]

    def attempt(label, delay):
        invoice = alice.rpc.invoice(1_000_000, label, label)
        send_over(stranger, lsp, alice, invoice, channel_id, delay=delay)
        return invoice

    # lightningd counts a delay from the block after the last.
    flood = [attempt(f"short {i}", early - 1) for i in range(20)]
    assert [failed(stranger, invoice) for invoice in flood] == [(1, EXPIRY_TOO_SOON)] * 20
    assert failed(stranger, attempt("long", LIFETIME - early + 1)) == (1, EXPIRY_TOO_FAR)
    assert not channel_by_id(lsp, channel_id)["htlcs"] and not alice.daemon.is_in_log("RCVD_ADD_HTLC")
    # One block more is enough.
    edge = attempt("edge", early)
    assert stranger.rpc.waitsendpay(edge["payment_hash"], 30)["status"] == "complete"
    pay(lsp, alice, 1_000_000, "as usual")
    assert factory_of(lsp, factory["factory_instance"])["state"] == "active"


# S15
@pytest.mark.faults
def test_incoming(node_factory, bitcoind):
    """Each side refuses what the other should not have sent."""
    lax = faulty("lax-htlcs")
    (lsp, alice, stranger), factory, channel_id = world(node_factory, bitcoind, lsp_options(), lax)
    early = factory["blocks_early"]
    pay(lsp, alice, 100_000_000, "so that she has something")
    first = channel_by_id(alice, channel_id)
    second = lsp.rpc.listpeerchannels(stranger.info["id"])["channels"][0]
    invoice = stranger.rpc.invoice(1_000_000, "from a client", "short")
    send(alice, [hop(lsp, first, early - 1, 1_020_000), hop(stranger, second, 8, 1_000_000)], invoice)
    assert failed(alice, invoice) == (1, EXPIRY_TOO_SOON)

    # A client that keeps to the rules, and an operator that doesn't.
    alice.rpc.call("misbehave", {"fault": ""})
    lsp.stop()
    options = faulty("lax-htlcs")
    lsp.daemon.opts.update({name: options[name] for name in ("plugin", "factory-fault")})
    lsp.start()
    connect_all(lsp, [alice])
    wait_for(lambda: channel_by_id(alice, channel_id).get("reestablished"))
    invoice = alice.rpc.invoice(1_000_000, "to a client", "short")
    send(lsp, [hop(alice, channel_by_id(lsp, channel_id), early - 1, 1_000_000)], invoice)
    assert failed(lsp, invoice) == (1, EXPIRY_TOO_SOON)


# S15
def test_own_payments(node_factory, bitcoind):
    """`pay`, `xpay` and `sendpay` over a factory channel have the blocks that it needs; what would outlive
    the factory is refused, with an explanation."""
    (lsp, alice, stranger), factory, channel_id = world(
        node_factory, bitcoind, lsp_options(), plugin_options(), public=True
    )
    early = factory["blocks_early"]
    wait_for(lambda: len(alice.rpc.listchannels()["channels"]) >= 2)
    wait_for(lambda: len(stranger.rpc.listchannels()["channels"]) >= 2)
    pay(lsp, alice, 100_000_000, "so that she has something")
    alice.rpc.pay(stranger.rpc.invoice(1_000_000, "pay", "pay")["bolt11"])
    alice.rpc.call("xpay", {"invstring": stranger.rpc.invoice(1_000_000, "xpay", "xpay")["bolt11"]})
    for invoice in stranger.rpc.listinvoices()["invoices"]:
        assert invoice["status"] == "paid"

    first = channel_by_id(alice, channel_id)
    second = lsp.rpc.listpeerchannels(stranger.info["id"])["channels"][0]

    def route(delay):
        return [hop(lsp, first, delay, 1_020_000), hop(stranger, second, 8, 1_000_000)]

    # The operator would refuse it (test_incoming), had alice's plugin not given it more.
    invoice = stranger.rpc.invoice(1_000_000, "sendpay", "sendpay")
    send(alice, route(14), invoice)
    assert alice.rpc.waitsendpay(invoice["payment_hash"], 30)["status"] == "complete"

    invoice = stranger.rpc.invoice(1_000_000, "too long", "too long")
    with pytest.raises(RpcError, match="factory-exit") as refused:
        send(alice, route(LIFETIME - early + 1), invoice)
    assert refused.value.error["code"] == WRONG_STATE
    mine(bitcoind, LIFETIME - early - early, [lsp, alice])
    for command, parameter in (("xpay", "invstring"), ("pay", "bolt11")):
        invoice = stranger.rpc.invoice(1_000_000, f"late {command}", "late")
        with pytest.raises(RpcError, match="factory-exit|Ran out of routes"):
            alice.rpc.call(command, {parameter: invoice["bolt11"]})
    alice.daemon.wait_for_log("refused a payment of this node's own")
    assert not channel_by_id(alice, channel_id)["htlcs"]


# S17
def test_invoices(node_factory, bitcoind):
    """BOLT 11 and BOLT 12 invoices ask for enough blocks; a larger number stays."""
    (lsp, alice, stranger), factory, channel_id = world(
        node_factory, bitcoind, lsp_options(), plugin_options(), public=True
    )
    early = factory["blocks_early"]
    wait_for(lambda: len(alice.rpc.listchannels()["channels"]) >= 2)
    wait_for(lambda: len(stranger.rpc.listchannels()["channels"]) >= 2)
    wait_for(lambda: "alias" in (alice.rpc.listnodes(lsp.info["id"])["nodes"] or [{}])[0])
    wait_for(lambda: "alias" in (stranger.rpc.listnodes(lsp.info["id"])["nodes"] or [{}])[0])

    def final(**more):
        invoice = alice.rpc.invoice(1_000_000, f"invoice {more}", "text", **more)["bolt11"]
        return alice.rpc.decode(invoice)["min_final_cltv_expiry"]

    assert final() > early and final(cltv=7) > early
    assert final(cltv=early + 500) == early + 500

    offer = alice.rpc.call("offer", {"amount": "1000sat", "description": "bolt 12"})["bolt12"]
    invoice = stranger.rpc.call("fetchinvoice", {"offer": offer})["invoice"]
    decoded = stranger.rpc.decode(invoice)
    assert decoded["valid"]
    (path,) = decoded["invoice_paths"]
    assert path["first_node_id"] == lsp.info["id"]
    # The operator's own delta, pyln-testing's cltv-final of 5, and the factory's.
    assert path["payinfo"]["cltv_expiry_delta"] == 6 + 5 + early + 6
    stranger.rpc.call("xpay", {"invstring": invoice})
    assert [one["status"] for one in alice.rpc.listinvoices()["invoices"] if one.get("bolt12")] == ["paid"]


def test_dust(node_factory, bitcoind):
    """A flood of dust that its payee holds back stops at the cap, and goes on when it ends."""
    # lightningd's own, where it settles what it forwarded before a restart.
    broken = "Unable to calculate fees collected. Not logging an inbound HTLC"
    options = lsp_options(**{"factory-max-dust-htlcs-msat": 1_000_000, "broken_log": broken})
    (lsp, alice, stranger), factory, channel_id = world(node_factory, bitcoind, options, holding())

    def attempt(label, amount_msat):
        invoice = alice.rpc.invoice(amount_msat, label, label)
        send_over(stranger, lsp, alice, invoice, channel_id)
        return invoice

    pending = [attempt(f"dust {i}", 300_000) for i in range(3)]
    wait_for(lambda: len(channel_by_id(alice, channel_id)["htlcs"]) == 3)
    flood = [attempt(f"more {i}", 300_000) for i in range(10)]
    assert [failed(stranger, invoice) for invoice in flood] == [(1, TEMPORARY_CHANNEL_FAILURE)] * 10
    # A smaller one still fits, and one that isn't dust is another matter.
    pending += [attempt("small", 100_000), attempt("large", 600_000)]
    wait_for(lambda: len(channel_by_id(alice, channel_id)["htlcs"]) == 5)
    # After a restart it is known from lightningd.
    lsp.restart()
    stranger.connect(lsp)
    connect_all(lsp, [alice])
    wait_for(lambda: channel_by_id(alice, channel_id).get("reestablished"))
    wait_for(lambda: stranger.rpc.listpeerchannels()["channels"][0].get("reestablished"))
    mine(bitcoind, 1, [lsp, alice])
    assert failed(stranger, attempt("after a restart", 300_000)) == (1, TEMPORARY_CHANNEL_FAILURE)
    # Held no longer, it makes room.
    restart_holding_nothing(alice)
    connect_all(lsp, [alice])
    for invoice in pending:
        assert stranger.rpc.waitsendpay(invoice["payment_hash"], 60)["status"] == "complete"
    paid = attempt("again", 300_000)
    assert stranger.rpc.waitsendpay(paid["payment_hash"], 60)["status"] == "complete"
