//! Parameters of a command: by name or by position, as `lightning-cli` sends either.

use bitcoin::Amount;
use factory_engine::types::{InstanceId, NodeId};
use serde_json::{Map, Value};

use super::error::RpcError;

/// The parameters of one call. Getters take a value out; what nobody asked for does not exist,
/// because unknown names are refused at the start.
#[derive(Debug)]
pub struct Params {
    values: Map<String, Value>,
    /// All that the command knows, for errors.
    known: String,
}

impl Params {
    /// Sorts `raw` by the names that the command knows, in their order.
    pub fn new(names: &[&str], raw: &Value) -> Result<Self, RpcError> {
        let mut values = Map::new();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        match raw {
            Value::Null => {}
            Value::Array(list) => {
                if list.len() > names.len() {
                    return Err(RpcError::parameter(format!(
                        "too many parameters: got {}, expected {}: {known}",
                        list.len(),
                        names.len()
                    )));
                }
                for (name, value) in names.iter().zip(list) {
                    values.insert((*name).to_owned(), value.clone());
                }
            }
            Value::Object(object) => {
                for (name, value) in object {
                    if !names.contains(&name.as_str()) {
                        return Err(RpcError::parameter(format!(
                            "unknown parameter: {name}: it takes {known}"
                        )));
                    }
                    values.insert(name.clone(), value.clone());
                }
            }
            _ => {
                let text = format!("expected an array or an object of parameters: it takes {known}");
                return Err(RpcError::parameter(text));
            }
        }
        values.retain(|_, value| !value.is_null());
        Ok(Self { values, known })
    }

    /// A parameter that may be left out.
    pub fn optional<T: Parameter>(&mut self, name: &str) -> Result<Option<T>, RpcError> {
        let Some(value) = self.values.remove(name) else { return Ok(None) };
        match T::parse(&value) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(RpcError::parameter(format!(
                "{name}: should be {}: invalid token '{}'",
                T::EXPECTED,
                bare(&value)
            ))),
        }
    }

    /// A parameter that was given and that nobody has asked for.
    pub fn left(&self) -> Option<&str> {
        self.values.keys().next().map(String::as_str)
    }

    /// A parameter that must be there.
    pub fn required<T: Parameter>(&mut self, name: &str) -> Result<T, RpcError> {
        let found = self.optional(name)?;
        found.ok_or_else(|| {
            RpcError::parameter(format!("missing required parameter: {name}: it takes {}", self.known))
        })
    }
}

/// The value as somebody typed it: a string without quotes.
fn bare(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What a parameter can be.
pub trait Parameter: Sized {
    /// For the error: "a node id of 66 hex digits".
    const EXPECTED: &'static str;
    /// `None` when the value isn't that.
    fn parse(value: &Value) -> Option<Self>;
}

impl Parameter for Value {
    const EXPECTED: &'static str = "a value";

    fn parse(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

impl Parameter for String {
    const EXPECTED: &'static str = "a string";

    fn parse(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Parameter for bool {
    const EXPECTED: &'static str = "'true' or 'false'";

    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(*value),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl Parameter for u32 {
    const EXPECTED: &'static str = "an integer from 0 to 4294967295";

    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_u64().and_then(|number| number.try_into().ok()),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl Parameter for u64 {
    const EXPECTED: &'static str = "an integer from 0 to 18446744073709551615";

    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl Parameter for InstanceId {
    const EXPECTED: &'static str = "a factory_instance of 64 hex digits";

    fn parse(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Parameter for NodeId {
    const EXPECTED: &'static str = "a node id of 66 hex digits";

    fn parse(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

/// Satoshis as lightningd reads them: a whole number, or one with `sat`, `msat` (in whole satoshis)
/// or `btc`.
impl Parameter for Amount {
    const EXPECTED: &'static str = "a satoshi amount from 0 to 2100000000000000";

    fn parse(value: &Value) -> Option<Self> {
        let sat = match value {
            Value::Number(number) => number.as_u64()?,
            Value::String(text) => {
                if let Some(digits) = text.strip_suffix("msat") {
                    let msat: u64 = digits.parse().ok()?;
                    if !msat.is_multiple_of(1000) {
                        return None;
                    }
                    msat / 1000
                } else if let Some(digits) = text.strip_suffix("sat") {
                    digits.parse().ok()?
                } else if let Some(digits) = text.strip_suffix("btc") {
                    let amount = Amount::from_str_in(digits, bitcoin::Denomination::Bitcoin).ok()?;
                    amount.to_sat()
                } else {
                    text.parse().ok()?
                }
            }
            _ => return None,
        };
        let amount = Amount::from_sat(sat);
        (amount <= Amount::MAX_MONEY).then_some(amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NAMES: &[&str] = &["id", "capacity_sat", "dry_run"];

    #[test]
    fn by_position_and_by_name() {
        for raw in
            [json!(["ab", "100sat", true]), json!({"dry_run": "true", "capacity_sat": 100, "id": "ab"})]
        {
            let mut params = Params::new(NAMES, &raw).unwrap();
            assert_eq!(params.required::<String>("id").unwrap(), "ab");
            assert_eq!(params.required::<Amount>("capacity_sat").unwrap(), Amount::from_sat(100));
            assert_eq!(params.optional::<bool>("dry_run").unwrap(), Some(true));
        }
    }

    #[test]
    fn null_is_left_out() {
        let mut params = Params::new(NAMES, &json!([null, 5])).unwrap();
        let error = params.required::<String>("id").unwrap_err();
        let text = "missing required parameter: id: it takes id, capacity_sat, dry_run";
        assert_eq!(error, RpcError::parameter(text));
    }

    #[test]
    fn unknown_and_surplus_are_named() {
        let error = Params::new(NAMES, &json!({"capacity": 5})).unwrap_err();
        assert_eq!(error.message, "unknown parameter: capacity: it takes id, capacity_sat, dry_run");
        let error = Params::new(NAMES, &json!([1, 2, 3, 4])).unwrap_err();
        assert_eq!(error.message, "too many parameters: got 4, expected 3: id, capacity_sat, dry_run");
        let error = Params::new(&[], &json!({"id": 5})).unwrap_err();
        assert_eq!(error.message, "unknown parameter: id: it takes none");
    }

    #[test]
    fn amounts() {
        let parse = |value: Value| Amount::parse(&value).map(Amount::to_sat);
        assert_eq!(parse(json!(7)), Some(7));
        assert_eq!(parse(json!("7")), Some(7));
        assert_eq!(parse(json!("7000msat")), Some(7));
        assert_eq!(parse(json!("0.5btc")), Some(50_000_000));
        for bad in [json!(-1), json!(1.5), json!("7001msat"), json!("seven"), json!([]), json!("22000000btc")]
        {
            assert_eq!(parse(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn a_bad_value_is_shown() {
        let mut params = Params::new(NAMES, &json!({"capacity_sat": "lots"})).unwrap();
        let error = params.required::<Amount>("capacity_sat").unwrap_err();
        assert_eq!(error.code, super::super::error::INVALID_PARAMS);
        assert_eq!(
            error.message,
            "capacity_sat: should be a satoshi amount from 0 to 2100000000000000: invalid token 'lots'"
        );
    }
}
