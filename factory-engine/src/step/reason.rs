//! Why something ended, for two kinds of listeners.

use std::fmt;

use crate::io::OpenFailure;
use crate::types::NodeId;

/// Stands in a text for those whom it is about.
const WHO: &str = "{}";

/// Why something ended. Our log and our user hear whom it is about, and what they said. Another member hears
/// how many they are, and none of their words: it needs no more (docs/privacy.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    text: String,
    who: Vec<NodeId>,
    said: Option<String>,
}

impl Reason {
    /// `{}` in the text stands for those whom it is about.
    pub(crate) fn about(text: impl Into<String>, who: impl Into<Vec<NodeId>>) -> Self {
        Self { text: text.into(), who: who.into(), said: None }
    }

    /// Why a channel with this peer was not `what` ("opened"). Not about the peer if it is this node's own doing (S4).
    pub(crate) fn no_channel(what: &str, peer: NodeId, error: &OpenFailure) -> Self {
        match error {
            OpenFailure::Own(text) => format!("a channel can't be {what}: {text}").into(),
            OpenFailure::Disconnected(text) | OpenFailure::Refused(text) => {
                Self::about(format!("the channel with {{}} can't be {what}"), [peer]).said(text.clone())
            }
        }
    }

    /// The same with what they said themselves.
    pub(crate) fn said(self, words: impl Into<String>) -> Self {
        Self { said: Some(words.into()), ..self }
    }

    /// The same with more that is about nobody.
    pub(crate) fn and(self, more: &str) -> Self {
        Self { text: format!("{}{more}", self.text), ..self }
    }

    /// Those whom it is about.
    pub(crate) fn who(&self) -> &[NodeId] {
        &self.who
    }

    /// What a member is told.
    pub(crate) fn told(&self, to: NodeId) -> String {
        if self.who.is_empty() {
            return self.text.clone();
        }
        let others = self.who.iter().filter(|node| **node != to).count();
        match (self.who.contains(&to), others) {
            (true, 0) => self.with("this node", self.said.as_deref()),
            (true, others) => self.with(&format!("this node and {}", clients(others)), None),
            (false, others) => self.with(&clients(others), None),
        }
    }

    fn with(&self, who: &str, said: Option<&str>) -> String {
        let text = self.text.replacen(WHO, who, 1);
        match said {
            Some(said) => format!("{text}: {said}"),
            None => text,
        }
    }
}

/// "another client", "3 other clients".
pub(crate) fn clients(others: usize) -> String {
    match others {
        1 => "another client".to_owned(),
        others => format!("{others} other clients"),
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.who.is_empty() {
            return f.write_str(&self.text);
        }
        let names: Vec<String> = self.who.iter().map(NodeId::to_string).collect();
        f.write_str(&self.with(&names.join(", "), self.said.as_deref()))
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self::about(text, [])
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::about(text, [])
    }
}

impl From<&String> for Reason {
    fn from(text: &String) -> Self {
        Self::about(text.as_str(), [])
    }
}

impl From<&Reason> for Reason {
    fn from(reason: &Reason) -> Self {
        reason.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever else is meant stays unnamed, and its words don't travel.
    #[test]
    fn others_are_counted_and_not_named() {
        let [a, b] = [1, 2].map(|n| NodeId([n; 33]));
        let reason = Reason::about("{} aborts", [a]).said("words");
        assert_eq!(reason.to_string(), format!("{a} aborts: words"));
        assert_eq!(reason.told(a), "this node aborts: words");
        assert_eq!(reason.told(b), "another client aborts");
        let both = Reason::about("no answer in time from {}", [a, b]).and("; it ends");
        assert_eq!(both.to_string(), format!("no answer in time from {a}, {b}; it ends"));
        assert_eq!(both.told(a), "no answer in time from this node and another client; it ends");
        assert_eq!(Reason::from("a {} stays").told(a), "a {} stays");
    }
}
