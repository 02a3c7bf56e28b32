"""Fixtures for tests on real lightningd and bitcoind.

Tests that need a binary which isn't on PATH are skipped, and say which one.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

# pyln-testing reads these when it is imported. RUST=0: don't expect the plugins that lightningd has
# only where it was built with Rust.
os.environ.setdefault("RUST", "0")
# How long it waits for what has to come: several tests share the cores, and a node fetches 300 blocks with as
# many processes, and more. Nothing is measured by it.
os.environ.setdefault("TIMEOUT", "180")
os.environ.setdefault("TEST_NETWORK", "regtest")
# Plugins written in Python find pyln where this interpreter has it, also if no environment is active.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]

import pytest  # noqa: E402
from pyln.testing import fixtures as pyln_fixtures, utils as pyln_utils  # noqa: E402
from pyln.testing.fixtures import *  # noqa: E402,F401,F403
from pyln.testing.utils import BitcoinD, PrettyPrintingLightningRpc, TailableProc  # noqa: E402

# So that their assertions say what they found.
pytest.register_assert_rewrite("browser", "harness", "promises", "world")
import harness  # noqa: E402
import matrix  # noqa: E402
import promises  # noqa: E402

# Whatever pyln-testing waits for, too: its own pauses double up to 5 s.
pyln_utils.wait_for = harness.wait_for

NEEDS_NODES = {"node_factory", "bitcoind", "worlds"}


def pytest_addoption(parser):
    parser.addoption("--kill-matrix", metavar="FILE", help="where the table of a `-m matrix` run goes")
    parser.addoption("--screenshots", metavar="DIR", help="where pictures of the page go (pytest/test_page_shown.py)")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than a minute")
    config.addinivalue_line("markers", "faults: needs the binary that misbehaves on request")
    config.addinivalue_line("markers", "matrix: the kill matrix; `-m matrix` runs all of it")
    config.addinivalue_line("markers", "bulk: left out unless `-m matrix` asks for it")
    config.addinivalue_line("markers", "speed: measures; left out unless `-m speed` asks for it")
    config.addinivalue_line("markers", "build: builds all of it again; left out unless `-m build` asks for it")
    # Other styles parse sources, which Python 3.11 now and then can't while other threads run: a test that failed
    # would end all of them.
    if config.option.tbstyle == "auto":
        config.option.tbstyle = "native"
    config.pluginmanager.register(Notes(config))


def leave_out(config, items, marker, unless):
    """Leaves out what has this marker, unless `-m` names the other, or a test was asked for by its name."""
    if unless in config.option.markexpr or any("::" in argument for argument in config.args):
        return
    marked = [item for item in items if item.get_closest_marker(marker)]
    if marked:
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if item not in marked]


def pytest_collection_modifyitems(config, items):
    leave_out(config, items, "bulk", unless="matrix")
    leave_out(config, items, "speed", unless="speed")
    leave_out(config, items, "build", unless="build")
    missing = [name for name in ("lightningd", "bitcoind") if shutil.which(name) is None]
    plugin = harness.find_plugin()
    faults = harness.find_plugin(faults=True)
    for item in items:
        if not NEEDS_NODES.intersection(item.fixturenames):
            continue
        if missing:
            item.add_marker(pytest.mark.skip(reason="not on PATH: " + ", ".join(missing)))
        elif plugin is None:
            item.add_marker(pytest.mark.skip(reason="no cln-factory binary: run `cargo build` first"))
        elif faults is None and item.get_closest_marker("faults"):
            text = "no cln-factory-faults binary: run `cargo build --features faults --bin cln-factory-faults` first"
            item.add_marker(pytest.mark.skip(reason=text))


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """pyln-testing keeps the directories of tests that failed; it learns of it here."""
    outcome = yield
    report = outcome.get_result()
    setattr(item, "rep_" + report.when, report)


@pytest.fixture
def kill_matrix(request):
    """Notes how a case of the kill matrix ended, for the table at the end of the run."""

    def note(step, side, what, options, outcome):
        kind = "one attempt only" if options else what
        request.node.user_properties.append(("kill matrix", [step, side, kind, outcome]))

    return note


@pytest.fixture
def page():
    """The page of factory-web-bind in a browser, that nothing was opened in yet."""
    import browser

    if why := browser.missing():
        pytest.skip(why)
    page = browser.Page()
    yield page
    page.close()


@pytest.fixture
def measured(request):
    """Takes lines of what was measured, for the end of the run."""
    return lambda line: request.node.user_properties.append(("measured", line))


class Notes:
    """What tests have noted. It comes with their reports, also from other processes (pytest-xdist)."""

    def __init__(self, config):
        self.config = config
        self.rows = {}
        self.lines = []

    def pytest_runtest_logreport(self, report):
        if report.when != "call":
            return
        for name, note in report.user_properties:
            if name == "kill matrix":
                step, side, kind, outcome = note
                self.rows.setdefault(step, {})[side, kind] = outcome
            if name == "measured":
                self.lines.append(note)

    def pytest_terminal_summary(self, terminalreporter):
        if self.lines:
            terminalreporter.section("measured")
            terminalreporter.write_line("\n".join(self.lines))
        if not self.rows:
            return
        table = matrix.table(self.rows)
        terminalreporter.section("kill matrix")
        terminalreporter.write_line(table)
        if self.config.option.kill_matrix:
            matrix.write(self.config.option.kill_matrix, table)


@pytest.fixture(autouse=True)
def keep_promises(monkeypatch):
    """Every factory-* call of every test has to keep its schema in plugin-manifest/."""
    call = promises.hold_to_schemas(PrettyPrintingLightningRpc.call)
    monkeypatch.setattr(PrettyPrintingLightningRpc, "call", call)


@pytest.fixture(autouse=True)
def stop_together(request):
    """Stops all nodes at once: pyln-testing does it one after the other, which takes longer than
    many a test. It then finds them stopped, and looks at how they ended and what they logged."""
    if "node_factory" not in request.fixturenames:
        yield
        return
    factory = request.getfixturevalue("node_factory")
    yield
    stopping = [factory.executor.submit(node.stop) for node in factory.nodes]
    for stopped in stopping:
        # What went wrong comes up again when pyln-testing stops the node.
        stopped.exception()
    for node in factory.nodes:
        if getattr(node.daemon, "was_killed", False):
            drop_half_written(pathlib.Path(node.daemon.lightning_dir) / "plugin-io")


@pytest.fixture(autouse=True)
def note_kills(monkeypatch):
    """Which lightningds were killed, and have not stopped."""
    kill = TailableProc.kill

    def killed(daemon):
        daemon.was_killed = True
        return kill(daemon)

    monkeypatch.setattr(TailableProc, "kill", killed)


def drop_half_written(directory):
    """lightningd notes what it says to plugins in files that pyln-testing reads at the end; one that is killed may have
    left one empty, or half of one."""
    for path in directory.iterdir() if directory.is_dir() else []:
        try:
            json.loads(path.read_text())
        except ValueError:
            path.unlink()


class StrictBitcoinD(BitcoinD):
    """bitcoind that takes and refuses what Bitcoin Core does.

    Bitcoin Knots accepts version 3 transactions without enforcing their limits unless it is told to. And it
    refuses transactions whose lock time is 21, as a parasite's: lightningd's are, now and then, on a chain of
    a hundred blocks. Bitcoin Core doesn't know either option.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        version = subprocess.run(["bitcoind", "-version"], capture_output=True, text=True, check=True)
        if "Knots" in version.stdout:
            self.cmd_line += ["-mempooltruc=enforce", "-rejectparasites=0"]
        self.one_proxy = threading.Lock()

    def get_proxy(self):
        """Nodes start in threads, and each has its own proxy, a Flask application. Its routes are parsed by `ast`,
        and Python 3.11's fails now and then when two threads parse at once (SystemError: AST constructor
        recursion depth mismatch)."""
        with self.one_proxy:
            return super().get_proxy()


pyln_fixtures.network_daemons["regtest"] = StrictBitcoinD
