#!/usr/bin/env python3
"""Checks that every dependency comes from a registry and has an allowed licence (deny.toml).

What `cargo deny check licenses sources` does, for machines where building cargo-deny takes longer
than everything else. The advisory database lives in a repository that can't be reached offline.
"""
import json
import re
import subprocess
import sys
import tomllib

with open("deny.toml", "rb") as file:
    allowed = set(tomllib.load(file)["licenses"]["allow"])


def acceptable(expression):
    """An SPDX expression: every AND part needs one OR choice that is allowed."""
    expression = expression.replace("/", " OR ")
    tokens = re.findall(r"\(|\)|[^\s()]+", expression)
    words = []
    for token in tokens:
        if words and (token == "WITH" or words[-1].endswith(" WITH")):
            words[-1] += " " + token
        else:
            words.append(token)

    def parse_or(i):
        value, i = parse_and(i)
        while i < len(words) and words[i] == "OR":
            other, i = parse_and(i + 1)
            value = value or other
        return value, i

    def parse_and(i):
        value, i = parse_atom(i)
        while i < len(words) and words[i] == "AND":
            other, i = parse_atom(i + 1)
            value = value and other
        return value, i

    def parse_atom(i):
        if words[i] == "(":
            value, i = parse_or(i + 1)
            return value, i + 1
        return words[i] in allowed, i + 1

    return parse_or(0)[0]


metadata = json.loads(subprocess.check_output(
    ["cargo", "metadata", "--format-version", "1", "--locked"]))
problems = []
for package in metadata["packages"]:
    name = "{} {}".format(package["name"], package["version"])
    if package["source"] is None and package["id"] not in metadata["workspace_members"]:
        problems.append(name + " is a path dependency")
    if package["source"] is not None and not package["source"].startswith("registry+"):
        problems.append(name + " doesn't come from a registry")
    if not package["license"] or not acceptable(package["license"]):
        problems.append("{} has the licence {!r}, which deny.toml doesn't allow".format(name, package["license"]))
for problem in problems:
    print(problem)
print("licences: {} packages checked, {} problems".format(len(metadata["packages"]), len(problems)))
sys.exit(bool(problems))
