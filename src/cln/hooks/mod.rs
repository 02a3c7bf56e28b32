//! lightningd's hooks. Each answers always, and soon (S31): a hook that fails would take the node
//! down with it, and one that dawdles stops a peer's channels.
//!
//! The part of a callback before its future runs in the order in which lightningd called; the
//! futures don't. So whatever must keep its order is put on a queue before the future is made.

pub mod custommsg;
mod guard;
mod hints;
pub mod htlc_accepted;
pub mod openchannel;
pub mod rpc_command;
mod waiting;

use std::future::Future;

use serde_json::{Value, json};

/// "Not ours": lightningd goes on as if we weren't there.
pub fn carry_on() -> Value {
    json!({"result": "continue"})
}

/// The edge: whatever happens inside, lightningd gets an answer.
pub async fn guarded(
    hook: &'static str,
    answer: impl Future<Output = Value> + Send + 'static,
) -> anyhow::Result<Value> {
    // A task of its own, because a panic ends only that.
    Ok(tokio::spawn(answer).await.unwrap_or_else(|_| {
        log::error!("the {hook} hook panicked; lightningd was told to continue");
        carry_on()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // S31
    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let answer = guarded("test", async { panic!("on purpose") }).await.unwrap();
        assert_eq!(answer, carry_on());
    }
}
