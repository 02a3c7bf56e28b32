"""An exit package, published with bitcoin-cli alone by the words of docs/recovery.md: plugin and nodes are gone (S19)."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from pyln.client import RpcError

from harness import ROOT, factory_with, pay, spender, transaction, wait_for
from test_sales import buy


def blocks():
    """The commands of docs/recovery.md about exit packages, block by block."""
    text = (ROOT / "docs" / "recovery.md").read_text()
    text = text[text.index("## An exit package") :]
    return [re.sub(r"^ {3}", "", block, flags=re.M) for block in re.findall(r"```\n(.*?)```", text, flags=re.S)]


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

    def send(self, name):
        """As the page says, with a name that it has as an example."""
        _, _, send, _ = blocks()
        assert "static transaction 0" in send
        return self.run(send.replace("static transaction 0", name))

    def send_with_child(self, packaged):
        """The same, paid for by a coin of the wallet."""
        child = blocks()[3]
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
    package = alice.rpc.call("factory-export", {"factory_instance": instance})
    assert bought["channel_id"] and len(parts(package, "sale")) == 1
    with pytest.raises(RpcError, match="unknown factory_instance"):
        alice.rpc.call("factory-export", {"factory_instance": "00" * 32})
    for node in (lsp, *clients):
        node.stop()
    hand = ByHand(bitcoind, package, os.path.join(directory, "hand"))
    listed = [line.split("\t") for line in hand.run(blocks()[1]).splitlines()]
    assert [line[0] for line in listed] == [tx["name"] for tx in package["transactions"]]
    for packaged in [*parts(package, "path"), *parts(package, "sale")]:
        assert hand.send(packaged["name"]) == packaged["txid"]
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
    package = bob.rpc.call("factory-export", {"factory_instance": factory["factory_instance"]})
    for node in (lsp, *clients):
        node.stop()
    hand = ByHand(bitcoind, package, os.path.join(directory, "hand"))
    first = parts(package, "distribution")[0]
    assert first["from_block"] == package["timeout_block"] + 1 and sum(p["amount_sat"] for p in first["pays"]) >= capacity * 9 // 10
    bitcoind.generate_block(first["from_block"] - 1 - bitcoind.rpc.getblockcount())
    assert hand.send_with_child(first)["package_msg"] == "success"
    bitcoind.generate_block(1, wait_for_mempool=2)
    assert spender(bitcoind, factory["funding_txid"], factory["funding_outnum"])["txid"] == first["txid"]
    # It is bob's wallet's, once there is a node again.
    bob.start()
    got = lambda: [coin["amount_msat"] // 1000 for coin in bob.rpc.listfunds()["outputs"] if coin["txid"] == first["txid"]]
    wait_for(lambda: sum(got()) == sum(paid(bitcoind, first)))
