//! The way of a row: raw content, understood and tokenised, on all cores but
//! handed on in the order of the files.

use prospect_core::{DataConfig, Label, Overlong};
use rayon::prelude::*;

use crate::DataError;
use crate::read::{RawContent, Source};
use crate::row::{Content, Row, RowError, RowParser};
use crate::tokenizer::{ChatTokenizer, EncodeError};

/// What became of one piece of feedback.
#[derive(Debug)]
pub(crate) enum Outcome {
    Kept(Kept),
    /// Its prompt leaves no room for a completion, and such rows are to be dropped.
    Overlong(Size),
    Bad(RowError),
}

/// A row that can be used.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Token ids; empty without a tokenizer.
    pub prompt: Vec<u32>,
    /// As many of them as could follow the shortest prompt: it is cut where a sequence is made,
    /// since another row's prompt leaves it other room.
    pub completion: Vec<u32>,
    pub label: Label,
    pub weight: f64,
    pub prompt_hash: u64,
    pub completion_hash: u64,
    /// Size before anything is cut.
    pub size: Size,
    /// Tokens of the row's own sequence, and whether that loses the end of the completion.
    pub num_tokens: u32,
    pub truncated: bool,
    pub lost_prompt_tokens: usize,
}

/// Lengths of a row, in tokens or in characters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub prompt: u32,
    pub completion: u32,
}

/// Turns raw rows into outcomes; without a tokenizer the texts alone are checked.
pub(crate) struct Pipeline<'a> {
    pub parser: RowParser<'a>,
    pub tokenizer: Option<&'a ChatTokenizer>,
    pub max_length: u32,
    pub overlong: Overlong,
}

impl<'a> Pipeline<'a> {
    pub fn new(config: &'a DataConfig, tokenizer: Option<&'a ChatTokenizer>) -> Self {
        let parser =
            RowParser { columns: &config.columns, label_threshold: config.label_threshold };
        Self { parser, tokenizer, max_length: config.max_length, overlong: config.overlong }
    }

    /// Works through all files. `sink` gets the file's index, the row's line and what became of it.
    pub fn run(
        &self,
        sources: &[Source],
        mut sink: impl FnMut(usize, u64, Outcome) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        for_each_row(
            sources,
            &self.parser.read_columns(),
            |content| self.outcomes(content),
            |file, line, outcomes| {
                outcomes?.into_iter().try_for_each(|outcome| sink(file, line, outcome))
            },
        )
    }

    fn outcomes(&self, content: RawContent) -> Result<Vec<Outcome>, DataError> {
        match self.parser.parse(content) {
            Ok(rows) => rows.iter().map(|row| self.outcome(row)).collect(),
            Err(error) => Ok(vec![Outcome::Bad(error)]),
        }
    }

    fn outcome(&self, row: &Row) -> Result<Outcome, DataError> {
        let Some(tokenizer) = self.tokenizer else { return Ok(Outcome::Kept(text_only(row))) };
        let encoded = match tokenizer.encode_row(row) {
            Ok(encoded) => encoded,
            Err(EncodeError::Row(error)) => return Ok(Outcome::Bad(error)),
            Err(EncodeError::Model(error)) => return Err(error),
        };
        let (prompt, mut completion) = (encoded.prompt, encoded.completion);
        let size = Size { prompt: length(prompt.len()), completion: length(completion.len()) };
        if prompt.is_empty() || completion.is_empty() {
            let field = if prompt.is_empty() { "prompt" } else { "completion" };
            let lost = encoded.lost_prompt_tokens;
            let message = format!(
                "no {field} token is left ({lost} prompt tokens differ from the whole text); expected at least one"
            );
            return Ok(Outcome::Bad(RowError::new(field, message)));
        }
        if size.prompt >= self.max_length {
            return Ok(match self.overlong {
                Overlong::Drop => Outcome::Overlong(size),
                Overlong::Error => Outcome::Bad(RowError::new(
                    &self.parser.columns.prompt,
                    format!(
                        "the prompt has {} tokens and leaves no room for a completion in data.max_length = {}; raise it, or set data.overlong = \"drop\"",
                        size.prompt, self.max_length
                    ),
                )),
            });
        }
        let whole = size.prompt.saturating_add(size.completion);
        completion.truncate(self.max_length as usize - 1);
        Ok(Outcome::Kept(Kept {
            prompt_hash: hash_tokens(&prompt),
            completion_hash: hash_tokens(&completion),
            prompt,
            completion,
            label: row.label,
            weight: row.weight,
            size,
            num_tokens: whole.min(self.max_length),
            truncated: whole > self.max_length,
            lost_prompt_tokens: encoded.lost_prompt_tokens,
        }))
    }
}

/// Applies `work` to all rows on all cores and hands the results to `sink` in file order.
pub(crate) fn for_each_row<T: Send>(
    sources: &[Source],
    columns: &[&str],
    work: impl Fn(RawContent) -> T + Sync,
    mut sink: impl FnMut(usize, u64, T) -> Result<(), DataError>,
) -> Result<(), DataError> {
    for (file, source) in sources.iter().enumerate() {
        source.read(columns, &mut |batch| {
            let done: Vec<(u64, T)> =
                batch.into_par_iter().map(|row| (row.line, work(row.content))).collect();
            done.into_iter().try_for_each(|(line, result)| sink(file, line, result))
        })?;
    }
    Ok(())
}

/// A row measured and hashed by its text.
fn text_only(row: &Row) -> Kept {
    Kept {
        prompt: Vec::new(),
        completion: Vec::new(),
        label: row.label,
        weight: row.weight,
        prompt_hash: hash_content(&row.prompt),
        completion_hash: hash_content(&row.completion),
        size: Size {
            prompt: length(row.prompt.num_chars()),
            completion: length(row.completion.num_chars()),
        },
        num_tokens: 0,
        truncated: false,
        lost_prompt_tokens: 0,
    }
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn hash_tokens(token_ids: &[u32]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for id in token_ids {
        hasher.update(&id.to_le_bytes());
    }
    short(&hasher)
}

fn hash_content(content: &Content) -> u64 {
    let mut hasher = blake3::Hasher::new();
    match content {
        Content::Text(text) => hasher.update(text.as_bytes()),
        Content::Messages(messages) => {
            for message in messages {
                let fields = serde_json::Value::Object(message.fields().clone());
                hasher.update(fields.to_string().as_bytes()).update(b"\0");
            }
            &mut hasher
        }
    };
    short(&hasher)
}

fn short(hasher: &blake3::Hasher) -> u64 {
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
