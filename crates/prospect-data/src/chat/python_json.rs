//! JSON as Python's `json.dumps` writes it, byte for byte: separators, escapes,
//! indentation and the digits of numbers.

use minijinja::Value;
use minijinja::value::ValueKind;

/// The options of `json.dumps`.
pub(super) struct Style {
    /// Escape everything outside of ASCII.
    pub ascii: bool,
    pub sort_keys: bool,
    /// What one level is indented by; everything on one line when absent.
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            ascii: false,
            sort_keys: false,
            indent: None,
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
        }
    }
}

/// The value as JSON.
///
/// # Errors
/// Names what JSON has no form for.
pub(super) fn dump(value: &Value, style: &Style) -> Result<String, String> {
    let mut out = String::new();
    write(value, style, 0, &mut out)?;
    Ok(out)
}

fn write(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), String> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), style, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter().map_err(|error| error.to_string())?.collect();
            between(('[', ']'), items.len(), style, depth, out, |idx, out| {
                write(&items[idx], style, depth + 1, out)
            })?;
        }
        ValueKind::Map => {
            let mut members = Vec::new();
            for key in value.try_iter().map_err(|error| error.to_string())? {
                let member = value.get_item(&key).map_err(|error| error.to_string())?;
                members.push((key.to_string(), member));
            }
            if style.sort_keys {
                members.sort_by(|left, right| left.0.cmp(&right.0));
            }
            between(('{', '}'), members.len(), style, depth, out, |idx, out| {
                let (key, member) = &members[idx];
                quote(key, style, out);
                out.push_str(&style.key_separator);
                write(member, style, depth + 1, out)
            })?;
        }
        other => return Err(format!("tojson cannot write a value that is {other}")),
    }
    Ok(())
}

/// Writes `count` items between brackets, on lines of their own where there is an indent.
fn between(
    brackets: (char, char),
    count: usize,
    style: &Style,
    depth: usize,
    out: &mut String,
    mut item: impl FnMut(usize, &mut String) -> Result<(), String>,
) -> Result<(), String> {
    let new_line = |depth: usize, out: &mut String| {
        if let Some(indent) = style.indent.as_ref().filter(|_| count > 0) {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    out.push(brackets.0);
    for idx in 0..count {
        if idx > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(depth + 1, out);
        item(idx, out)?;
    }
    new_line(depth, out);
    out.push(brackets.1);
    Ok(())
}

fn quote(text: &str, style: &Style, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", control as u32)),
            letter if style.ascii && (!letter.is_ascii() || letter == '\u{7f}') => {
                // DEL is the one ASCII character outside of what Python leaves as it is.
                let mut units = [0; 2];
                for unit in letter.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    python_float(number)
}

/// `repr` of a finite float: its shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn python_float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || number == 0.0 {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
