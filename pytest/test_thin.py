"""One operator, two clients, one level: from invitation through payments to an exit."""

from harness import (
    channel_with,
    connect_all,
    create,
    lsp_options,
    mine,
    onchain_msat,
    only_factory,
    pay,
    plugin_options,
    state,
    wait_for,
    wait_for_state,
)


def test_invitation_to_exit(node_factory, bitcoind):
    options = [lsp_options(), plugin_options(), plugin_options()]
    lsp, alice, bob = nodes = node_factory.get_nodes(3, opts=options)
    lsp.fundwallet(10_000_000)
    connect_all(lsp, [alice, bob])
    mine(bitcoind, 1, nodes)

    factory = create(lsp, [alice, bob])
    assert factory["state"] == "funding"
    assert [client["id"] for client in factory["clients"]] == [alice.info["id"], bob.info["id"]]
    mine(bitcoind, factory["funding_confirmations"], nodes, wait_for_mempool=factory["funding_txid"])
    for node in nodes:
        wait_for_state(node, "active")
        assert only_factory(node)["factory_instance"] == factory["factory_instance"]

    pay(lsp, alice, 100_000_000, "to alice")
    pay(alice, lsp, 10_000_000, "from alice")

    verified = alice.rpc.call("factory-verify", {"factory_instance": factory["factory_instance"]})
    assert verified["valid"], verified

    # The operator is gone for good.
    lsp.stop()
    alice.rpc.call("factory-exit", {"factory_instance": factory["factory_instance"]})
    others = [alice, bob]
    for _ in range(verified["exit"]["transactions"]):
        mine(bitcoind, 1, others, wait_for_mempool=1)
    wait_for(lambda: state(alice) == "exited")
    wait_for(lambda: channel_with(alice, lsp)["state"] in ("AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN", "ONCHAIN"))
    mine(bitcoind, 1, others, wait_for_mempool=1)
    wait_for(lambda: channel_with(alice, lsp)["state"] == "ONCHAIN")
    mine(bitcoind, 10, others)
    mine(bitcoind, 1, others, wait_for_mempool=1)
    wait_for(lambda: onchain_msat(alice) > 80_000_000)
