"""What plugin-manifest/ promises, and how to hold a plugin to it."""

import json
import subprocess

import jsonschema
from pyln.testing.fixtures import _extra_validator

from harness import ROOT, find_plugin

MANIFEST = ROOT / "plugin-manifest" / "manifest.json"
SCHEMAS = ROOT / "plugin-manifest" / "schemas"
INVALID_PARAMS = -32602

# Validators that know lightningd's own types: msat, pubkey, hash and so on.
Request = _extra_validator(is_request=True)
Response = _extra_validator(is_request=False)


def load(path):
    return json.loads(path.read_text())


def schemas():
    """Every command's schema, by name."""
    return {path.stem: load(path) for path in sorted(SCHEMAS.glob("*.json"))}


def notifications():
    """Every notification's schema, by topic."""
    return {path.stem: load(path) for path in sorted((SCHEMAS / "notification").glob("*.json"))}


def by_name(schema, params):
    """Parameters by name, as the command sorts those that came by position."""
    if isinstance(params, (list, tuple)):
        names = list(schema["request"]["properties"])
        assert len(params) <= len(names), f"{schema['rpc']}: more parameters than its schema has"
        params = dict(zip(names, params))
    return {name: value for name, value in (params or {}).items() if value is not None}


def hold(validator, schema, value, what):
    errors = sorted(validator(schema).iter_errors(value), key=str)
    best = jsonschema.exceptions.best_match(errors)
    assert best is None, f"{what} breaks its schema at {best.json_path}: {best.message}"


def check_call(schema, params, result):
    """A call that succeeded: what went in and what came out are as promised."""
    name = schema["rpc"]
    hold(Request, {"type": "object", **schema["request"]}, by_name(schema, params), f"{name}'s request")
    hold(Response, schema["response"], result, f"{name}'s response")


def hold_to_schemas(call):
    """`LightningRpc.call`, but every factory-* call that succeeds has to keep its schema."""
    known = schemas()

    def checked(self, method, payload=None, cmdprefix=None, filter=None):
        result = call(self, method, payload, cmdprefix, filter)
        if method.startswith("factory-"):
            assert method in known, f"{method} has no schema in {SCHEMAS}"
            if filter is None:
                check_call(known[method], payload, result)
        return result

    return checked


def running_manifest(plugin=None):
    """What the built plugin answers to getmanifest, sent as lightningd sends it."""
    request = {"jsonrpc": "2.0", "id": "1", "method": "getmanifest", "params": {"allow-deprecated-apis": False}}
    answer = subprocess.run(
        [plugin or find_plugin()],
        input=json.dumps(request) + "\n\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return json.loads(answer.stdout.split("\n\n")[0])["result"]


def sorted_manifest(manifest):
    """A manifest in an order of its own: the plugin's lists are in none."""
    ordered = {key: manifest[key] for key in sorted(manifest)}
    for key in ("options", "rpcmethods", "hooks"):
        ordered[key] = sorted(ordered[key], key=lambda entry: entry["name"])
    ordered["notifications"] = sorted(ordered["notifications"], key=lambda entry: entry["method"])
    ordered["subscriptions"] = sorted(ordered["subscriptions"])
    return ordered


if __name__ == "__main__":
    MANIFEST.write_text(json.dumps(sorted_manifest(running_manifest()), indent=2) + "\n")
