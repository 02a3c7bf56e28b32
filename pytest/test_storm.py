"""Fees in a storm: a mempool that takes nothing cheap, and wallets with too few coins."""

import pytest
from pyln.testing.utils import TailableProc

from harness import (
    channel_by_id,
    channel_of,
    empty_block,
    factory_of,
    factory_with,
    fund,
    holding,
    lsp_options,
    mine,
    mine_until,
    pay,
    reserved,
    restart_holding_nothing,
    send_direct,
    status,
    transaction,
    wait_for,
    wait_for_factory,
    wait_for_synced,
)
from test_fees import LOW, child_of, warnings

# sat/kw: 50 sat/vB, far above what any transaction of the tree pays by itself.
FLOOR = 12_500
STORM = (20_000, 15_000, 15_000, 13_000)
COIN = 400_000
# Before and after fees have risen twentyfold. lightningd puts no commitment transaction into a mempool that takes none
# of its feerate, which is the last of these: that of the storm is above whatever a full mempool asks for.
TWENTYFOLD = (30_000, 25_000, 22_000, 20_000)
CALM = tuple(rate // 20 for rate in TWENTYFOLD)
# Worth an exit in the storm, too.
HTLC_SAT = 400_000


def restart_with(bitcoind, *options):
    bitcoind.rpc.stop()
    TailableProc.stop(bitcoind)
    bitcoind.cmd_line += options
    bitcoind.start()


def raise_minimum(bitcoind):
    """The relay minimum is high: what pays less comes in only with a child that pays for both."""
    restart_with(bitcoind, f"-minrelaytxfee={FLOOR * 4 / 10**8:.8f}")


def fill_mempool(bitcoind):
    """The smallest mempool that bitcoind has, filled until it throws out what pays less than 50 sat/vB: one
    transaction of 99,000 vB after the other, each with a higher feerate."""
    restart_with(bitcoind, "-maxmempool=5", "-persistmempool=0")
    outputs = 2_200
    bitcoind.rpc.sendmany("", {bitcoind.rpc.getnewaddress(): 0.3 for _ in range(70)})
    bitcoind.generate_block(1, wait_for_mempool=1)
    coins = [coin for coin in bitcoind.rpc.listunspent() if round(coin["amount"] * 10**8) == 30_000_000]
    # Nobody's: bitcoind's wallet would take a minute for so many coins of its own.
    script = "5120" + "02" * 32
    floor = 0
    for number, coin in enumerate(coins):
        # As raw bytes: createrawtransaction takes each address once.
        spends = bytes.fromhex(coin["txid"])[::-1].hex() + coin["vout"].to_bytes(4, "little").hex() + "00fdffffff"
        fee = (60 + number) * (43 * outputs + 200)
        rest = round(coin["amount"] * 10**8) - fee - (outputs - 1) * 1_000
        values = [1_000] * (outputs - 1) + [rest]
        output = "".join(value.to_bytes(8, "little").hex() + "22" + script for value in values)
        raw = "02000000" + "01" + spends + "fd" + outputs.to_bytes(2, "little").hex() + output + "00000000"
        signed = bitcoind.rpc.signrawtransactionwithwallet(raw)["hex"]
        bitcoind.rpc.sendrawtransaction(signed, 0)
        floor = bitcoind.rpc.getmempoolinfo()["mempoolminfee"]
        if floor * 10**8 >= FLOOR * 4:
            return
    raise AssertionError(f"{len(coins)} transactions fill nothing: {floor}")


def something_at_stake(node_factory, bitcoind, **more):
    """A factory of two clients, the first with something to lose and a coin for fees."""
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2, LOW, **more)
    pay(lsp, clients[0], 100_000_000, "at stake")
    fund(bitcoind, clients[0], COIN)
    wait_for_synced(bitcoind, [lsp, *clients])
    return lsp, clients, factory["factory_instance"]


def exit_in(storm, bitcoind, client, instance):
    """A client begins to leave in a storm: the one transaction of its path."""
    storm(bitcoind)
    client.set_feerates(STORM)
    mine(bitcoind, 0, [client])
    client.rpc.call("factory-exit", {"factory_instance": instance})
    (path,) = client.rpc.call("factory-show", {"factory_instance": instance})["transactions"]
    return path


# S26
@pytest.mark.parametrize("storm", [raise_minimum, fill_mempool])
def test_a_transaction_below_the_minimum_goes_with_its_child(node_factory, bitcoind, storm):
    _, (alice, _), instance = something_at_stake(node_factory, bitcoind)
    path = exit_in(storm, bitcoind, alice, instance)
    assert status(alice)["bitcoin_rpc"]["packages"]
    wait_for(lambda: path["txid"] in bitcoind.rpc.getrawmempool())
    parent, child = transaction(bitcoind, path["txid"]), child_of(bitcoind, path["txid"])
    weight = parent["weight"] + child["weight"]
    assert path["fee_sat"] * 1000 < parent["weight"] * FLOOR <= weight * FLOOR <= child["package_sat"] * 1000
    wait_for(lambda: warnings(alice, "not_published") == [])
    bitcoind.rpc.generateblock(bitcoind.rpc.getnewaddress(), [path["txid"], child["txid"]])
    mine(bitcoind, 0, [alice])
    wait_for_factory(alice, instance, "exited")


# S26
def test_without_access_to_bitcoind_it_waits_and_says_so(node_factory, bitcoind):
    _, (alice, _), instance = something_at_stake(node_factory, bitcoind, client={"factory-bitcoin-rpc": "off"})
    path = exit_in(raise_minimum, bitcoind, alice, instance)
    assert status(alice)["bitcoin_rpc"] == {"packages": False}
    wait_for(lambda: warnings(alice, "not_published"))
    (warning,) = warnings(alice, "not_published")
    assert "factory-bitcoin-rpc" in warning["message"]
    # It is no worse than before: once fees fall it goes out by itself.
    restart_with(bitcoind, "-minrelaytxfee=0.00001")
    empty_block(bitcoind, [alice])
    wait_for(lambda: path["txid"] in bitcoind.rpc.getrawmempool())


# S26
def test_coins_are_made_and_kept_for_fees(node_factory, bitcoind):
    lsp, clients, instance = something_at_stake(node_factory, bitcoind)
    alice = clients[0]
    before = status(alice)["reserve"]
    assert before["covered"] and before["coins_ready"] == before["coins_at_once"] == 1
    # A commitment transaction, an HTLC's, and what lightningd adds to both.
    assert before["channels_sat"] == -(-3_206 * before["feerate_perkw"] // 1_000)
    shown = alice.rpc.call("factory-reserve", {"coins": 3, "coin_sat": 20_000})
    assert shown["dry_run"] and shown["missing"] == 3 and shown["made"] == 0 and shown["total_sat"] == 60_000
    assert len(alice.rpc.listfunds()["outputs"]) == 1
    made = alice.rpc.call("factory-reserve", {"coins": 3, "coin_sat": 20_000, "dry_run": False})
    assert made["made"] == 3
    mine(bitcoind, 1, [alice], wait_for_mempool=made["txid"])

    def kept():
        return [out for out in reserved(alice) if out["amount_msat"] == 20_000_000]

    # They stay apart, and count all the same.
    wait_for(lambda: len(kept()) == 3)
    scripts = {out["scriptpubkey"] for out in kept()}
    assert len(scripts) == 1
    assert alice.rpc.call("factory-reserve", {"coins": 3, "coin_sat": 20_000})["missing"] == 0
    assert status(alice)["reserve"]["coins_ready"] == 4

    # A child spends one of them, and its change comes back to them.
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    (path,) = alice.rpc.call("factory-show", {"factory_instance": instance})["transactions"]
    wait_for(lambda: child_of(bitcoind, path["txid"]))
    child = child_of(bitcoind, path["txid"])
    assert {out["scriptPubKey"]["hex"] for out in child["vout"]} == scripts
    assert (child["vin"][1]["txid"], len(child["vin"])) == (made["txid"], 2)
    mine(bitcoind, 1, [lsp, *clients], wait_for_mempool=[path["txid"], child["txid"]])
    wait_for_factory(alice, instance, "exited")

    def on_script():
        outputs = [out for out in alice.rpc.listfunds()["outputs"] if out["scriptpubkey"] in scripts]
        return [out for out in outputs if out["status"] == "confirmed"]

    wait_for(lambda: len(on_script()) == 3)
    empty_block(bitcoind, [alice])
    wait_for(lambda: all(out["reserved"] for out in on_script()))
    given = alice.rpc.call("factory-reserve", {"coins": 0, "dry_run": False})
    assert given["given_back"] == 3 and not any(out["reserved"] for out in on_script())
    empty_block(bitcoind, [alice])
    assert not any(out["reserved"] for out in on_script())


# S27
def test_two_that_reserve_at_once_make_the_coins_once(node_factory, bitcoind, executor):
    (node,) = node_factory.get_nodes(1, opts=[lsp_options()])
    fund(bitcoind, node, COIN)
    wait_for_synced(bitcoind, [node])
    params = {"coins": 3, "coin_sat": 20_000, "dry_run": False}
    both = [executor.submit(node.rpc.call, "factory-reserve", params) for _ in range(2)]
    answers = [one.result() for one in both]
    assert sorted(answer["made"] for answer in answers) == [0, 3]
    (txid,) = [answer["txid"] for answer in answers if "txid" in answer]
    # Nor does the next one, as long as they wait for their block, nor after it.
    again = node.rpc.call("factory-reserve", params)
    assert (again["made"], again["missing"], again["unconfirmed"], again["kept"]) == (0, 0, 3, 0)
    assert "wait" in again["next_action"]
    mine(bitcoind, 1, [node], wait_for_mempool=txid)
    again = node.rpc.call("factory-reserve", params)
    assert (again["made"], again["missing"], again["unconfirmed"], again["kept"]) == (0, 0, 0, 3)
    wait_for(lambda: len(reserved(node)) == 3)


def at_once(executor, call, nodes):
    """Does the same with several nodes at once."""
    for done in [executor.submit(call, node) for node in nodes]:
        done.result()


class Spends:
    """Who spends what, and at which height, in blocks from now on."""

    def __init__(self, bitcoind):
        self.bitcoind = bitcoind
        self.height = bitcoind.rpc.getblockcount()
        self.found = {}

    def look(self):
        while self.height < self.bitcoind.rpc.getblockcount():
            self.height += 1
            block = self.bitcoind.rpc.getblock(self.bitcoind.rpc.getblockhash(self.height), 2)
            for tx in block["tx"]:
                for spent in tx["vin"]:
                    if "txid" in spent:
                        self.found[spent["txid"], spent["vout"]] = (tx, self.height)

    def settled_at(self, place):
        """Height at which the HTLC on a channel was settled, or None."""
        if (place["funding_txid"], place["funding_outnum"]) not in self.found:
            return None
        commitment, _ = self.found[place["funding_txid"], place["funding_outnum"]]
        (htlc,) = [out["n"] for out in commitment["vout"] if round(out["value"] * 10**8) == HTLC_SAT]
        return self.found.get((commitment["txid"], htlc), (None, None))[1]


# S16, S26
@pytest.mark.slow
def test_nobody_loses_an_htlc_who_had_the_coins(node_factory, bitcoind, executor):
    """Eight clients know the preimages of HTLCs that run out, and their operator is gone. Fees have risen twentyfold,
    and the mempool is small and full: with the coins that factory-status asks for each client has its leaf on chain in
    time, and its HTLC."""
    # Blocks are mined as fast as nodes follow: what waits may miss a few.
    operator = {"factory-confirm-blocks": 2, "factory-margin-blocks": 24}
    lsp, clients, factory = factory_with(
        node_factory, bitcoind, 8, CALM,
        lsp=operator, client=holding(**{"factory-reserve-feerate": TWENTYFOLD[0]}),
        capacity_sat=900_000, ignore_reserve=True,
    )
    nodes, instance = [lsp, *clients], factory["factory_instance"]
    channels = [channel_of(client, factory) for client in clients]
    for client in clients:
        asked = status(client)["reserve"]
        assert not asked["covered"]
        fund(bitcoind, client, *[asked["coin_sat"]] * asked["coins"], asked["channels_sat"])
    wait_for_synced(bitcoind, nodes)
    assert all(status(client)["reserve"]["covered"] for client in clients)
    for client, channel in zip(clients, channels):
        invoice = client.rpc.invoice(HTLC_SAT * 1_000, "held", "held")
        send_direct(lsp, client, invoice, channel, more=5)
        client.daemon.wait_for_log("holding an HTLC that expires at")

    def expiry(client, channel):
        (htlc,) = channel_by_id(client, channel)["htlcs"]
        return htlc["expiry"]

    expiries = [expiry(client, channel) for client, channel in zip(clients, channels)]
    early = [factory_of(client, instance)["blocks_early"] for client in clients]
    deadline = min(end - blocks for end, blocks in zip(expiries, early))

    # First those that have to agree to the operator's new feerate.
    at_once(executor, lambda node: node.set_feerates(TWENTYFOLD), clients)
    lsp.set_feerates(TWENTYFOLD)
    for client, channel in zip(clients, channels):
        wait_for(lambda: channel_by_id(client, channel)["feerate"]["perkw"] >= TWENTYFOLD[-1])
    lsp.stop()
    at_once(executor, restart_holding_nothing, clients)
    for client in clients:
        wait_for(lambda: client.rpc.listinvoices("held")["invoices"][0]["status"] == "paid")
    mine(bitcoind, deadline - 4 - bitcoind.rpc.getblockcount(), clients)
    fill_mempool(bitcoind)
    wait_for_synced(bitcoind, clients)
    height = bitcoind.rpc.getblockcount()
    assert height < deadline
    assert {factory_of(client, instance)["state"] for client in clients} == {"active"}
    assert bitcoind.rpc.getmempoolinfo()["mempoolminfee"] * 10**8 >= FLOOR * 4

    places = [factory_of(client, instance)["clients"][0] for client in clients]
    spends = Spends(bitcoind)

    def all_settled():
        spends.look()
        return all(spends.settled_at(place) for place in places)

    mine_until(bitcoind, clients, all_settled, limit=max(expiries) - height)
    for place, end in zip(places, expiries):
        assert spends.settled_at(place) < end
