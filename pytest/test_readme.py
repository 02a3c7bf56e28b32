"""README's ten minutes, word by word: its own lines, in its order, by a shell in a home of its own; from nothing to a
renewed factory, and out of it. What is exchanged is what the page says may be: the port, and where the binary is."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import pytest
from pyln.testing.utils import TIMEOUT, reserve_unused_port

from harness import ROOT, find_plugin, wait_for

HEADING = "## Ten minutes on regtest"
PORT, BINARY = "19735", "$PWD/target/release/cln-factory"
# Whoever runs these tests has done it already.
BUILD = "cargo build --release"
# What a comment has in quotes: "state": "active", "valid": true, "short_channel_id".
PROMISE = re.compile(r'"[^"]+"(?:: (?:"[^"]+"|true|false|\d+))?')
# What hasn't come true by then has failed: three nodes fetch 200 blocks.
PATIENCE = 3 * TIMEOUT

NEEDED = ("bash", "bitcoind", "bitcoin-cli", "lightningd", "lightning-cli", "jq")
missing = [name for name in NEEDED if shutil.which(name) is None]


def blocks():
    """The section's commands, block by block."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index(HEADING) :].split("\n## ", 1)[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def is_whole(statement):
    """Whether a shell would carry it out now, or wait for more."""
    if statement.endswith("\\"):
        return False
    return subprocess.run(["bash", "-n", "-c", statement], capture_output=True, timeout=60).returncode == 0


def statements():
    """What somebody types, one after the other: each with what its comment promises."""
    found = []
    for block in blocks():
        lines = []
        for line in block.splitlines():
            if line.startswith("#"):
                assert not lines, f"in the middle of a command: {line}"
                continue
            lines.append(line)
            whole = "\n".join(lines)
            if not is_whole(whole):
                continue
            command, _, comment = whole.partition(" # ")
            found.append((command.rstrip(), PROMISE.findall(comment)))
            lines = []
        assert not lines, f"no end of a command: {lines}"
    return found


class Shell:
    """The one that somebody has open: what a line sets, the next ones have."""

    MARK = "-- done: "

    def __init__(self, home):
        env = {**os.environ, "HOME": str(home)}
        command = ["bash", "--noprofile", "--norc"]
        pipe = subprocess.PIPE
        self.shown = []
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def run(self, statement):
        """Gives its exit code and what it says."""
        # Nothing else may read what comes next.
        self.process.stdin.write(f"{{ {statement}\n}} </dev/null\nprintf '\\n{self.MARK}%s\\n' $?\n")
        self.process.stdin.flush()
        said = []
        for line in self.process.stdout:
            if line.startswith(self.MARK):
                text = "".join(said)
                self.shown.append(f"$ {statement}\n{text}")
                return int(line.removeprefix(self.MARK)), text
            said.append(line)
        raise AssertionError(f"the shell is gone: {statement}\n{''.join(said)}")

    def until(self, statement, promised):
        """As the page has it: again, until what its comment promises is in the answer."""
        deadline = time.monotonic() + PATIENCE
        while True:
            code, said = self.run(statement)
            if code == 0 and all(words in said for words in promised):
                return
            # A command without a promise is called once.
            late = not promised or time.monotonic() >= deadline
            assert not late, f"{statement}\nended with {code}, without {promised}:\n{said}"
            time.sleep(0.5)

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(60)


@contextlib.contextmanager
def home():
    """A home with a bitcoind in it that gets in nobody's way, and takes what Bitcoin Core does (conftest.py). Its path
    is short: sockets have to fit."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="walk"))
    bitcoin = directory / "demo" / "bitcoin"
    bitcoin.mkdir(parents=True)
    version = subprocess.run(["bitcoind", "-version"], capture_output=True, text=True, check=True).stdout
    knots = ["mempooltruc=enforce", "rejectparasites=0"] if "Knots" in version else []
    lines = ["listen=0", *knots, "[regtest]", f"rpcport={reserve_unused_port()}"]
    (bitcoin / "bitcoin.conf").write_text("\n".join([*lines, ""]))
    try:
        yield directory
    finally:
        stop_all(directory)
        shutil.rmtree(directory, ignore_errors=True)


def stop_all(directory):
    """Whatever of it still runs."""
    for node in (directory / "demo").iterdir():
        if node.name == "bitcoin":
            continue
        command = ["lightning-cli", "--network=regtest", f"--lightning-dir={node}", "stop"]
        subprocess.run(command, capture_output=True, timeout=120)
    bitcoin = directory / "demo" / "bitcoin"
    subprocess.run(["bitcoin-cli", "-regtest", f"-datadir={bitcoin}", "stop"], capture_output=True, timeout=60)
    wait_for(lambda: not (bitcoin / "regtest" / "bitcoind.pid").exists())


def test_the_walk_has_what_it_promises():
    """Every command is whole, and each step that has to come true says what."""
    walk = statements()
    commands = [command for command, _ in walk]
    assert commands[0] == BUILD
    promised = [words for _, promises in walk for words in promises]
    for words in ('"state": "active"', '"state": "dying"', '"state": "left"', '"valid": true', '"state": "exited"'):
        assert words in promised, words
    # What a new user would have to know beforehand.
    text = "\n".join(commands)
    assert "<" not in text and "…" not in text
    assert PORT in text and BINARY in text


@pytest.mark.slow
@pytest.mark.skipif(bool(missing), reason="not on PATH: " + ", ".join(missing))
def test_ten_minutes():
    plugin = find_plugin()
    if plugin is None:
        pytest.skip("no cln-factory binary: run `cargo build` first")
    exchanged = {PORT: str(reserve_unused_port()), BINARY: plugin}
    with home() as directory:
        shell = Shell(directory)
        try:
            for command, promised in statements():
                if command == BUILD:
                    continue
                for words, instead in exchanged.items():
                    command = command.replace(words, instead)
                shell.until(command, promised)
        except BaseException:
            print("\n".join(shell.shown))
            for log in sorted(directory.glob("demo/*/**/log")):
                print(f"== {log}", *log.read_text(errors="replace").splitlines()[-60:], sep="\n")
            raise
        finally:
            shell.close()
