#!/usr/bin/env python3
"""Prints the licences of what is in the binary beside cln-factory itself: .ci/third_party.py TARGET

From the licence files that come with each crate, with those of the C and C++ code that it brings along. What cargo has
downloaded is enough; nothing is fetched. The same Cargo.lock and target give the same text, to the byte.
"""
import json
import os
import re
import subprocess
import sys

ROOT = "cln-factory"
# Names of files, whatever they end in.
LICENCE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)(?![a-z])", re.IGNORECASE)
# Files of these names that are code.
CODE = (".rs", ".c", ".h", ".cc", ".cpp", ".py", ".sh", ".toml", ".json", ".html")
LINE = "=" * 80

HEAD = """\
Software in cln-factory that others have written

cln-factory itself is under the licence in the file LICENSE. Its binary for
{target} also has the following in it, or was made with it, each under the
licence that is named. Below are the texts that come with them, each once.

There are parts of Rust's standard library in it (MIT OR Apache-2.0), and in a
static binary of musl (MIT) and of GCC's libstdc++ and libgcc (GPL-3.0 WITH
GCC-exception-3.1).
"""


def metadata(target):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", target]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit("licences: cargo is needed, which says what is in the binary")
    if done.returncode:
        sys.exit(f"{done.stderr}licences: cargo doesn't say what is in the binary; `cargo fetch --locked` gets what it lacks")
    return json.loads(done.stdout)


def linked(found):
    """Packages that end up in the binary, or make what does: whatever isn't only for tests or for building."""
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    packages = {package["id"]: package for package in found["packages"]}
    waiting = [package["id"] for package in found["packages"] if package["name"] == ROOT and package["source"] is None]
    seen = set(waiting)
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            is_linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if is_linked and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    others = [packages[name] for name in seen if packages[name]["source"] is not None]
    return sorted(others, key=lambda package: (package["name"], package["version"]))


def files(package):
    """Licence files of a package, by their paths in it."""
    folder = os.path.dirname(package["manifest_path"])
    found = []
    for below, _, names in os.walk(folder):
        for name in names:
            if LICENCE.match(name) and not name.lower().endswith(CODE):
                found.append(os.path.relpath(os.path.join(below, name), folder).replace(os.sep, "/"))
    if package["license_file"]:
        found.append(os.path.normpath(package["license_file"]).replace(os.sep, "/"))
    return folder, sorted(set(found))


def text_of(path):
    with open(path, encoding="utf-8", errors="replace", newline=None) as file:
        lines = [line.rstrip() for line in file.read().split("\n")]
    return "\n".join(lines).strip("\n")


def main(target):
    packages = linked(metadata(target))
    if not packages:
        sys.exit(f"licences: nothing is known to be in {ROOT}: mend .ci/third_party.py")
    print(HEAD.format(target=target))
    texts = {}
    for package in packages:
        name = f"{package['name']} {package['version']}"
        folder, paths = files(package)
        print(f"{name}: {package['license']}")
        if package["repository"]:
            print(f"    {package['repository']}")
        if not paths:
            # What its manifest says is all that it has.
            print("    without a licence file, by " + (", ".join(package["authors"]) or "its contributors"))
        for path in paths:
            texts.setdefault(text_of(os.path.join(folder, path)), []).append(f"{name}: {path}")
    for text, owners in texts.items():
        print(f"\n{LINE}")
        print("\n".join(owners))
        print(f"{LINE}\n\n{text}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("which target: .ci/third_party.py x86_64-unknown-linux-musl")
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    main(sys.argv[1])
