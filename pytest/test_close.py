"""A factory that is closed by all together, on real nodes: everybody has its whole balance in its wallet, to the
satoshi, and the operator pays (S8, S19, S24)."""

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    anchor_of,
    channel_in,
    channel_of,
    connect_all,
    factory_with,
    fee_of,
    find_plugin,
    mine,
    mine_until,
    onchain_msat,
    pay_over,
    send_direct,
    spender,
    state_of,
    status,
    transaction,
    wait_for,
    wait_for_synced,
)

TERMS = {"capacity_sat": 300_000}
PAID = [30_000_000, 50_001_234]


def closed_with(node_factory, bitcoind, **options):
    """Three clients: two have been paid, one has the satoshi that every channel begins with."""
    lsp, clients, factory = factory_with(node_factory, bitcoind, 3, **options, **TERMS)
    for client, amount in zip(clients, PAID):
        pay_over(lsp, client, channel_of(client, factory), f"purse {amount}", amount)
    return lsp, clients, factory, [balance(factory, client) for client in clients]


def balance(factory, client):
    """What a client has there, in satoshi, rounded up."""
    return -(-int(channel_in(factory, client)["to_us_msat"]) // 1000)


def close(lsp, factory, **more):
    return lsp.rpc.call("factory-close", {"factory_instance": factory["factory_instance"], **more})


def root_spender(bitcoind, factory):
    return spender(bitcoind, factory["funding_txid"], factory["funding_outnum"])


def check_paid(bitcoind, lsp, clients, factory, owned):
    """The close is on chain, and each client's own wallet has what it had in its channel."""
    tx = root_spender(bitcoind, factory)
    assert tx["version"] == 3 and len(tx["vin"]) == 1
    assert len(tx["vin"][0]["txinwitness"]) == 1, "by key path"
    paid = [sat if sat >= 330 else 0 for sat in owned]
    # Those who have something, the operator, the anchor.
    assert len(tx["vout"]) == len([sat for sat in paid if sat]) + 2
    anchor_of(tx)
    for client, sat in zip(clients, paid):
        wait_for(lambda: onchain_msat(client) == sat * 1000)
    wait_for(lambda: any(out["txid"] == tx["txid"] for out in lsp.rpc.listfunds()["outputs"]))
    return tx


# S8, S18, S19, S24
def test_everybody_gets_what_it_has(node_factory, bitcoind):
    lsp, clients, factory, owned = closed_with(node_factory, bitcoind)
    nodes = [lsp, *clients]
    assert owned[2] == 1, "no output for so little"
    before = onchain_msat(lsp)
    plan = close(lsp, factory, dry_run=True)
    assert [client["balance_sat"] for client in plan["clients"]] == owned
    assert [client["paid_sat"] for client in plan["clients"]] == [*owned[:2], 0]
    assert plan["state"] == "active" and all(client["connected"] for client in plan["clients"])
    with pytest.raises(RpcError, match="only the operator closes"):
        close(clients[0], factory)

    done = close(lsp, factory)
    assert (done["state"], done["clients"]) == ("closing", plan["clients"])
    assert (done["vbytes"], done["fee_sat"], done["operator_sat"]) == (
        plan["vbytes"],
        plan["fee_sat"],
        plan["operator_sat"],
    )
    wait_for(lambda: done["txid"] in bitcoind.rpc.getrawmempool())
    tx = transaction(bitcoind, done["txid"])
    assert fee_of(bitcoind, tx) == done["fee_sat"]
    assert tx["vsize"] == done["vbytes"]
    # Nothing moves any more, in either direction.
    wait_for(lambda: all(state_of(node, factory) == "closing" for node in nodes))
    for payer, payee in ((lsp, clients[0]), (clients[1], lsp)):
        invoice = payee.rpc.invoice(1_000_000, f"late {payer.info['id']}", "late")
        channel = channel_of(clients[0] if payee is clients[0] else clients[1], factory)
        with pytest.raises(RpcError):
            send_direct(payer, payee, invoice, channel)
            payer.rpc.waitsendpay(invoice["payment_hash"], 30)
    with pytest.raises(RpcError, match="closed by all its members"):
        clients[0].rpc.call("factory-exit", {"factory_instance": factory["factory_instance"]})

    mine(bitcoind, 1, nodes, wait_for_mempool=done["txid"])
    assert check_paid(bitcoind, lsp, clients, factory, owned)["txid"] == done["txid"]
    assert onchain_msat(lsp) == before + done["operator_sat"] * 1000
    # As deep as the funding had to be: lightningd ends the channels, which never come on chain.
    mine(bitcoind, factory["funding_confirmations"], nodes)
    for client in clients:
        wait_for(lambda: channel_in(factory, client)["state"] == "CLOSINGD_COMPLETE")
    assert bitcoind.rpc.getrawmempool() == []
    for node in nodes:
        show = node.rpc.call("factory-show", {"factory_instance": factory["factory_instance"]})
        statement = show["statement"]
        assert "broken" not in statement and statement["sum_sat"] == statement["funding_sat"], statement
        kinds = {line["type"] for line in statement["lines"]}
        assert kinds == {"close", "anchor", "fee"}, statement
    mine(bitcoind, 100, nodes)
    wait_for(lambda: all(state_of(node, factory) == "closed" for node in nodes))


# S24: everybody has to be there, and no HTLC may stand.
def test_not_now(node_factory, bitcoind):
    lsp, clients, factory, owned = closed_with(node_factory, bitcoind)
    nodes = [lsp, *clients]
    clients[2].stop()
    with pytest.raises(RpcError, match="not connected.*factory-evict"):
        close(lsp, factory)
    plan = close(lsp, factory, dry_run=True)
    assert [client["connected"] for client in plan["clients"]] == [True, True, False]
    clients[2].start()
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, nodes)
    assert [state_of(node, factory) for node in nodes] == ["active"] * 4
    assert [balance(factory, client) for client in clients] == owned
    # A payment as ever.
    pay_over(lsp, clients[2], channel_of(clients[2], factory), "after", 40_000_000)
    owned[2] = balance(factory, clients[2])
    done = close(lsp, factory)
    mine(bitcoind, 1, nodes, wait_for_mempool=done["txid"])
    check_paid(bitcoind, lsp, clients, factory, owned)


# S8, S10: kill -9 amid; what was signed for is taken up again, by itself.
@pytest.mark.faults
@pytest.mark.parametrize(
    "who, step",
    [
        ("lsp", "send-close_ask"),
        ("lsp", "got-close_join"),
        ("lsp", "send-close_propose"),
        ("lsp", "got-close_partial_signatures"),
        ("lsp", "send-close_ready"),
        ("client", "got-close_ask"),
        ("client", "send-close_join"),
        ("client", "got-close_propose"),
        ("client", "send-close_partial_signatures"),
        ("client", "got-close_ready"),
    ],
)
def test_killed_amid(node_factory, bitcoind, who, step):
    dies = {"plugin": find_plugin(faults=True), "may_fail": True}
    options = {who: {**FAST, **dies} if who == "lsp" else dies}
    lsp, clients, factory, owned = closed_with(node_factory, bitcoind, **options)
    nodes = [lsp, *clients]
    victim = lsp if who == "lsp" else clients[0]
    victim.rpc.call("misbehave", {"fault": f"hold-{step}"})
    closing = node_factory.executor.submit(close, lsp, factory)
    victim.daemon.wait_for_log(f"standing still at {step}")
    victim.daemon.kill()
    if step == "send-close_partial_signatures":
        # The others may have signed: that stays to be seen.
        wait_for(lambda: "not_closed" in [one["code"] for one in status(lsp)["warnings"]])
    victim.start()
    connect_all(lsp, clients)
    wait_for_synced(bitcoind, nodes)
    try:
        closing.result(150)
    except (RpcError, ValueError, OSError):
        pass
    # Before anybody has signed it ends, and is asked for again; after that it goes on by itself.
    mine(bitcoind, 2, nodes)
    if all(state_of(node, factory) == "active" for node in nodes):
        close(lsp, factory)
    mine_until(bitcoind, nodes, lambda: root_spender(bitcoind, factory) is not None)
    check_paid(bitcoind, lsp, clients, factory, owned)
    for node in nodes:
        wait_for(lambda: state_of(node, factory) == "closing")
