"""The page (factory-web-bind) of real nodes, in a real browser: each number on it is the one that a command says, it is
live, and whoever may not read it doesn't."""

import http.client
import re

from pyln.client import RpcError
from pyln.testing.utils import reserve_unused_port

from harness import (
    channel_of,
    factory_with,
    lsp_options,
    mine,
    pay,
    status,
    wait_for,
)
from page_server import HEADERS

READS = ["factory-status", "factory-list", "factory-show"]
NUMBER = re.compile(r"[\d,]+")


def web(port):
    return {"factory-web-bind": f"127.0.0.1:{port}"}


def make_rune(node, methods=READS):
    """createrune's answer: a rune for these commands."""
    return node.rpc.call("createrune", {"restrictions": [[f"method={method}" for method in methods]]})


def serve(node, port):
    """Until the page is served."""
    wait_for(lambda: node.daemon.is_in_log(rf"the page is served at http://127\.0\.0\.1:{port}/"))


class Said:
    """What the commands say, by the names that the page's elements have (`data-rpc`)."""

    def __init__(self, node):
        self.node = node
        self.answers = {}

    def call(self, method, **params):
        key = (method, *sorted(params.items()))
        if key not in self.answers:
            self.answers[key] = self.node.rpc.call(method, params)
        return self.answers[key]

    def root(self, command, keys):
        """What the path's first words name, and the words that are left."""
        if command == "factory-list":
            found = self.call(command)["factories"]
            return next(one for one in found if one["factory_instance"] == keys[0]), keys[1:]
        if command == "factory-show":
            return self.call(command, factory_instance=keys[0]), keys[1:]
        if command == "factory-exit":
            return self.call(command, factory_instance=keys[0], dry_run=True), keys[1:]
        if command == "listpeerchannels":
            found = self.call(command)["channels"]
            return next(one for one in found if one.get("channel_id") == keys[0]), keys[1:]
        if command == "listnodes":
            return self.call(command, id=keys[0])["nodes"][0], keys[1:]
        return self.call(command), keys

    def path(self, path):
        command, *keys = path.split(".")
        value, keys = self.root(command, keys)
        if command == "factory-status" and keys[0] == "peers":
            # Whether somebody is among them.
            return any(peer["id"] == keys[1] for peer in value["peers"])
        for key in keys:
            value = value[int(key)] if isinstance(value, list) else value[key]
        return value

    def connected(self, instance):
        """Members of a factory that lightningd is connected with."""
        clients = self.path(f"factory-list.{instance}.clients")
        return sum(self.path(f"listpeerchannels.{client['channel_id']}.peer_connected") for client in clients)

    def __call__(self, name):
        if name.startswith("#"):
            return len(self.path(name[1:]))
        if counted := re.fullmatch(r"connected\((\w+)\)", name):
            return self.connected(counted[1])
        first, minus, second = name.partition(" - ")
        return self.path(first) - self.path(second) if minus else self.path(first)


def is_right(expected, value, text, is_cut):
    """Whether an element shows what it should."""
    if isinstance(expected, bool):
        return value == str(expected).lower()
    if isinstance(expected, int):
        written = NUMBER.search(text)
        number = int(written[0].replace(",", "")) if written else 0
        return value == str(expected) and number == abs(expected)
    if value is not None:
        return value == expected
    return expected.startswith(text) if is_cut else text == expected


def wrong(page, node):
    """What the page shows and the commands don't say. Both are of one moment only while nothing changes."""
    said, found = Said(node), []
    for name, value, text, is_cut in page.shown():
        try:
            expected = said(name)
        except (KeyError, IndexError, StopIteration, RpcError) as error:
            found.append((name, value, text, repr(error)))
            continue
        if not is_right(expected, value, text, is_cut):
            found.append((name, value, text, expected))
    return found


def agrees(page, node):
    """Until the page says what the commands say, and nothing else."""
    found = []

    def right():
        found[:] = wrong(page, node)
        return not found

    try:
        wait_for(right)
    except AssertionError as error:
        raise AssertionError(f"the page differs: {found[:20]}") from error
    assert page.loose_numbers() == []


def test_every_number_is_what_a_command_says(page, node_factory, bitcoind):
    port = reserve_unused_port()
    lsp, clients, factory = factory_with(node_factory, bitcoind, 3, lsp=web(port), stock_sat=20_000)
    instance = factory["factory_instance"]
    lsp.rpc.call("factory-ladder", {"command": "set"})
    pay(lsp, clients[0], 50_000_000, "purse")
    serve(lsp, port)
    page.open(port, make_rune(lsp)["rune"])
    page.live()
    page.open_all()
    agrees(page, lsp)
    names = {name for name, *_ in page.shown()}
    channels = [place["channel_id"] for place in factory["clients"]]
    expected = {
        "getinfo.blockheight",
        "factory-status.reserve.wallet_sat",
        "factory-status.reserve.exit_sat",
        "factory-status.warnings.0.message",
        "factory-status.warnings.0.action",
        "factory-ladder.rung_blocks",
        "factory-ladder.next_action",
        f"connected({instance})",
        f"#factory-list.{instance}.clients",
        f"factory-list.{instance}.timeout_block",
        f"factory-list.{instance}.timeout_block - getinfo.blockheight",
        f"factory-list.{instance}.next_action",
        f"factory-list.{instance}.clients.2.state",
        f"factory-exit.{instance}.exit.fee_sat",
        f"factory-exit.{instance}.path.0.vbytes",
        f"factory-show.{instance}.transactions.0.fee_sat",
        *(f"listpeerchannels.{channel}.to_us_msat" for channel in channels),
        *(f"listpeerchannels.{channel}.spendable_msat" for channel in channels),
    }
    assert expected <= names, expected - names
    # Nothing was refused by the policy, and nobody else was asked for anything.
    assert page.complaints() == []
    assert page.origins() == {f"http://127.0.0.1:{port}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert {name: answer.getheader(name) for name in HEADERS} == HEADERS


def test_it_is_live_and_takes_nothing_from_under_a_reader(page, node_factory, bitcoind):
    from selenium.webdriver.common.keys import Keys

    port = reserve_unused_port()
    lsp, (alice, bob), factory = factory_with(node_factory, bitcoind, 2, lsp=web(port))
    instance = factory["factory_instance"]
    serve(lsp, port)
    page.size(1000, 600)
    page.open(port, make_rune(lsp)["rune"])
    page.live()
    # A tree is opened by a key alone, and has the focus.
    tree = f"#factory-{instance} details > summary"
    page.js("document.querySelector(arguments[0]).focus()", tree)
    page.press(Keys.ENTER)
    balance = f"listpeerchannels.{channel_of(alice, factory)}.to_us_msat"
    wait_for(lambda: page.value(balance))
    page.js("window.here = document.activeElement")
    assert page.js("return scrollY") > 0
    before = page.value(balance)

    def undisturbed():
        return page.js(
            "return window.here === document.activeElement && window.here.parentElement.open "
            "&& window.here.getBoundingClientRect().top >= 0 && scrollY > 0"
        )

    pay(lsp, alice, 10_000_000, "live")
    wait_for(lambda: page.value(balance) not in (None, before))
    agrees(page, lsp)
    assert undisturbed()
    # Somebody goes.
    assert page.value(f"connected({instance})") == "2"
    bob.stop()
    wait_for(lambda: page.value(f"connected({instance})") == "1")
    assert undisturbed()
    # Somebody leaves.
    alice.rpc.call("factory-exit", {"factory_instance": instance})
    (path,) = alice.rpc.call("factory-show", {"factory_instance": instance})["transactions"]
    mine(bitcoind, 1, [lsp, alice], wait_for_mempool=path["txid"])
    wait_for(lambda: page.value(f"factory-list.{instance}.clients.0.state") == "on_chain")
    agrees(page, lsp)
    assert undisturbed()
    assert page.complaints() == []


def test_whoever_may_not_read_it_does_not(page, node_factory):
    port = reserve_unused_port()
    (node,) = node_factory.get_nodes(1, opts=[lsp_options(**web(port))])
    serve(node, port)
    page.open(port)
    assert page.gate() and page.text() == ""
    other = make_rune(node, ["getinfo"])["rune"]
    for given, words in (
        ("no rune!", "This is no rune"),
        ("wrong", "createrune"),
        # One of this node's, for something else.
        (other, "the page needs a rune that allows it"),
    ):
        page.give(given)
        wait_for(lambda: words in page.refused())
        assert page.gate() and page.text() == ""

    made = make_rune(node)
    page.open(port, made["rune"])
    page.live()
    assert "No factory yet" in page.text()
    assert page.js("return location.href") == f"http://127.0.0.1:{port}/"
    agrees(page, node)
    # It is kept for this tab, and nowhere else.
    kept = page.js("return [Object.values(sessionStorage), localStorage.length, document.cookie]")
    assert kept == [[made["rune"]], 0, ""]
    page.driver.refresh()
    page.live()

    # Taken back, it ends what is open, and nothing of the node stays on the screen.
    node.rpc.call("blacklistrune", {"start": int(made["unique_id"]), "end": int(made["unique_id"])})
    wait_for(page.gate)
    assert "createrune" in page.refused() and page.text() == ""
    assert page.js("return sessionStorage.length") == 0
    page.driver.refresh()
    wait_for(page.gate)
    page.open(port, made["rune"])
    wait_for(lambda: "createrune" in page.refused())
    assert page.text() == ""
    assert status(node)["available"]
