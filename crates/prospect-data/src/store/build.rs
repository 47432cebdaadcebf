//! Making a store: in a temporary directory beside its place, synced to disk,
//! then renamed, so that a reader sees all of it or nothing.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use prospect_core::DataConfig;

use super::format::{Header, INDEX_FILE, IndexRow, REPORT_FILE, TOKENS_FILE};
use crate::pipeline::{Kept, Pipeline};
use crate::read::Source;
use crate::report::{Classes, LengthUnit, Tally};
use crate::{ChatTokenizer, DataError, DataReport};

/// Builds the store at `dir`. One that another process puts there meanwhile is left as it is.
pub(super) fn build(
    sources: &[Source],
    model_dir: &Path,
    config: &DataConfig,
    classes: Classes,
    dir: &Path,
) -> Result<(), DataError> {
    let tokenizer = ChatTokenizer::load(model_dir)?;
    let unfinished = Unfinished::create(dir)?;
    let mut writer = StoreWriter::create(&unfinished.path)?;
    let mut tally = Tally::new(sources, LengthUnit::Tokens, config.max_length);
    Pipeline::new(config, Some(&tokenizer)).run(sources, |file, line, outcome| {
        match tally.add(file, line, outcome) {
            Some(row) => writer.push(&row),
            None => Ok(()),
        }
    })?;
    let report = tally.finish();
    report.ensure_usable(config.skip_bad_rows, classes)?;
    writer.finish(&report)?;
    unfinished.publish(dir)?;
    tracing::info!(rows = report.rows, tokens = report.num_tokens, store = %dir.display(), "token store built");
    Ok(())
}

/// Removes a store that cannot be used.
pub(super) fn remove(dir: &Path) -> Result<(), DataError> {
    let removed = if dir.is_dir() { fs::remove_dir_all(dir) } else { fs::remove_file(dir) };
    removed.map_err(failed(dir, "removal"))
}

fn failed(path: &Path, action: &'static str) -> impl Fn(io::Error) -> DataError {
    move |source| DataError::Store { path: path.to_owned(), action, source }
}

/// A directory that goes away unless it is published.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn create(dir: &Path) -> Result<Self, DataError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let name = format!(".{name}.{}.{number}", std::process::id());
        let path = dir.with_file_name(name);
        fs::create_dir_all(&path).map_err(failed(&path, "creation"))?;
        Ok(Self { path })
    }

    fn publish(self, dir: &Path) -> Result<(), DataError> {
        sync_directory(&self.path)?;
        match fs::rename(&self.path, dir) {
            Ok(()) => sync_directory(dir.parent().unwrap_or(Path::new("."))),
            // Another process was faster; its store has the same content.
            Err(_) if dir.is_dir() => Ok(()),
            Err(error) => Err(failed(dir, "renaming into place")(error)),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename there is nothing left under this name, and that is as it should be.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn sync_directory(path: &Path) -> Result<(), DataError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(failed(path, "sync"))
}

/// Writes rows as they come.
struct StoreWriter {
    dir: PathBuf,
    tokens: BufWriter<File>,
    tokens_hasher: blake3::Hasher,
    num_tokens: u64,
    rows: Vec<u8>,
    num_rows: u64,
}

impl StoreWriter {
    fn create(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join(TOKENS_FILE);
        let tokens = File::create_new(&path).map_err(failed(&path, "creation"))?;
        Ok(Self {
            dir: dir.to_owned(),
            tokens: BufWriter::with_capacity(1 << 18, tokens),
            tokens_hasher: blake3::Hasher::new(),
            num_tokens: 0,
            rows: Vec::new(),
            num_rows: 0,
        })
    }

    fn push(&mut self, row: &Kept) -> Result<(), DataError> {
        let ids = row.prompt.iter().chain(&row.completion);
        let bytes: Vec<u8> = ids.flat_map(|id| id.to_le_bytes()).collect();
        self.tokens_hasher.update(&bytes);
        self.tokens.write_all(&bytes).map_err(failed(&self.dir.join(TOKENS_FILE), "writing"))?;
        let entry = IndexRow {
            prompt_len: row.prompt.len() as u32,
            completion_len: row.completion.len() as u32,
            label: row.label,
            weight: row.weight,
            prompt_hash: row.prompt_hash,
            completion_hash: row.completion_hash,
        };
        self.num_tokens += entry.num_tokens() as u64;
        self.rows.extend(entry.encode());
        self.num_rows += 1;
        Ok(())
    }

    fn finish(mut self, report: &DataReport) -> Result<(), DataError> {
        let path = self.dir.join(TOKENS_FILE);
        self.tokens.flush().map_err(failed(&path, "writing"))?;
        self.tokens.get_ref().sync_all().map_err(failed(&path, "sync"))?;
        let report = serde_json::to_vec_pretty(report)
            .map_err(|error| failed(&self.dir.join(REPORT_FILE), "writing")(error.into()))?;
        self.write(REPORT_FILE, &[&report])?;
        let header = Header {
            num_rows: self.num_rows,
            num_tokens: self.num_tokens,
            rows_hash: *blake3::hash(&self.rows).as_bytes(),
            tokens_hash: *self.tokens_hasher.finalize().as_bytes(),
            report_hash: *blake3::hash(&report).as_bytes(),
        };
        self.write(INDEX_FILE, &[&header.encode(), &self.rows])
    }

    fn write(&self, name: &str, parts: &[&[u8]]) -> Result<(), DataError> {
        let path = self.dir.join(name);
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&path)?;
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()
        };
        write().map_err(failed(&path, "writing"))
    }
}
