"""The page's own files, without node and browser: nothing in them could be turned against who reads it."""

import json
import re
from html.parser import HTMLParser

import pytest

import page_server
from page_server import ASSETS, WORLDS
from promises import Response, hold, schemas

HTML, CSS, JS = ((ASSETS / name).read_text() for name in ("index.html", "page.css", "page.js"))
# SVG's name: an address that nobody asks.
NAMESPACE = "http://www.w3.org/2000/svg"
# The most that all of it should weigh, in characters.
MOST = 80_000


class Elements(HTMLParser):
    """Every element with its attributes, and what stands in scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found, self.inside = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.cdata_elem in ("script", "style") and data.strip():
            self.inside.append(data)


def test_no_code_and_no_style_stands_in_the_page():
    page = Elements(HTML)
    assert page.inside == []
    for tag, attributes in page.found:
        assert tag not in ("style", "base", "iframe", "object", "embed", "img"), tag
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
    found = [(tag, attributes.get("src") or attributes.get("href")) for tag, attributes in page.found]
    places = [(tag, place) for tag, place in found if place and not place.startswith("#")]
    assert places == [("link", "/page.css"), ("script", "/page.js")]
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_comes_from_elsewhere_and_no_text_becomes_code():
    for text in (HTML, CSS, JS):
        assert set(re.findall(r"\b\w+://[^\s\"'`)]*", text)) <= {NAMESPACE}
        # Nothing that can't be seen stands in them.
        assert not re.search("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]", text)
    assert not re.search(r"url\(|@import|expression\(", CSS)
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|createContextualFragment|document\.write|DOMParser",
        r"\beval\b|new Function|import\(|javascript:|\.src\b|\.href\b|\.style\b",
        r"localStorage|document\.cookie|indexedDB|serviceWorker|postMessage|console\.",
    )
    for words in forbidden:
        assert re.findall(words, JS) == [], words
    # One thing is asked for, of whoever served the page.
    assert re.findall(r"fetch\(([^,)]*)", JS) == ['"/events"']
    assert len(HTML) + len(CSS) + len(JS) < MOST


def test_what_a_reader_or_a_keyboard_needs_is_there():
    page = Elements(HTML)
    tags = [tag for tag, _ in page.found]
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert tags.count(landmark) == 1, landmark
    assert ("html", {"lang": "en"}) in page.found
    by_id = {attributes["id"]: (tag, attributes) for tag, attributes in page.found if "id" in attributes}
    assert by_id["live"][1]["aria-live"] == "polite" and by_id["refused"][1]["role"] == "alert"
    labels = [attributes["for"] for tag, attributes in page.found if tag == "label"]
    assert labels == ["rune"]
    (skip,) = [attributes["href"] for _, attributes in page.found if attributes.get("class") == "skip"]
    assert skip == "#main"
    for words in ("prefers-color-scheme: dark", "prefers-reduced-motion", ":focus-visible", "forced-colors"):
        assert words in CSS, words


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_colours_can_be_told_apart_in_light_and_dark():
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        grounds = ("paper", "card")
        pairs = [(name, ground) for name in ("ink", "soft", "accent", "bad") for ground in grounds]
        for name in ("good", "busy", "warn", "bad", "off"):
            pairs += [(name, f"{name}-tint"), ("soft", f"{name}-tint"), ("ink", f"{name}-tint"), (name, "card")]
        for name, ground in pairs:
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_made_up_is_what_a_node_could_say(name):
    state = json.loads(json.dumps(WORLDS[name]()))
    known = {command: schema["response"] for command, schema in schemas().items()}
    hold(Response, known["factory-status"], state["status"], "status")
    listed = {"factories": state["factories"]}
    hold(Response, known["factory-list"], listed, "factories")
    hold(Response, known["factory-ladder"], state["ladder"], "ladder")
    for instance, tree in state["trees"].items():
        hold(Response, known["factory-show"], tree, instance)
        assert tree["transactions"][0]["input_sat"] == tree["funding_sat"]
    for instance, answer in state["exits"].items():
        hold(Response, known["factory-exit"], answer, instance)


def test_the_stand_in_serves_as_the_plugin_does():
    """The same files under the same names, and the same policy."""
    source = (ASSETS.parent.parent / "page.rs").read_text()
    joined = re.sub(r"\\\n\s*", "", source)
    assert page_server.HEADERS["Content-Security-Policy"] in joined
    for name in ("index.html", "page.css", "page.js"):
        assert f'include_str!("page/assets/{name}")' in source, name
