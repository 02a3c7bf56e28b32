//! One thing that somebody should know.

use factory_engine::Factory;
use factory_engine::types::InstanceId;
use serde_json::{Value, json};

/// One thing that somebody should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// A word for scripts: which kind of warning it is.
    pub code: &'static str,
    /// What it is about, if that is one factory.
    pub instance: Option<InstanceId>,
    /// What is wrong, for people.
    pub message: String,
    /// What to do about it, for people.
    pub action: String,
}

impl Warning {
    /// A warning about the node.
    pub fn new(code: &'static str, message: impl Into<String>, action: impl Into<String>) -> Self {
        Self { code, instance: None, message: message.into(), action: action.into() }
    }

    /// A warning about one factory.
    pub fn of(factory: &Factory, code: &'static str, message: String, action: impl Into<String>) -> Self {
        Self { instance: Some(factory.instance), ..Self::new(code, message, action) }
    }

    /// The object of RPC answers.
    pub fn json(&self) -> Value {
        let mut object = json!({"code": self.code, "message": self.message, "action": self.action});
        if let Some(instance) = self.instance {
            object["factory_instance"] = instance.to_string().into();
        }
        object
    }
}
