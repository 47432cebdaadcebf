//! Feedback rows and the formats they come in, recognised row by row: TRL's
//! unpaired and paired preferences, LLaMA-Factory's `kto_tag` in both of its
//! layouts, and conversations with a label.

mod content;
mod format;
mod label;
#[cfg(test)]
mod tests;

use prospect_core::{Columns, Label};
use serde_json::{Map, Value};

pub use content::{Content, Message};

use crate::read::RawContent;
use label::{parse_label, parse_weight};

/// One piece of feedback: a prompt, what was answered, and whether that was good.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What the completion answers.
    pub prompt: Content,
    /// The answer; text where the prompt is text, messages where it holds messages.
    pub completion: Content,
    /// What the feedback says.
    pub label: Label,
    /// The row's own weight, 1 unless the data says otherwise.
    pub weight: f64,
    /// Further variables of the chat template: `tools` and the members of `chat_template_kwargs`.
    pub arguments: Map<String, Value>,
}

/// Why a row cannot be used.
#[derive(Debug)]
pub(crate) struct RowError {
    /// The column at fault; empty for the row as a whole.
    pub field: String,
    /// What was found and what is expected.
    pub message: String,
}

/// Understands rows under given column names.
#[derive(Clone, Debug)]
pub(crate) struct RowParser<'a> {
    pub columns: &'a Columns,
    pub label_threshold: Option<f64>,
}

impl RowError {
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), message: message.into() }
    }
}

impl RowParser<'_> {
    /// Every column that is ever read.
    pub fn read_columns(&self) -> Vec<&str> {
        let Columns { prompt, completion, label, chosen, rejected, messages, kto_tag, weight } =
            self.columns;
        [prompt, completion, label, chosen, rejected, messages, kto_tag, weight]
            .into_iter()
            .map(String::as_str)
            .chain(format::FURTHER_COLUMNS)
            .collect()
    }

    /// The feedback in a row: one piece, or two (chosen, then rejected) from a pair.
    pub fn parse(&self, raw: RawContent) -> Result<Vec<Row>, RowError> {
        let object = to_object(raw)?;
        let sides = format::sides(&object, self.columns)?;
        let weight = parse_weight(&object, &self.columns.weight)?;
        let arguments = arguments(&object)?;
        let row = |prompt, completion, label| Row {
            prompt,
            completion,
            label,
            weight,
            arguments: arguments.clone(),
        };
        match sides {
            format::Sides::One { prompt, completion } => {
                let label = parse_label(&object, self.columns, self.label_threshold)?;
                Ok(vec![row(prompt, completion, label)])
            }
            format::Sides::Pair { prompt, chosen, rejected } => Ok(vec![
                row(prompt.clone(), chosen, Label::Desirable),
                row(prompt, rejected, Label::Undesirable),
            ]),
        }
    }

    /// Only the prompt of a row, which needs neither completion nor label, and the template's variables.
    pub fn parse_prompt(&self, raw: RawContent) -> Result<(Content, Map<String, Value>), RowError> {
        let object = to_object(raw)?;
        Ok((format::prompt(&object, self.columns)?, arguments(&object)?))
    }
}

/// The row as an object.
fn to_object(raw: RawContent) -> Result<Map<String, Value>, RowError> {
    let value = match raw {
        RawContent::Object(object) => return Ok(object),
        RawContent::Other(value) => value,
        RawContent::Bytes(bytes) => {
            let text = std::str::from_utf8(&bytes).map_err(|error| {
                RowError::new(
                    "",
                    format!("expected UTF-8, but byte {} is not", error.valid_up_to() + 1),
                )
            })?;
            serde_json::from_str(text).map_err(|error| {
                RowError::new(
                    "",
                    format!("expected one JSON object a line: {}", json_words(&error)),
                )
            })?
        }
    };
    match value {
        Value::Object(object) => Ok(object),
        other => Err(RowError::new("", format!("found {}; expected a JSON object", found(&other)))),
    }
}

/// The parser's words with the column alone: the line is known and counted elsewhere.
fn json_words(error: &serde_json::Error) -> String {
    let words = error.to_string();
    let words = words.split(" at line ").next().unwrap_or_default();
    format!("{words} at character {}", error.column())
}

/// Variables of the chat template that a row brings along, as TRL passes them.
fn arguments(object: &Map<String, Value>) -> Result<Map<String, Value>, RowError> {
    let mut arguments = match object.get(format::TEMPLATE_ARGUMENTS) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(members)) => members.clone(),
        Some(other) => {
            return Err(RowError::new(
                format::TEMPLATE_ARGUMENTS,
                format!("found {}; expected an object of template variables", found(other)),
            ));
        }
    };
    let tools = match object.get(format::TOOLS) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.trim().is_empty() => None,
        Some(Value::String(text)) => Some(serde_json::from_str(text).map_err(|error| {
            RowError::new(format::TOOLS, format!("expected a list of tools as JSON: {error}"))
        })?),
        Some(other) => Some(other.clone()),
    };
    match tools {
        None => {}
        Some(list @ Value::Array(_)) => {
            arguments.insert(format::TOOLS.to_owned(), list);
        }
        Some(other) => {
            return Err(RowError::new(
                format::TOOLS,
                format!("found {}; expected a list of tools", found(&other)),
            ));
        }
    }
    Ok(arguments)
}

/// A value in the words of an error message.
pub(crate) fn found(value: &Value) -> String {
    const SHOWN_CHARS: usize = 60;
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() > SHOWN_CHARS => {
            format!("the text {:?}...", text.chars().take(SHOWN_CHARS).collect::<String>())
        }
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}
