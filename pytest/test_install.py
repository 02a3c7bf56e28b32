"""Installing, upgrading and going back, as docs/install.md has it: lightningd's own `reckless`, from a local checkout;
the binary by itself; the unit for systemd; an older plugin and what a newer one has begun."""

import filecmp
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from pyln.client import RpcError

from harness import ROOT, find_plugin, lsp_options, read_records, status, wait_for

UNAVAILABLE = 2503
NAME = "cln-factory"

# What reckless wants of cargo, without building anything.
CARGO = """#!/bin/sh
[ "$*" = "build --release -vv" ] || { echo "unexpected: cargo $*" >&2; exit 1; }
mkdir -p target/release && cp "$BUILT" target/release/cln-factory
"""

missing = [name for name in ("reckless", "lightning-cli", "git") if shutil.which(name) is None]
needs_reckless = pytest.mark.skipif(bool(missing), reason="not on PATH: " + ", ".join(missing))


def git(path, *words):
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false", *words]
    return subprocess.run(command, cwd=path, check=True, capture_output=True, text=True).stdout.strip()


def local_checkout(path):
    """This tree as somebody has cloned it."""
    left_out = shutil.ignore_patterns("target", ".git", ".venv", ".pytest_cache", "__pycache__")
    shutil.copytree(ROOT, path, ignore=left_out)
    git(path, "init", "--quiet")
    git(path, "add", "--all")
    git(path, "commit", "--quiet", "--message", "first")
    return git(path, "rev-parse", "HEAD")


class Reckless:
    """reckless for one node. Unless `builds`, cargo is one that has built already."""

    def __init__(self, node, tmp_path, builds=False):
        self.directory = pathlib.Path(node.daemon.lightning_dir)
        self.installed = self.directory / "reckless" / NAME
        self.config = self.directory / "reckless" / "regtest-reckless.conf"
        scratch, programs = tmp_path / "scratch", tmp_path / "programs"
        scratch.mkdir()
        programs.mkdir()
        self.env = {**os.environ, "TMPDIR": str(scratch)}
        # reckless takes the binary from the checkout's own target/.
        self.env.pop("CARGO_TARGET_DIR", None)
        if not builds:
            (programs / "cargo").write_text(CARGO)
            (programs / "cargo").chmod(0o755)
            self.env |= {"BUILT": find_plugin(), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def __call__(self, *words):
        # With long options that hold for each command. It asks whether it may begin a configuration.
        command = ["reckless", "--network=regtest", f"--lightning={self.directory}", "--verbose", *words]
        done = subprocess.run(command, input="Y\n", capture_output=True, text=True, timeout=3600, env=self.env)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done
        return done.stdout

    def add_source(self, checkout):
        self("source", "add", str(checkout))
        # Nothing is to be looked for elsewhere.
        self("source", "remove", "https://github.com/lightningd/plugins")

    def lines(self):
        """What lightningd reads of it."""
        return [line for line in self.config.read_text().splitlines() if line and not line.startswith("#")]

    def make_important(self):
        """As docs/install.md says: the word in front of its line, and that line once."""
        path = self.installed / NAME
        kept = [line for line in self.config.read_text().splitlines() if not line.endswith(f"plugin={path}")]
        self.config.write_text("\n".join([*kept, f"important-plugin={path}", ""]))

    def commit(self):
        """Which one is installed."""
        return re.search(r"installed commit\n(\w+)", (self.installed / ".metadata").read_text())[1]


def loaded(node):
    """Each that lightningd runs of ours."""
    plugins = node.rpc.call("plugin", ["list"])["plugins"]
    return [plugin["name"] for plugin in plugins if plugin["name"].endswith(NAME)]


def test_the_binary_by_itself_says_what_it_is():
    """reckless tries what it has built, and deletes what ends with an error."""
    plugin = find_plugin()
    if plugin is None:
        pytest.skip("no cln-factory binary: run `cargo build` first")
    for words, said in (([], ""), ([], "Y\n"), (["--version"], ""), (["--help"], "")):
        alone = subprocess.run([plugin, *words], input=said, capture_output=True, text=True, timeout=30)
        assert (alone.returncode, alone.stderr) == (0, ""), alone
        assert re.match(r"cln-factory \d+\.\d+\.\d+: ", alone.stdout) and "important-plugin=" in alone.stdout


def test_reckless_takes_the_checkout_for_one_of_rust():
    """It looks for these first, in this order."""
    others = {"uv.lock", "requirements.txt", "poetry.lock", "pyproject.toml", "package.json"}
    assert not others & {path.name.lower() for path in ROOT.iterdir()}
    assert re.search(rf'^\[package\]\nname = "{NAME}"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)


@needs_reckless
def test_reckless_installs_updates_and_goes_back(node_factory, tmp_path):
    node = node_factory.get_node(start=False)
    checkout = tmp_path / NAME
    first = local_checkout(checkout)
    reckless = Reckless(node, tmp_path)
    reckless.add_source(checkout)
    said = reckless("install", NAME)
    assert "plugin installed: " in said and f"{NAME} enabled" in said, said
    assert filecmp.cmp(reckless.installed / NAME, find_plugin(), shallow=False)
    assert reckless.lines() == [f"plugin={reckless.installed / NAME}"] and reckless.commit() == first
    node.start()
    assert len(loaded(node)) == 1 and status(node)["available"]

    # lightningd is stopped for it: a running one can't exchange this plugin.
    node.stop()
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "second")
    second = git(checkout, "rev-parse", "HEAD")
    assert "plugin installed: " in reckless("update", NAME)
    assert reckless.commit() == second

    reckless("uninstall", NAME)
    assert not reckless.installed.exists()
    assert "plugin installed: " in reckless("install", f"{NAME}@{first}")
    assert reckless.commit() == first
    assert reckless.lines() == [f"plugin={reckless.installed / NAME}"]
    # As a node with factories has it: then lightningd ends with the plugin.
    reckless.make_important()
    node.start()
    assert len(loaded(node)) == 1
    assert "not_important" not in {seen["code"] for seen in status(node)["warnings"]}
    node.stop()
    # reckless writes its own line again, and lightningd doesn't start with both: nobody has one guard less unawares.
    reckless("enable", NAME)
    assert len(reckless.lines()) == 2
    both = ["lightningd", "--network=regtest", f"--lightning-dir={reckless.directory}", "--help"]
    started = subprocess.run(both, capture_output=True, text=True, timeout=60)
    assert started.returncode != 0 and "Failed to register" in started.stderr, started
    reckless.make_important()
    node.start()
    assert len(loaded(node)) == 1


@needs_reckless
def test_a_running_lightningd_has_to_be_started_again(node_factory, tmp_path):
    """The plugin isn't dynamic: its features are in lightningd's first words to each peer."""
    (node,) = node_factory.get_nodes(1)
    checkout = tmp_path / NAME
    local_checkout(checkout)
    reckless = Reckless(node, tmp_path)
    reckless.add_source(checkout)
    said = reckless("install", NAME)
    assert "plugin installed: " in said and f"{NAME} failed to start!" in said, said
    assert node.daemon.is_in_log("Not a dynamic plugin")
    assert loaded(node) == [] and reckless.lines() == []
    node.stop()
    assert f"{NAME} enabled" in reckless("enable", NAME)
    node.start()
    assert len(loaded(node)) == 1 and status(node)["available"]


@needs_reckless
@pytest.mark.build
@pytest.mark.slow
def test_reckless_builds_what_it_installs(node_factory, tmp_path):
    """With the real cargo, from nothing."""
    if shutil.which("cargo") is None:
        pytest.skip("not on PATH: cargo")
    node = node_factory.get_node(start=False)
    checkout = tmp_path / NAME
    local_checkout(checkout)
    reckless = Reckless(node, tmp_path, builds=True)
    reckless.add_source(checkout)
    assert f"{NAME} enabled" in reckless("install", NAME)
    node.start()
    assert len(loaded(node)) == 1 and status(node)["available"]


def test_the_unit_is_one_that_systemd_takes(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not on PATH: systemd-analyze")
    text = (ROOT / "docs" / "lightningd.service").read_text()
    # It looks whether the programs are there.
    unit = tmp_path / "lightningd.service"
    unit.write_text(re.sub(r"/usr/bin/[\w-]+", "/bin/true", text))
    said = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stderr) == (0, ""), said


# S33
def test_an_older_plugin_leaves_a_newer_ones_step_alone(node_factory):
    """What it can't finish it neither gives up nor sets aside. (Records: test_closed.py.)"""
    (node,) = node_factory.get_nodes(1, opts=[lsp_options(broken_log="factories are left alone")])
    journal = ["cln-factory", "journal", "0000"]
    # The last part, version 2.
    node.rpc.datastore(key=journal, hex="0102ff", mode="must-create")
    node.restart()
    newer = "the journal's version 2 is newer than this plugin's 1: start the newer plugin again"
    assert not status(node)["available"]
    (warning,) = [seen for seen in status(node)["warnings"] if seen["code"] == "unavailable"]
    assert newer in warning["message"], warning
    with pytest.raises(RpcError, match=newer) as error:
        node.rpc.call("factory-exit", {"factory_instance": "ab" * 32})
    assert error.value.error["code"] == UNAVAILABLE
    assert read_records(node)[tuple(journal)] == "0102ff"
    assert "damaged-journal" not in {key[1] for key in read_records(node)}
    # As the newer one leaves it once it has been back.
    node.rpc.deldatastore(journal)
    wait_for(lambda: status(node)["available"])
