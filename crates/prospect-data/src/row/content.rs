//! Prompts and completions: plain text, or the messages of a conversation.

use serde::Serialize;
use serde_json::{Map, Value};

use super::found;

/// A prompt or a completion.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// Text that is tokenised as it is.
    Text(String),
    /// Messages that the model's chat template renders.
    Messages(Vec<Message>),
}

/// One message of a conversation: a role, a content and whatever else the chat
/// template may look at (`tool_calls`, `name`, ...).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Message {
    fields: Map<String, Value>,
}

impl Content {
    /// A conversation of a single question.
    pub fn question(text: impl Into<String>) -> Self {
        Self::Messages(vec![Message::new("user", text)])
    }

    /// Reads text or a list of messages.
    ///
    /// # Errors
    /// What was found and what is expected.
    pub(crate) fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(Self::Text(text.clone())),
            Value::Array(items) => parse_messages(items).map(Self::Messages),
            other => Err(format!("found {}; expected text or a list of messages", found(other))),
        }
    }

    /// Whether there is nothing in it: no text, no message, or messages that say nothing.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Messages(messages) => messages.iter().all(Message::is_empty),
        }
    }

    /// "text" or "messages", for error messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Messages(_) => "messages",
        }
    }

    /// Characters of the text, or of all messages' contents.
    pub(crate) fn num_chars(&self) -> usize {
        match self {
            Self::Text(text) => text.chars().count(),
            Self::Messages(messages) => messages.iter().map(Message::num_chars).sum(),
        }
    }
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), Value::String(role.into()));
        fields.insert("content".to_owned(), Value::String(content.into()));
        Self { fields }
    }

    /// Who speaks.
    pub fn role(&self) -> &str {
        self.fields.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// The content, where it is plain text.
    pub fn text(&self) -> Option<&str> {
        self.fields.get("content").and_then(Value::as_str)
    }

    /// All members, as the template sees them.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let Value::Object(members) = value else {
            return Err(format!(
                "found {}; expected an object with role and content",
                found(value)
            ));
        };
        let mut fields: Map<String, Value> = Map::new();
        for (name, member) in members.iter().filter(|(_, member)| !member.is_null()) {
            fields.insert(name.clone(), member.clone());
        }
        if !fields.contains_key("role") && fields.contains_key("from") {
            fields = from_sharegpt(&fields)?;
        }
        match fields.get("role") {
            Some(Value::String(role)) if !role.is_empty() => {}
            other => {
                let other = other.map_or_else(|| "no role".to_owned(), found);
                return Err(format!("found {other}; expected a role such as user or assistant"));
            }
        }
        let calls_tools =
            matches!(fields.get("tool_calls"), Some(Value::Array(calls)) if !calls.is_empty());
        match fields.get("content") {
            Some(Value::String(_) | Value::Array(_)) => {}
            None if calls_tools => {}
            other => {
                let other = other.map_or_else(|| "no content".to_owned(), found);
                return Err(format!("found {other}; expected a content of text"));
            }
        }
        Ok(Self { fields })
    }

    fn is_empty(&self) -> bool {
        let silent = match self.fields.get("content") {
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(parts)) => parts.is_empty(),
            _ => true,
        };
        silent && !self.fields.contains_key("tool_calls")
    }

    fn num_chars(&self) -> usize {
        match self.fields.get("content") {
            Some(Value::String(text)) => text.chars().count(),
            Some(Value::Array(parts)) => parts
                .iter()
                .filter_map(|part| part.get("text").and_then(Value::as_str))
                .map(|text| text.chars().count())
                .sum(),
            _ => 0,
        }
    }
}

/// Reads a list of messages.
pub(super) fn parse_messages(items: &[Value]) -> Result<Vec<Message>, String> {
    items
        .iter()
        .zip(1..)
        .map(|(item, number)| {
            Message::parse(item).map_err(|words| format!("message {number}: {words}"))
        })
        .collect()
}

/// ShareGPT's `from` and `value`, with the roles that LLaMA-Factory gives them.
fn from_sharegpt(fields: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let (Some(Value::String(from)), Some(Value::String(value))) =
        (fields.get("from"), fields.get("value"))
    else {
        return Err("expected text under from and value".to_owned());
    };
    let role = match from.as_str() {
        "human" => "user",
        "gpt" => "assistant",
        "observation" => "tool",
        "function_call" => {
            return Err(
                "found the role \"function_call\"; expected an assistant message with tool_calls"
                    .to_owned(),
            );
        }
        other => other,
    };
    Ok(Message::new(role, value.as_str()).fields)
}
