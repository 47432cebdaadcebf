//! Which format a row has, and where prompt and completions lie in it.

use prospect_core::Columns;
use serde_json::{Map, Value};

use super::content::parse_messages;
use super::{Content, Message, RowError, found};

const CONVERSATIONS: &str = "conversations";
const INSTRUCTION: &str = "instruction";
const INPUT: &str = "input";
const OUTPUT: &str = "output";
const HISTORY: &str = "history";
const SYSTEM: &str = "system";
pub(super) const TOOLS: &str = "tools";
pub(super) const TEMPLATE_ARGUMENTS: &str = "chat_template_kwargs";

/// Columns whose names cannot be changed.
pub(super) const FURTHER_COLUMNS: [&str; 8] =
    [CONVERSATIONS, INSTRUCTION, INPUT, OUTPUT, HISTORY, SYSTEM, TOOLS, TEMPLATE_ARGUMENTS];

/// A row's prompt with its one completion or its two.
pub(super) enum Sides {
    One { prompt: Content, completion: Content },
    Pair { prompt: Content, chosen: Content, rejected: Content },
}

type Object = Map<String, Value>;

/// Takes a row apart.
pub(super) fn sides(row: &Object, columns: &Columns) -> Result<Sides, RowError> {
    let has = |name: &str| present(row, name).is_some();
    let sides = if has(&columns.chosen) && has(&columns.rejected) {
        paired(row, columns)?
    } else if has(&columns.completion) {
        let prompt = content(row, &columns.prompt)?;
        let completion = content(row, &columns.completion)?;
        Sides::One { prompt, completion }
    } else if has(&columns.chosen) || has(&columns.rejected) {
        content(row, &columns.chosen)?;
        content(row, &columns.rejected)?;
        return Err(RowError::new(&columns.chosen, "expected chosen and rejected together"));
    } else if let Some(name) = conversation_column(row, columns) {
        let (prompt, reply) = conversation(row, name)?;
        let reply = reply.ok_or_else(|| {
            RowError::new(
                name,
                "the last message is not the assistant's; expected the labelled reply there",
            )
        })?;
        Sides::One { prompt: Content::Messages(prompt), completion: Content::Messages(vec![reply]) }
    } else if has(OUTPUT) && (has(INSTRUCTION) || has(INPUT)) {
        let reply = Message::new("assistant", text(row, OUTPUT)?);
        Sides::One {
            prompt: Content::Messages(instruction(row)?),
            completion: Content::Messages(vec![reply]),
        }
    } else {
        return Err(unknown_format(row, columns));
    };
    check(&sides, columns)?;
    Ok(sides)
}

/// The prompt alone; here the row needs no completion.
pub(super) fn prompt(row: &Object, columns: &Columns) -> Result<Content, RowError> {
    let has = |name: &str| present(row, name).is_some();
    let paired = has(&columns.chosen) && has(&columns.rejected);
    let (prompt, name) = if paired {
        match sides(row, columns)? {
            Sides::One { prompt, .. } | Sides::Pair { prompt, .. } => (prompt, &*columns.prompt),
        }
    } else if has(&columns.prompt) {
        (content(row, &columns.prompt)?, &*columns.prompt)
    } else if let Some(name) = conversation_column(row, columns) {
        (Content::Messages(conversation(row, name)?.0), name)
    } else if has(INSTRUCTION) || has(INPUT) {
        (Content::Messages(instruction(row)?), INSTRUCTION)
    } else {
        return Err(unknown_format(row, columns));
    };
    if prompt.is_empty() {
        return Err(RowError::new(name, "the prompt is empty"));
    }
    Ok(prompt)
}

/// A pair with its prompt, or with the common beginning as its prompt.
fn paired(row: &Object, columns: &Columns) -> Result<Sides, RowError> {
    let chosen = content(row, &columns.chosen)?;
    let rejected = content(row, &columns.rejected)?;
    if chosen == rejected {
        return Err(RowError::new(&columns.rejected, "it is the same as the chosen completion"));
    }
    // Some data sets repeat the question as text beside conversations that hold it already.
    let repeats = |prompt: &Content| {
        matches!(
            (prompt, &chosen, &rejected),
            (Content::Text(_), Content::Messages(_), Content::Messages(_))
        )
    };
    if present(row, &columns.prompt).is_some() {
        let prompt = content(row, &columns.prompt)?;
        if !repeats(&prompt) {
            return Ok(Sides::Pair { prompt, chosen, rejected });
        }
    }
    let (prompt, chosen, rejected) = match (chosen, rejected) {
        (Content::Text(chosen), Content::Text(rejected)) => {
            let split = common_text(&chosen, &rejected);
            let parts = (
                chosen[..split].to_owned(),
                chosen[split..].to_owned(),
                rejected[split..].to_owned(),
            );
            (Content::Text(parts.0), Content::Text(parts.1), Content::Text(parts.2))
        }
        (Content::Messages(mut chosen), Content::Messages(mut rejected)) => {
            let split = common_length(&chosen, &rejected);
            let (right, wrong) = (chosen.split_off(split), rejected.split_off(split));
            (Content::Messages(chosen), Content::Messages(right), Content::Messages(wrong))
        }
        (chosen, rejected) => {
            return Err(RowError::new(
                &columns.rejected,
                format!(
                    "it holds {}, but {} holds {}",
                    rejected.kind(),
                    columns.chosen,
                    chosen.kind()
                ),
            ));
        }
    };
    if prompt.is_empty() {
        return Err(RowError::new(
            &columns.prompt,
            "there is no prompt, and chosen and rejected have no common beginning that could be it",
        ));
    }
    Ok(Sides::Pair { prompt, chosen, rejected })
}

/// Items that both lists begin with, as TRL's `extract_prompt` counts them:
/// where one list is the beginning of the other, one item less than that.
fn common_length<T: PartialEq>(left: &[T], right: &[T]) -> usize {
    let common = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    if common == left.len().min(right.len()) { common.saturating_sub(1) } else { common }
}

/// The same for text, in bytes; a space before the split goes to the completions.
fn common_text(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut common = common_length(&left, &right);
    let differ = left.get(common) != right.get(common);
    if differ && common > 0 && left[common - 1] == ' ' {
        common -= 1;
    }
    left[..common].iter().map(|letter| letter.len_utf8()).sum()
}

/// What both kinds of rows must have: something to say, and one kind of content.
fn check(sides: &Sides, columns: &Columns) -> Result<(), RowError> {
    let (prompt, completions) = match sides {
        Sides::One { prompt, completion } => (prompt, vec![(&columns.completion, completion)]),
        Sides::Pair { prompt, chosen, rejected } => {
            (prompt, vec![(&columns.chosen, chosen), (&columns.rejected, rejected)])
        }
    };
    if prompt.is_empty() {
        return Err(RowError::new(
            &columns.prompt,
            "the prompt is empty; expected something that the completion answers",
        ));
    }
    for (name, completion) in completions {
        if completion.is_empty() {
            return Err(RowError::new(
                name,
                "the completion is empty; expected at least one token to learn from",
            ));
        }
        if prompt.kind() != completion.kind() {
            return Err(RowError::new(
                name,
                format!(
                    "it holds {}, but {} holds {}; expected the same in both",
                    completion.kind(),
                    columns.prompt,
                    prompt.kind()
                ),
            ));
        }
    }
    Ok(())
}

fn conversation_column<'a>(row: &Object, columns: &'a Columns) -> Option<&'a str> {
    [columns.messages.as_str(), CONVERSATIONS].into_iter().find(|name| present(row, name).is_some())
}

/// A conversation's messages up to the labelled reply, and that reply if the last message is one.
fn conversation(row: &Object, name: &str) -> Result<(Vec<Message>, Option<Message>), RowError> {
    let Some(Value::Array(items)) = present(row, name) else {
        let value = present(row, name).unwrap_or(&Value::Null);
        return Err(RowError::new(
            name,
            format!("found {}; expected a list of messages", found(value)),
        ));
    };
    let mut messages = parse_messages(items).map_err(|words| RowError::new(name, words))?;
    if let Some(system) = system_message(row)?
        && messages.first().is_none_or(|first| first.role() != "system")
    {
        messages.insert(0, system);
    }
    let replies = messages.last().is_some_and(|last| last.role() == "assistant");
    let reply = if replies { messages.pop() } else { None };
    Ok((messages, reply))
}

/// LLaMA-Factory's alpaca layout as a conversation.
fn instruction(row: &Object) -> Result<Vec<Message>, RowError> {
    let mut messages: Vec<Message> = system_message(row)?.into_iter().collect();
    if let Some(history) = present(row, HISTORY) {
        let turns: Vec<(String, String)> = serde_json::from_value(history.clone())
            .map_err(|_| RowError::new(HISTORY, "expected a list of [question, answer] pairs"))?;
        for (question, answer) in turns {
            messages.push(Message::new("user", question));
            messages.push(Message::new("assistant", answer));
        }
    }
    let mut parts = Vec::new();
    for name in [INSTRUCTION, INPUT] {
        if present(row, name).is_some() {
            parts.push(text(row, name)?);
        }
    }
    parts.retain(|part| !part.is_empty());
    messages.push(Message::new("user", parts.join("\n")));
    Ok(messages)
}

fn system_message(row: &Object) -> Result<Option<Message>, RowError> {
    if present(row, SYSTEM).is_none() {
        return Ok(None);
    }
    let text = text(row, SYSTEM)?;
    Ok((!text.is_empty()).then(|| Message::new("system", text)))
}

fn unknown_format(row: &Object, columns: &Columns) -> RowError {
    let names: Vec<&str> = row.keys().map(String::as_str).collect();
    RowError::new(
        "",
        format!(
            "the row has the columns {}; expected {}, {} and {}, or {} and {}, or {} and {} or {}, or instruction, output and {}; columns are renamed under data.columns",
            if names.is_empty() { "(none)".to_owned() } else { names.join(", ") },
            columns.prompt,
            columns.completion,
            columns.label,
            columns.chosen,
            columns.rejected,
            columns.messages,
            columns.label,
            columns.kto_tag,
            columns.kto_tag,
        ),
    )
}

fn present<'a>(row: &'a Object, name: &str) -> Option<&'a Value> {
    row.get(name).filter(|value| !value.is_null())
}

fn content(row: &Object, name: &str) -> Result<Content, RowError> {
    let value = present(row, name).ok_or_else(|| {
        RowError::new(name, "the column is missing; expected text or a list of messages")
    })?;
    Content::parse(value).map_err(|words| RowError::new(name, words))
}

fn text(row: &Object, name: &str) -> Result<String, RowError> {
    match present(row, name) {
        Some(Value::String(text)) => Ok(text.clone()),
        value => Err(RowError::new(
            name,
            format!("found {}; expected text", found(value.unwrap_or(&Value::Null))),
        )),
    }
}
