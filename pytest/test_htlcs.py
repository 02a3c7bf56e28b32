"""HTLCs that are not settled in time take their channel on chain by themselves."""

import pytest
from pyln.client import RpcError

from harness import (
    PLUGINS,
    channel_with,
    connect_all,
    create_active,
    fund,
    holding,
    lsp_options,
    mine,
    mine_until,
    only_factory,
    pay,
    plugin_options,
    restart_holding_nothing,
    send,
    send_direct,
    send_over,
    spender,
    state,
    status,
    wait_for,
)


def warned(node):
    """HTLCs that the node warns of, where it should."""
    urgent = only_factory(node).get("urgent_htlcs", [])
    codes = [warning["code"] for warning in status(node)["warnings"]]
    assert ("htlc_deadline" in codes) == (urgent != [])
    return urgent


def settled_at(bitcoind, place, htlc_sat):
    """Height at which a channel's HTLC of this amount was settled on chain, or None."""
    commitment = spender(bitcoind, place["funding_txid"], place["funding_outnum"])
    outputs = commitment["vout"] if commitment else []
    spenders = [spender(bitcoind, commitment["txid"], out["n"]) for out in outputs if out["sat"] == htlc_sat]
    heights = [bitcoind.rpc.getblock(tx["blockhash"])["height"] for tx in spenders if tx]
    return heights[0] if heights else None


def held_for(node_factory, bitcoind, amounts_msat):
    """A factory of alice, who holds what she is to receive, and bob; a stranger pays alice over the operator."""
    options = [lsp_options(), holding(), plugin_options(), {"may_reconnect": True}]
    lsp, alice, bob, stranger = nodes = node_factory.get_nodes(4, opts=options)
    lsp.fundwallet(10_000_000)
    stranger.fundwallet(2_000_000)
    connect_all(lsp, [alice, bob])
    stranger.connect(lsp)
    stranger.rpc.fundchannel(lsp.info["id"], 1_000_000, announce=False)
    mine(bitcoind, 6, [lsp, alice, bob], wait_for_mempool=1)
    wait_for(lambda: stranger.rpc.listpeerchannels()["channels"][0]["state"] == "CHANNELD_NORMAL")
    create_active(bitcoind, lsp, [alice, bob])
    channel_id = channel_with(alice, lsp)["channel_id"]
    for number, amount in enumerate(amounts_msat):
        invoice = alice.rpc.invoice(amount, f"held {number}", "held")
        send_over(stranger, lsp, alice, invoice, channel_id, more=5)
        alice.daemon.wait_for_log("holding an HTLC that expires at")
    return nodes


def held_own_payment(node_factory, bitcoind, more):
    """A factory of alice alone, who holds a payment of the operator's own: the nodes, and her HTLC."""
    lsp, alice = nodes = node_factory.get_nodes(2, opts=[lsp_options(), holding()])
    for node in nodes:
        fund(bitcoind, node, 2_000_000)
    connect_all(lsp, [alice])
    mine(bitcoind, 0, nodes)
    create_active(bitcoind, lsp, [alice])
    invoice = alice.rpc.invoice(50_000_000, "held", "held")
    send_direct(lsp, alice, invoice, channel_with(alice, lsp)["channel_id"], more)
    alice.daemon.wait_for_log("holding an HTLC that expires at")
    (htlc,) = channel_with(alice, lsp)["htlcs"]
    return lsp, alice, htlc


def settle_without(lsp, alice):
    """The operator is away. Alice knows the preimage from a restart on, and nobody takes it."""
    lsp.stop()
    restart_holding_nothing(alice)
    wait_for(lambda: alice.rpc.listinvoices("held")["invoices"][0]["status"] == "paid")


# S16
def test_held_htlc_starts_the_exit(node_factory, bitcoind):
    """Alice holds an HTLC that the operator forwards: the operator takes her channel on chain blocks_early
    before its expiry and not before, also after a restart in between; alice, who knows no preimage, doesn't;
    bob's channel, in the same leaf, goes on."""
    lsp, alice, bob, _ = held_for(node_factory, bitcoind, [50_000_000])
    nodes = [lsp, alice, bob]
    (htlc,) = channel_with(lsp, alice)["htlcs"]
    early = only_factory(alice)["blocks_early"]
    deadline = htlc["expiry"] - early
    # Not said while there is time.
    mine(bitcoind, deadline - 6 - bitcoind.rpc.getblockcount(), nodes)
    assert [warned(node) for node in nodes] == [[], [], []]
    # Six blocks before, it is; and that node.
    mine(bitcoind, 1, nodes)
    urgent = {
        "client": 0,
        "channel_id": channel_with(alice, lsp)["channel_id"],
        "cltv_expiry": htlc["expiry"],
        "exit_block": deadline,
    }
    assert [warned(node) for node in nodes] == [[urgent], [], []]
    mine(bitcoind, deadline - 1 - bitcoind.rpc.getblockcount(), nodes)
    assert state(alice) == "active" and state(lsp) == "active"
    assert bitcoind.rpc.getrawmempool() == []
    lsp.restart()
    connect_all(lsp, [alice, bob])
    mine(bitcoind, 0, nodes)
    wait_for(lambda: warned(lsp) == [urgent])

    mine(bitcoind, 1, nodes)
    lsp.daemon.wait_for_log("an HTLC of client 0 that expires at {}".format(htlc["expiry"]))
    assert "HTLC" in only_factory(lsp)["exit"]["reason"]
    assert "exit" not in only_factory(alice)
    mine(bitcoind, 1, nodes, wait_for_mempool=1)
    leaf_height = bitcoind.rpc.getblockcount()
    assert leaf_height <= htlc["expiry"] - early + 1

    # lightningd takes over: the commitment confirms, and the operator gets its HTLC back.
    mine_until(bitcoind, nodes, lambda: channel_with(alice, lsp)["state"] == "ONCHAIN")
    assert bitcoind.rpc.getblockcount() < htlc["expiry"]
    assert channel_with(bob, lsp)["state"] == "CHANNELD_NORMAL"


# S35
def test_held_dust_starts_no_exit(node_factory, bitcoind):
    """Alice holds dust, and what is worth less than an exit, until they expire: nobody leaves, nobody is
    warned of it."""
    lsp, alice, bob, _ = held_for(node_factory, bitcoind, [300_000, 1_000_000])
    nodes = [lsp, alice, bob]
    htlcs = channel_with(lsp, alice)["htlcs"]
    assert len(htlcs) == 2
    expiry = min(htlc["expiry"] for htlc in htlcs)
    mine(bitcoind, expiry - only_factory(alice)["blocks_early"] - bitcoind.rpc.getblockcount(), nodes)
    mine(bitcoind, expiry - bitcoind.rpc.getblockcount(), nodes)
    assert [state(node) for node in nodes] == ["active"] * 3
    assert [warned(node) for node in nodes] == [[], [], []]
    assert bitcoind.rpc.getrawmempool() == []
    assert len(channel_with(lsp, alice)["htlcs"]) == 2


# S16
def test_a_long_pause_ends_with_the_exit(node_factory, bitcoind):
    """A client that knows a preimage which its operator didn't take, and that was away when the deadline came
    and went, begins to leave as soon as it is back."""
    lsp, alice, htlc = held_own_payment(node_factory, bitcoind, more=5)
    early = only_factory(alice)["blocks_early"]
    settle_without(lsp, alice)
    # Both are away: nobody has begun.
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


# S16
def test_known_preimage_is_claimed_in_time(node_factory, bitcoind):
    """The operator vanishes before it takes the preimage: alice leaves and claims the HTLC on chain before
    it expires."""
    lsp, alice, htlc = held_own_payment(node_factory, bitcoind, more=5)
    expiry = htlc["expiry"]
    settle_without(lsp, alice)
    mine(bitcoind, 0, [alice])

    factory = only_factory(alice)
    deadline = expiry - factory["blocks_early"]
    mine(bitcoind, deadline - 1 - bitcoind.rpc.getblockcount(), [alice])
    assert state(alice) == "active"
    mine(bitcoind, 1, [alice])
    wait_for(lambda: state(alice) == "exiting")
    (place,) = factory["clients"]
    mine_until(bitcoind, [alice], lambda: settled_at(bitcoind, place, 50_000), limit=expiry - deadline - 1)
    assert deadline < settled_at(bitcoind, place, 50_000) < expiry


# S16
def test_own_payment_that_is_not_settled(node_factory, bitcoind):
    """Alice holds a payment of the operator's own: it leaves when that has timed out, and gets it back."""
    lsp, alice, htlc = held_own_payment(node_factory, bitcoind, more=0)
    nodes = [lsp, alice]
    early = only_factory(alice)["blocks_early"]
    mine(bitcoind, htlc["expiry"] - 1 - bitcoind.rpc.getblockcount(), nodes)
    assert (state(alice), state(lsp)) == ("active", "active")
    mine(bitcoind, 1, nodes)
    wait_for(lambda: "HTLC" in only_factory(lsp).get("exit", {}).get("reason", ""))
    assert only_factory(lsp)["exit"]["since_block"] == htlc["expiry"]
    (place,) = only_factory(lsp)["clients"]
    mine_until(bitcoind, nodes, lambda: settled_at(bitcoind, place, 50_000), limit=early + 5)
    assert settled_at(bitcoind, place, 50_000) > htlc["expiry"]


# S35
def test_a_stranger_that_holds_a_clients_payment(node_factory, bitcoind):
    """The payee of alice's payment holds it on its ordinary channel: the operator closes that, and alice has
    her HTLC back before hers is due. Nobody leaves the factory."""
    payee = {"plugin": str(PLUGINS / "hold_htlcs.py"), "may_reconnect": True}
    # Six blocks, as pyln-testing has it, are less than it takes on chain.
    operator = lsp_options(**{"cltv-delta": 20})
    nodes = node_factory.get_nodes(3, opts=[operator, plugin_options(), payee])
    lsp, alice, stranger = nodes
    members = [lsp, alice]
    for node in nodes:
        fund(bitcoind, node, 2_000_000)
    connect_all(lsp, [alice])
    lsp.rpc.connect(stranger.info["id"], "localhost", stranger.port)
    lsp.rpc.fundchannel(stranger.info["id"], 500_000)
    mine(bitcoind, 6, members, wait_for_mempool=1)
    wait_for(lambda: channel_with(lsp, stranger)["state"] == "CHANNELD_NORMAL")
    create_active(bitcoind, lsp, [alice])
    pay(lsp, alice, 100_000_000, "so that she has something")
    early = only_factory(alice)["blocks_early"]
    invoice = stranger.rpc.invoice(20_000_000, "held", "held")
    # As far from each other as the operator's cltv-delta: what an exit takes comes on top.
    hops = [
        (lsp, channel_with(alice, lsp)["alias"]["local"], 21_000_000, 28),
        (stranger, channel_with(lsp, stranger)["short_channel_id"], 20_000_000, 8),
    ]
    send(alice, hops, invoice)
    stranger.daemon.wait_for_log("holding an HTLC that expires at")
    (htlc,) = channel_with(alice, lsp)["htlcs"]
    (forwarded,) = channel_with(lsp, stranger)["htlcs"]
    assert htlc["direction"] == "out" and htlc["expiry"] - forwarded["expiry"] == early + 20
    mine_until(bitcoind, members, lambda: channel_with(alice, lsp)["htlcs"] == [], limit=28)
    assert bitcoind.rpc.getblockcount() < htlc["expiry"] - early
    assert (state(alice), state(lsp)) == ("active", "active")
    assert channel_with(alice, lsp)["state"] == "CHANNELD_NORMAL"


# S35
def test_an_htlc_that_ends_after_it_was_listed(node_factory, bitcoind):
    """Alice fails an HTLC, and it ends between her plugin's look at the channels and that at lightningd's
    database, which then says nothing of how: she doesn't leave for it."""
    listing = plugin_options(**{"plugin": [plugin_options()["plugin"], str(PLUGINS / "old_listing.py")]})
    lsp, alice = nodes = node_factory.get_nodes(2, opts=[lsp_options(), listing])
    for node in nodes:
        fund(bitcoind, node, 2_000_000)
    connect_all(lsp, [alice])
    mine(bitcoind, 0, nodes)
    create_active(bitcoind, lsp, [alice])
    early = only_factory(alice)["blocks_early"]

    def pay_in_vain(payment_hash):
        """Something that alice fails."""
        route = [{"id": alice.info["id"], "channel": channel_with(lsp, alice)["alias"]["local"],
                  "amount_msat": 50_000_000, "delay": early + 5}]
        lsp.rpc.sendpay(route, payment_hash, payment_secret="dd" * 32)
        with pytest.raises(RpcError):
            lsp.rpc.waitsendpay(payment_hash)

    payment_hash = "ee" * 32
    pay_in_vain(payment_hash)
    (ended,) = alice.rpc.listhtlcs()["htlcs"]
    wait_for(lambda: alice.rpc.listhtlcs()["htlcs"][0]["state"] == "SENT_REMOVE_ACK_REVOCATION")
    # As it was a moment before.
    listed = alice.rpc.listpeerchannels()["channels"]
    listed[0]["htlcs"] = [
        {"direction": "in", "id": ended["id"], "amount_msat": 50_000_000, "expiry": ended["expiry"],
         "payment_hash": payment_hash, "state": "RCVD_REMOVE_ACK_COMMIT"}
    ]
    alice.rpc.call("old-listing", {"channels": listed})
    # So that her plugin looks at this channel again.
    pay_in_vain("cc" * 32)
    mine(bitcoind, ended["expiry"] - early - bitcoind.rpc.getblockcount(), nodes)
    # Whatever she made of it is done before she handles the next block.
    for _ in range(2):
        mine(bitcoind, 1, nodes)
    assert alice.rpc.call("old-listing")["asked"] > 0, "her plugin hasn't looked"
    assert state(alice) == "active"
    assert bitcoind.rpc.getrawmempool() == []
