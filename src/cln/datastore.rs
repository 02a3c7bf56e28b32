//! lightningd's datastore, as a [`KeyValue`]. A write answers once the database has committed it.

use bitcoin::hex::{DisplayHex, FromHex};
use factory_runtime::store::key_value::{Key, KeyError, KeyValue, Listed};
use factory_runtime::store::keyed::Keyed;
use serde_json::{Value, json};

use super::client::{Call, CallError};

/// Code of `deldatastore` where there is nothing: lightningd's `DATASTORE_DEL_DOES_NOT_EXIST`.
const NO_SUCH_KEY: i32 = 1200;
/// Code of a `must-create` where there is something: lightningd's `DATASTORE_UPDATE_ALREADY_EXISTS`.
const KEY_EXISTS: i32 = 1202;

/// Largest value that is written, bytes: 256 kB in hex.
const MOST_BYTES: usize = 128_000;

/// lightningd's datastore, by its commands.
#[derive(Debug, Clone)]
pub struct Datastore<C>(C);

/// The plugin's store: records in lightningd's datastore.
pub type NodeStore<C> = Keyed<Datastore<C>>;

/// The datastore of the node behind this connection.
pub fn keys<C: Call>(rpc: C) -> Datastore<C> {
    Datastore(rpc)
}

/// The store of the node behind this connection.
pub fn store<C: Call>(rpc: C) -> NodeStore<C> {
    Keyed::new(Datastore(rpc))
}

impl<C: Call> Datastore<C> {
    async fn write(&self, key: &Key, value: &[u8], mode: &str) -> Result<(), KeyError> {
        // The store splits what is larger. lightningd would die of one that is much larger, at each listing.
        if value.len() > MOST_BYTES {
            let text = format!("{}: a value of {} bytes is too large", key.join("/"), value.len());
            return Err(KeyError::Failed(text));
        }
        let params = json!({"key": key, "hex": value.to_lower_hex_string(), "mode": mode});
        self.0.call("datastore", params).await.map(drop).map_err(failed)
    }
}

impl<C: Call> KeyValue for Datastore<C> {
    async fn create(&self, key: &Key, value: &[u8]) -> Result<(), KeyError> {
        self.write(key, value, "must-create").await
    }

    async fn replace(&self, key: &Key, value: &[u8]) -> Result<(), KeyError> {
        self.write(key, value, "create-or-replace").await
    }

    async fn delete(&self, key: &Key) -> Result<(), KeyError> {
        match self.0.call("deldatastore", json!({"key": key})).await {
            Err(error) if error.code != Some(NO_SUCH_KEY) => Err(failed(error)),
            _ => Ok(()),
        }
    }

    async fn list(&self, key: &Key) -> Result<Vec<Listed>, KeyError> {
        let mut answer = self.0.call("listdatastore", json!({"key": key})).await.map_err(failed)?;
        match answer["datastore"].take() {
            Value::Array(entries) => entries.into_iter().map(listed).collect(),
            _ => Err(KeyError::Failed("listdatastore gave no list".to_owned())),
        }
    }
}

fn listed(mut entry: Value) -> Result<Listed, KeyError> {
    let key: Key = serde_json::from_value(entry["key"].take())
        .map_err(|error| KeyError::Failed(format!("a key that is not a list: {error}")))?;
    let value = entry["hex"].as_str().map(Vec::from_hex).transpose();
    let value = value.map_err(|error| KeyError::Failed(format!("{} is not hex: {error}", key.join("/"))))?;
    Ok(Listed { key, value })
}

fn failed(error: CallError) -> KeyError {
    match error.code {
        Some(KEY_EXISTS) => KeyError::Exists,
        Some(_) => KeyError::Failed(error.to_string()),
        None => KeyError::Unanswered(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A node that answers what it was told to, and notes what it was asked.
    #[derive(Clone)]
    struct Told {
        answer: Result<Value, CallError>,
        asked: Arc<Mutex<Vec<(String, Value)>>>,
    }

    impl Call for Told {
        async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
            self.asked.lock().unwrap().push((method.to_owned(), params));
            self.answer.clone()
        }
    }

    fn told(answer: Result<Value, Option<i32>>) -> Datastore<Told> {
        let refused = |code| CallError { code, ..CallError::new("datastore", "refused") };
        Datastore(Told { answer: answer.map_err(refused), asked: Arc::default() })
    }

    fn key() -> Key {
        vec!["cln-factory".to_owned(), "tip".to_owned()]
    }

    #[tokio::test]
    async fn what_is_asked() {
        let node = told(Ok(json!({"datastore": []})));
        node.create(&key(), &[1, 255]).await.unwrap();
        node.replace(&key(), &[]).await.unwrap();
        node.delete(&key()).await.unwrap();
        assert_eq!(node.list(&key()).await, Ok(vec![]));
        let asked = node.0.asked.lock().unwrap().clone();
        let key = json!(["cln-factory", "tip"]);
        let expected = [
            ("datastore", json!({"key": key, "hex": "01ff", "mode": "must-create"})),
            ("datastore", json!({"key": key, "hex": "", "mode": "create-or-replace"})),
            ("deldatastore", json!({"key": key})),
            ("listdatastore", json!({"key": key})),
        ];
        assert_eq!(asked, expected.map(|(method, params)| (method.to_owned(), params)));
    }

    #[tokio::test]
    async fn what_is_answered() {
        let exists = told(Err(Some(KEY_EXISTS)));
        assert_eq!(exists.create(&key(), &[]).await, Err(KeyError::Exists));
        let why = "datastore: refused".to_owned();
        for (code, failed) in [(None, KeyError::Unanswered(why.clone())), (Some(-1), KeyError::Failed(why))] {
            let node = told(Err(code));
            assert_eq!(node.create(&key(), &[]).await, Err(failed.clone()));
            assert_eq!(node.replace(&key(), &[]).await, Err(failed.clone()));
            assert_eq!(node.delete(&key()).await, Err(failed.clone()));
            assert_eq!(node.list(&key()).await, Err(failed.clone()));
        }
        assert_eq!(told(Err(Some(NO_SUCH_KEY))).delete(&key()).await, Ok(()));
        let answer =
            json!({"datastore": [{"key": ["a"]}, {"key": ["a", "b"], "hex": "02", "generation": 0}]});
        let list = told(Ok(answer)).list(&key()).await.unwrap();
        let listed =
            |key: &[&str], value| Listed { key: key.iter().map(|name| (*name).to_owned()).collect(), value };
        assert_eq!(list, [listed(&["a"], None), listed(&["a", "b"], Some(vec![2]))]);
        for bad in [
            json!({}),
            json!({"datastore": [{"key": "a"}]}),
            json!({"datastore": [{"key": ["a"], "hex": "x"}]}),
        ] {
            let error = told(Ok(bad.clone())).list(&key()).await;
            assert!(matches!(error, Err(KeyError::Failed(_))), "{bad}");
        }
    }
}
