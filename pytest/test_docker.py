"""docker/: the image has what it is built of, the compose file is one, and the demo shows what it says: in containers
where a Docker daemon is there, and otherwise on nodes of this machine."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from harness import ROOT, find_plugin

DOCKER = ROOT / "docker"
COMPOSE = ["docker", "compose", "-f", str(DOCKER / "compose.yml")]

# What docker/demo.sh has of Docker, on nodes that run already.
STAND_IN = '''#!{python}
"""Stands in for `docker compose`: each service is a node of this machine."""
import json
import os
import sys

services = json.loads(os.environ["SERVICES"])
words = sys.argv[1:]
assert words[:2] == ["compose", "-f"], words
command, words = words[3], words[4:]
if command == "stop":
    os.execvp("lightning-cli", ["lightning-cli", "--network=regtest", services[words[0]]["dir"], "stop"])
if command != "exec":
    sys.exit(0)
flag, service, program, *words = words
assert flag == "-T", flag
if program == "lightning-cli":
    # Each listens where there was room.
    for name, at in services.items():
        words = [word.replace("@" + name + ":9735", "@localhost:" + str(at.get("port"))) for word in words]
    words.insert(0, services[service]["dir"])
if program == "bitcoin-cli":
    words = [services[service]["dir"], *[word for word in words if not word.startswith(("-rpcuser", "-rpcpassword"))]]
os.execvp(program, [program, *words])
'''


def works(*command):
    """Whether a command is there, and succeeds."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def test_the_image_is_built_of_all_that_the_workspace_names():
    """Cargo wants the manifest of each member, and the file of each benchmark, before it builds any."""
    dockerfile = (DOCKER / "Dockerfile").read_text()
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
    copied = {word for line in lines for word in line.split()}
    members = set(tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"])
    assert copied == {"Cargo.toml", "Cargo.lock", "src", "benches", *members}
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored
    # The plugin isn't where lightningd would look by itself: so whoever starts it says so.
    (place,) = re.findall(r"^COPY --from=build \S+ (\S+)$", dockerfile, re.MULTILINE)
    assert (DOCKER / "compose.yml").read_text().count(f"- --important-plugin={place}\n") == 2


def test_the_compose_file_is_one():
    if not works("docker", "compose", "version"):
        pytest.skip("`docker compose` isn't there")
    found = subprocess.run([*COMPOSE, "config", "--format", "json"], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert set(json.loads(found.stdout)["services"]) == {"bitcoind", "lsp", "alice", "bob"}


def check(shown):
    """What the demo has to have shown."""
    assert shown.returncode == 0, shown
    for line in ("lsp to alice: complete", "alice to bob: complete", "alice holds all that she needs: true"):
        assert line in shown.stdout, shown.stdout
    assert len(re.findall(r"alice publishes [0-9a-f]{64}", shown.stdout)) >= 1, shown.stdout
    (sat,) = re.findall(r"^(\d+) sat in her wallet$", shown.stdout, re.MULTILINE)
    # She was paid 100,000, has paid 20,000, and pays for what she has put on chain.
    assert 60_000 < int(sat) < 80_000, shown.stdout


@pytest.mark.skipif(shutil.which("jq") is None, reason="not on PATH: jq")
def test_the_demo_on_nodes_without_containers(node_factory, bitcoind, tmp_path):
    client = {"plugin": find_plugin(), "factory-policy": "auto", "factory-allow-lsp": "any"}
    options = [{"plugin": find_plugin(), "factory-policy": "never"}, client, client]
    nodes = dict(zip(("lsp", "alice", "bob"), node_factory.get_nodes(3, opts=options)))
    services = {
        name: {"dir": f"--lightning-dir={node.daemon.lightning_dir}", "port": node.port} for name, node in nodes.items()
    }
    services["bitcoind"] = {"dir": f"-datadir={bitcoind.bitcoin_dir}"}
    stand_in = tmp_path / "docker"
    stand_in.write_text(STAND_IN.replace("{python}", sys.executable))
    stand_in.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SERVICES": json.dumps(services),
    }
    check(subprocess.run([DOCKER / "demo.sh"], capture_output=True, text=True, timeout=600, env=env))


@pytest.mark.build
@pytest.mark.slow
def test_the_demo_in_containers():
    if not works("docker", "info"):
        pytest.skip("no Docker daemon answers")
    if not works("docker", "compose", "version"):
        pytest.skip("`docker compose` isn't there")
    check(subprocess.run([DOCKER / "demo.sh"], capture_output=True, text=True, timeout=3600))


def test_the_demo_knows_its_arguments():
    said = subprocess.run([DOCKER / "demo.sh", "--forever"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 2 and "unknown argument '--forever'" in said.stderr
