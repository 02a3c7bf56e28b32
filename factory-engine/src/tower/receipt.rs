//! What a tower signs (S40): who has it, and the appointments, can show that this tower had them.

use bitcoin::hex::DisplayHex;

use crate::types::NodeId;
use crate::wire::message::Receipt;

/// The text that goes to lightningd's `signmessage` and `checkmessage`. Until when each is watched for is in the sum.
pub(super) fn text(tower: NodeId, client: NodeId, receipt: &Receipt) -> String {
    let Receipt { tag, count, sum, height, .. } = receipt;
    let (tag, sum) = (tag.to_lower_hex_string(), sum.to_lower_hex_string());
    format!(
        "cln-factory: {tower} watches for {client} from block {height} on: {count} appointments with tag {tag} and sum {sum}"
    )
}
