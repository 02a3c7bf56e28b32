"""What the pages tell people to type is there: commands and their parameters, options, programs, files, links. Needs no
node. (README's ten minutes are run word by word: test_readme.py.)"""

import re
import shlex
import tomllib

import pytest

from harness import ROOT
from promises import MANIFEST, load, schemas

PAGES = ["README.md", "docker/README.md", "plugin-manifest/README.md"]
PAGES += sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))
# No commands and no options: crates, programs, a build's feature, and the option of the build that misbehaves.
OTHERS = {f"factory-{name}" for name in ("lab", "sim", "runtime", "engine", "fuzz", "faults", "fault")}
# Of this repository, as pages name them.
FOLDERS = r"\.ci|docs|docker|tests|pytest|planted|fuzz|benches|plugin-manifest"
# lightning-cli, as pages call it for a node.
CLI = re.compile(r"(?:lightning-cli|lsp-cli|alice-cli|bob-cli|cli (?:lsp|alice|bob))\s+(.*)")


def read(page):
    return (ROOT / page).read_text()


def blocks(page):
    """Code blocks, without their fences. Those that a list item has are indented."""
    return re.findall(r"^( *)```(?:sh)?\n(.*?)^\1```$", read(page), re.MULTILINE | re.DOTALL)


def commands(page):
    """Whatever stands in a block, or between backticks, as something to type."""
    lines = [line for _, block in blocks(page) for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    text = re.sub(r"^ *```.*?^ *```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [re.split(r"\s# ", line)[0].strip() for line in lines + spans]


def words_of(command):
    """As a shell splits them, up to the end of the command."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    for at, word in enumerate(words):
        if word in ("|", "&&", ">", ">>", "||") or word.endswith(";"):
            return [*words[:at], *([word[:-1]] if word.endswith(";") else [])]
    return words


def calls(page):
    """Each call of a factory command: its name, and what is given."""
    known = schemas()
    for command in commands(page):
        # Also within $(…), and without a client in front of it.
        for part in re.split(r"\$\(|\)", command):
            found = CLI.search(part)
            words = words_of(found[1] if found else part)
            named = words[:1] == ["-k"]
            words = [word for word in words if not word.startswith("-")]
            if words and words[0] in known:
                yield words[0], words[1:], named


def wrong_call(schema, given, named):
    """What is wrong with the parameters of a call, or None."""
    names = list(schema["request"]["properties"])
    by_name = [word.split("=", 1)[0] for word in given if re.match(r"[a-z_]+=", word)]
    unknown = [name for name in by_name if name not in names]
    if unknown:
        return f"has no parameter {', '.join(unknown)}"
    # … stands for whatever else is given; a page may name a parameter after others that come by position.
    if len(given) > len(names):
        return f"has no more than {len(names)} parameters"
    if named and len(by_name) < len([word for word in given if word != "…"]):
        return "has all of its parameters by name with -k"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page):
    manifest = load(MANIFEST)
    known = {option["name"] for option in manifest["options"]} | {method["name"] for method in manifest["rpcmethods"]}
    text = re.sub(r"\]\([^)]*\)", "]", read(page))
    named = set(re.findall(r"(?<![\w/.#-])(?:--)?(factory-[a-z][a-z-]*[a-z])\b", text))
    assert named <= known | OTHERS, named - known - OTHERS


@pytest.mark.parametrize("page", PAGES)
def test_parameters_exist(page):
    known = schemas()
    wrong = []
    for name, given, named in calls(page):
        problem = wrong_call(known[name], given, named)
        if problem:
            wrong.append(f"{name} {' '.join(given)}: it {problem}")
    assert not wrong, wrong


def cargo_targets():
    """Every program, benchmark and test that cargo knows, by kind and name."""
    found = {"bin": set(), "bench": set(), "test": set(), "example": set()}
    for manifest in [ROOT / "Cargo.toml", *ROOT.glob("*/Cargo.toml")]:
        declared = tomllib.loads(manifest.read_text())
        for kind in found:
            found[kind] |= {target["name"] for target in declared.get(kind, [])}
        found["bin"].add(declared["package"]["name"])
        for kind, folder in (("bin", "src/bin"), ("bench", "benches"), ("test", "tests"), ("example", "examples")):
            for path in (manifest.parent / folder).glob("*"):
                if path.suffix == ".rs":
                    found[kind].add(path.stem)
                elif (path / "main.rs").exists():
                    found[kind].add(path.name)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_what_cargo_is_asked_for_exists(page):
    targets = cargo_targets()
    for command in commands(page):
        if not command.startswith("cargo "):
            continue
        for kind, name in re.findall(r"--(bin|bench|test|example) ([\w-]+)", command):
            assert name in targets[kind], command
        if "--bin factory-" in command:
            sources = "".join(path.read_text() for path in ROOT.glob("factory-lab/src/**/*.rs"))
            for flag in re.findall(r"(?<= )--[a-z-]+", command.partition(" -- ")[2]):
                assert f'"{flag}"' in sources, f"{flag}: {command}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    for command in commands(page):
        for word in re.split(r"[\s=:'\"()\[\],]+", command):
            path = re.fullmatch(rf"(?:\./)?((?:{FOLDERS})/[\w./-]+)", word)
            if path:
                # A page names a module of Rust or of Python without its ending, and a test without its crate.
                places = [path[1], f"{path[1]}.rs", f"{path[1]}.py", f"factory-{path[1]}", f"factory-lab/{path[1]}.rs"]
                assert any((ROOT / place).exists() for place in places), f"{word}: {command}"


def anchors(page):
    """As GitHub makes them of headings."""
    text = re.sub(r"^ *```.*?^ *```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, "ARCHITECTURE.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    text = re.sub(r"^ *```.*?^ *```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        place = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert place.exists(), link
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place.relative_to(ROOT)), link


def test_what_is_not_there_is_found():
    schema = schemas()["factory-exit"]
    first, second = list(schema["request"]["properties"])[:2]
    assert wrong_call(schema, ["<factory_instance>"], False) is None
    assert wrong_call(schema, [f"{first}=…", f"{second}=true"], True) is None
    assert wrong_call(schema, ["…"], True) is None
    assert "quickly" in wrong_call(schema, [f"{first}=…", "quickly=true"], True)
    assert "by name" in wrong_call(schema, ["<factory_instance>"], True)
    assert "no more than" in wrong_call(schema, ["x"] * 20, False)
    assert words_of("factory-list | jq .") == ["factory-list"]
    assert words_of("factory-list; echo done") == ["factory-list"]
