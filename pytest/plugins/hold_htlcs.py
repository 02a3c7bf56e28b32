#!/usr/bin/env python3
"""Holds every HTLC that this node is to receive until the node stops."""
from pyln.client import Plugin

plugin = Plugin()


@plugin.async_hook("htlc_accepted")
def on_htlc_accepted(htlc, request, plugin, **kwargs):
    # Never answered.
    plugin.log("holding an HTLC that expires at {}".format(htlc["cltv_expiry"]))


plugin.run()
