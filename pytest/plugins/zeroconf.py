#!/usr/bin/env python3
"""Accepts every zero-conf open, as cln-factory does for a factory's. Without pyln: one runs beside each of
many nodes."""
import json
import sys

MANIFEST = {"options": [], "rpcmethods": [], "dynamic": True, "hooks": [{"name": "openchannel"}]}
# option_zeroconf
ZEROCONF = 50


def answer(request):
    if request["method"] == "getmanifest":
        return MANIFEST
    if request["method"] == "openchannel":
        bits = request["params"]["openchannel"].get("channel_type", {}).get("bits", [])
        return {"result": "continue", "mindepth": 0} if ZEROCONF in bits else {"result": "continue"}
    return {}


decoder, waiting = json.JSONDecoder(), ""
for line in sys.stdin:
    waiting = (waiting + line).lstrip()
    try:
        request, end = decoder.raw_decode(waiting)
    except ValueError:
        # Not all of it yet.
        continue
    waiting = waiting[end:]
    if "id" in request:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": answer(request)}) + "\n\n")
        sys.stdout.flush()
