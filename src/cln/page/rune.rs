//! Who may see it: whoever has a rune of lightningd's for the commands whose answers are shown. lightningd says so; nothing
//! of a rune is kept or logged here.

use std::time::Duration;

use serde_json::json;

use crate::cln::client::{CallError, Rpc};

/// Commands that a rune has to allow: most of what is shown is what they answer. The rest is docs/operations.md's.
const COMMANDS: [&str; 3] = ["factory-status", "factory-list", "factory-show"];
/// What makes such a rune.
pub const CREATE: &str = "lightning-cli createrune \
                          restrictions='[[\"method=factory-status\",\"method=factory-list\",\"method=factory-show\"]]'";
/// How long lightningd may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// lightningd's codes (`common/jsonrpc_errors.h`).
const BAD_PARAMETER: i32 = -32602;
const NOT_AUTHORIZED: i32 = 1501;
const NOT_PERMITTED: i32 = 1502;
const BLACKLISTED: i32 = 1503;

/// Why nothing is shown, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// It is no rune of this node's, or not any more.
    Bad(String),
    /// It is one, and not for this.
    NotForThis(String),
    /// lightningd doesn't say.
    Unknown(String),
}

impl Denied {
    /// Of somebody who has brought none.
    pub fn nothing() -> Self {
        Self::Bad(format!("a rune is needed, as 'Authorization: Bearer <rune>': {CREATE}"))
    }

    fn of(command: &str, error: &CallError) -> Self {
        let said = &error.message;
        match error.code {
            // What lightningd says of it repeats the rune.
            Some(BAD_PARAMETER) => Self::Bad(format!("that is no rune: {CREATE}")),
            Some(NOT_AUTHORIZED) => Self::Bad(format!("{said}: it is none of this node's; {CREATE}")),
            Some(BLACKLISTED) => Self::Bad(format!("{said}: make another one; {CREATE}")),
            Some(NOT_PERMITTED) => Self::NotForThis(format!(
                "{said}, for {command}: the page needs a rune that allows it; {CREATE}"
            )),
            _ => Self::Unknown(format!(
                "lightningd can't say now whether the rune is good, try again: {error}"
            )),
        }
    }
}

/// Whether lightningd takes it.
pub async fn check(rpc: &Rpc, rune: &str) -> Result<(), Denied> {
    for command in COMMANDS {
        let params = json!({"rune": rune, "method": command, "params": {}});
        let answer = rpc.call_within(PATIENCE, "checkrune", params).await;
        let answer = answer.map_err(|error| Denied::of(command, &error))?;
        if answer["valid"] != true {
            return Err(Denied::Bad(format!("lightningd doesn't take that rune: {CREATE}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rune_that_is_asked_for_is_enough() {
        for command in COMMANDS {
            assert!(CREATE.contains(&format!("\"method={command}\"")), "{command}");
        }
        assert_eq!(CREATE.matches("method=").count(), COMMANDS.len());
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let of = |code, message: &str| {
            let error = CallError { code, ..CallError::new("checkrune", message) };
            Denied::of("factory-list", &error)
        };
        let Denied::Bad(text) = of(Some(1501), "Not authorized: Not derived from master") else {
            panic!("1501")
        };
        assert!(
            text.starts_with("Not authorized: Not derived from master") && text.ends_with(CREATE),
            "{text}"
        );
        let Denied::Bad(text) = of(Some(1503), "Not authorized: Blacklisted rune") else { panic!("1503") };
        assert!(text.contains("Blacklisted") && text.ends_with(CREATE), "{text}");
        let Denied::NotForThis(text) = of(Some(1502), "Not permitted: method is not equal to pay") else {
            panic!("1502")
        };
        assert!(text.contains("is not equal to pay, for factory-list") && text.ends_with(CREATE), "{text}");
        // lightningd repeats it.
        let Denied::Bad(text) = of(Some(-32602), "rune: should be base64 string: invalid token 'secret'")
        else {
            panic!("-32602")
        };
        assert!(!text.contains("secret") && text.ends_with(CREATE), "{text}");
        for unknown in [None, Some(-32601), Some(-4)] {
            assert!(matches!(of(unknown, "x"), Denied::Unknown(_)), "{unknown:?}");
        }
    }
}
