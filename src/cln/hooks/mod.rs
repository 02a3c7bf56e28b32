//! lightningd's hooks. Each answers always, and soon (S31): a hook that fails would take the node
//! down with it, and one that dawdles stops a peer's channels.
//!
//! The part of a callback before its future runs in the order in which lightningd called; the
//! futures don't. So whatever must keep its order is put on a queue before the future is made.

pub mod commitment_revocation;
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

/// The edge: whatever happens inside, lightningd gets an answer. Of these hooks one that panics does no harm:
/// an open is left to the node's own policy, which takes none without confirmations, and a command to
/// lightningd.
pub async fn guarded(
    hook: &'static str,
    answer: impl Future<Output = Value> + Send + 'static,
) -> anyhow::Result<Value> {
    guarded_by(hook, answer, async { carry_on() }, carry_on).await
}

/// The same, with `after` to answer when it panics, and `worst` when that does, too.
pub async fn guarded_by(
    hook: &'static str,
    answer: impl Future<Output = Value> + Send + 'static,
    after: impl Future<Output = Value> + Send + 'static,
    worst: fn() -> Value,
) -> anyhow::Result<Value> {
    // A task of its own, because a panic ends only that.
    if let Ok(answer) = tokio::spawn(answer).await {
        return Ok(answer);
    }
    let answer = tokio::spawn(after).await.unwrap_or_else(|_| worst());
    log::error!("the {hook} hook panicked; lightningd was told to {}", answer["result"]);
    Ok(answer)
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

    // S31, S33
    #[tokio::test]
    async fn after_a_panic_another_answers() {
        let fail = || json!({"result": "fail"});
        let panics = || async { panic!("on purpose") };
        let answer = guarded_by("test", panics(), async { json!(1) }, fail).await.unwrap();
        assert_eq!(answer, json!(1));
        assert_eq!(guarded_by("test", panics(), panics(), fail).await.unwrap(), fail());
    }
}
