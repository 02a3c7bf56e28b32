#!/usr/bin/env python3
"""Commands that cln-factory needs fail for it, as if lightningd's database or its backend didn't answer: those that
BROKEN_RPC in the environment names at first, and what it is told later."""
import os

from pyln.client import Plugin

plugin = Plugin()
plugin.broken = os.environ.get("BROKEN_RPC", "").split()
plugin.asked = 0


@plugin.hook("rpc_command", filters=["listdatastore", "getrawblockbyheight"])
def on_rpc_command(rpc_command, plugin, **kwargs):
    params = rpc_command.get("params")
    keys = params.get("key") if isinstance(params, dict) else None
    others = rpc_command["method"] == "listdatastore" and (not keys or keys[0] != "cln-factory")
    if rpc_command["method"] not in plugin.broken or others:
        return {"result": "continue"}
    plugin.asked += 1
    return {"return": {"error": {"code": -1, "message": "broken on request"}}}


@plugin.method("break-rpc")
def break_rpc(plugin, methods):
    """Which commands fail from now on. Says how many have failed since it was last told."""
    asked, plugin.broken, plugin.asked = plugin.asked, methods, 0
    return {"asked": asked}


plugin.run()
