//! Chat templates, rendered by minijinja with the settings, functions and
//! filters that transformers gives to Jinja.

mod clock;
mod generation;
mod python_json;
#[cfg(test)]
mod tests;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Map;

use crate::row::Message;

const NAME: &str = "chat_template";
/// Names that transformers' reasoning models use, the standard one first.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A model's chat template, parsed.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(String, Value)>,
}

/// Whether the text ends with the opening of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GenerationPrompt {
    Absent,
    Added,
}

impl ChatTemplate {
    /// Parses `source`. `special_tokens` are the variables such as `bos_token`; `now` is what
    /// `strftime_now` tells, in seconds since 1970 UTC.
    ///
    /// # Errors
    /// The engine's words, when the template does not parse.
    pub fn new(
        source: &str,
        special_tokens: Vec<(String, String)>,
        now: i64,
    ) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| words(&error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", move |format: String| {
            clock::strftime(now, &format)
                .map_err(|directive| refusal(format!("strftime_now does not know %{directive}")))
        });
        environment.add_filter("tojson", to_json);
        environment.add_test("iterable", |value: &Value| is_iterable(value.kind()));
        environment.add_test("sequence", |value: &Value| is_sequence(value.kind()));
        environment.add_test("number", |value: &Value| {
            matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
        });
        // Jinja knows only one kind of line end, in text as in string literals.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        environment
            .add_template_owned(NAME, generation::without_generation_tags(&source))
            .map_err(|error| words(&error))?;
        let special_tokens =
            special_tokens.into_iter().map(|(name, token)| (name, Value::from(token))).collect();
        Ok(Self { environment, special_tokens })
    }

    /// The text of a conversation. `arguments` are further variables and win over all others.
    ///
    /// # Errors
    /// The engine's words, or the template's own where it raises an exception.
    pub fn render(
        &self,
        messages: &[Message],
        arguments: &Map<String, serde_json::Value>,
        generation_prompt: GenerationPrompt,
    ) -> Result<String, String> {
        let adds = generation_prompt == GenerationPrompt::Added;
        let fixed = [
            ("messages".to_owned(), Value::from_iter(messages.iter().map(message_value))),
            ("tools".to_owned(), Value::from(())),
            ("documents".to_owned(), Value::from(())),
            ("add_generation_prompt".to_owned(), Value::from(adds)),
        ];
        let special = self.special_tokens.iter().cloned();
        let given = arguments.iter().map(|(name, value)| (name.clone(), template_value(value)));
        let context = Value::from_pairs(special.chain(fixed).chain(given));
        let template = self.environment.get_template(NAME).map_err(|error| words(&error))?;
        template.render(context).map_err(|error| words(&error))
    }
}

/// The message as templates see it; a reasoning goes by every name in use.
fn message_value(message: &Message) -> Value {
    let fields = message.fields();
    let reasoning = REASONING_FIELDS.iter().find_map(|name| fields.get(*name)).map(template_value);
    let members = fields.iter().map(|(name, value)| (name.as_str(), template_value(value)));
    match reasoning {
        None => Value::from_pairs(members),
        Some(reasoning) => Value::from_pairs(
            [(REASONING_FIELDS[1], reasoning.clone())]
                .into_iter()
                .chain(members)
                .chain([(REASONING_FIELDS[0], reasoning)]),
        ),
    }
}

fn template_value(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::from(value),
            (None, Some(value)) => Value::from(value),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::from_iter(items.iter().map(template_value)),
        serde_json::Value::Object(members) => Value::from_pairs(
            members.iter().map(|(name, value)| (name.as_str(), template_value(value))),
        ),
    }
}

/// What Python's `iter` takes; Jinja's undefined value is an empty iterable.
fn is_iterable(kind: ValueKind) -> bool {
    is_sequence(kind) || kind == ValueKind::Iterable
}

/// What has a length and items by Python's rules: texts and mappings too.
fn is_sequence(kind: ValueKind) -> bool {
    matches!(kind, ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(refusal(message))
}

fn refusal(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// transformers' `tojson`: `json.dumps` without escapes for HTML and with its usual options.
fn to_json(value: &Value, positional: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    if !positional.is_empty() {
        return Err(refusal("tojson takes its options by name".to_owned()));
    }
    let mut style = python_json::Style {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ..python_json::Style::default()
    };
    if let Some(indent) = options.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none())
    {
        let indent = match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(indent.as_usize().unwrap_or(0)),
        };
        style.indent = Some(indent);
        style.item_separator = ",".to_owned();
    }
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")? {
        let [item, key] = <[String; 2]>::try_from(separators)
            .map_err(|_| refusal("tojson needs two separators".to_owned()))?;
        (style.item_separator, style.key_separator) = (item, key);
    }
    options.assert_all_used()?;
    python_json::dump(value, &style).map_err(refusal)
}

/// What went wrong, with the line of the template.
fn words(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}
