//! What lightningd answers to our calls: read as carefully as what a peer sends.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use bitcoin::{Amount, ScriptBuf, Transaction, TxOut};
use cln_factory::cln::bitcoind::Bitcoind;
use cln_factory::cln::channels::Channels;
use cln_factory::cln::client::{Call, CallError};
use cln_factory::cln::{feerates, htlcs, peers, spend, wallet};
use factory_engine::wire::codec::Codec;
use serde_json::{Value, json};

use crate::bytes::Bytes;
use crate::json::request;

/// Answers every call with the next of these; an error when there are no more.
#[derive(Debug, Clone, Default)]
pub struct Answers(Arc<Mutex<Vec<Value>>>);

impl Answers {
    /// In this order.
    pub fn new(mut answers: Vec<Value>) -> Self {
        answers.reverse();
        Self(Arc::new(Mutex::new(answers)))
    }
}

impl Call for Answers {
    async fn call(&self, method: &str, _: Value) -> Result<Value, CallError> {
        let next = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let error = || CallError {
            method: method.to_owned(),
            code: Some(-1),
            message: "no more".to_owned(),
            part: None,
        };
        next.ok_or_else(error)
    }
}

/// Runs to the end on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.unwrap_or_else(|error| panic!("{error}")).block_on(future)
}

fn templates() -> Vec<Value> {
    let (node, id) = ("02".repeat(33), "11".repeat(32));
    let psbt =
        "cHNidP8BAD0CAAAAAQERAREBEQERAREBEQERAREBEQERAREBEQERAREBEQERAAAAAAD9////AQAAAAAAAAAAAmoAAAAAAAAA";
    vec![
        json!({"peers": [{"id": node, "connected": true, "features": "80".repeat(40), "netaddr": []}]}),
        json!({"channels": [{
            "peer_id": node, "channel_id": id, "short_channel_id": "103x1x0", "total_msat": 100_000_000u64,
            "to_us_msat": 5, "state": "CHANNELD_NORMAL", "alias": {"local": "1x2x3", "remote": "4x5x6"},
            "htlcs": [{"direction": "in", "id": 0, "expiry": 140, "state": "RCVD_ADD_ACK_REVOCATION"}],
        }]}),
        json!({"outputs": [{"status": "confirmed", "reserved": false, "amount_msat": 5_000_000u64}]}),
        json!({"psbt": psbt, "feerate_per_kw": 253, "reservations": []}),
        json!({"signed_psbt": psbt, "txid": id}),
        json!({"outputs": [{
            "txid": id, "output": 1, "status": "confirmed", "reserved": false, "amount_msat": 5_000_000_000u64,
            "scriptpubkey": format!("0014{}", "11".repeat(20)), "blockheight": 100,
        }]}),
        json!({"perkw": {"opening": 1000, "min_acceptable": 253, "max_acceptable": 10_000}, "blockheight": 120}),
    ]
}

/// Any answer makes an error or a value, whatever was asked.
pub fn lightningd(data: &[u8]) {
    let mut input = Bytes::new(data);
    let kind = input.byte();
    let mut answers = Vec::new();
    while !input.is_empty() && answers.len() < 4 {
        let bytes = input.chunk();
        answers.extend(request(&mut Bytes::new(bytes), &templates(), &[]));
    }
    let rpc = Answers::new(answers);
    block_on(async {
        match kind % 6 {
            0 => drop(peers::connected(&rpc, None).await),
            1 => {
                let channels = Channels::default();
                if let Ok(known) = channels.refresh(&rpc).await {
                    assert!(
                        known.iter().all(|channel| channel.capacity <= Amount::from_sat(u64::MAX / 1000))
                    );
                }
                let _ = channels.find(&rpc, "103x1x0").await;
            }
            2 => {
                let (off, known) = (Bitcoind::default(), feerates::Known::default());
                let (channels, _) = feerates::look(&rpc, &off, &known).await;
                let channels = channels.unwrap_or_default();
                let _ =
                    htlcs::of_channels(&channels, &htlcs::removing(&channels).into_iter().take(1).collect());
                let _ = htlcs::in_flight(&channels);
            }
            3 => {
                let _ = wallet::spendable(&rpc, None).await;
            }
            4 => {
                let script = ScriptBuf::from_bytes([&[0x51, 0x20][..], &[2; 32]].concat());
                let amount = Amount::from_sat(300_000);
                let output = TxOut { value: amount, script_pubkey: script };
                if let Ok(prepared) = spend::prepare(&rpc, None, vec![output.clone()], &[]).await {
                    assert_eq!(prepared.tx.output.first(), Some(&output));
                }
            }
            _ => {
                let prevout = TxOut { value: Amount::from_sat(300_000), script_pubkey: ScriptBuf::new() };
                if let Ok(tx) = Transaction::decoded(input.rest()) {
                    let prevouts = vec![prevout; tx.input.len()];
                    let _ = wallet::send(&rpc, tx, prevouts, &[]).await;
                }
            }
        }
    });
}
