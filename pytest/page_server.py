"""The page of factory-web-bind without a node: its own files, and what a node could say, made up. Needs Python alone.

    python3 pytest/page_server.py [PORT] [one of: large, small, hostile, thousand, none]

and http://127.0.0.1:PORT/#rune=any shows it. Tests hold what is made up to the schemas of plugin-manifest/.
"""

import copy
import hashlib
import http.server
import json
import pathlib
import queue
import sys
import threading
import time

ASSETS = pathlib.Path(__file__).resolve().parent.parent / "src" / "cln" / "page" / "assets"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
# As src/cln/page has them.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
RUNE = "a-good-rune"
HEIGHT = 900_100
LIFETIME, DYING = 8_640, 1_008
CAPACITY_SAT = 2_000_000
RESERVE_MSAT = 546_000
FEE_PER_VB = 2
ARITY, LEAF = 4, 4
NAMES = ["Alder", "Birch & Sons", "Café Czech", "Dogwood", "Elm Street", "Hazel", "مقهى البلوط", "Juniper", "Larch"]
# What strangers could call themselves, if nobody cut it.
HOSTILE = [
    "<img src=x onerror=boom()>",
    "\"><script>boom()</script>",
    "</strong></li></ul><form action=//evil.example><input name=rune>",
    "javascript:boom()",
    "\u202egnp.exe\u2066right to left\u2069",
    "مرحبا <b>world</b> שלום",
    "Z" + "\u0301\u0302\u0303\u0316" * 200,
    "\x00\x07\x1b[31mcontrol\u200b\u2060\ufeff",
    "W" * 10_000,
    "{{constructor.constructor('boom()')()}} ${boom()}",
]


def hash_of(*words):
    return hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()


def node_of(*words):
    return "02" + hash_of(*words)


ME = node_of("operator")


def transactions(name, count, stock_sat, confirmed):
    """A tree for so many clients, the root first. `confirmed`: heights by index."""
    made = []

    def add(clients, parent, depth):
        index = len(made)
        made.append(None)
        outputs = []
        if len(clients) <= LEAF:
            outputs = [{"type": "channel", "client": client, "amount_sat": CAPACITY_SAT} for client in clients]
            if stock_sat:
                outputs.append({"type": "stock", "coin": index, "amount_sat": stock_sat})
        else:
            size = LEAF
            while size * ARITY < len(clients):
                size *= ARITY
            for begin in range(0, len(clients), size):
                below = add(clients[begin : begin + size], {"index": index, "outnum": len(outputs)}, depth + 1)
                outputs.append({"type": "transaction", "index": below["index"], "amount_sat": below["input_sat"]})
        outputs.append({"type": "anchor", "amount_sat": 240})
        vbytes = 112 + 43 * len(outputs)
        tx = {
            "index": index,
            "kind": ["static", "kickoff", "state"][depth % 3],
            "vbytes": vbytes,
            "fee_sat": vbytes * FEE_PER_VB,
            "input_sat": sum(output["amount_sat"] for output in outputs) + vbytes * FEE_PER_VB,
            "depth": depth,
            "members": [{"id": ME}, *({"client": client, "id": node_of(name, client)} for client in clients)],
            "outputs": outputs,
            "signed": True,
            "txid": hash_of("tx", name, index),
            "locktime": 0,
        }
        if depth % 3 == 2:
            tx["relative_locktime"] = 144
        if parent:
            tx["parent"] = parent
        if index in confirmed:
            tx["confirmed_height"] = confirmed[index]
        made[index] = tx
        return tx

    add(list(range(count)), None, 0)
    return made


class World:
    """All that a node says, as /events has it."""

    def __init__(self, hostile=False):
        self.hostile = hostile
        self.words = HOSTILE if hostile else NAMES
        self.state = {
            "node_id": ME,
            "alias": HOSTILE[0] if hostile else "Rivermouth Lightning",
            "blockheight": HEIGHT,
            "version": "0.1.0",
            "status": {
                "version": "0.1.0",
                "factory_protocols": [{"name": "superscalar/1", "factory_protocol": hash_of("protocol")}],
                "available": True,
                "chain": {
                    "blockheight": HEIGHT,
                    "first_block": HEIGHT - 244,
                    "tip": HEIGHT,
                    "behind": 0,
                    "done": 245,
                },
                "ceremonies": [],
                "factories": 0,
                "blockheight": HEIGHT,
                "publishing": [],
                "renewals": [],
                "leaves": [],
                "backup": {"factories": 0, "copied": 0, "copied_twice": 0, "waiting": [], "peers": []},
                "peers": [],
                "reserve": {
                    "feerate_perkw": 2_500,
                    "exit_sat": 0,
                    "channels_sat": 0,
                    "wallet_sat": 9_250_000,
                    "covered": True,
                    "coins": 24,
                    "coin_sat": 22_290,
                    "coins_at_once": 12,
                    "coins_ready": 14,
                },
                "bitcoin_rpc": {"packages": True, "address": "127.0.0.1:8332"},
                "warnings": [],
            },
            "factories": [],
            "factories_left_out": 0,
            "trees": {},
            "trees_left_out": 0,
            "ladder": {"state": "none", "factories": [], "next_action": "factory-ladder set"},
            "exits": {},
            "channels": {},
            "aliases": {},
            "left_out": {},
        }

    def said(self, words, number=0):
        return HOSTILE[number % len(HOSTILE)] if self.hostile else words

    def warn(self, code, message, action, instance=None):
        warning = {"code": code, "message": self.said(message, 1), "action": self.said(action, 8)}
        if instance:
            warning["factory_instance"] = instance
        self.state["status"]["warnings"].append(warning)

    def client(self, name, number, state, there):
        node, channel = node_of(name, number), hash_of("channel", name, number)
        if number % 3 != 1:
            self.state["aliases"][node] = self.words[number % len(self.words)]
        place = {
            "client": number,
            "id": node,
            "state": state,
            "capacity_sat": CAPACITY_SAT,
            "blocks_early": 150,
            "channel_id": channel,
            "channel_state": "CHANNELD_NORMAL",
            "funding_txid": hash_of("leaf", name, number // LEAF),
            "funding_outnum": number % LEAF,
        }
        # Any share, the same each time.
        total, share = CAPACITY_SAT * 1000, int(hash_of("share", name, number)[:8], 16) / 2**32
        here = int(total * share)
        self.state["channels"][channel] = {
            "state": "CHANNELD_NORMAL",
            "peer_connected": there,
            "total_msat": total,
            "to_us_msat": here,
            "spendable_msat": max(0, here - RESERVE_MSAT),
            "receivable_msat": max(0, total - here - RESERVE_MSAT),
            "htlcs": int(number % 5 == 4),
        }
        if there:
            self.state["status"]["peers"].append({"id": node, "ready": True})
        return place

    def factory(self, name, count, state, born, next_action, away=9, stock_sat=0, confirmed=None):
        """A factory of so many clients. Of each `away` clients one is not connected."""
        instance = hash_of("factory", name)
        tree = transactions(name, count, stock_sat, confirmed or {})
        usable = {"funding": "checked"}.get(state, "usable")
        seen = [output for tx in tree if "confirmed_height" in tx for output in tx["outputs"]]
        out = {output["client"] for output in seen if "client" in output}
        timeout = born + LIFETIME
        factory = {
            "factory_protocol": hash_of("protocol"),
            "factory_instance": instance,
            "role": "lsp",
            "lsp": ME,
            "state": state,
            "attempt": 1,
            "blocks_early": 150,
            "dying_block": timeout - DYING,
            "timeout_block": timeout,
            "funding_confirmations": 3,
            "funding_sat": tree[0]["input_sat"],
            "clients": [
                self.client(name, number, "on_chain" if number in out else usable, number % away != away - 1)
                for number in range(count)
            ],
            "next_action": self.said(next_action, 2),
            "funding_txid": hash_of("funding", name),
            "funding_outnum": 0,
        }
        if state != "funding":
            factory["funding_height"] = born + 3
            factory["standing"] = "partly_exited" if confirmed else "safe"
        self.state["factories"].append(factory)
        self.state["trees"][instance] = {
            **factory,
            "transactions": tree,
            "distributions": [
                {
                    "coin": 0,
                    "vbytes": 120 + 43 * count,
                    "amount_sat": factory["funding_sat"],
                    "stock": False,
                    "signed": True,
                    "txid": hash_of("distribution", name),
                    "locktime": timeout,
                }
            ],
            "on_chain": [],
        }
        steps = ("index", "kind", "vbytes", "fee_sat", "txid", "confirmed_height")
        path = [{key: tx[key] for key in steps if key in tx} for tx in tree]
        for step, tx in zip(path, tree):
            step["wait_blocks"] = tx.get("relative_locktime", 0)
        self.state["exits"][instance] = {
            "factory_instance": instance,
            "state": state,
            "dry_run": True,
            "exit": {
                "transactions": len(path),
                "vbytes": sum(step["vbytes"] for step in path),
                "blocks": 6 * (1 + max(tx["depth"] for tx in tree)) + sum({step["wait_blocks"] for step in path}),
                "fee_sat": sum(step["fee_sat"] for step in path),
            },
            "path": path,
            "next_action": factory["next_action"],
        }
        status = self.state["status"]
        status["factories"] += 1
        status["reserve"]["exit_sat"] += 2_290 * len(path)
        status["reserve"]["channels_sat"] += 8_015 * count
        for copies in ("factories", "copied", "copied_twice"):
            status["backup"][copies] += 1
        return factory

    def ladder(self, due):
        """A ladder whose open rung waits for the clients of this factory."""
        instance = due["factory_instance"]
        is_there = {peer["id"] for peer in self.state["status"]["peers"]}
        self.state["ladder"] = {
            "state": "running",
            "rung_blocks": 144,
            "rungs": 60,
            "lifetime_blocks": LIFETIME,
            "dying_blocks": DYING,
            "smallest": 2,
            "largest": 127,
            "enough_percent": 90,
            "wait_blocks": 72,
            "fill_percent": 80,
            "max_capacity_sat": 16_777_215,
            "stock_sat": 0,
            "begins_block": HEIGHT - 4_330,
            "factories": [
                {
                    "factory_instance": factory["factory_instance"],
                    "rung": number,
                    "state": factory["state"],
                    "clients": len(factory["clients"]),
                    "handed_over": 0,
                    "due_block": factory["dying_block"],
                    "timeout_block": factory["timeout_block"],
                    "funding_sat": factory["funding_sat"],
                }
                for number, factory in enumerate(self.state["factories"])
            ],
            "due": [
                {
                    "id": client["id"],
                    "factory_instance": instance,
                    "evicted": False,
                    "by_block": due["timeout_block"] - 160,
                    "last_block": due["timeout_block"] - 200,
                    "connected": client["id"] in is_there,
                    "capacity_sat": CAPACITY_SAT,
                }
                for client in due["clients"]
            ],
            "next_action": self.said("26 of 31 clients are connected, and 28 are enough", 9),
            "rung": {
                "number": 30,
                "opens_block": HEIGHT - 38,
                "latest_block": HEIGHT + 34,
                "next_block": HEIGHT + 106,
                "factories": 0,
                "failed": 0,
            },
        }


def idle(born):
    return f"nothing to do before the dying period at height {born + LIFETIME - DYING}"


def large(hostile=False):
    """An operator's node with much of what there is."""
    world = World(hostile)
    moving = "its clients move to the next factory by block 900700"
    dying = world.factory("autumn", 31, "dying", HEIGHT - LIFETIME + 760, moving, away=6)
    waiting = "wait for 2 more confirmations of the funding transaction"
    coming = world.factory("spring", 9, "funding", HEIGHT - 2, waiting)
    born = HEIGHT - 4_900
    active = world.factory("winter", 127, "active", born, idle(born), stock_sat=250_000)
    born = HEIGHT - 2_100
    world.factory("summer", 8, "active", born, idle(born), confirmed={0: HEIGHT - 12, 1: HEIGHT - 6})
    world.ladder(dying)
    world.warn(
        "dying",
        "no payment can use it after block 900710",
        "invite its clients to the next factory (factory-ladder does so by itself, or factory-create); whoever is left in "
        "time is taken on chain by itself",
        dying["factory_instance"],
    )
    world.warn(
        "htlc_deadline",
        "an HTLC of client 4 expires at block 900258: this node leaves at block 900104 if it is not settled",
        "see that the client comes online and settles it",
        active["factory_instance"],
    )
    world.warn(
        "closed_channels",
        "lightningd keeps 2 channels that both sides have closed and that never come on chain: each costs it one call of "
        "its backend a block, and nothing else",
        "nothing has to be done",
    )
    active["urgent_htlcs"] = [
        {
            "client": 4,
            "channel_id": active["clients"][4]["channel_id"],
            "cltv_expiry": HEIGHT + 158,
            "exit_block": HEIGHT + 4,
        }
    ]
    world.state["status"]["publishing"] = [
        {
            "factory_instance": coming["factory_instance"],
            "what": world.said("the funding transaction", 5),
            "txid": coming["funding_txid"],
            "target_perkw": 2_500,
            "deadline": HEIGHT + 10,
            "child_txid": hash_of("child"),
            "child_fee_sat": 1_480,
        }
    ]
    return world.state


def small(counts=(5, 3)):
    """Few factories with few clients."""
    world = World()
    for number, count in enumerate(counts):
        world.factory(f"small {number}", count, "active", HEIGHT - 1_000 - number, "nothing to do")
    world.warn("not_important", "lightningd goes on if the plugin dies", "load it with important-plugin")
    return world.state


def thousand():
    """1,000 members in 8 factories."""
    world = World()
    for number in range(8):
        world.factory(f"of many {number}", 125, "active", HEIGHT - 1_000 * number - 10, "nothing to do")
    return world.state


def none():
    return World().state


WORLDS = {"large": large, "small": small, "hostile": lambda: large(hostile=True), "thousand": thousand, "none": none}


class Server:
    """Serves the page. `show`, `say`, `drop` change what it says; `refusal` is (code, words) in place of events."""

    def __init__(self, state, port=0, runes=(RUNE,)):
        self.state = state
        self.runes = runes
        self.refusal = None
        self.streams = []
        self.lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *words):
                pass

            def do_GET(self):
                outer.answer(self)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, request):
        path = request.path.partition("?")[0]
        if path == "/events":
            self.events(request)
        elif path in FILES:
            name, kind = FILES[path]
            self.whole(request, 200, kind, (ASSETS / name).read_bytes())
        else:
            self.error(request, 404, "no such page")

    def whole(self, request, code, kind, body):
        request.send_response(code)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def error(self, request, code, words):
        self.whole(request, code, "application/json", json.dumps({"error": words}).encode())

    def events(self, request):
        if self.refusal:
            self.error(request, *self.refusal)
            return
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.runes and given not in self.runes:
            self.error(request, 401, "this rune is not this node's: make one with lightning-cli createrune")
            return
        request.send_response(200)
        for name, value in {**HEADERS, "Content-Type": "text/event-stream"}.items():
            request.send_header(name, value)
        request.end_headers()
        stream = queue.Queue()
        with self.lock:
            self.streams.append(stream)
            stream.put(("state", self.state))
        try:
            while (event := self.next_of(stream)) is not None:
                name, data = event
                request.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode() if name else b": alive\n\n")
                request.wfile.flush()
        except OSError:
            pass
        with self.lock:
            if stream in self.streams:
                self.streams.remove(stream)

    @staticmethod
    def next_of(stream):
        try:
            return stream.get(timeout=15)
        except queue.Empty:
            return None, None

    def say(self, event, data):
        with self.lock:
            for stream in self.streams:
                stream.put((event, data))

    def show(self, state):
        """From now on, and to everybody."""
        self.state = state
        self.say("state", state)

    def change(self, change):
        """The same state, but for what `change` makes of it."""
        state = copy.deepcopy(self.state)
        change(state)
        self.show(state)

    def drop(self):
        """Every connection ends."""
        with self.lock:
            for stream in self.streams:
                stream.put(None)
            self.streams.clear()

    def close(self):
        self.drop()
        self.http.shutdown()
        self.http.server_close()


def drift(state):
    """Something happens: a payment on each channel, and now and then a block."""
    for channel in state["channels"].values():
        moved = min(channel["spendable_msat"], 1_000_000)
        channel["to_us_msat"] -= moved
        channel["spendable_msat"] -= moved
        channel["receivable_msat"] += moved
    if int(time.time()) % 3 == 0:
        state["blockheight"] += 1


def main(words):
    port = int(words[0]) if words else 9751
    name = words[1] if len(words) > 1 else "large"
    if name not in WORLDS:
        sys.exit(f"unknown world '{name}': one of {', '.join(WORLDS)}")
    server = Server(WORLDS[name](), port, runes=())
    print(f"http://127.0.0.1:{server.port}/#rune=any", flush=True)
    while True:
        time.sleep(5)
        server.change(drift)


if __name__ == "__main__":
    main(sys.argv[1:])
