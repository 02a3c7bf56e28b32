#!/usr/bin/env python3
"""Keeps what cln-factory says of renewals, for a test."""
from pyln.client import Plugin

plugin = Plugin()
plugin.heard = []


@plugin.subscribe("factory_renewal")
def on_renewal(factory_renewal, plugin, **kwargs):
    plugin.heard.append({"topic": "factory_renewal", "body": factory_renewal})


@plugin.subscribe("factory_wake")
def on_wake(factory_wake, plugin, **kwargs):
    plugin.heard.append({"topic": "factory_wake", "body": factory_wake})


@plugin.method("heard")
def heard(plugin, topic):
    """What was said there since this node started."""
    return {"heard": [said["body"] for said in plugin.heard if said["topic"] == topic]}


plugin.run()
