"""Three generations of eight clients on real nodes: one comes from an ordinary channel, one never comes back in time
(S21, S22, S32, S37, S38). Payments from and to everybody before, during and after."""

from harness import (
    FAST,
    RESERVE_MSAT,
    channel_by_id,
    channel_in,
    channel_of,
    connect_all,
    factory_with,
    mine,
    mine_until,
    pay,
    pay_over,
    plugin_options,
    spender,
    state_of,
    status,
    to_us,
    transaction,
    wait_for,
)
from test_chain import path_of, statement
from test_renewal import PUSH_MSAT, TERMS, next_factory

PURSE_MSAT = 40_000_000
CAPACITY_MSAT = TERMS["capacity_sat"] * 1000


class Purses:
    """What each client must have."""

    def __init__(self, lsp, clients):
        self.lsp, self.count = lsp, 0
        self.msat = {client.info["id"]: PURSE_MSAT + PUSH_MSAT for client in clients}

    def pay_around(self, clients):
        """Each is paid, and pays."""
        for client in clients:
            self.count += 1
            name = client.info["id"]
            pay(self.lsp, client, 2_000_000, f"to {name} {self.count}")
            pay(client, self.lsp, 500_000, f"from {name} {self.count}")
            self.msat[name] += 1_500_000

    def came(self, client, more=0):
        self.msat[client.info["id"]] += more

    def check(self, clients):
        for client in clients:
            wait_for(lambda: status(client)["total_msat"] == self.msat[client.info["id"]])


def root_of(factory):
    return factory["funding_txid"], factory["funding_outnum"]


def check_path_sizes(bitcoind, lsp, factory, path):
    """Each transaction of a path is as large on chain as the engine says, which docs/comparison.md counts with."""
    said = {tx["txid"]: tx["vbytes"] for tx in lsp.rpc.call("factory-show", [factory["factory_instance"]])["transactions"]}
    assert {txid: transaction(bitcoind, txid)["vsize"] for txid in path} == {txid: said[txid] for txid in path}


def check_funding_size(bitcoind, funding):
    """A funding is as large as docs/comparison.md says (a): P2TR throughout, key paths."""
    ins, outs = len(funding["vin"]), len(funding["vout"])
    assert [len(vin["txinwitness"]) for vin in funding["vin"]] == [1] * ins
    assert funding["weight"] == 4 * (10 + 41 * ins + 43 * outs) + 2 + 66 * ins


def test_eight_clients_three_generations(node_factory, bitcoind):
    options = {"factory-push-msat": PUSH_MSAT, "factory-reclaim-blocks": 10, **FAST}
    lsp, clients, first = factory_with(node_factory, bitcoind, 7, lsp=options, client=FAST, **TERMS)
    *stay, straggler = clients
    for client in clients:
        pay_over(lsp, client, channel_of(client, first), "purse", PURSE_MSAT)
    # The eighth has an ordinary channel.
    # It moves by hand, as soon as its channel can be used.
    early = {"factory-handover-depth": 1}
    (newcomer,) = node_factory.get_nodes(1, opts=[plugin_options(**FAST, **early)])
    connect_all(lsp, [newcomer])
    opened = lsp.rpc.fundchannel(newcomer.info["id"], 300_000, announce=False, push_msat=PURSE_MSAT + PUSH_MSAT)
    mine(bitcoind, 6, [lsp, newcomer, *clients], wait_for_mempool=opened["txid"])
    ordinary = opened["channel_id"]
    wait_for(lambda: channel_by_id(newcomer, ordinary)["state"] == "CHANNELD_NORMAL")
    wait_for(lambda: "remote" in channel_by_id(newcomer, ordinary).get("updates", {}))
    everybody = [*stay, newcomer]
    nodes = [lsp, *everybody]
    purses = Purses(lsp, [*clients, newcomer])
    purses.pay_around([*clients, newcomer])
    purses.check(clients)

    straggler.stop()
    mine(bitcoind, first["timeout_block"] - TERMS["dying_blocks"] - bitcoind.rpc.getblockcount(), nodes)
    second = next_factory(bitcoind, lsp, everybody)
    for client in everybody:
        purses.came(client, PUSH_MSAT if client is newcomer else PUSH_MSAT - RESERVE_MSAT)

    # On-ramp: all that may be moved, then lightningd's own close.
    target = channel_of(newcomer, second)
    moved = newcomer.rpc.call("factory-move", {"from": ordinary, "to": target})
    assert moved["moved_msat"] > PURSE_MSAT // 2, moved
    wait_for(lambda: not status(newcomer)["moves"])
    newcomer.rpc.close(ordinary)
    left = to_us(newcomer, ordinary)

    # Depth, a move, a handover, a mutual close: nobody says anything, and everybody pays meanwhile.
    def done():
        for client in stay[:2]:
            purses.pay_around([client])
        stay.append(stay.pop(0))
        return all(state_of(client, first) == "left" for client in stay)

    mine_until(bitcoind, nodes, done)
    purses.pay_around(stay)
    purses.check(stay)
    for client in stay:
        assert to_us(client, channel_of(client, first)) == RESERVE_MSAT
    # What the ordinary channel's close left is in the wallet.
    wait_for(lambda: to_us(newcomer, target) == purses.msat[newcomer.info["id"]] - left)
    purses.came(newcomer, -left)
    purses.pay_around([newcomer])
    purses.check([newcomer])

    # Who hasn't come is evicted in time; whatever lies beside its path is one transaction's.
    mine_until(bitcoind, nodes, lambda: state_of(lsp, first) in ("reclaimed", "exited", "closed"), limit=150)
    assert bitcoind.rpc.getblockcount() < first["timeout_block"]
    totals = statement(bitcoind, lsp, first["factory_instance"])
    place = next(c["client"] for c in first["clients"] if c["id"] == straggler.info["id"])
    path = [tx["txid"] for tx in path_of(lsp, first["factory_instance"], place)]
    assert totals["reclaimed"] > 0 and spender(bitcoind, *root_of(first))["txid"] == path[0]
    check_path_sizes(bitcoind, lsp, first, path)
    straggler.start()
    connect_all(lsp, [straggler])
    wait_for(lambda: channel_in(first, straggler)["state"] == "CHANNELD_NORMAL")
    # From some depth on it is a channel like any other.
    mine(bitcoind, 6, [*nodes, straggler])
    pay_over(lsp, straggler, channel_of(straggler, first), "welcome back")
    assert to_us(straggler, channel_of(straggler, first)) == purses.msat[straggler.info["id"]] + 1_000_000

    # The next generation: the second's root is one input of the third's funding.
    dying = second["timeout_block"] - TERMS["dying_blocks"]
    mine(bitcoind, max(dying - bitcoind.rpc.getblockcount(), 0), [*nodes, straggler])
    third = next_factory(bitcoind, lsp, everybody)
    mine_until(bitcoind, nodes, lambda: all(state_of(client, second) == "left" for client in everybody))
    for client in everybody:
        purses.came(client, PUSH_MSAT - RESERVE_MSAT)
    purses.pay_around(everybody)
    purses.check(everybody)
    fourth = next_factory(bitcoind, lsp, everybody)
    spent = spender(bitcoind, *root_of(second))
    assert spent["txid"] == fourth["funding_txid"]
    (witness,) = [vin["txinwitness"] for vin in spent["vin"] if (vin["txid"], vin["vout"]) == root_of(second)]
    assert len(witness) == 1, "by key path"
    check_funding_size(bitcoind, spent)
    wait_for(lambda: state_of(lsp, second) in ("reclaimed", "closed"))
    for factory in (first, second, third, fourth):
        statement(bitcoind, lsp, factory["factory_instance"])
