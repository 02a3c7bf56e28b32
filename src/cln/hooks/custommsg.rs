//! `custommsg`: messages of type 32800 go to the runtime; the answer is always `continue`, at once,
//! because lightningd reads nothing more from the peer before it.

use bitcoin::hex::FromHex;
use factory_engine::wire::envelope::MESSAGE_TYPE;
use factory_runtime::Handle;
use serde_json::Value;

/// Puts the message on the runtime's queue, in the order of calls.
pub fn receive(runtime: &Handle, request: &Value) {
    let peer = request["peer_id"].as_str().and_then(|text| text.parse().ok());
    let payload = request["payload"].as_str().and_then(|text| Vec::from_hex(text).ok());
    if let (Some(peer), Some(payload)) = (peer, payload) {
        // Other plugins' messages, and lightningd's peer storage, come by here too.
        if payload.starts_with(&MESSAGE_TYPE.to_be_bytes()) {
            runtime.raw(peer, payload);
        }
    }
}
