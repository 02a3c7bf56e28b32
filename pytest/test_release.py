"""A release's archive, from a binary that is there: nothing is built here, and no lightningd is needed."""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tomllib

import pytest

from harness import ROOT

EPOCH = 1_700_000_000
TARGET = "x86_64-unknown-linux-musl"
RELEASE = ROOT / ".ci" / "release"


def has_gnu_tar():
    tar = shutil.which("tar")
    return tar and "GNU tar" in subprocess.run([tar, "--version"], capture_output=True, text=True).stdout


missing = [name for name, there in (("GNU tar", has_gnu_tar()), ("cargo", shutil.which("cargo"))) if not there]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not on PATH: {', '.join(missing)}")


def release(*words, umask=0o022, script=RELEASE):
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    return subprocess.run([script, *words], capture_output=True, text=True, timeout=60, env=env, umask=umask)


def check_licences(text):
    """Every crate that the manifest of the plugin names is there with its licence, and so is the C and C++ that crates
    bring; of a licence with the same words there is one text; what only tests need isn't there."""
    head, *texts = text.split("=" * 80 + "\n")
    listed = dict(line.rsplit(": ", 1) for line in head.splitlines() if re.fullmatch(r"[\w-]+ \d\S*: .+", line))
    names = {name.split(" ")[0] for name in listed}
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    own = {path.parent.name for path in ROOT.glob("*/Cargo.toml")}
    assert set(manifest["dependencies"]) - own <= names, sorted(names)
    assert not {"criterion", "plotters", "libfuzzer-sys"} & names
    assert all(listed.values()), listed
    owners = "".join(texts[::2])
    for path in ("bitcoinconsensus .*: depend/bitcoin/COPYING", "secp256k1-sys .*: depend/secp256k1/COPYING"):
        assert re.search(f"^{path}$", owners, re.MULTILINE), owners
    assert len(set(texts[1::2])) == len(texts[1::2]) > 10
    assert "Permission is hereby granted" in text and "Apache License" in text


@pytest.fixture
def binary(tmp_path):
    path = tmp_path / "built"
    path.write_bytes(b"\x7fELF, as far as this test is concerned")
    return path


def test_the_archive_has_what_a_user_needs_and_is_the_same_each_time(binary, tmp_path):
    made = []
    for number, umask in enumerate((0o022, 0o077)):
        out = tmp_path / str(number)
        done = release("--binary", str(binary), "--target", TARGET, "--out", str(out), umask=umask)
        assert done.returncode == 0, done
        (archive,) = out.glob("*.tar.gz")
        assert done.stdout.strip() == str(archive)
        sums = (out / "SHA256SUMS").read_text()
        assert sums == f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}\n"
        made.append(archive)
        os.utime(binary, (1, 1))
    assert made[0].read_bytes() == made[1].read_bytes()

    name = made[0].name.removesuffix(".tar.gz")
    assert name.startswith("cln-factory-") and name.endswith(f"-{TARGET}")
    with tarfile.open(made[0]) as archive:
        members = archive.getmembers()
        assert archive.extractfile(f"{name}/cln-factory").read() == binary.read_bytes()
        licences = archive.extractfile(f"{name}/THIRD-PARTY-LICENSES").read().decode()
    check_licences(licences)
    names = [member.name for member in members]
    # As tar sorts: below each folder by name.
    assert [path.split("/") for path in names] == sorted(path.split("/") for path in names)
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, EPOCH)}
    modes = {member.name.removeprefix(name): member.mode for member in members}
    assert modes["/cln-factory"] == modes["/docs"] == 0o755 and modes["/README.md"] == 0o644
    wanted = ["README.md", "LICENSE", "THIRD-PARTY-LICENSES", "CHANGELOG.md", "docs/install.md",
              "docs/lightningd.service", "plugin-manifest/manifest.json"]  # fmt: skip
    wanted.append("plugin-manifest/schemas/factory-list.json")
    assert {f"{name}/{path}" for path in wanted} <= set(names)


def test_it_packs_what_is_committed(binary, tmp_path):
    root = tmp_path / "checkout"
    files = {
        "Cargo.toml": '[workspace.package]\nversion = "1.2.3"\n',
        "README.md": "committed",
        "LICENSE": "",
        "CHANGELOG.md": "",
        "docs/install.md": "",
        "plugin-manifest/schemas/factory-list.json": "{}",
    }
    # Of what this checkout is made cargo knows nothing.
    of_others = {".ci/third_party.py": "import sys; print('licences for', sys.argv[1])\n"}
    for path, text in {**files, **of_others}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    script = root / ".ci" / "release"
    shutil.copy(RELEASE, script)
    git = ["git", "-C", root, "-c", "user.name=somebody", "-c", "user.email=somebody@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "--no-gpg-sign", "-m", "all"]):
        subprocess.run([*git, *words], check=True, timeout=60)
    (root / "README.md").write_text("changed since")
    (root / "docs" / "notes.md").write_text("nobody's business")
    out = tmp_path / "out"
    done = release("--binary", str(binary), "--target", TARGET, "--out", str(out), script=script)
    assert done.returncode == 0, done
    name = f"cln-factory-1.2.3-{TARGET}"
    with tarfile.open(out / f"{name}.tar.gz") as archive:
        assert archive.extractfile(f"{name}/README.md").read() == b"committed"
        licences = archive.extractfile(f"{name}/THIRD-PARTY-LICENSES").read()
        assert licences == f"licences for {TARGET}\n".encode()
        packed = {member.name.removeprefix(f"{name}/") for member in archive.getmembers() if member.isfile()}
    assert packed == {*files} - {"Cargo.toml"} | {"cln-factory", "THIRD-PARTY-LICENSES"}


def test_the_sums_are_of_all_archives_that_are_there(binary, tmp_path):
    out = tmp_path / "out"
    for target in ("x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"):
        assert release("--binary", str(binary), "--target", target, "--out", str(out)).returncode == 0
    listed = [line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()]
    assert listed == sorted(path.name for path in out.glob("*.tar.gz")) and len(listed) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fast"], "unknown argument '--fast'"),
        (["--out"], "--out needs a value"),
        (["--binary", "/nonexistent/cln-factory", "--target", TARGET], "/nonexistent/cln-factory: no such file"),
        (["--binary", str(RELEASE)], "--binary needs --target"),
    ],
)
def test_what_it_cannot_do_it_says_and_makes_nothing(words, said, tmp_path):
    done = release(*words)
    assert done.returncode == 2 and said in done.stderr, done
    assert done.stdout == ""
