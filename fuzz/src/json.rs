//! JSON from bytes: as text, or as a well-formed request in which some values are exchanged.

use serde_json::{Map, Value, json};

use crate::bytes::Bytes;

/// Most values that are exchanged in one request.
const MOST_CHANGES: usize = 8;

/// What may stand anywhere, beside what the target adds.
fn pool() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(4_294_967_295u64),
        json!(4_294_967_296u64),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!("all"),
        json!("\u{0}\u{10ffff}é"),
        json!("x".repeat(300)),
        json!("00".repeat(32)),
        json!("02".repeat(33)),
        json!("0"),
        json!("-5"),
        json!("21000001btc"),
        json!("18446744073709551615"),
        json!([]),
        json!([[]]),
        json!([null, {}, 3]),
        json!({}),
        json!({"id": null}),
    ]
}

/// A request: the first byte below 128 chooses a template and says that changes follow, two bytes
/// each; from 128 on what follows is text. Nothing if that isn't JSON.
pub fn request(input: &mut Bytes<'_>, templates: &[Value], more: &[Value]) -> Option<Value> {
    let kind = input.byte();
    if kind >= 128 {
        return serde_json::from_slice(input.rest()).ok();
    }
    let mut pool = pool();
    pool.extend_from_slice(more);
    let mut value = templates.get(usize::from(kind).checked_rem(templates.len())?)?.clone();
    for _ in 0..MOST_CHANGES {
        if input.is_empty() {
            break;
        }
        let mut paths = Vec::new();
        places(&value, String::new(), &mut paths);
        let path = input.choose(&paths).cloned().unwrap_or_default();
        let new = match input.byte() {
            255 => json!(input.word()),
            254 => json!(String::from_utf8_lossy(input.chunk())),
            253 => Value::Object(Map::from_iter([(
                String::from_utf8_lossy(input.take(8)).into_owned(),
                json!(1),
            )])),
            choice => pool.get(usize::from(choice) % pool.len()).cloned().unwrap_or_default(),
        };
        if let Some(place) = value.pointer_mut(&path) {
            *place = new;
        }
    }
    Some(value)
}

/// JSON pointers to everything in a value, itself first.
fn places(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                places(value, format!("{path}/{}", name.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                places(value, format!("{path}/{index}"), found);
            }
        }
        _ => {}
    }
    found.push(path);
}
