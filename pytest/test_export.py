"""An exit package, published with bitcoin-cli alone by the words of docs/recovery.md: plugin and nodes are gone (S19, S39)."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from pyln.client import RpcError

from harness import FAST, ROOT, channel_of, factory_of, factory_with, pay, pay_over, spender, transaction, wait_for
from test_restore import CAPACITY, LOST, backed_up, burn, restore, wait_until_copied
from test_sales import buy

# The page's commands that send one transaction, by the name that each has as an example.
EXAMPLES = {
    "path": "static transaction 0",
    "sale": "sale 1 of coin 3",
    "distribution": "distribution of coin 0",
    "close": "cooperative close",
}


def blocks():
    """The commands of docs/recovery.md about exit packages, block by block."""
    text = (ROOT / "docs" / "recovery.md").read_text()
    text = text[text.index("## An exit package") :]
    return [re.sub(r"^ {3}", "", block, flags=re.M) for block in re.findall(r"```\n(.*?)```", text, flags=re.S)]


def block_with(*words):
    (found,) = [block for block in blocks() if all(word in block for word in words)]
    return found


class ByHand:
    """A machine that never ran the plugin: a shell, bitcoin-cli, jq, and a package."""

    def __init__(self, bitcoind, package, directory):
        if not shutil.which("jq"):
            pytest.skip("docs/recovery.md needs jq, which isn't on PATH")
        self.bitcoind, self.package, self.directory = bitcoind, package, pathlib.Path(directory)
        self.directory.mkdir()
        (self.directory / "package.json").write_text(json.dumps(package))
        cli = self.directory / "bitcoin-cli"
        wallet = bitcoind.rpc.listwallets()[0]
        cli.write_text(
            f'#!/bin/sh\nexec {shutil.which("bitcoin-cli")} -datadir={bitcoind.bitcoin_dir} -rpcwallet={wallet} "$@"\n'
        )
        cli.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{self.directory}:{os.environ['PATH']}"}

    def run(self, script):
        done = subprocess.run(
            ["bash", "-euc", script], cwd=self.directory, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def send(self, packaged):
        """As the page says of this part, with the name that it has as an example."""
        example = EXAMPLES[packaged["part"]]
        return self.run(block_with("sendrawtransaction", example).replace(example, packaged["name"]))

    def listed(self):
        """What there is, line by line, as the page lists it."""
        return [line.split("\t") for line in self.run(block_with("input_confirmations")).splitlines()]

    def unspent(self):
        """Names of the distributions whose input is unspent, as the page finds them."""
        return self.run(block_with("gettxout")).splitlines()

    def send_with_child(self, packaged):
        """The same, paid for by a coin of the wallet."""
        child = block_with("createrawtransaction")
        coin = max(self.bitcoind.rpc.listunspent(), key=lambda coin: coin["amount"])
        names = {
            "ANCHOR": packaged["anchor"]["txid"],
            "VOUT": packaged["anchor"]["outnum"],
            "COIN": coin["txid"],
            "ADDRESS": self.bitcoind.rpc.getnewaddress(),
            "AMOUNT": f"{float(coin['amount']) - 0.0002:.8f}",
            "TX": packaged["tx"],
        }
        child = re.sub(r'"vout":N\b', f'"vout":{coin["vout"]}', child)
        return json.loads(self.run(re.sub("|".join(names), lambda found: str(names[found[0]]), child)))


def capacity_of(factory, client):
    return next(one for one in factory["clients"] if one["id"] == client.info["id"])["capacity_sat"]


def export(node, factory):
    return node.rpc.call("factory-export", {"factory_instance": factory["factory_instance"]})


def parts(package, part):
    return [tx for tx in package["transactions"] if tx["part"] == part]


def paid(bitcoind, packaged):
    tx = transaction(bitcoind, packaged["txid"])
    return [tx["vout"][place["outnum"]]["sat"] for place in packaged["pays"]]


def test_a_path_and_a_purchase_by_hand(node_factory, bitcoind, directory):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 4, stock_sat=300_000)
    alice = clients[0]
    pay(lsp, alice, 50_000_000, "to alice")
    bought = buy(alice, factory, 60_000)
    instance, capacity = factory["factory_instance"], capacity_of(factory, alice)
    package = export(alice, factory)
    assert bought["channel_id"] and len(parts(package, "sale")) == 1
    # By when she has to begin, by her node's own numbers; before its input is there a sale has no such block.
    (sale,) = factory_of(alice, instance)["sales"]
    by = package["timeout_block"] - sale["blocks_early"]
    assert {tx["publish_by_block"] for tx in parts(package, "path")} == {by}
    assert "publish_by_block" not in parts(package, "sale")[0] and "path_left_out" not in package
    assert package["stock_csv"] == int(FAST["factory-stock-csv"])
    assert all("publish_by_block" not in tx for tx in export(clients[3], factory)["transactions"])
    with pytest.raises(RpcError, match="unknown factory_instance"):
        alice.rpc.call("factory-export", {"factory_instance": "00" * 32})
    for node in (lsp, *clients):
        node.stop()
    hand = ByHand(bitcoind, package, os.path.join(directory, "hand"))
    listed = hand.listed()
    assert [line[0] for line in listed] == [tx["name"] for tx in package["transactions"]]
    assert [line[7] for line in listed] == [str(tx.get("publish_by_block", "none")) for tx in package["transactions"]]
    for packaged in [*parts(package, "path"), *parts(package, "sale")]:
        assert hand.send(packaged) == packaged["txid"]
        bitcoind.generate_block(packaged["input_confirmations"], wait_for_mempool=packaged["txid"])
        tx = transaction(bitcoind, packaged["txid"])
        inputs = transaction(bitcoind, packaged["input"]["txid"])["vout"][packaged["input"]["outnum"]]["sat"]
        assert tx["vsize"] == packaged["vbytes"] and inputs - sum(out["sat"] for out in tx["vout"]) == packaged["fee_sat"]
    leaf, sale = parts(package, "path")[-1], parts(package, "sale")[0]
    assert paid(bitcoind, leaf) == [capacity]
    assert paid(bitcoind, sale) == [60_000]


def test_a_distribution_by_hand_with_a_child(node_factory, bitcoind, directory):
    lsp, clients, factory = factory_with(node_factory, bitcoind, 4, lifetime_blocks=150, dying_blocks=40)
    bob = clients[1]
    capacity = capacity_of(factory, bob)
    package = export(bob, factory)
    for node in (lsp, *clients):
        node.stop()
    hand = ByHand(bitcoind, package, os.path.join(directory, "hand"))
    first = parts(package, "distribution")[0]
    assert first["from_block"] == package["timeout_block"] + 1 and sum(p["amount_sat"] for p in first["pays"]) >= capacity * 9 // 10
    bitcoind.generate_block(first["from_block"] - 1 - bitcoind.rpc.getblockcount())
    assert hand.unspent() == [first["name"]]
    assert hand.send_with_child(first)["package_msg"] == "success"
    bitcoind.generate_block(1, wait_for_mempool=2)
    assert spender(bitcoind, factory["funding_txid"], factory["funding_outnum"])["txid"] == first["txid"]
    # It is bob's wallet's, once there is a node again.
    bob.start()
    got = lambda: [coin["amount_msat"] // 1000 for coin in bob.rpc.listfunds()["outputs"] if coin["txid"] == first["txid"]]
    wait_for(lambda: sum(got()) == sum(paid(bitcoind, first)))


# S39
def test_no_path_by_hand_without_channels(node_factory, bitcoind, directory):
    """Nobody but the operator could close what the path leads to: the package has none, and the distribution pays all."""
    lsp, clients, factory = backed_up(
        node_factory, bitcoind, directory, client=LOST, lifetime_blocks=150, dying_blocks=40
    )
    alice, bob = clients
    before = export(alice, factory)
    assert parts(before, "path") and "path_left_out" not in before
    wait_until_copied(lsp, alice, bob)
    lsp.stop()
    bob.stop()
    burn(alice)
    restore(alice, factory["factory_instance"])
    package = export(alice, factory)
    assert "only the operator could close" in package["path_left_out"]
    assert str(package["timeout_block"]) in package["path_left_out"]
    assert package["transactions"] == [tx for tx in before["transactions"] if tx["part"] != "path"]
    alice.stop()
    hand = ByHand(bitcoind, package, os.path.join(directory, "hand"))
    first = parts(package, "distribution")[0]
    bitcoind.generate_block(first["from_block"] - 1 - bitcoind.rpc.getblockcount())
    assert hand.unspent() == [first["name"]]
    assert hand.send(first) == first["txid"]
    bitcoind.generate_block(1, wait_for_mempool=first["txid"])
    assert sum(paid(bitcoind, first)) >= CAPACITY * 9 // 10


# S19
def test_a_close_by_hand(node_factory, bitcoind, directory):
    """All have signed it: a client publishes it, whether or not the operator has."""
    lsp, clients, factory = factory_with(node_factory, bitcoind, 2)
    alice = clients[0]
    pay_over(lsp, alice, channel_of(alice, factory), "to alice", 50_000_000)
    lsp.rpc.call("factory-close", {"factory_instance": factory["factory_instance"]})
    wait_for(lambda: parts(export(alice, factory), "close"))
    (close,) = parts(export(alice, factory), "close")
    assert "publish_by_block" not in close
    (own,) = parts(export(lsp, factory), "close")
    assert own["txid"] == close["txid"]
    timeout = export(alice, factory)["timeout_block"]
    assert own["publish_by_block"] == timeout - int(FAST["factory-confirm-blocks"])
    hand = ByHand(bitcoind, export(alice, factory), os.path.join(directory, "hand"))
    for node in (lsp, *clients):
        node.stop()
    assert hand.send(close) == close["txid"]
    bitcoind.generate_block(1, wait_for_mempool=close["txid"])
    assert spender(bitcoind, factory["funding_txid"], factory["funding_outnum"])["txid"] == close["txid"]
    assert sum(paid(bitcoind, close)) >= 50_000
