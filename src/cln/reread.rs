//! Where the chain is read again for a factory with records that aren't understood.

use factory_engine::types::Height;

use super::chain::{self, Interrupted};
use super::client::Call;
use super::state::State;

/// Where the chain is read again from `birth`, because of records that aren't understood. If bitcoind has pruned that,
/// from `otherwise`: nobody would watch the factories whose records are whole before the block is there (S16, S33).
pub async fn from_birth(state: &State, birth: Height, otherwise: Height) -> Result<Height, Interrupted> {
    let there = state.bitcoind.has_block(birth).await;
    let start = birth_or(&state.rpc, there, birth, otherwise).await?;
    if start != birth {
        log::error!(
            "what a damaged factory has on chain is not known: block {birth} is pruned. Give bitcoind the blocks from \
             there on, and restart; the other factories are followed from block {start}"
        );
    }
    Ok(start)
}

/// `there`: whether bitcoind has the block, if it can be asked. Else the backend is, once.
async fn birth_or<C: Call>(
    rpc: &C,
    there: Option<bool>,
    birth: Height,
    otherwise: Height,
) -> Result<Height, Interrupted> {
    let there = match there {
        Some(there) => there,
        None => match chain::hash_at(rpc, birth).await {
            Ok(_) => true,
            Err(Interrupted::Missing(_)) => false,
            Err(error) => return Err(error),
        },
    };
    Ok(if there { birth } else { otherwise })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::client::CallError;
    use super::*;

    /// A backend at height 100 that gives no block below 50.
    #[derive(Clone)]
    struct Pruned;

    impl Call for Pruned {
        async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
            let hash = (params["height"].as_u64() >= Some(50)).then(|| "11".repeat(32));
            Ok(match method {
                "getchaininfo" => json!({"blockcount": 100}),
                _ => json!({"blockhash": hash, "block": null}),
            })
        }
    }

    // S33: what is pruned of a damaged factory's chain keeps nobody from watching the others.
    #[tokio::test]
    async fn a_damaged_factory_whose_blocks_are_pruned_blinds_no_other() {
        for (there, birth, start) in [
            (None, 20, 90),
            (None, 60, 60),
            (Some(false), 20, 90),
            (Some(true), 20, 20),
            (Some(false), 60, 90),
        ] {
            assert_eq!(birth_or(&Pruned, there, birth, 90).await.ok(), Some(start), "{there:?} {birth}");
        }
    }
}
