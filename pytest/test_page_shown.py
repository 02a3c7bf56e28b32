"""The page in a real browser, of what a node could say (page_server.py): keys, widths, hostile names, lost
connections."""

import pytest

import page_server
from page_server import HEIGHT, RUNE, Server
from harness import wait_for

WIDTHS = (360, 820, 1440)
# Focus goes this often at most.
LONG_WALK = 400


@pytest.fixture
def server():
    server = Server(page_server.small())
    yield server
    server.close()


def shows(page, server, state=None):
    if state:
        server.state = state
    page.open(server.port, RUNE)
    page.live()


def of_first(server, name):
    return f"#factory-{server.state['factories'][0]['factory_instance']} {name}"


def clean(page, server):
    """Nothing was refused by the policy, and nobody else was asked for anything."""
    assert page.complaints() == []
    assert page.origins() == {f"http://127.0.0.1:{server.port}"}


def walk(page, keys, until=LONG_WALK):
    """Where the focus goes by the key alone, until it has been everywhere."""
    places = []
    for _ in range(until):
        page.press(keys.TAB)
        tag, *place, is_seen = page.focused()
        if tag == "BODY":
            return places
        assert is_seen, (tag, place)
        first = page.js(
            "const one = document.activeElement; const was = one.wasThere; one.wasThere = true; return Boolean(was)"
        )
        if first:
            return places
        places.append((tag, *place))
    raise AssertionError(f"the focus does not come back: {places[-5:]}")


def test_keys_alone_reach_and_open_everything(page, server):
    from browser import REACHABLE
    from selenium.webdriver.common.keys import Keys

    shows(page, server)
    seen = "[...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility())"
    reachable = page.js(f"return {seen}.length", REACHABLE)
    places = walk(page, Keys)
    assert len(places) == reachable, places
    assert places[0][0] == "A" and page.count("details[open]") == 0
    # The first leads past all that is above the content.
    page.js("document.activeElement.blur(); document.querySelector('.skip').focus()")
    page.press(Keys.ENTER)
    wait_for(lambda: page.focused()[1] == "main")
    # A tree is opened, and what is in it reached; and closed again.
    page.js("document.querySelector(arguments[0]).focus()", of_first(server, "details > summary"))
    page.press(Keys.ENTER)
    wait_for(lambda: page.count(of_first(server, "details[open] .tree summary")) > 0)
    page.press(Keys.TAB)
    assert "Transaction" in page.focused()[2]
    page.press(Keys.SPACE)
    wait_for(lambda: page.count(of_first(server, "table")) == 0)
    # All that has a name says so.
    nameless = page.js(
        "return [...document.querySelectorAll('a, button, input, summary, table, section, article')].filter((one) =>"
        " !(one.textContent.trim() || one.labels?.length)).map((one) => one.outerHTML)"
    )
    assert nameless == []
    clean(page, server)


def test_tables_stay_tables_for_those_who_hear_them(page, server):
    shows(page, server)
    page.open_all()
    for width in WIDTHS:
        page.size(width)
        odd = page.js(
            "return [...document.querySelectorAll('table')].filter((table) => {"
            "  const heads = table.querySelectorAll('thead th[scope=col][role=columnheader]').length;"
            "  const rows = [...table.querySelectorAll('tbody tr[role=row]')];"
            "  return table.getAttribute('role') !== 'table' || !table.caption.textContent || rows.length === 0 ||"
            "    rows.some((row) => row.children.length !== heads || row.children[0].scope !== 'row');"
            "}).length"
        )
        assert (odd, page.count("table") > 0) == (0, True), width
    # Headings go down by one.
    levels = page.js(
        "return [...document.querySelectorAll('h1, h2, h3, h4')].filter((one) => one.checkVisibility())"
        ".map((one) => Number(one.tagName[1]))"
    )
    assert levels[0] == 1 and all(after - before <= 1 for before, after in zip(levels, levels[1:])), levels


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_no_width_needs_scrolling_sideways(page, server, request, is_dark):
    directory = request.config.getoption("--screenshots")
    page.dark(is_dark)
    page.size(WIDTHS[0])
    shows(page, server, page_server.large())
    ground = page.js("return getComputedStyle(document.documentElement).backgroundColor")
    assert ground == ("rgb(18, 21, 23)" if is_dark else "rgb(247, 246, 242)")
    # One tree is open, for those who look at the pictures.
    small_one = f"#factory-{server.state['factories'][1]['factory_instance']} details > summary"
    page.js("document.querySelector(arguments[0]).click()", small_one)
    wait_for(lambda: page.count("details[open] table") > 0)
    for width in (320, *WIDTHS):
        page.size(width)
        assert page.too_wide() == [], width
        if directory and width in WIDTHS:
            page.picture(f"{directory}/page-{'dark-' if is_dark else ''}{width}.png")
    page.open_all()
    for width in (320, *WIDTHS):
        page.size(width)
        assert page.too_wide() == [], width
    clean(page, server)


def test_hostile_names_do_nothing(page, server):
    page.size(360)
    shows(page, server, page_server.large(hostile=True))
    before = page.js("window.boom = () => { window.harmed = true }; return document.querySelectorAll('script').length")
    page.open_all()
    server.change(lambda state: state["factories"].reverse())
    first = server.state["factories"][0]["factory_instance"]
    wait_for(lambda: page.js("return document.querySelector('article').id") == f"factory-{first}")
    assert page.js("return window.harmed") is None and before == 1
    made = "script, img, iframe, form, input, b, button, object, embed, link, style, base"
    inside = [f"#view {name.strip()}" for name in made.split(",")]
    assert page.count(", ".join(inside)) == 0
    odd = "[...document.querySelectorAll('body *')].flatMap((one) => one.getAttributeNames()).filter((name) => "
    assert page.js(f"return {odd} name.startsWith('on') || name === 'style')") == []
    # They are there to be read, as text.
    text = page.text()
    assert "<img src=x onerror=boom()>" in text and "\\u{202e}gnp.exe" in text
    assert not set(text) & set("\u202e\u2066\u2069\x00\x07\x1b\u200b\u2060\ufeff")
    assert "W" * 1_000 in text and "W" * 2_001 not in text
    for width in (320, *WIDTHS):
        page.size(width)
        assert page.too_wide() == [], width
    links = page.js("return [...document.querySelectorAll('a')].map((one) => one.getAttribute('href'))")
    assert all(link.startswith("#") for link in links), links
    clean(page, server)


def test_what_is_open_stays_under_the_reader_while_the_order_changes(page, server):
    shows(page, server, page_server.small((3, 4, 2)))
    tree = of_first(server, "details > summary")
    page.js("const one = document.querySelector(arguments[0]); one.click(); one.focus(); window.here = one", tree)
    wait_for(lambda: page.count("details[open] table") > 0)
    last = server.state["factories"][-1]["factory_instance"]

    def other(state):
        state["factories"].reverse()
        state["factories"][-1]["next_action"] = "something else"

    server.change(other)
    wait_for(lambda: page.js("return document.querySelector('article').id") == f"factory-{last}")
    assert "something else" in page.text()
    assert page.js("return window.here === document.activeElement && window.here.parentElement.open")
    # One that is gone takes nobody to nowhere.
    server.change(lambda state: state["factories"].pop())
    wait_for(lambda: page.count("article") == 2)
    assert page.focused()[1] == "main"


def test_numbers_beyond_a_double_are_exact(page, server):
    beyond = 2**53 + 1
    state = page_server.small((1,))
    (channel,) = state["channels"]
    state["channels"][channel]["to_us_msat"] = beyond
    shows(page, server, state)
    page.open_all()
    assert page.value(f"listpeerchannels.{channel}.to_us_msat") == str(beyond)
    assert "9,007,199,254,740,993\u00a0msat" in page.text()


def test_a_thousand_members_cost_nothing_while_nobody_looks(page, server):
    shows(page, server, page_server.thousand())
    assert page.count("article") == 8 and page.count("table") == 0
    assert page.count("*") < 3_000
    members = page.js("return [...document.querySelectorAll('#factories dd')].map((one) => one.textContent)")
    assert sum(text.endswith(" of 125") for text in members) == 8
    page.js("document.querySelector(arguments[0]).click()", of_first(server, "details > summary"))
    wait_for(lambda: page.count(of_first(server, ".tree")) > 0)
    assert page.count("article:not(:first-of-type) .tree") == 0


def test_a_lost_connection_is_said_and_comes_back(page, server):
    shows(page, server)
    server.refusal = (503, "eight pages are open already")
    server.drop()
    wait_for(lambda: "Reconnecting since" in page.text("#live") and "eight pages" in page.text("#live"))
    # What was there last stays, and can be told from what is live.
    assert page.count("article") == 2 and page.phase() == "lost"
    server.refusal = None
    page.driver.find_element("id", "retry").click()
    page.live()
    assert page.text("#live").strip() == "Live"
    # It does so by itself, too.
    server.drop()
    wait_for(lambda: page.phase() != "live" or server.streams)
    page.live()
    server.say("trouble", {"error": "lightningd doesn't answer"})
    wait_for(lambda: "Not up to date since" in page.text("#live") and "lightningd doesn't answer" in page.text("#live"))
    server.change(lambda state: state.update(blockheight=HEIGHT + 1))
    page.live()
    wait_for(lambda: page.value("getinfo.blockheight") == str(HEIGHT + 1))
    server.say("end", {"error": "the rune was taken back"})
    wait_for(page.gate)
    assert page.refused() == "the rune was taken back" and page.text() == ""
    assert page.focused()[1] == "rune"


def test_what_there_is_not_is_said(page, server):
    state = page_server.none()
    shows(page, server, state)
    assert "No factory yet" in page.text() and "No schedule is set" in page.text() and "All is well" in page.text()

    def away(state):
        status = state["status"]
        for name in set(status) - {"version", "factory_protocols", "available", "chain", "peers", "warnings"}:
            del status[name]
        status["available"] = False
        status["warnings"] = [{"code": "unavailable", "message": "it can't be read", "action": "see the log"}]
        state["ladder"] = None

    server.change(away)
    wait_for(lambda: "What is stored can't be read" in page.text())
    assert "Urgent" in page.text() and "What to do: see the log" in page.text()
    assert "It can't be told just now" in page.text()
    # Without trees there are the members.
    state = page_server.small()
    state["trees"], state["exits"], state["trees_left_out"] = {}, {}, 2
    server.show(state)
    wait_for(lambda: page.count("article") == 2)
    page.open_all()
    assert page.count("#factories tbody tr") == 8
    assert "Living factories without a tree here: 2" in page.text()
