#!/usr/bin/env python3
"""Another plugin with the htlc_accepted hook: it holds what is to be forwarded until it is told to let go, or gives
it an expiry two blocks from now."""
from pyln.client import Plugin
from pyln.proto.onion import TlvField, TlvPayload

OUTGOING_CLTV = 4
plugin = Plugin()
plugin.held = []
plugin.what = "hold"


def on_htlc_accepted(htlc, onion, request, plugin, **kwargs):
    if "short_channel_id" not in onion:
        request.set_result({"result": "continue"})
    elif plugin.what == "hold":
        plugin.held.append(request)
        plugin.log("holding another's HTLC")
    else:
        soon = htlc["cltv_expiry"] - htlc["cltv_expiry_relative"] + 2
        field = TlvField(OUTGOING_CLTV, soon.to_bytes(4, "big").lstrip(b"\0"))
        payload = TlvPayload.from_hex(onion["payload"])
        payload.fields = [field if known.typenum == OUTGOING_CLTV else known for known in payload.fields]
        request.set_result({"result": "continue", "payload": payload.to_bytes(include_prefix=False).hex()})


@plugin.method("let-go")
def let_go(plugin):
    """From now on it holds nothing, and changes what comes."""
    plugin.what = "change"
    for request in plugin.held:
        request.set_result({"result": "continue"})
    return {"count": len(plugin.held)}


plugin.add_hook("htlc_accepted", on_htlc_accepted, background=True)
plugin.run()
