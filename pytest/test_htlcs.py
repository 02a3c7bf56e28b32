"""HTLCs that are not settled in time take their channel on chain by themselves."""

from harness import (
    PLUGINS,
    channel_with,
    connect_all,
    create_active,
    fund,
    lsp_options,
    mine,
    mine_until,
    only_factory,
    pay,
    plugin_options,
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
    decoded = lsp.rpc.decode(invoice["bolt11"])
    route = [{"id": alice.info["id"], "channel": channel_with(alice, lsp)["alias"]["remote"],
              "amount_msat": 50_000_000, "delay": decoded["min_final_cltv_expiry"] + 5}]
    lsp.rpc.sendpay(route, invoice["payment_hash"], payment_secret=decoded["payment_secret"])
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


# S16
def test_known_preimage_is_claimed_in_time(node_factory, bitcoind):
    """The operator vanishes before it takes the preimage: alice leaves and claims the HTLC on chain before
    it expires."""
    holding = plugin_options(**{"plugin": [plugin_options()["plugin"], str(PLUGINS / "hold_htlcs.py")]})
    lsp, alice = nodes = node_factory.get_nodes(2, opts=[lsp_options(), holding])
    for node in nodes:
        fund(bitcoind, node, 2_000_000)
    connect_all(lsp, [alice])
    mine(bitcoind, 0, nodes)
    create_active(bitcoind, lsp, [alice])
    invoice = alice.rpc.invoice(50_000_000, "held", "held")
    channel = channel_with(lsp, alice)
    decoded = lsp.rpc.decode(invoice["bolt11"])
    route = [{"id": alice.info["id"], "channel": channel["alias"]["local"], "amount_msat": 50_000_000,
              "delay": decoded["min_final_cltv_expiry"] + 5}]
    lsp.rpc.sendpay(route, invoice["payment_hash"], payment_secret=decoded["payment_secret"])
    alice.daemon.wait_for_log("holding an HTLC that expires at")
    expiry = channel_with(alice, lsp)["htlcs"][0]["expiry"]
    lsp.stop()
    # Asked again after a restart, alice knows that it is hers.
    alice.stop()
    alice.daemon.opts["plugin"] = plugin_options()["plugin"]
    alice.start()
    wait_for(lambda: alice.rpc.listinvoices("held")["invoices"][0]["status"] == "paid")
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
    """The payee of alice's payment holds it: alice and the operator leave at her channel's deadline, and she
    gets it back on chain."""
    holding = {"plugin": str(PLUGINS / "hold_htlcs.py"), "may_reconnect": True}
    nodes = node_factory.get_nodes(3, opts=[lsp_options(), plugin_options(), holding])
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
    secret = alice.rpc.decode(invoice["bolt11"])["payment_secret"]
    route = [
        {"id": lsp.info["id"], "channel": channel_with(alice, lsp)["alias"]["local"], "amount_msat": 21_000_000,
         "delay": early + 8},
        {"id": stranger.info["id"], "channel": channel_with(lsp, stranger)["short_channel_id"],
         "amount_msat": 20_000_000, "delay": early + 2},
    ]
    alice.rpc.sendpay(route, invoice["payment_hash"], payment_secret=secret)
    stranger.daemon.wait_for_log("holding an HTLC that expires at")
    (htlc,) = channel_with(alice, lsp)["htlcs"]
    assert htlc["direction"] == "out"
    deadline = htlc["expiry"] - early
    mine(bitcoind, deadline - 1 - bitcoind.rpc.getblockcount(), members)
    assert (state(alice), state(lsp)) == ("active", "active")
    mine(bitcoind, 1, members)
    # The operator has received it: it may learn the preimage yet.
    wait_for(lambda: (state(alice), state(lsp)) == ("exiting", "exiting"))
    mine_until(bitcoind, members, lambda: channel_with(alice, lsp)["state"] == "ONCHAIN", limit=early)
    assert bitcoind.rpc.getblockcount() < htlc["expiry"]
    # Timed out as soon as it may be.
    (place,) = only_factory(alice)["clients"]
    mine_until(bitcoind, members, lambda: settled_at(bitcoind, place, 21_000), limit=early + 5)
    assert htlc["expiry"] < settled_at(bitcoind, place, 21_000) <= htlc["expiry"] + 3
