#!/usr/bin/env python3
"""Stands in for a listing of channels that is older than lightningd's database: once it is told to, it answers
`listpeerchannels` with what it was given."""
from pyln.client import Plugin

plugin = Plugin()
plugin.channels = None
plugin.asked = 0


@plugin.hook("rpc_command", filters=["listpeerchannels"])
def on_rpc_command(rpc_command, plugin, **kwargs):
    if plugin.channels is None:
        return {"result": "continue"}
    plugin.asked += 1
    params = rpc_command["params"]
    wanted = params.get("channel_id") if isinstance(params, dict) else None
    channels = [channel for channel in plugin.channels if wanted in (None, channel["channel_id"])]
    return {"return": {"result": {"channels": channels}}}


@plugin.method("old-listing")
def old_listing(plugin, channels=None):
    """What `listpeerchannels` says from now on; nothing: the truth. Says how often it was asked."""
    asked, plugin.channels, plugin.asked = plugin.asked, channels, 0
    return {"asked": asked}


plugin.run()
