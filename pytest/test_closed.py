"""S33: what the plugin can't tell is not taken. A damaged record takes its own factory out of use, a task that
dies takes the process with it, and lightningd doesn't run where nobody guards its factories."""

import re

import pytest
from pyln.client import RpcError

from harness import (
    FAST,
    PLUGINS,
    activate,
    channel_in,
    connect_all,
    create,
    factory_of,
    faulty,
    fund,
    important,
    lsp_options,
    mine_until,
    only_factory,
    pay_over,
    plugin_options,
    read_records,
    status,
    wait_for,
    wait_for_factory,
    wait_for_synced,
    wait_until_ready,
)

UNAVAILABLE = 2503
# What lightningd and its own plugins say when it goes down with an important plugin.
OF_AN_END = "Plugin marked as important|Reading sync lightningd|Lost connection to the RPC socket|Broken pipe|Subd did not close"
# What the plugin says.
OF_OURS = "the task that|lightningd is stopped"


def warning(node, code):
    found = [seen for seen in status(node)["warnings"] if seen["code"] == code]
    return found[0] if found else None


def refused_over(payer, payee, channel_id, label, *codes):
    """A payment over this channel fails at its other end."""
    with pytest.raises(RpcError) as error:
        pay_over(payer, payee, channel_id, label)
    assert any(code in str(error.value.error) for code in codes), error.value.error


def ordinary_channel(bitcoind, node, peer):
    """An ordinary channel that is on chain."""
    known = {channel["channel_id"] for channel in node.rpc.listpeerchannels(peer.info["id"])["channels"]}
    opened = node.rpc.fundchannel(peer.info["id"], 1_000_000, announce=False, push_msat=300_000_000)["channel_id"]
    assert opened not in known
    bitcoind.generate_block(1, wait_for_mempool=1)
    for side in (node, peer):
        wait_for(lambda: "short_channel_id" in of(side, opened) and of(side, opened)["state"] == "CHANNELD_NORMAL")
    return opened


def of(node, channel_id):
    (found,) = [c for c in node.rpc.listpeerchannels()["channels"] if c.get("channel_id") == channel_id]
    return found


def all_reestablished(node):
    channels = [c for c in node.rpc.listpeerchannels()["channels"] if c["state"] == "CHANNELD_NORMAL"]
    return all(channel.get("reestablished") for channel in channels)


@pytest.mark.parametrize("damage", ["corrupted", "newer"])
def test_a_damaged_record_takes_one_factory_out_of_use(node_factory, bitcoind, damage):
    """S31, S33: its HTLCs fail, and it can be left; another factory's and ordinary ones go on."""
    options = [lsp_options(**FAST), plugin_options(broken_log="is out of use")]
    lsp, alice = nodes = node_factory.get_nodes(2, opts=options)
    fund(bitcoind, lsp, 3_000_000, 3_000_000, 3_000_000)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, nodes)
    ordinary = ordinary_channel(bitcoind, lsp, alice)
    bad, good = [activate(bitcoind, create(lsp, [alice], capacity_sat=300_000), lsp, [alice]) for _ in range(2)]
    instance = bad["factory_instance"]
    channels = [channel_in(one, alice)["channel_id"] for one in (bad, good)]

    before = read_records(alice)
    key = max(key for key in before if key[1] == "factory" and key[2] == instance)
    record = before[key]
    damaged = "02" + record[2:] if damage == "newer" else record[:-2]
    alice.rpc.datastore(key=list(key), hex=damaged, mode="must-replace")
    alice.restart()
    why = "record version 2 is newer than this plugin's 1" if damage == "newer" else "the record is damaged"
    assert alice.daemon.is_in_log(f"factory {instance} is out of use: .*{why}")
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, nodes)
    wait_for(lambda: all_reestablished(lsp) and all_reestablished(alice))

    assert status(alice)["available"]
    seen = warning(alice, "damaged")
    assert seen["factory_instance"] == instance and why in seen["message"], seen
    assert "factory-exit" in seen["action"], seen
    assert why in factory_of(alice, instance)["damaged"]
    assert "damaged" not in factory_of(alice, good["factory_instance"])
    with pytest.raises(RpcError, match="out of use") as error:
        alice.rpc.call("factory-accept", {"factory_instance": instance, "terms_hash": "00" * 32})
    assert error.value.error["code"] == UNAVAILABLE

    refused_over(lsp, alice, channels[0], "damaged", "TEMPORARY_NODE_FAILURE", "TEMPORARY_CHANNEL_FAILURE")
    pay_over(lsp, alice, channels[1], "another factory")
    pay_over(lsp, alice, ordinary, "ordinary")

    # What is there stays as it is, and what can be read of it is enough to leave.
    assert read_records(alice)[key] == damaged
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    mine_until(bitcoind, nodes, lambda: factory_of(alice, instance)["state"] == "exited")
    assert read_records(alice)[key] == damaged
    assert factory_of(alice, good["factory_instance"])["state"] == "active"
    # With the record as it was, nothing is in the way of what happened meanwhile.
    alice.rpc.datastore(key=list(key), hex=record, mode="must-replace")
    alice.restart()
    wait_for_factory(alice, instance, "exited")
    assert "damaged" not in factory_of(alice, instance) and warning(alice, "damaged") is None
    assert alice.rpc.call("factory-verify", {"factory_instance": good["factory_instance"]})["valid"]


def with_faults(node_factory, bitcoind, option, ends=True):
    """An operator, and a client in an active factory that fails on request, loaded by this option."""
    broken = f"{OF_AN_END}|{OF_OURS}|hook panicked"
    # Whoever is to end, ends as pyln-testing doesn't expect.
    options = faulty(None, broken_log=broken, may_fail=ends, **FAST)
    del options["factory-fault"]
    if option == "important-plugin":
        options = important(options)
    # A node without its plugin knows none of our messages, and warns of the next one.
    lsp, alice = nodes = node_factory.get_nodes(2, opts=[lsp_options(allow_warning=ends, **FAST), options])
    fund(bitcoind, lsp, 3_000_000, 3_000_000)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, nodes)
    ordinary = ordinary_channel(bitcoind, lsp, alice)
    factory = activate(bitcoind, create(lsp, [alice]), lsp, [alice])
    return lsp, alice, factory, ordinary


@pytest.mark.faults
@pytest.mark.parametrize(
    "option, fault",
    [
        ("important-plugin", "panic-engine"),
        ("important-plugin", "panic-follower"),
        ("plugin", "end-follower"),
        ("plugin", "panic-engine"),
    ],
)
def test_a_task_that_dies_takes_the_node_with_it(node_factory, bitcoind, option, fault):
    lsp, alice, factory, _ = with_faults(node_factory, bitcoind, option)
    assert (warning(alice, "not_important") is None) == (option == "important-plugin")
    alice.rpc.call("misbehave", {"fault": fault})
    bitcoind.generate_block(1)
    code = alice.daemon.wait(60)
    assert (code != 0) == (option == "important-plugin"), code
    task = "owns the engine" if fault == "panic-engine" else "follows the chain"
    assert alice.daemon.is_in_log(f"the task that {task} has ended")
    if option == "plugin":
        assert alice.daemon.is_in_log("lightningd is stopped: nobody would guard its factories")
    # The next start finds everything as it was.
    alice.start()
    connect_all(lsp, [alice])
    wait_for_factory(alice, factory["factory_instance"], "active")


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["panic-hook", "panic-hook-twice"])
def test_a_hook_that_panics_fails_what_may_be_a_factorys(node_factory, bitcoind, fault):
    """S31, S33: it answers, and an ordinary channel goes on where that can still be told."""
    lsp, alice, factory, ordinary = with_faults(node_factory, bitcoind, "important-plugin", ends=False)
    channel = channel_in(factory, alice)["channel_id"]
    alice.rpc.call("misbehave", {"fault": fault})
    refused_over(lsp, alice, channel, "a bug", "TEMPORARY_NODE_FAILURE")
    if fault == "panic-hook":
        pay_over(lsp, alice, ordinary, "ordinary")
    else:
        refused_over(lsp, alice, ordinary, "a worse bug", "TEMPORARY_NODE_FAILURE")
    alice.rpc.call("misbehave", {"fault": ""})
    pay_over(lsp, alice, channel, "mended")


@pytest.mark.faults
def test_a_view_that_is_behind_takes_nothing(node_factory, bitcoind):
    """S33: the engine stands still, and the chain goes on without it."""
    lsp, alice, factory, ordinary = with_faults(node_factory, bitcoind, "important-plugin", ends=False)
    channel = channel_in(factory, alice)["channel_id"]
    pay_over(lsp, alice, channel, "at the tip")
    alice.rpc.call("misbehave", {"fault": "hold-exit"})
    node_factory.executor.submit(alice.rpc.call, "factory-exit", {"factory_instance": factory["factory_instance"]})
    alice.daemon.wait_for_log("standing still at exit")
    bitcoind.generate_block(7)
    height = bitcoind.rpc.getblockcount()
    for node in (lsp, alice):
        wait_for(lambda: node.rpc.getinfo()["blockheight"] == height)
    wait_for_synced(bitcoind, [lsp])
    refused_over(lsp, alice, channel, "behind", "TEMPORARY_NODE_FAILURE")
    assert alice.daemon.is_in_log("a factory's channel takes nothing now: block [0-9]* is the last that was handled")
    pay_over(lsp, alice, ordinary, "ordinary")


@pytest.mark.parametrize("option", ["plugin", "important-plugin"])
def test_a_bad_option_does_not_leave_factories_without_a_guard(node_factory, bitcoind, option):
    broken = f"{OF_AN_END}|lightningd is stopped, because there are factories to guard"
    client = plugin_options(may_fail=True, broken_log=broken, **FAST)
    options = [lsp_options(**FAST), important(client) if option == "important-plugin" else client]
    lsp, alice = nodes = node_factory.get_nodes(2, opts=options)
    fund(bitcoind, lsp, 3_000_000)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, nodes)
    factory = activate(bitcoind, create(lsp, [alice]), lsp, [alice])
    alice.stop()
    good = alice.daemon.opts["factory-policy"]
    alice.daemon.opts["factory-policy"] = "sometimes"
    alice.daemon.start(wait_for_initialized=False)
    alice.daemon.wait(60)
    assert alice.daemon.is_in_log(
        "the plugin can't start: factory-policy: expected never, ask or auto, got 'sometimes'. lightningd is stopped"
    )
    alice.daemon.opts["factory-policy"] = good
    # It may have said that it has started, before it stopped.
    alice.daemon.logs_catchup()
    alice.daemon.logsearch_start = len(alice.daemon.logs)
    alice.start()
    connect_all(lsp, [alice])
    wait_for_factory(alice, factory["factory_instance"], "active")
    assert (warning(alice, "not_important") is None) == (option == "important-plugin")
    assert only_factory(alice)["state"] == "active"


def with_a_broken_node(node_factory, bitcoind):
    """An operator, and a client in an active factory and with an ordinary channel, both with money on its side. Its
    lightningd can be made to fail the plugin."""
    broken = "factories are left alone|listdatastore|is tried again"
    client = plugin_options(broken_log=broken, **FAST)
    client["plugin"] = [client["plugin"], str(PLUGINS / "broken_rpc.py")]
    lsp, alice = nodes = node_factory.get_nodes(2, opts=[lsp_options(**FAST), client])
    fund(bitcoind, lsp, 3_000_000, 3_000_000)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, nodes)
    ordinary = ordinary_channel(bitcoind, lsp, alice)
    factory = activate(bitcoind, create(lsp, [alice]), lsp, [alice])
    channel = channel_in(factory, alice)["channel_id"]
    pay_over(lsp, alice, channel, "so that she has something", amount_msat=50_000_000)
    return lsp, alice, factory, channel, ordinary


def start_broken(alice, *methods):
    """What the plugin asks for fails from before its start. Notes the log from here on."""
    alice.daemon.env["BROKEN_RPC"] = " ".join(methods)
    alice.daemon.logs_catchup()
    alice.daemon.logsearch_start = len(alice.daemon.logs)
    alice.start()
    del alice.daemon.env["BROKEN_RPC"]


def stopped(node, command, *params):
    with pytest.raises(RpcError) as error:
        node.rpc.call(command, *params)
    return error.value.error["message"]


def test_a_datastore_that_cannot_be_read(node_factory, bitcoind):
    """S33, S34: while nothing is known of any factory nothing moves on a channel that may be one's, in either
    direction, and none is ended; others go on. It is read again until it can be, and then whoever has connected
    meanwhile is there."""
    lsp, alice, factory, channel, ordinary = with_a_broken_node(node_factory, bitcoind)
    alice.stop()
    start_broken(alice, "listdatastore")
    connect_all_at_once(lsp, alice)
    wait_for(lambda: all_reestablished(lsp) and all_reestablished(alice))
    wait_for(lambda: alice.rpc.getinfo()["blockheight"] == bitcoind.rpc.getblockcount())
    assert not status(alice)["available"]
    assert "broken on request" in warning(alice, "unavailable")["message"]

    refused_over(lsp, alice, channel, "nothing is known", "TEMPORARY_NODE_FAILURE")
    pay_over(lsp, alice, ordinary, "ordinary")
    unknown = "whether it is in a factory can't be told now: .*broken on request"
    with pytest.raises(RpcError, match=unknown):
        pay_over(alice, lsp, channel, "her own payment")
    first_hop = {"id": lsp.info["id"], "amount_msat": 1_000_000, "delay": 40,
                 "channel": of(alice, channel)["alias"]["local"]}
    for hop in (first_hop, {key: value for key, value in first_hop.items() if key != "channel"}):
        params = {"onion": "00" * 1366, "first_hop": hop, "payment_hash": "11" * 32}
        assert re.search(unknown, stopped(alice, "sendonion", params))
    pay_over(alice, lsp, ordinary, "her own, over the other channel")
    # Which of her channels it takes can't be seen, and that one has the money.
    invoice = lsp.rpc.invoice(1_000_000, "by xpay", "by xpay")["bolt11"]
    assert re.search(unknown, stopped(alice, "xpay", {"invstring": invoice}))
    assert not of(alice, channel)["htlcs"] and not of(alice, ordinary)["htlcs"]
    for command, params in [
        ("close", [channel]),
        ("close", [of(alice, channel)["alias"]["local"]]),
        ("splicein", {"channel": channel, "amount": 10_000}),
        ("dev-forget-channel", {"id": lsp.info["id"], "channel_id": channel, "force": True}),
    ]:
        assert re.search(unknown, stopped(alice, command, params)), command
    assert of(alice, channel)["state"] == "CHANNELD_NORMAL"

    failed = alice.rpc.call("break-rpc", {"methods": ["listdatastore"]})["asked"]
    assert failed > 0
    wait_for(lambda: alice.rpc.call("break-rpc", {"methods": ["listdatastore"]})["asked"] > 0)
    assert not status(alice)["available"]
    alice.rpc.call("break-rpc", {"methods": []})
    alice.daemon.wait_for_log("what is stored can be read now: factories are guarded")
    wait_for(lambda: status(alice)["available"] and factory_of(alice, factory["factory_instance"])["state"] == "active")
    wait_for_synced(bitcoind, [alice])
    pay_over(lsp, alice, channel, "known again")
    pay_over(alice, lsp, channel, "known again, the other way")
    assert "factory-exit" in stopped(alice, "close", [channel])
    assert warning(alice, "unavailable") is None
    # They have connected while she could answer nothing, and needn't do so again.
    wait_until_ready(lsp, [alice])
    wait_until_ready(alice, [lsp])
    activate(bitcoind, create(lsp, [alice], capacity_sat=300_000, ignore_reserve=True), lsp, [alice])


@pytest.mark.parametrize("ends", ["in time", "too late"])
def test_a_chain_that_cannot_be_read_at_the_start(node_factory, bitcoind, ends):
    """S33: an HTLC that comes before every block is handled waits for that, or is failed; afterwards all goes on,
    with the block that was missed."""
    lsp, alice, factory, channel, ordinary = with_a_broken_node(node_factory, bitcoind)
    alice.stop()
    bitcoind.generate_block(1)
    wait_for_synced(bitcoind, [lsp])
    start_broken(alice, "getrawblockbyheight")
    connect_all_at_once(lsp, alice)
    wait_for(lambda: all_reestablished(lsp) and all_reestablished(alice))
    invoice = alice.rpc.invoice(1_000_000, "early", "early")
    secret = lsp.rpc.decode(invoice["bolt11"])["payment_secret"]
    route = [{"id": alice.info["id"], "channel": of(lsp, channel)["alias"]["local"], "delay": 100,
              "amount_msat": 1_000_000}]
    lsp.rpc.sendpay(route, invoice["payment_hash"], payment_secret=secret)
    wait_for(lambda: [htlc["state"] for htlc in of(alice, channel)["htlcs"]] == ["RCVD_ADD_ACK_REVOCATION"])
    pay_over(lsp, alice, ordinary, "ordinary")
    assert alice.rpc.call("break-rpc", {"methods": ["getrawblockbyheight"]})["asked"] > 0
    assert alice.rpc.listinvoices("early")["invoices"][0]["status"] == "unpaid"
    if ends == "too late":
        with pytest.raises(RpcError, match="TEMPORARY_NODE_FAILURE"):
            lsp.rpc.waitsendpay(invoice["payment_hash"], 90)
        refused_over(lsp, alice, channel, "nobody waits any more", "TEMPORARY_NODE_FAILURE")
    alice.rpc.call("break-rpc", {"methods": []})
    if ends == "in time":
        lsp.rpc.waitsendpay(invoice["payment_hash"], 60)
    height = bitcoind.rpc.getblockcount()
    wait_for(lambda: status(alice).get("blockheight") == height)
    connect_all(lsp, [alice])
    pay_over(lsp, alice, channel, "seen again")
    assert factory_of(alice, factory["factory_instance"])["state"] == "active"


def connect_all_at_once(lsp, alice):
    """Connects lightningd of both, whatever alice's plugin can say to that."""
    alice.rpc.connect(lsp.info["id"], "localhost", lsp.port)
    wait_for(lambda: lsp.rpc.listpeers(alice.info["id"])["peers"][0]["connected"])
