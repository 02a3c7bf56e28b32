#!/usr/bin/env python3
"""Stands in for a disk without room: the datastore takes nothing of cln-factory until told otherwise.

With DISK=full in the environment that is so from the start.
"""
import os

from pyln.client import Plugin

plugin = Plugin()
plugin.full = os.environ.get("DISK") == "full"


@plugin.hook("rpc_command", filters=["datastore", "deldatastore"])
def on_rpc_command(rpc_command, plugin, **kwargs):
    ours = rpc_command["params"]["key"][0] == "cln-factory"
    if not plugin.full or not ours:
        return {"result": "continue"}
    return {"return": {"error": {"code": -1, "message": "database or disk is full"}}}


@plugin.method("disk")
def disk(plugin, state):
    """Whether the disk is "full" or "free" from now on."""
    plugin.full = state == "full"
    return {}


plugin.run()
