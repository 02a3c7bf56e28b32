"""A real Chromium for tests of the page: headless, by its own driver, on this machine alone."""

import base64
import json
import os
import pathlib
import re
import shutil
import urllib.parse

from harness import wait_for

PROGRAMS = ("chromium", "chromedriver")
# What a browser begins with, and asks nobody for.
OWN = ("about", "chrome", "data")
# All that a key should reach.
REACHABLE = "a[href], button, input, summary"


def missing():
    """Why there is none, if so."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not on PATH: {', '.join(absent)} (Debian's packages chromium and chromium-driver)" if absent else None


def start():
    # Whoever has no browser needs no selenium.
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    words = ["--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"]
    # Nothing of the browser's own goes out.
    words += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"]
    if os.geteuid() == 0:
        words.append("--no-sandbox")
    for word in words:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


class Page:
    """The page of factory-web-bind, in a tab."""

    def __init__(self):
        self.driver = start()
        self.notes = []

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def cdp(self, method, **params):
        return self.driver.execute_cdp_cmd(method, params)

    def close(self):
        self.driver.quit()

    # What is shown.

    def open(self, port, rune=None):
        fragment = f"#rune={urllib.parse.quote(rune)}" if rune else ""
        self.driver.get(f"http://127.0.0.1:{port}/{fragment}")

    def phase(self):
        return self.js("return document.body.dataset.phase")

    def live(self):
        """Until it shows a node, as that is."""
        wait_for(lambda: self.phase() == "live" and self.js("return Boolean(document.getElementById('health'))"))

    def gate(self):
        return self.js("return !document.getElementById('gate').hidden")

    def refused(self):
        return self.js("return document.getElementById('refused').textContent")

    def give(self, rune):
        """Writes a rune into the form, and sends it by the key."""
        from selenium.webdriver.common.keys import Keys

        field = self.driver.find_element("id", "rune")
        field.clear()
        field.send_keys(rune, Keys.ENTER)

    def text(self, selector="#view"):
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def count(self, selector):
        return self.js("return document.querySelectorAll(arguments[0]).length", selector)

    def value(self, path):
        """What the first element that shows this has, as text, or None."""
        script = "return document.querySelector(`[data-rpc=\"${arguments[0]}\"]`)?.getAttribute('value')"
        return self.js(script, path)

    def shown(self):
        """All that the node has said: of each where from, the exact value, the text, and whether only its beginning."""
        return self.js(
            "return [...document.querySelectorAll('#view [data-rpc]')].map((one) => "
            "[one.dataset.rpc, one.getAttribute('value'), one.textContent, 'cut' in one.dataset])"
        )

    def loose_numbers(self):
        """Texts with digits that nothing of the node stands behind."""
        return self.js(
            "const walker = document.createTreeWalker(document.getElementById('view'), NodeFilter.SHOW_TEXT);"
            "const found = [];"
            "while (walker.nextNode()) {"
            "  const { data, parentElement } = walker.currentNode;"
            "  if (/\\d/.test(data) && !parentElement.closest('[data-rpc]')) found.push(data);"
            "}"
            "return found;"
        )

    def open_all(self):
        """Opens all that can be opened."""
        closed = "#view details:not([open]) > summary"
        while self.count(closed):
            self.js("document.querySelectorAll(arguments[0]).forEach((one) => one.click())", closed)
            wait_for(lambda: self.count("#view details[open] > .inside:empty") == 0)

    # How it is looked at.

    def size(self, width, height=900):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        wait_for(lambda: self.js("return innerWidth") == width)

    def dark(self, is_dark):
        value = "dark" if is_dark else "light"
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def too_wide(self):
        """Whether it has to be scrolled sideways, and which elements stick out."""
        return self.js(
            "const width = document.documentElement.clientWidth;"
            "const needed = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth);"
            "if (needed <= innerWidth) return [];"
            "return [...document.querySelectorAll('body *')]"
            "  .filter((one) => one.getBoundingClientRect().right > width + 1)"
            "  .map((one) => `${one.tagName}.${one.getAttribute('class')} ${one.textContent.slice(0, 60)}`)"
            "  .concat(`${needed} of ${innerWidth}`);"
        )

    def picture(self, path, most=2_400):
        """The page's beginning, as a PNG."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        size = self.cdp("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": self.js("return innerWidth"), "height": min(size["height"], most), "scale": 1}
        png = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(png["data"]))

    # Keys.

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self):
        """What has the focus, for people, and whether that can be seen."""
        return self.js(
            "const one = document.activeElement;"
            "const { outlineStyle, outlineWidth } = getComputedStyle(one);"
            "const isSeen = outlineStyle !== 'none' && outlineWidth !== '0px';"
            "return [one.tagName, one.id, one.textContent.slice(0, 60), isSeen];"
        )

    # What happened beside.

    def look(self):
        """Takes what the browser has noted so far, which it says once."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        self.notes += [("asked", entry["params"]["request"]["url"]) for entry in entries if is_request(entry)]
        self.notes += [("said", entry["message"]) for entry in self.driver.get_log("browser")]

    def complaints(self):
        """What the console has, but for the icon that no page has, and what was refused on purpose."""
        self.look()
        refused = re.compile(r"/favicon\.ico|/events - .*(401|403|503|net::ERR_)")
        return [words for kind, words in self.notes if kind == "said" and not refused.search(words)]

    def origins(self):
        """Whom it has asked for anything."""
        self.look()
        found = {urllib.parse.urlsplit(url) for kind, url in self.notes if kind == "asked"}
        return {f"{url.scheme}://{url.netloc}" for url in found if url.scheme not in OWN}


def is_request(entry):
    return entry["method"] == "Network.requestWillBeSent"
