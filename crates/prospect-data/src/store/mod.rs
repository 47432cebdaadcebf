//! The token store: all rows as tokens with an index, in one directory that is
//! named by the hash of everything it was made of. A second run opens it at
//! once; a damaged one is made anew.

mod build;
mod format;
mod key;
mod open;
#[cfg(test)]
mod tests;

use std::path::Path;

use prospect_core::{DataConfig, Label, RowId};

use crate::{Classes, DataError, DataReport, read};
use format::IndexRow;

/// Tokens of all rows, held in memory: 4 bytes a token and 48 a row.
#[derive(Debug)]
pub struct TokenStore {
    index: Vec<IndexRow>,
    /// Where each row's tokens begin.
    starts: Vec<usize>,
    token_ids: Vec<u32>,
    num_desirable: u64,
    num_tokens: u64,
    digest: String,
}

/// One row of a store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowView<'a> {
    /// Tokens of the prompt; at least one.
    pub prompt: &'a [u32],
    /// Tokens of the completion, at least one; see [`Self::completion_after`].
    pub completion: &'a [u32],
    /// What the feedback says.
    pub label: Label,
    /// The row's own weight.
    pub weight: f64,
    /// Hash of the prompt's tokens.
    pub prompt_hash: u64,
    /// Hash of the completion's tokens.
    pub completion_hash: u64,
}

impl<'a> RowView<'a> {
    /// The completion as far as it fits into `max_length` behind a prompt of `prompt_len` tokens,
    /// its own or another row's; one token of it at least. TRL cuts rows and mismatched pairs in
    /// the same way, each after it is joined.
    pub fn completion_after(&self, prompt_len: usize, max_length: usize) -> &'a [u32] {
        let room = max_length.saturating_sub(prompt_len).max(1);
        &self.completion[..room.min(self.completion.len())]
    }
}

impl TokenStore {
    /// Opens the store of `files` below `cache_dir`, making it first where there is none or
    /// where it is damaged. The store is found by content: renamed files are the same files.
    /// `classes` says what the caller needs and is no part of the store.
    ///
    /// # Errors
    /// Data that cannot be read or used (see [`DataReport::ensure_usable`]), a model
    /// directory that cannot tokenise it, or a cache directory that cannot be written.
    pub fn open_or_build(
        files: &[String],
        model_dir: &Path,
        config: &DataConfig,
        classes: Classes,
        cache_dir: &Path,
    ) -> Result<(Self, DataReport), DataError> {
        let sources = read::expand(files)?;
        let dir = cache_dir.join(key::key(&sources, model_dir, config)?);
        let opened = if dir.exists() { open::open(&dir).map(Some) } else { Ok(None) };
        let (store, mut report) = match opened {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                build::build(&sources, model_dir, config, classes, &dir)?;
                open::open(&dir)?
            }
            Err(error @ DataError::DamagedStore { .. }) => {
                tracing::warn!(%error, "building the token store again");
                build::remove(&dir)?;
                build::build(&sources, model_dir, config, classes, &dir)?;
                open::open(&dir)?
            }
            Err(error) => return Err(error),
        };
        // It may have been made for one who needs less.
        report.ensure_usable(config.skip_bad_rows, classes)?;
        let names: Vec<String> = sources.iter().map(read::Source::name).collect();
        report.rename_files(&names);
        Ok((store, report))
    }

    /// Number of rows.
    pub fn len(&self) -> u64 {
        self.index.len() as u64
    }

    /// Whether there are no rows. A store that was built has some.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// A row.
    ///
    /// # Panics
    /// When `row` is not below [`Self::len`].
    pub fn row(&self, row: RowId) -> RowView<'_> {
        let idx = usize::try_from(row.0).unwrap_or(usize::MAX);
        let entry = &self.index[idx];
        let token_ids = &self.token_ids[self.starts[idx]..][..entry.num_tokens()];
        let (prompt, completion) = token_ids.split_at(entry.prompt_len as usize);
        RowView {
            prompt,
            completion,
            label: entry.label,
            weight: entry.weight,
            prompt_hash: entry.prompt_hash,
            completion_hash: entry.completion_hash,
        }
    }

    /// Tokens of the prompt and of the completion of every row, cut to `max_length` as a target is.
    pub fn lengths(&self, max_length: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0..self.len()).map(move |row| {
            let row = self.row(RowId(row));
            let completion = row.completion_after(row.prompt.len(), max_length as usize);
            (row.prompt.len() as u32, completion.len() as u32)
        })
    }

    /// Number of desirable rows.
    pub fn num_desirable(&self) -> u64 {
        self.num_desirable
    }

    /// Number of undesirable rows.
    pub fn num_undesirable(&self) -> u64 {
        self.len() - self.num_desirable
    }

    /// Number of tokens of all rows' own sequences, after the cut.
    pub fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    /// Hash of all tokens, labels and weights in their order, in hexadecimal. Two runs with
    /// the same digest and the same greatest length train on the same data.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}
