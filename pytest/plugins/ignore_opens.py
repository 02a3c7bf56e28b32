#!/usr/bin/env python3
"""Never answers whoever opens a channel to this node, while it is loaded."""
from pyln.client import Plugin

plugin = Plugin()


@plugin.async_hook("openchannel")
def on_openchannel(openchannel, request, plugin, **kwargs):
    # Never answered.
    plugin.log("no answer to an open of {}".format(openchannel["funding_msat"]))


plugin.run()
