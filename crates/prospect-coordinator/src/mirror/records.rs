//! The files beside the checkpoints without which a run cannot go on, as they were at one moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Component, Path};

use prospect_core::Step;
use serde::{Deserialize, Serialize};

use super::MirrorError;

/// Names of the files that hold the records, in the order in which a fresh run directory gets
/// them. With the first it holds a run, with the last it has its past.
pub(super) const NAMES: [&str; 6] = [
    "manifest.json",
    "run.toml",
    "metrics.jsonl",
    "eval_metrics.jsonl",
    "reference_cache.bin",
    "journal.jsonl",
];
/// Where the records lie in a copy.
pub(super) const DIR: &str = "records";
/// Sizes and digests of the records.
pub(super) const LIST: &str = "RECORDS.json";

/// A record at the moment that it was opened. What is added later is not part of it, and a file
/// that takes its name later is another one.
#[derive(Debug)]
pub(super) struct OpenRecord {
    pub(super) name: &'static str,
    pub(super) file: File,
    /// Its size at that moment.
    pub(super) bytes: u64,
}

/// Which files make up something, as `MANIFEST.json` of a checkpoint has them, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Listing {
    pub(super) step: Step,
    /// By name, with `/` between its parts.
    pub(super) files: BTreeMap<String, Entry>,
}

/// Size and digest of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) bytes: u64,
    /// SHA-256 in hexadecimal.
    pub(super) sha256: String,
}

/// Opens the records of a run directory that are there.
pub(super) fn open(root: &Path) -> Result<Vec<OpenRecord>, MirrorError> {
    let mut records = Vec::new();
    for name in NAMES {
        let path = root.join(name);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((bytes, file)) => records.push(OpenRecord { name, file, bytes }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(MirrorError::storage("opening", &path)(source)),
        }
    }
    Ok(records)
}

impl Listing {
    /// Reads a list of files of `step` that lead nowhere else.
    pub(super) fn parse(text: &[u8], step: Step) -> Result<Self, String> {
        let listing: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if listing.step != step {
            return Err(format!("it is of step {}", listing.step));
        }
        let is_plain = |name: &&String| {
            Path::new(name.as_str()).components().all(|part| matches!(part, Component::Normal(_)))
        };
        match listing.files.keys().find(|name| !is_plain(name)) {
            None => Ok(listing),
            Some(name) => Err(format!("it names {name:?}, which leads out of the copy")),
        }
    }
}
