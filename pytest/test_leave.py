"""Between factories and ordinary channels on real nodes: a client that leaves with its operator's help, an ordinary
channel that moves into a factory, and a client that was evicted and comes back (S22, S37)."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    RESERVE_MSAT,
    activate,
    channel_by_id,
    channel_of,
    connect_all,
    create,
    factory_with,
    fund,
    lsp_options,
    mine,
    mine_until,
    pay_over,
    plugin_options,
    state_of,
    status,
    to_us,
    wait_for,
    wait_until_ready,
)

PUSH_MSAT = RESERVE_MSAT
PAID_MSAT = 60_000_000
DEPTH = 6
# Blocks between two looks at channels that lightningd keeps for ever (src/cln/abandoned.rs), and how deep is for good.
LOOKS = 36
BURIED = 100


def leave(client, factory, **more):
    return client.rpc.call("factory-leave", {"factory_instance": factory["factory_instance"], **more})


def purse(client):
    """All that the client has, by the nodes' own account."""
    return status(client)["total_msat"]


def closed_together(node, channel_id):
    """Both sides have closed it; lightningd may have moved on since."""
    states = [c["state"] for c in node.rpc.listpeerchannels()["channels"] if c["channel_id"] == channel_id]
    return states and states[0] not in ("CHANNELD_NORMAL", "CHANNELD_SHUTTING_DOWN", "CLOSINGD_SIGEXCHANGE")


# S22
def test_a_client_leaves(node_factory, bitcoind):
    options = {"factory-push-msat": PUSH_MSAT, "factory-leave-channels": None, **FAST}
    lsp, (client,), factory = factory_with(node_factory, bitcoind, 1, lsp=options, client=FAST)
    old = channel_of(client, factory)
    pay_over(lsp, client, old, "purse", PAID_MSAT)
    before = to_us(client, old)
    moves = before - RESERVE_MSAT

    planned = leave(client, factory, dry_run=True)["ways"]
    price = planned["leave"]["price_msat"]
    assert price > 0, planned
    assert (planned["leave"]["moves_msat"], planned["leave"]["stays_msat"]) == (moves, RESERVE_MSAT)
    assert planned["leave"]["blocks"] == DEPTH and planned["leave"]["vbytes"] == 154
    preview = client.rpc.call("factory-exit", [factory["factory_instance"], True])["ways"]
    assert preview["exit"] == planned["exit"] and preview["leave"]["moves_msat"] == moves
    with pytest.raises(RpcError, match=f"costs {price} msat") as refused:
        leave(client, factory)
    assert refused.value.error["code"] == 2508
    assert state_of(client, factory) == "active" and status(client)["leaves"] == []

    begun = leave(client, factory, max_price_msat=price)
    new = begun["channel_id"]
    assert begun["price_msat"] == price and begun["stage"] == "depth"
    with pytest.raises(RpcError, match="being left already"):
        leave(client, factory, max_price_msat=price)
    # Its operator's word is not enough: neither for the move nor for the key.
    mine(bitcoind, DEPTH - 1, [lsp, client], wait_for_mempool=1)
    assert to_us(client, new) == 0 and to_us(client, old) == before
    assert state_of(client, factory) == "active"
    mine_until(bitcoind, [lsp, client], lambda: state_of(client, factory) == "left")
    assert to_us(client, new) == moves - price
    assert to_us(client, old) == RESERVE_MSAT + price
    assert purse(client) == moves - price
    for node in (lsp, client):
        wait_for(lambda: channel_by_id(node, old)["state"] == "CLOSINGD_COMPLETE")
    [left] = status(client)["leaves"]
    assert left["stage"] == "done" and left["channel_id"] == new
    mine(bitcoind, 1, [lsp, client])
    wait_for(lambda: status(client).get("closed_channels") == 1)
    # It is an ordinary channel: payments go on.
    pay_over(lsp, client, new, "after", 1_000_000)
    assert to_us(client, new) == moves - price + 1_000_000


def leave_empty(bitcoind, lsp, client, factory):
    """Leaves a factory in which there is nothing, and gives the height at which its operator has taken it back."""
    channel = channel_of(client, factory)
    leave(client, factory)
    wait_for(lambda: state_of(client, factory) == "left")
    root = factory["funding_txid"], factory["funding_outnum"], False
    mine_until(bitcoind, [lsp, client], lambda: bitcoind.rpc.gettxout(*root) is None)
    spent = bitcoind.rpc.getblockcount()
    for node in (lsp, client):
        wait_for(lambda: channel_by_id(node, channel)["state"] == "CLOSINGD_COMPLETE")
    return spent


def is_listed(node, channel_id):
    """Whether lightningd still has a channel."""
    return channel_id in [channel["channel_id"] for channel in node.rpc.listpeerchannels()["channels"]]


# S22
def test_what_is_buried_is_forgotten(node_factory, bitcoind):
    """Channels of who has left, which never come on chain: by nodes with --developer, such as these, a hundred blocks
    after the factory's output was spent, and not before."""
    # What is the operator's again waits for no other funding.
    options = {"factory-reclaim-blocks": 65_535, **FAST}
    lsp, (client,), first = factory_with(node_factory, bitcoind, 1, lsp=options, client=FAST)
    second = activate(bitcoind, create(lsp, [client]), lsp, [client])
    nodes = [lsp, client]
    channels = [channel_of(client, factory) for factory in (first, second)]
    # The first look that finds it deep enough.
    deep = leave_empty(bitcoind, lsp, client, first) + BURIED - 1
    look = -(-deep // LOOKS) * LOOKS

    # The one before doesn't.
    mine(bitcoind, look - LOOKS - bitcoind.rpc.getblockcount(), nodes)
    mine(bitcoind, 1, nodes)
    for node in nodes:
        wait_for(lambda: status(node).get("closed_channels") == 1)
        assert is_listed(node, channels[0])
        assert state_of(node, first) != "closed"
    later = leave_empty(bitcoind, lsp, client, second)
    assert bitcoind.rpc.getblockcount() < look - 1 and later + BURIED - 1 > look
    mine(bitcoind, 1, nodes)
    for node in nodes:
        wait_for(lambda: status(node).get("closed_channels") == 2)

    mine(bitcoind, look - bitcoind.rpc.getblockcount(), nodes)
    for node in nodes:
        wait_for(lambda: not is_listed(node, channels[0]))
    mine(bitcoind, 1, nodes)
    for node in nodes:
        assert state_of(node, first) == "closed" and state_of(node, second) != "closed"
        # Of the other one it isn't time.
        assert is_listed(node, channels[1])
        wait_for(lambda: status(node).get("closed_channels") == 1)


# S37
def test_an_ordinary_channel_moves_in(node_factory, bitcoind):
    options = [
        lsp_options(**{"factory-push-msat": PUSH_MSAT, **FAST}),
        plugin_options(**{"factory-policy": "ask", **FAST}),
    ]
    lsp, client = node_factory.get_nodes(2, opts=options)
    connect_all(lsp, [client])
    fund(bitcoind, lsp, 9_000_000, 9_000_000)
    opened = lsp.rpc.fundchannel(client.info["id"], 300_000, push_msat=PAID_MSAT, announce=False)
    ordinary = opened["channel_id"]
    mine(bitcoind, 6, [lsp, client], wait_for_mempool=opened["txid"])
    wait_for(lambda: channel_by_id(client, ordinary)["state"] == "CHANNELD_NORMAL")
    wait_until_ready(lsp, [client])
    created = ThreadPoolExecutor(1).submit(create, lsp, [client])
    wait_for(lambda: client.rpc.call("factory-invitations")["invitations"])
    [invitation] = client.rpc.call("factory-invitations")["invitations"]
    accept = [invitation["factory_instance"], invitation["terms_hash"]]
    with pytest.raises(RpcError, match="no confirmed ordinary channel|move_from"):
        client.rpc.call("factory-accept", [*accept, "77" * 32])
    scid = channel_by_id(client, ordinary)["short_channel_id"]
    # lightningd's own: a hundredth.
    reserve = int(channel_by_id(client, ordinary)["our_reserve_msat"])
    client.rpc.call("factory-accept", [*accept, scid])
    factory = activate(bitcoind, created.result(60), lsp, [client])
    new = channel_of(client, factory)
    mine_until(bitcoind, [lsp, client], lambda: closed_together(client, ordinary))
    assert to_us(client, new) == PUSH_MSAT + PAID_MSAT - reserve
    wait_for(lambda: closed_together(lsp, ordinary))


# S32, S37
def test_an_evicted_client_comes_back(node_factory, bitcoind):
    options = {"factory-push-msat": PUSH_MSAT, **FAST}
    lsp, (client,), first = factory_with(node_factory, bitcoind, 1, lsp=options, client=FAST)
    old = channel_of(client, first)
    pay_over(lsp, client, old, "purse", PAID_MSAT)
    lsp.rpc.call("factory-evict", [first["factory_instance"]])
    mine_until(bitcoind, [lsp, client], lambda: state_of(client, first) == "exited")
    assert channel_by_id(client, old)["state"] == "CHANNELD_NORMAL"
    before = to_us(client, old)
    second = activate(bitcoind, create(lsp, [client]), lsp, [client])
    new = channel_of(client, second)
    mine_until(bitcoind, [lsp, client], lambda: closed_together(client, old))
    assert to_us(client, new) == PUSH_MSAT + before - RESERVE_MSAT
    pay_over(lsp, client, new, "after", 1_000_000)
