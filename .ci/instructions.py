#!/usr/bin/env python3
"""Counts the instructions of each case of benches/instructions.rs, by valgrind, and compares them with
what benches/instructions.json allows, 10 % more or less. Less is an error too: then the limit should
follow, or the next 10 % go unnoticed. `--write` writes what was counted."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMITS = ROOT / "benches" / "instructions.json"
MARGIN = 0.10


def executable():
    # The tests' profile: built already, and half a minute rather than three.
    command = ["cargo", "bench", "--locked", "--profile", "dev", "--bench", "instructions", "--no-run"]
    output = subprocess.run(
        [*command, "--message-format=json"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "instructions" and message.get("executable"):
            return message["executable"]
    sys.exit("cargo built no benches/instructions")


def count(program, case):
    """Instructions inside `counted_work`, in thousands."""
    command = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--collect-atstart=no",
        "--toggle-collect=*counted_work*",
        program,
        case,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or done.stdout.split() != [case] or not found or found[1] == "0":
        sys.exit(f"{case} was not counted:\n{done.stdout}{done.stderr}")
    return round(int(found[1]) / 1000)


def main():
    if not shutil.which("valgrind"):
        sys.exit("valgrind is missing: instructions can't be counted")
    limits = json.loads(LIMITS.read_text()) if LIMITS.exists() else {}
    program = executable()
    cases = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    counts = {}
    wrong = []
    print(f"{'case':>14} {'thousands':>10} {'limit':>10} {'change':>8}")
    for case in cases:
        counts[case] = count(program, case)
        limit = limits.get(case)
        change = counts[case] / limit - 1 if limit else None
        text = "new" if change is None else f"{change:+.1%}"
        print(f"{case:>14} {counts[case]:>10} {limit or '':>10} {text:>8}")
        if change is None or abs(change) > MARGIN:
            wrong.append(case)
    if "--write" in sys.argv[1:]:
        LIMITS.write_text(json.dumps(counts, indent=2) + "\n")
    elif wrong or set(limits) - set(cases):
        names = ", ".join([*wrong, *sorted(set(limits) - set(cases))])
        sys.exit(f"{names}: not within {MARGIN:.0%} of benches/instructions.json (--write, if it is meant)")


main()
