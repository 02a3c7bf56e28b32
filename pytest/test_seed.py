"""An `hsm_secret` with a passphrase, beside what test_incidents.py has: a machine burns, and it is what is left."""

from harness import (
    FAST,
    activate,
    connect_all,
    connect_briefly,
    create,
    factories,
    fund,
    lsp_options,
    mine_until,
    onchain_msat,
    pay,
    plugin_options,
    wait_for,
    wait_for_synced,
)
from test_incidents import start_locked, with_passphrase
from test_restore import CAPACITY, LOST, burn, file_of, restore, wait_until_copied


# S5, S39
def test_a_machine_burns_whose_seed_has_a_passphrase(node_factory, bitcoind, directory):
    """By docs/recovery.md: with `hsm-passphrase` again, and the passphrase, the file opens and the money is back."""
    locked = {"hsm-passphrase": None, "start": False, "factory-backup-file": file_of(directory, "alice"), **LOST}
    options = [lsp_options(**FAST, broken_log=".*"), plugin_options(**locked)]
    lsp, alice = nodes = node_factory.get_nodes(2, opts=options)
    first = alice.daemon.start
    start_locked(alice)
    me = alice.info["id"]
    fund(bitcoind, lsp, 3_000_000)
    connect_all(lsp, [alice])
    wait_for_synced(bitcoind, nodes)
    factory = activate(bitcoind, create(lsp, [alice], capacity_sat=CAPACITY), lsp, [alice])
    pay(lsp, alice, 50_000_000, "to alice")
    wait_until_copied(alice)

    # With another one lightningd doesn't start: it knows.
    alice.stop()
    right = alice.daemon.start
    alice.daemon.start = first
    with_passphrase(alice, "wrong horse")
    alice.daemon.start(wait_for_initialized=False)
    assert alice.daemon.wait() != 0
    alice.daemon.start = right
    alice.start()
    assert alice.info["id"] == me
    wait_for(lambda: [seen["state"] for seen in factories(alice)] == ["active"])

    burn(alice)
    assert alice.info["id"] == me
    restore(alice, factory["factory_instance"])
    connect_briefly(alice, lsp)
    mine_until(bitcoind, nodes, lambda: onchain_msat(alice) > 49_000_000)
