// The page of factory-web-bind: it shows what /events says, live, and can change nothing.
//
// What comes from the node stands in an element of its own, whose `data-rpc` names where the RPCs' answers have it; the
// `value` of a number is exact. Worked out here are blocks that are left and about how long they take, how many of a
// list there are or are connected, and how much a warning matters: the page's foot says so.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "path", "rect"]);
const KEPT = "cln-factory-rune";
// Milliseconds: pauses between two attempts to connect, and how long a connection that says nothing is believed.
const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 30_000;
const SILENT = 45_000;

// ---- From descriptions to nodes. What is the same stays, with its focus, selection and what was opened in it.

const isAbsent = (value) => value === undefined || value === null || value === false;

/** A node to be. Children that are absent keep their place; those of lists need a `key`. */
const h = (tag, attributes, ...children) => ({
    tag,
    key: attributes?.key,
    attributes: attributes ?? {},
    children: children.flat(Infinity).map((child) => {
        if (isAbsent(child)) return "";
        return typeof child === "object" ? child : String(child);
    }),
});

const fits = (node, wanted) =>
    typeof wanted === "string"
        ? node.nodeType === Node.TEXT_NODE
        : node.nodeType === Node.ELEMENT_NODE && node.localName === wanted.tag && node.key === wanted.key;

function create(wanted) {
    if (typeof wanted === "string") return document.createTextNode(wanted);
    const node = DRAWN.has(wanted.tag) ? document.createElementNS(SVG, wanted.tag) : document.createElement(wanted.tag);
    node.key = wanted.key;
    // From here on it is the reader's.
    if (wanted.attributes.open) node.setAttribute("open", "");
    return node;
}

function update(node, wanted) {
    if (typeof wanted === "string") {
        if (node.data !== wanted) node.data = wanted;
        return;
    }
    for (const name of node.getAttributeNames()) {
        if (name !== "open" && isAbsent(wanted.attributes[name])) node.removeAttribute(name);
    }
    for (const [name, value] of Object.entries(wanted.attributes)) {
        if (name === "key" || name === "open" || isAbsent(value)) continue;
        if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
    }
    patch(node, wanted.children);
}

/** Puts a node elsewhere in its parent; where the browser can, without its losing focus. */
function place(parent, node, before) {
    if (node.parentNode === parent && parent.isConnected && parent.moveBefore) parent.moveBefore(node, before);
    else parent.insertBefore(node, before);
}

/** Makes a parent's children what they should be. */
function patch(parent, children) {
    const keys = new Set(children.map((wanted) => wanted.key).filter(Boolean));
    const known = new Map();
    for (const child of [...parent.childNodes]) {
        if (!child.key) continue;
        if (keys.has(child.key)) known.set(child.key, child);
        else child.remove();
    }
    let next = parent.firstChild;
    for (const wanted of children) {
        let node = wanted.key ? known.get(wanted.key) : next;
        known.delete(wanted.key);
        if (!node || !fits(node, wanted)) {
            const old = node && !node.key && !wanted.key ? node : null;
            node = create(wanted);
            if (old) {
                old.replaceWith(node);
                next = node;
            }
        }
        if (node === next) next = next.nextSibling;
        else place(parent, node, next);
        update(node, wanted);
    }
    while (next) {
        const after = next.nextSibling;
        next.remove();
        next = after;
    }
}

// ---- Words and numbers.

// Controls, directions, what has no width, and fillers.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u034f\u115f\u1160\u2800\u3164\uffa0]/gu;

/** Somebody's words, harmless: nothing that can't be seen, no towers of accents, and an end. */
function visible(words, most = 2_000) {
    const all = String(words);
    const shown = all
        .slice(0, most)
        .replace(UNSEEN, (unseen) => `\\u{${unseen.codePointAt(0).toString(16)}}`)
        .replace(/(\p{M}{3})\p{M}+/gu, "$1");
    return all.length > most ? `${shown}…` : shown;
}

const UNITS = new Set(["sat", "msat", "vB", "sat/kw", "s"]);
const group = (value) => String(value).replace(/\B(?=(?:\d{3})+$)/g, ",");
const none = () => h("span", { class: "none" }, "–");
const p = (...words) => h("p", null, words);

function quantity(value, unit) {
    if (!unit) return group(value);
    return `${group(value)}\u00a0${UNITS.has(unit) || String(value) === "1" ? unit : `${unit}s`}`;
}

/** How long so many blocks take, roughly: one takes ten minutes. */
function about(blocks) {
    const hours = Math.round(blocks / 6);
    if (blocks < 12) return `≈ ${blocks * 10} min`;
    return hours < 48 ? `≈ ${hours} h` : `≈ ${group(Math.round(hours / 24))} days`;
}

function distance(blocks) {
    if (blocks === 0) return "now";
    return blocks > 0 ? `in ${quantity(blocks, "block")} (${about(blocks)})` : `${quantity(-blocks, "block")} ago`;
}

/** What the RPCs say, or a part of it, and where that is: whatever is shown of it says where. */
class Part {
    constructor(state, value, path) {
        this.state = state;
        this.value = value ?? {};
        this.path = path;
    }

    at(name) {
        return `${this.path}.${name}`;
    }

    has(name) {
        return !isAbsent(this.value[name]);
    }

    in(name) {
        return new Part(this.state, this.value[name], this.at(name));
    }

    list(name) {
        return (this.value[name] ?? []).map((value, index) => new Part(this.state, value, this.at(`${name}.${index}`)));
    }

    shown(name, tag, attributes, words) {
        return this.has(name) || this.value[name] === false
            ? h(tag, { ...attributes, "data-rpc": this.at(name) }, words)
            : none();
    }

    number(name, unit) {
        const value = this.value[name];
        return this.shown(name, "data", { value }, quantity(value, unit));
    }

    /** How many there are: of a list, or as the server has counted one. */
    counted(name, unit) {
        const list = this.value[name] ?? [];
        const value = Array.isArray(list) ? list.length : list;
        return h("data", { value, "data-rpc": `#${this.at(name)}` }, quantity(value, unit));
    }

    /** A block's height, and how far it is from now. */
    block(name) {
        const value = this.value[name] - this.state.blockheight;
        const path = `${this.at(name)} - getinfo.blockheight`;
        const far = h("data", { class: "soft", value, "data-rpc": path }, distance(value));
        return this.has(name) ? ["block ", this.number(name), " ", far] : none();
    }

    text(name, most) {
        return this.shown(name, "bdi", {}, visible(this.value[name], most));
    }

    /** A word for programs, as people write it; or another for each. */
    word(name, words = {}) {
        const value = String(this.value[name]);
        const said = Object.hasOwn(words, value) ? words[value] : visible(value, 100).replaceAll("_", " ");
        return this.shown(name, "data", { value }, said);
    }

    /** A state, by icon and word. */
    standing(name) {
        return badge(LEVELS.get(this.value[name]) ?? "note", this.word(name));
    }

    id(name) {
        const value = visible(this.value[name], 100);
        return this.shown(name, "bdi", { class: "id", title: value }, value);
    }

    /** The first digits of an id, where all of them stand close by. */
    short(name) {
        return this.shown(name, "bdi", { class: "mono", "data-cut": "" }, visible(this.value[name], 100).slice(0, 8));
    }

    /** A node: its alias, where one is known, and its id. */
    who(name) {
        const node = this.value[name];
        const aliases = new Part(this.state, { alias: this.state.aliases?.[node] }, `listnodes.${node}`);
        const alias = aliases.has("alias") ? h("strong", null, aliases.text("alias", 100)) : null;
        return h("span", { class: "who" }, alias, " ", this.id(name));
    }

    /** The way to a factory. */
    factory(name = "factory_instance") {
        return h("a", { href: `#factory-${this.value[name]}` }, "factory ", this.short(name));
    }
}

// ---- Parts of the page.

const CIRCLE = "M8 1.7a6.3 6.3 0 1 0 0 12.6A6.3 6.3 0 0 0 8 1.7";
const ICONS = {
    good: `${CIRCLE}M5.2 8.2l2 2 3.7-4`,
    busy: `${CIRCLE}M8 4.6V8l2.4 1.6`,
    note: `${CIRCLE}M8 7.4v3.6M8 4.8v.4`,
    off: `${CIRCLE}M5.2 8h5.6`,
    warn: "M8 2l6.6 11.6H1.4zM8 6.4v3.4M8 11.4v.4",
    bad: "M5.4 1.6h5.2l3.8 3.8v5.2l-3.8 3.8H5.4l-3.8-3.8V5.4zM8 4.8v4M8 10.8v.4",
};
const LEVELS = new Map(
    Object.entries({
        good: "active usable running info",
        busy: "joining signing storing opening funding closing waiting committed checked leaving signed",
        warn: "dying exiting on_chain paused unusual",
        bad: "ended broken",
        note: "invited",
        off: "exited distributed reclaimed left declined aborted closed handed_over resolved none",
    }).flatMap(([level, states]) => states.split(" ").map((state) => [state, level])),
);
const COVERED = { true: "covered", false: "not covered" };
const PACKAGES = { true: "go with their children", false: "wait for lower fees" };
const PRESENT = { true: "connected", false: "away" };
const SIGNED = { true: "signed", false: "not signed yet" };
const LOST = { true: "lightningd has none of its channels any more" };
const ROLES = { lsp: "the operator", client: "a client" };

const icon = (level) =>
    h("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, h("path", { d: ICONS[level] }));
const badge = (level, ...words) => h("span", { class: `badge ${level}` }, icon(level), h("span", null, words));
const remark = (level, key, ...words) =>
    h("p", { key, class: `remark ${level}` }, icon(level), h("span", null, words));
const fact = (name, ...value) => h("div", { key: name }, h("dt", null, name), h("dd", null, value));
const facts = (...list) => h("dl", { class: "facts" }, list.flat().filter(Boolean));

const section = (key, title, ...inside) =>
    h("section", { key, id: key, "aria-labelledby": `${key}-title` }, h("h2", { id: `${key}-title` }, title), inside);

/** A table; cards where it's narrow, and by its roles still one for those who hear it. `=` leads columns of amounts. */
function table(caption, columns, rows) {
    if (rows.length === 0) return null;
    const names = columns.map((name) => name.replace("=", ""));
    const side = (index) => (columns[index].startsWith("=") ? "amount" : null);
    const heads = names.map((name, index) =>
        h("th", { key: name, role: "columnheader", scope: "col", class: side(index) }, name),
    );
    const cell = (inside, index) => {
        const [tag, role, scope] = index === 0 ? ["th", "rowheader", "row"] : ["td", "cell", null];
        const attributes = { key: names[index], role, scope, class: side(index), "data-label": names[index] };
        return h(tag, attributes, h("div", null, inside));
    };
    return h(
        "table",
        { key: caption, role: "table" },
        h("caption", null, caption),
        h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
        h("tbody", { role: "rowgroup" }, rows.map(({ key, cells }) => h("tr", { key, role: "row" }, cells.map(cell)))),
    );
}

// What is open, by its key: the reader's choice, once there is one.
const opened = new Map();

/** What can be opened. Its inside is made only while it is: a thousand members cost nothing while nobody looks. */
function details(key, isOpen, summary, inside) {
    if (!opened.has(key)) opened.set(key, isOpen);
    const open = opened.get(key);
    const body = h("div", { class: "inside" }, open ? inside() : null);
    return h("details", { key, open }, h("summary", null, h("span", null, summary)), body);
}

/** What the server has cut off a list. */
function leftOff(state, name) {
    const part = new Part(state, state.left_out, "page.left_out");
    return part.has(name) ? h("p", { class: "soft" }, "and ", part.number(name), " more, left off here") : null;
}

/** Part of a whole, to be seen at a glance; the numbers stand beside it. */
function bar(name, ...parts) {
    if (!parts.every(([, x, width]) => x >= 0 && width >= 0 && x + width <= 100)) return null;
    const rectangle = ([of, x, width]) => h("rect", { class: of, x, width, y: 0, height: 4 });
    const drawn = [["all", 0, 100], ...parts].map(rectangle);
    return h("svg", { class: name, viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, drawn);
}

// ---- Node and health.

// What should be looked at now, as docs/operations.md has it for alerts; and what asks for nothing at once.
const URGENT = new Set([
    ..."unavailable damaged behind block_missing backend htlc_deadline not_published fee_not_raised".split(" "),
    ..."paid_for_nothing unchecked_channel unsafe_option".split(" "),
]);
const QUIET = new Set("invitation exiting aborted closed_channels".split(" "));
const RANKS = ["bad", "warn", "note"];
const RANK_WORDS = { bad: "Urgent", warn: "Warning", note: "Note" };

function warnings(status) {
    const seen = new Map();
    const ranked = status.list("warnings").map((part) => {
        const { code, factory_instance: instance } = part.value;
        const level = URGENT.has(code) ? "bad" : QUIET.has(code) ? "note" : "warn";
        const kind = `${code}/${instance ?? ""}`;
        seen.set(kind, (seen.get(kind) ?? 0) + 1);
        return { part, level, key: `${kind}/${seen.get(kind)}` };
    });
    ranked.sort((one, other) => RANKS.indexOf(one.level) - RANKS.indexOf(other.level));
    const item = ({ part, level, key }) =>
        h(
            "li",
            { key, class: `warning ${level}` },
            p(badge(level, RANK_WORDS[level]), " ", h("strong", null, part.text("message"))),
            p("What to do: ", part.text("action")),
            part.has("factory_instance") ? p("It is about ", part.factory()) : null,
        );
    const list = ranked.length
        ? h("ul", { class: "warnings" }, ranked.map(item))
        : remark("good", null, "All is well: the node warns of nothing.");
    return h("div", { key: "warnings" }, list);
}

function reserve(reserve) {
    const { covered } = reserve.value;
    return h(
        "div",
        { key: "reserve" },
        h("h3", null, "If everything had to be left ",
            badge(covered ? "good" : "warn", reserve.word("covered", COVERED))),
        facts(
            fact("The wallet has, for fees", reserve.number("wallet_sat", "sat")),
            fact("Raising fees would take", reserve.number("exit_sat", "sat")),
            fact("and lightningd itself", reserve.number("channels_sat", "sat")),
            fact("Reckoned at", reserve.number("feerate_perkw", "sat/kw")),
            fact("Coins that are ready", reserve.number("coins_ready"), " of ", reserve.number("coins_at_once"),
                " that may be needed at once"),
            fact("Each coin has to have", reserve.number("coin_sat", "sat")),
        ),
    );
}

function health(state) {
    const info = { id: state.node_id, alias: state.alias, blockheight: state.blockheight };
    const node = new Part(state, info, "getinfo");
    const status = new Part(state, state.status, "factory-status");
    const backup = status.in("backup");
    return section(
        "health",
        "Node and health",
        h("p", { class: "who" }, h("strong", null, node.text("alias", 100)), " ", node.id("id")),
        warnings(status),
        leftOff(state, "status.warnings"),
        facts(
            fact("Block", node.number("blockheight")),
            fact("Blocks still to be handled", status.in("chain").number("behind")),
            status.has("total_msat") && fact("In channels with operators", status.number("total_msat", "msat")),
            status.has("receivable_msat") && fact("Can receive there", status.number("receivable_msat", "msat")),
            status.has("backup") && fact("Copies of factories elsewhere", backup.number("copied"), " of ",
                backup.number("factories"), "; with two keepers ", backup.number("copied_twice")),
            status.has("bitcoin_rpc") && fact("Below the mempool's minimum, transactions",
                status.in("bitcoin_rpc").word("packages", PACKAGES)),
            fact("Plugin", status.text("version")),
        ),
        backup.has("next") ? remark("note", "copies", backup.text("next")) : null,
        status.has("reserve") ? reserve(status.in("reserve")) : null,
    );
}

// ---- What is under way.

/** Things under way of one kind: each about a factory, with what it waits for and what failed. */
function going(status, name, title, ...lines) {
    const words = [["waits_for", "Waits for: "], ["advice", "What to do: "], ["otherwise", "Otherwise: "]];
    return status.list(name).map((part) =>
        h(
            "li",
            { key: `${name}/${part.value.factory_instance ?? part.value.from}` },
            p(title, part.has("factory_instance") ? part.factory() : null),
            lines.map((line) => line(part)),
            words.map(([field, lead]) => (part.has(field) ? p(lead, part.text(field)) : null)),
            part.has("reason") ? p("Waits for: ", part.text("reason")) : null,
            part.has("failed") ? p("Failed last: ", part.in("failed").text("message")) : null,
        ),
    );
}

const waitingFor = (part) =>
    part.value.waiting_for.map((node, index) =>
        h("li", { key: node }, new Part(part.state, { [index]: node }, part.at("waiting_for")).who(index)));

function publishing(status) {
    const rows = status.list("publishing").map((due) => ({
        key: due.value.txid,
        cells: [
            [due.text("what"), " ", due.id("txid")],
            due.block("deadline"),
            due.number("child_fee_sat", "sat"),
            [
                due.has("trouble") ? badge("warn", due.text("trouble")) : null,
                due.has("missing_sat") ? p("The wallet lacks ", due.number("missing_sat", "sat")) : null,
            ],
        ],
    }));
    const columns = ["Transaction", "Confirms by", "=Fee of its child", "In the way"];
    return table("Transactions that should be in the mempool", columns, rows);
}

function underWay(state) {
    const status = new Part(state, state.status, "factory-status");
    const search = status.in("restoring");
    const list = [
        going(
            status, "ceremonies", "Creation of ",
            (one) => p(one.standing("state"), " attempt ", one.number("attempt")),
            (one) => (one.has("stage") ? p("Waits for: ", one.word("stage")) : null),
            (one) => p("Time left: ", one.number("seconds_left", "s")),
            (one) => (one.value.waiting_for.length ? p("Whose turn it is:") : null),
            (one) => h("ul", null, waitingFor(one)),
        ),
        going(
            status, "renewals", "Renewal of ",
            (one) => p(one.standing("level"), " due by ", one.block("by_block")),
            (one) => (one.has("price_msat") ? p("It costs ", one.number("price_msat", "msat")) : null),
        ),
        going(
            status, "leaves", "Leaving ",
            (one) => p("since ", one.block("since_block"), ", for ", one.number("price_msat", "msat")),
        ),
        going(
            status, "moves", "A balance on its way",
            (one) => p(one.number("moved_msat", "msat"), " moved"),
            (one) => (one.has("left_msat") ? p(one.number("left_msat", "msat"), " to go") : null),
            (one) => p("from channel ", one.id("from"), " to ", one.id("to")),
        ),
    ].flat();
    const sent = publishing(status);
    if (list.length === 0 && !sent && !status.has("restoring")) return null;
    return section(
        "under-way",
        "Under way",
        status.has("restoring")
            ? p("A restore has asked for ", search.number("addresses"), " addresses; payouts not found yet: ",
                search.number("payouts_left"))
            : null,
        list.length ? h("ul", { class: "going" }, list) : null,
        ["ceremonies", "renewals", "leaves", "moves"].map((name) => leftOff(state, `status.${name}`)),
        sent,
        leftOff(state, "status.publishing"),
    );
}

// ---- A factory.

/** Whether the other side of a client's channel is connected: lightningd says it of channels, before that of peers. */
function connection(factory, place) {
    const { state } = factory;
    const { channel_id: channel, id } = place.value;
    if (state.channels?.[channel]) return new Part(state, state.channels[channel], `listpeerchannels.${channel}`);
    const peer = factory.value.role === "lsp" ? id : factory.value.lsp;
    const is = state.connected.has(peer);
    const known = is || !state.left_out?.["status.peers"];
    return new Part(state, { peer_connected: known ? is : undefined }, `factory-status.peers.${peer}`);
}

function presence(part, name = "peer_connected") {
    if (isAbsent(part.value[name]) && part.value[name] !== false) return badge("off", "not known");
    return badge(part.value[name] ? "good" : "off", part.word(name, PRESENT));
}

/** What a channel has, as lightningd says. */
function balance(part) {
    const { channel_id: id } = part.value;
    const channel = new Part(part.state, part.state.channels?.[id], `listpeerchannels.${id}`);
    const { to_us_msat: here, total_msat: whole } = channel.value;
    return [
        [channel.number("to_us_msat", "msat"), bar("share", ["part", 0, (100 * Number(here)) / Number(whole)])],
        channel.number("spendable_msat", "msat"),
        channel.number("receivable_msat", "msat"),
    ];
}

const BALANCES = ["=This node has", "=Can send", "=Can receive"];

/** How a channel stands: with the factory, with lightningd, and what is in flight. */
function channelOf(part) {
    const { channel_id: id } = part.value;
    const channel = new Part(part.state, part.state.channels?.[id], `listpeerchannels.${id}`);
    return [
        part.standing("state"),
        part.has("channel_state") ? h("p", { class: "soft" }, part.text("channel_state")) : null,
        part.has("short_channel_id") ? h("p", { class: "soft" }, part.text("short_channel_id")) : null,
        channel.value.htlcs ? p(channel.counted("htlcs", "HTLC")) : null,
    ];
}

/** A factory's own places, by their clients. */
const places = (factory) => new Map(factory.list("clients").map((place) => [place.value.client, place]));

/** Members: each with its place in the factory, or in the output of a leaf, and the channel that it has there. */
function members(factory, caption, outputs, amount) {
    const known = places(factory);
    const rows = outputs.map((output) => {
        const place = known.get(output.value.client);
        const name = h("span", { class: "soft" }, "client ", output.number("client"));
        const capacity = output.number(amount, "sat");
        const key = `client/${output.value.client}`;
        if (!place) return { key, cells: [name, none(), none(), capacity, none(), none(), none()] };
        const named = [name, " ", place.has("id") ? place.who("id") : null];
        const there = presence(connection(factory, place));
        return { key, cells: [named, there, channelOf(place), capacity, ...balance(place)] };
    });
    return table(caption, ["Member", "Connection", "Channel", "=Capacity", ...BALANCES], rows);
}

/** A transaction of a tree, with what hangs under it. */
function branch(factory, transactions, index) {
    const tx = transactions[index];
    if (!tx) return null;
    const { signed, depth } = tx.value;
    const stands = tx.has("confirmed_height")
        ? badge("warn", "on chain at block ", tx.number("confirmed_height"))
        : badge(signed ? "good" : "busy", tx.word("signed", SIGNED));
    const kind = [tx.word("kind"), ", of ", tx.counted("members", "member")];
    const summary = ["Transaction ", tx.number("index"), ", ", kind, " ", stands];
    const of = (type) => tx.list("outputs").filter((output) => output.value.type === type);
    const inside = () => [
        facts(
            fact("Worth", tx.number("input_sat", "sat")),
            fact("Fee of its own", tx.number("fee_sat", "sat")),
            fact("Size", tx.number("vbytes", "vB")),
            tx.has("relative_locktime") && fact("Waits after its parent", tx.number("relative_locktime", "block")),
            of("stock").length > 0 && fact("Stock to be sold", of("stock").map((stock, index) =>
                [index > 0 ? " and " : null, stock.number("amount_sat", "sat")])),
            tx.has("txid") && fact("Id", tx.id("txid")),
        ),
        members(factory, "Channels of this transaction", of("channel"), "amount_sat"),
        h("ul", { class: "tree" }, of("transaction").map(({ value }) => branch(factory, transactions, value.index))),
    ];
    const key = `${factory.value.factory_instance}/tx/${index}`;
    // A small tree opens as a whole.
    return h("li", { key }, details(key, transactions.length < 16 || depth === 0, summary, inside));
}

function treeOf(factory) {
    const { state } = factory;
    const { factory_instance: instance } = factory.value;
    const tree = new Part(state, state.trees?.[instance], `factory-show.${instance}`);
    if (!tree.has("transactions")) {
        return details(`${instance}/members`, false, ["Members: ", factory.counted("clients")], () =>
            members(factory, "Members", factory.list("clients"), "capacity_sat"));
    }
    const summary = ["Tree and members: ", tree.counted("transactions", "transaction")];
    return details(`${instance}/tree`, false, summary, () => {
        const transactions = tree.list("transactions");
        const root = transactions.findIndex((tx) => !tx.has("parent"));
        return h("ul", { class: "tree" }, branch(factory, transactions, root));
    });
}

function exitOf(factory) {
    const { state } = factory;
    const { factory_instance: instance, role } = factory.value;
    if (!state.exits?.[instance]) return null;
    const answer = new Part(state, state.exits[instance], `factory-exit.${instance}`);
    const cost = answer.in("exit");
    const summary = [
        "An exit now: ", cost.number("transactions", "transaction"), ", ", cost.number("vbytes", "vB"), ", within ",
        cost.number("blocks", "block"), ", ", cost.number("fee_sat", "sat"), " of fees",
    ];
    const columns = ["Transaction", "=Size", "=Fee", "=Wait", "On chain"];
    const row = (step) => ({
        key: `${step.value.kind}/${step.value.index ?? step.value.sale}`,
        cells: [
            [step.word("kind"), " ", step.number(step.has("index") ? "index" : "sale")],
            step.number("vbytes", "vB"),
            step.number("fee_sat", "sat"),
            step.number("wait_blocks", "block"),
            step.has("confirmed_height") ? ["block ", step.number("confirmed_height")] : none(),
        ],
    });
    return details(`${instance}/exit`, false, summary, () => [
        p(role === "lsp" ? "Of everybody: the whole tree is published. " : "Alone, without anybody's help. ",
            "These fees were set aside when the factory was funded; what raising them may take is in the reserve."),
        table("Transactions to publish, in order", columns, answer.list("path").map(row)),
    ]);
}

/** What is out of the ordinary with a factory. */
function remarks(factory) {
    const begun = (name, words) => {
        const part = factory.in(name);
        const reason = [part.block("since_block"), ": ", part.text("reason")];
        return factory.has(name) ? remark("warn", name, words, reason) : null;
    };
    const said = (level, name, words) => (factory.has(name) ? remark(level, name, words, factory.text(name)) : null);
    return h("div", null, [
        said("bad", "damaged", "Damaged: "),
        said("warn", "exit_only", "Nothing is signed any more: "),
        factory.has("channels_lost") ? remark("warn", "lost", factory.word("channels_lost", LOST)) : null,
        begun("eviction", "Clients are evicted since "),
        begun("exit", "This node leaves since "),
        said("note", "failure", "Failed: "),
    ]);
}

/** HTLCs that press or wait, channels that were bought, and who was left out. */
function tables(factory) {
    const { factory_instance: instance } = factory.value;
    const known = places(factory);
    const member = (part) => {
        const place = known.get(part.value.client);
        return ["client ", part.number("client"), " ", place?.has("id") ? place.who("id") : null];
    };
    const columns = ["Buyer", "Channel", "=Capacity", "=Price", ...BALANCES];
    const bought = (name, title) => {
        const rows = () => factory.list(name).map((sale) => ({
            key: sale.value.channel_id,
            cells: [
                [sale.has("sale") ? ["sale ", sale.number("sale"), ", "] : null, member(sale)],
                sale.has("state") ? channelOf(sale) : none(),
                sale.number("capacity_sat", "sat"),
                sale.number("price_msat", "msat"),
                ...balance(sale),
            ],
        }));
        const summary = [`${title}: `, factory.counted(name)];
        return factory.has(name)
            ? details(`${instance}/${name}`, false, summary, () => table(title, columns, rows()))
            : null;
    };
    const urgent = factory.list("urgent_htlcs").map((htlc, index) => ({
        key: `${index}`,
        cells: [member(htlc), htlc.block("cltv_expiry"), htlc.block("exit_block")],
    }));
    const held = factory.list("held_htlcs").map((htlc, index) => ({
        key: `${index}`,
        cells: [
            htlc.who("id"),
            htlc.number("amount_msat", "msat"),
            htlc.block("last_block"),
            htlc.number("seconds_left", "s"),
        ],
    }));
    const out = () => factory.list("left_out").map((one, index) => ({
        key: `${index}`,
        cells: [one.who("id"), one.text("reason")],
    }));
    return h("div", null, [
        table("HTLCs for which this node leaves", ["Member", "Expires", "Exit begins"], urgent),
        table("HTLCs held for members that are away", ["Member", "=Amount", "Held until", "=At most"], held),
        bought("sales", "Channels bought of stock"),
        bought("jit_channels", "Ordinary channels in place of sales"),
        factory.has("left_out")
            ? details(`${instance}/out`, false, ["Went on without: ", factory.counted("left_out")], () =>
                table("Went on without", ["Member", "Why"], out()))
            : null,
    ]);
}

/** Its life from the funding to the timeout, how much of that is over, and where its dying period is. */
function life(factory) {
    const { funding_height: begun, dying_block: dying, timeout_block: end } = factory.value;
    const part = (height) => (100 * (Math.min(height, end) - begun)) / (end - begun);
    return bar("life", ["dying", part(dying), 100 - part(dying)], ["part", 0, part(factory.state.blockheight)]);
}

function oneFactory(state, value) {
    const { factory_instance: instance, role } = value;
    const factory = new Part(state, value, `factory-list.${instance}`);
    const all = factory.list("clients");
    const there = all.filter((place) => connection(factory, place).value.peer_connected).length;
    const count = h("data", { value: there, "data-rpc": `connected(${instance})` }, group(there));
    const [own] = all;
    return h(
        "article",
        { key: instance, id: `factory-${instance}`, tabindex: -1, "aria-labelledby": `title-${instance}` },
        h("h3", { id: `title-${instance}` }, "Factory ", factory.short("factory_instance"), " ",
            factory.standing("state")),
        h("p", { class: "next" }, "Next: ", factory.text("next_action")),
        remarks(factory),
        life(factory),
        facts(
            fact("Timeout", factory.block("timeout_block")),
            fact("Dying period", factory.block("dying_block")),
            factory.has("deadline_block") && fact("To be done before", factory.block("deadline_block")),
            role === "lsp"
                ? fact("Members connected", count, " of ", factory.counted("clients"))
                : fact("Operator", factory.who("lsp"), " ", own ? presence(connection(factory, own)) : null),
            fact("Capacity", factory.number("funding_sat", "sat")),
            factory.has("standing") && fact("On chain", factory.word("standing")),
            fact("This node is", factory.word("role", ROLES)),
            fact("Id", factory.id("factory_instance")),
        ),
        treeOf(factory),
        exitOf(factory),
        tables(factory),
    );
}

function factories(state) {
    const answer = new Part(state, { unreadable: state.unreadable }, "factory-list");
    const page = new Part(state, state, "page");
    const command = (name) => h("code", null, `lightning-cli ${name}`);
    const unreadable = answer.list("unreadable").map((broken) =>
        h(
            "li",
            { key: broken.value.factory_instance, class: "warning bad" },
            p(badge("bad", "Not understood"), " ", broken.id("factory_instance"), ": ", broken.text("damaged")),
            p("What to do: ", broken.text("next_action")),
        ),
    );
    const nothing = state.status.available
        ? h(
            "div",
            { class: "empty" },
            p("No factory yet."),
            p("An operator makes one for clients that are connected, with ", command("factory-create"), "; ",
                command("factory-plan"), " says what it would take."),
            p("A client connects to its operator; ", command("factory-invitations"), " says what it is invited to."),
        )
        : remark("bad", "away", "What is stored can't be read just now, so no factory is shown.");
    return section(
        "factories",
        "Factories",
        unreadable.length ? h("ul", { class: "warnings" }, unreadable) : null,
        state.factories.length || unreadable.length ? null : nothing,
        state.factories.map((factory) => oneFactory(state, factory)),
        state.trees_left_out
            ? h("p", { class: "soft" }, "Living factories without a tree here: ", page.number("trees_left_out"))
            : null,
        state.factories_left_out
            ? h("p", { class: "soft" }, "Factories that are left off here: ", page.number("factories_left_out"), "; ",
                command("factory-list"), " has all")
            : null,
    );
}

// ---- The ladder.

function ladder(state) {
    if (!state.ladder) return section("ladder", "Ladder", h("p", { class: "soft" }, "It can't be told just now."));
    const ladder = new Part(state, state.ladder, "factory-ladder");
    const rung = ladder.in("rung");
    const failed = ladder.in("failed");
    const isSet = state.ladder.state !== "none";
    const due = ladder.list("due").map((client) => ({
        key: `${client.value.id}/${client.value.factory_instance}`,
        cells: [
            client.who("id"),
            presence(client, "connected"),
            client.block("last_block"),
            client.value.evicted ? client.word("evicted", { true: "evicted already" }) : client.block("by_block"),
            client.number("capacity_sat", "sat"),
            client.factory(),
        ],
    }));
    const made = ladder.list("factories").map((factory) => ({
        key: factory.value.factory_instance,
        cells: [
            [factory.factory(), " ", factory.standing("state")],
            factory.number("rung"),
            [factory.number("handed_over"), " of ", factory.number("clients")],
            factory.block("due_block"),
            factory.block("timeout_block"),
            factory.number("funding_sat", "sat"),
        ],
    }));
    const dueColumns = ["Client", "Connection", "Last rung in time", "Evicted from", "=Next capacity", "Comes from"];
    return section(
        "ladder",
        "Ladder",
        h("p", { class: "next" }, ladder.standing("state"), " Next: ", ladder.text("next_action")),
        isSet ? null : h("p", { class: "empty" }, "No schedule is set: what follows on a factory is made by hand."),
        ladder.has("failed")
            ? remark("warn", "failed", "Not begun at ", failed.block("block"), ": ", failed.text("reason"))
            : null,
        ladder.has("rung") ? h("h3", { key: "rung" }, "The open rung") : null,
        ladder.has("rung")
            ? facts(
                fact("Number", rung.number("number")),
                fact("Opened", rung.block("opens_block")),
                fact("Begins at the latest", rung.block("latest_block")),
                fact("The next one opens", rung.block("next_block")),
                fact("Factories it has made", rung.number("factories")),
                fact("Attempts that failed", rung.number("failed")),
            )
            : null,
        isSet ? h("h3", { key: "schedule" }, "Schedule") : null,
        isSet
            ? facts(
                fact("A rung every", ladder.number("rung_blocks", "block")),
                fact("The first one", ladder.block("begins_block")),
                fact("A factory lives", ladder.number("lifetime_blocks", "block")),
                fact("of which dying", ladder.number("dying_blocks", "block")),
                fact("Begins once", ladder.number("enough_percent"), "\u00a0% are there, or after ",
                    ladder.number("wait_blocks", "block")),
                fact("Clients of a factory", ladder.number("smallest"), " to ", ladder.number("largest")),
            )
            : null,
        table("Clients that are due", dueColumns, due),
        leftOff(state, "ladder.due"),
        table("Factories of the ladder", ["Factory", "=Rung", "=Left it", "Due", "Timeout", "=Capacity"], made),
        leftOff(state, "ladder.factories"),
    );
}

// ---- What is shown now.

const $ = (name) => document.getElementById(name);
let shown = null;
let isDue = false;

function paint() {
    if (!shown) return;
    const focused = document.activeElement;
    patch($("view"), [health(shown), underWay(shown), factories(shown), ladder(shown)].filter(Boolean));
    if (focused && focused !== document.body && document.activeElement !== focused) {
        (focused.isConnected ? focused : $("main")).focus({ preventScroll: true });
    }
    $("sections").hidden = false;
    const count = (shown.status.warnings ?? []).length;
    document.title = count ? `(${count}) Channel factories` : "Channel factories";
}

/** Soon, and once for all that comes until then; not while nobody can see it. */
function paintSoon() {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
        isDue = false;
        paint();
    });
}

const clock = (date) => h("time", { datetime: date.toISOString() }, date.toLocaleTimeString());

/** How the page stands, for everybody; a screen reader says it when it changes. */
function say(phase, ...words) {
    const level = { live: "good", connecting: "busy", lost: "warn", old: "warn", asked: "off" }[phase];
    document.body.dataset.phase = phase;
    patch($("live"), [badge(level, words)]);
    $("retry").hidden = phase !== "lost";
}

// ---- The connection.

/** What the server has said in place of a stream. `isFinal`: this rune won't do. */
class Refused extends Error {
    constructor(words, isFinal) {
        super(words);
        this.isFinal = isFinal;
    }
}

// The connection that counts, what ends it, and what ends the pause before the next one.
let turn = 0;
let attempt = null;
let wake = () => {};
let brokenSince = null;

/** JSON whose integers stay exact: what a double can't hold becomes a string of digits. */
function parse(json) {
    if (!/[:[,]\s*-?\d{16}/.test(json)) return JSON.parse(json);
    const tokens = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
    return JSON.parse(json.replace(tokens, (token) => (/^-?\d{16,}$/.test(token) ? `"${token}"` : token)));
}

function take(event, data) {
    const said = parse(data);
    if (event === "state") {
        said.connected = new Set((said.status.peers ?? []).map((peer) => peer.id));
        shown = said;
        brokenSince = null;
        say("live", "Live");
        patch($("received"), ["as of ", clock(new Date())]);
        paintSoon();
    } else if (event === "trouble") {
        brokenSince ??= new Date();
        say("old", "Not up to date since ", clock(brokenSince), ": ", visible(said.error));
    } else if (event === "end") {
        throw new Refused(said.error, true);
    }
}

/** Reads a stream of events to its end, or until nobody wants it any more. */
async function read(stream, own, alive) {
    const reader = stream.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    let event = "";
    let data = "";
    for (;;) {
        const { value, done } = await reader.read();
        if (done || own.signal.aborted) return;
        alive();
        const piece = decoder.decode(value, { stream: true });
        rest += piece;
        // A state may come in a hundred pieces: it is looked through once.
        if (!piece.includes("\n")) continue;
        const lines = rest.split("\n");
        rest = lines.pop();
        for (const line of lines) {
            if (line.startsWith("event:")) event = line.slice(6).trim();
            else if (line.startsWith("data:")) data += line.slice(5);
            else if (line === "") {
                if (data) take(event, data);
                event = data = "";
            }
        }
    }
}

async function refusal(answer) {
    let words = `the node answers ${answer.status}`;
    try {
        words = String((await answer.json()).error);
    } catch {
        // Whoever answered isn't the plugin.
    }
    return new Refused(words, answer.status === 401 || answer.status === 403);
}

async function listen(rune, own) {
    let silence = 0;
    const alive = () => {
        clearTimeout(silence);
        silence = setTimeout(() => own.abort(), SILENT);
    };
    alive();
    try {
        const headers = { Authorization: `Bearer ${rune}` };
        const answer = await fetch("/events", { headers, cache: "no-store", redirect: "error", signal: own.signal });
        if (!answer.ok) throw await refusal(answer);
        await read(answer.body, own, alive);
    } finally {
        clearTimeout(silence);
        own.abort();
    }
}

/** Shows what the node says until another rune is given, or this one won't do. */
async function follow(rune) {
    const mine = ++turn;
    attempt?.abort();
    wake();
    let pause = FIRST_PAUSE;
    say("connecting", "Connecting…");
    for (;;) {
        let why = "the connection is lost";
        attempt = new AbortController();
        try {
            await listen(rune, attempt);
        } catch (error) {
            if (mine !== turn) return;
            if (error instanceof Refused && error.isFinal) return ask(error.message);
            if (error instanceof Refused) why = error.message;
        }
        if (mine !== turn) return;
        // It was live in between: `take` has said so.
        if (!brokenSince) pause = FIRST_PAUSE;
        brokenSince ??= new Date();
        say("lost", "Reconnecting since ", clock(brokenSince), ": ", visible(why));
        await new Promise((resolve) => {
            wake = resolve;
            setTimeout(resolve, pause * (0.75 + Math.random() / 4));
        });
        if (mine !== turn) return;
        pause = Math.min(2 * pause, LONGEST_PAUSE);
    }
}

// ---- The rune: in this tab, and nowhere else.

function remember(rune) {
    try {
        if (rune) sessionStorage.setItem(KEPT, rune);
        else sessionStorage.removeItem(KEPT);
    } catch {
        // Without storage it is asked for again after a reload.
    }
}

function remembered() {
    try {
        return sessionStorage.getItem(KEPT);
    } catch {
        return null;
    }
}

/** The rune of the address, which doesn't stay there. */
function ofAddress() {
    const mark = "#rune=";
    if (!location.hash.startsWith(mark)) return null;
    const rune = location.hash.slice(mark.length);
    history.replaceState(null, "", location.pathname + location.search);
    try {
        return decodeURIComponent(rune);
    } catch {
        return rune;
    }
}

/** Asks for a rune, and shows nothing of the node any more. */
function ask(words) {
    turn += 1;
    attempt?.abort();
    wake();
    remember(null);
    shown = brokenSince = null;
    opened.clear();
    patch($("view"), []);
    patch($("received"), []);
    document.title = "Channel factories";
    $("view").hidden = $("sections").hidden = $("forget").hidden = true;
    $("gate").hidden = false;
    $("rune").value = "";
    say("asked", "Not connected");
    patch($("refused"), [words ? visible(words) : ""]);
    if (words) $("rune").focus();
}

function begin(given) {
    // createrune's whole answer will do.
    const rune = (/"rune"\s*:\s*"([^"]*)"/.exec(given)?.[1] ?? given).trim();
    if (!/^[\w=+/-]{1,4096}$/.test(rune)) return ask("This is no rune: one is a word of letters, digits, - and _.");
    remember(rune);
    shown = brokenSince = null;
    $("rune").value = "";
    $("gate").hidden = true;
    $("view").hidden = $("forget").hidden = false;
    patch($("view"), [h("p", { key: "waiting", class: "soft" }, "Waiting for the node's answer…")]);
    patch($("refused"), []);
    follow(rune);
}

document.addEventListener(
    "toggle",
    ({ target }) => {
        if (!opened.has(target.key) || opened.get(target.key) === target.open) return;
        opened.set(target.key, target.open);
        paint();
    },
    true,
);
$("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    begin($("rune").value);
    if ($("gate").hidden) $("main").focus({ preventScroll: true });
});
$("forget").addEventListener("click", () => {
    ask("");
    $("rune").focus();
});
$("retry").addEventListener("click", () => wake());
window.addEventListener("online", () => wake());
document.addEventListener("visibilitychange", () => {
    if (!document.hidden) wake();
});
window.addEventListener("hashchange", () => {
    const rune = ofAddress();
    if (rune) begin(rune);
});

const rune = ofAddress() ?? remembered();
if (rune) begin(rune);
else ask("");
