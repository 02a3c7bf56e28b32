"""The built plugin keeps what plugin-manifest/ promises. Needs no lightningd.

`CLN_FACTORY=… python pytest/promises.py` writes manifest.json anew, for a change that is meant.
"""

import re
import textwrap
from pathlib import Path

import pytest

import promises
from harness import FEATURE_BIT, find_plugin
from promises import MANIFEST, Request, Response, hold, load, notifications, schemas

UNITS = re.compile(r"\b(blocks?|percent|seconds|millisatoshi|satoshi|vB)\b", re.IGNORECASE)
# Counts and places: numbers without a unit.
BARE = {
    "addresses", "appointments", "arity", "attempt", "away", "channels", "children_unknown", "client", "clients", "clients_per_sub",
    "closed_channels", "coin", "coins", "coins_at_once", "coins_ready", "copied", "copied_twice", "created_index", "depth",
    "distributions", "due", "evicted", "factories", "failed", "funding_outnum", "given_back", "handed_over", "htlcs", "index", "kept", "largest", "left_off", "limit",
    "made", "missing", "next_start", "number", "outnum", "partial_signatures", "payouts_left", "reclaims", "record", "records", "renewed",
    "restored", "rung", "rungs", "sale", "sale_members", "sales", "smallest", "start", "state_count", "stubs", "sub_factories",
    "transactions", "unconfirmed", "usable_rungs",
}  # fmt: skip
AMOUNT = re.compile(r"sat$")


@pytest.fixture(scope="module")
def manifest():
    plugin = find_plugin()
    if plugin is None:
        pytest.skip("no cln-factory binary: run `cargo build` first")
    return promises.running_manifest(plugin)


def test_manifest_is_what_was_promised(manifest):
    assert promises.sorted_manifest(manifest) == load(MANIFEST)


def test_what_lightningd_needs(manifest):
    for where in ("init", "node"):
        assert int(manifest["featurebits"][where], 16) == 1 << FEATURE_BIT
    assert manifest["custommessages"] == [32800]
    hooks = {hook["name"]: hook for hook in manifest["hooks"]}
    assert set(hooks) == {"openchannel", "custommsg", "htlc_accepted", "rpc_command", "commitment_revocation"}
    assert hooks["custommsg"]["filters"] == [32800]
    assert not manifest["dynamic"]


def test_every_option_says_its_unit(manifest):
    for option in manifest["options"]:
        assert option["name"].startswith("factory-")
        if option["type"] == "int":
            assert "default" in option, option
            text = option["description"]
            assert UNITS.search(text) or text.startswith("Number of"), option


def test_the_readmes_tables_have_every_option_with_its_default(manifest):
    text = (Path(__file__).parent.parent / "README.md").read_text()
    defaults = {option["name"]: option.get("default") for option in manifest["options"]}
    rows = re.findall(r"^\| (`factory-[^|]*`) \| ([^|]*) \| [^|]* \|$", text, re.MULTILINE)
    shown = {}
    for names, values in rows:
        names = re.findall(r"`([^`]*)`", names)
        shown |= dict(zip(names, [values] if len(names) == 1 else values.split(", ")))
    assert shown.keys() == defaults.keys() - {"factory-fault"}
    for name in shown:
        default = defaults[name]
        said = "off" if default is False else "none" if default is None else str(default)
        assert shown[name].replace(",", "") == said, name


def test_the_readmes_table_has_every_command(manifest):
    text = (Path(__file__).parent.parent / "README.md").read_text()
    rows = re.findall(r"^\| (`factory-[^|]*`) \| [^|]* \|$", text, re.MULTILINE)
    shown = {name for row in rows for name in re.findall(r"`([^`]*)`", row)}
    assert shown == {method["name"] for method in manifest["rpcmethods"]}


def test_every_command_and_notification_has_a_schema(manifest):
    assert {method["name"] for method in manifest["rpcmethods"]} == set(schemas())
    assert {topic["method"] for topic in manifest["notifications"]} == set(notifications())


@pytest.mark.parametrize("name", schemas())
def test_schema_and_usage_agree(manifest, name):
    schema = schemas()[name]
    assert schema["rpc"] == name
    (usage,) = [method["usage"] for method in manifest["rpcmethods"] if method["name"] == name]
    assert [word.strip("[]") for word in usage.split()] == list(schema["request"]["properties"])
    always = {word for word in usage.split() if not word.startswith("[")}
    # Each client may have a capacity of its own.
    assert always - {"capacity_sat"} == set(schema["request"]["required"])


@pytest.mark.parametrize("name", schemas())
def test_help_fits(manifest, name):
    """lightningd shows the usage as it stands, in one line behind the name; the description is one paragraph, for whoever
    reads the manifest."""
    (method,) = [method for method in manifest["rpcmethods"] if method["name"] == name]
    usage, said = method["usage"], method["description"]
    assert usage == "" or re.fullmatch(r"[a-z_]+( [a-z_]+)*( \[[a-z_]+\])*|\[[a-z_]+\]( \[[a-z_]+\])*", usage), usage
    assert len(usage.split()) == len(set(usage.split()))
    assert re.match(r"[A-Z]", said) and not said.endswith(".") and " ".join(said.split()) == said, said
    assert len(textwrap.wrap(said, 100)) <= 4, said
    known = {option["name"] for option in manifest["options"]} | set(schemas())
    assert set(re.findall(r"\bfactory-[a-z-]*[a-z]", said)) <= known, said
    # A parameter that the description names is one that there is, here or in another command.
    parameters = {word for schema in schemas().values() for word in schema["request"]["properties"]}
    assert set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", said)) <= parameters | {"hsm_secret"}, said


def fields(schema, path):
    """Every field of a schema, with where it is."""
    for option in schema.get("oneOf", []):
        yield from fields(option, path)
    if "items" in schema:
        yield from fields(schema["items"], path + "[]")
    if "properties" in schema:
        assert schema.get("additionalProperties") is False, f"{path} allows more than it lists"
        assert set(schema.get("required", [])) <= set(schema["properties"]), path
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")


@pytest.mark.parametrize("schema", [*schemas().values(), *notifications().values()], ids=lambda s: s["title"])
def test_every_field_is_described_with_its_unit(schema):
    assert schema["title"] and schema["description"]
    parts = [schema[part] for part in ("request", "response") if part in schema] or [schema]
    for path, field in (found for part in parts for found in fields(part, schema["title"])):
        text = " ".join(field.get("description", []))
        assert text, f"{path} is not described"
        if field.get("type") in ("u16", "u32", "u64", "integer", "number"):
            assert UNITS.search(text) or path.rpartition(".")[2] in BARE, f"{path} has no unit: {text}"
        if field.get("type") in ("msat", "sat") or AMOUNT.search(path):
            assert UNITS.search(text), f"{path} has no unit: {text}"


@pytest.mark.parametrize("name", schemas())
def test_examples_keep_the_schema(name):
    schema = schemas()[name]
    assert schema["examples"], name
    for example in schema["examples"]:
        assert example["request"]["method"] == name
        promises.check_call(schema, example["request"]["params"], example["response"])


@pytest.mark.parametrize("topic", notifications())
def test_examples_of_notifications_keep_the_schema(topic):
    schema = notifications()[topic]
    for example in schema["examples"]:
        hold(Response, schema, example["params"][topic], topic)


def test_a_factory_is_the_same_everywhere():
    """The commands that show a factory promise the same fields of it."""
    known = schemas()
    listed = known["factory-list"]["response"]["properties"]["factories"]["items"]
    created = known["factory-create"]["response"]["oneOf"][0]["properties"]["factory"]
    accepted = known["factory-accept"]["response"]["properties"]["factory"]
    shown = known["factory-show"]["response"]["oneOf"][0]
    for other in (created, accepted):
        assert (other["properties"], other["required"]) == (listed["properties"], listed["required"])
    assert listed["properties"].items() <= shown["properties"].items()


def test_a_schema_refuses_what_it_does_not_list():
    schema = schemas()["factory-status"]
    example = schema["examples"][0]["response"]
    with pytest.raises(AssertionError, match="surprise"):
        hold(Response, schema["response"], {**example, "surprise": 1}, "factory-status")
    with pytest.raises(AssertionError):
        hold(Request, {"type": "object", **schema["request"]}, {"surprise": 1}, "factory-status")
