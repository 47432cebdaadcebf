//! Log-probabilities under the reference model, each computed once. A run keeps its own by their
//! rows, in a file of fixed-size records and in memory; what runs share is found by content.

mod key;
mod pool;
mod records;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use prospect_core::{ReferenceValue, RowId, Step};

use self::records::{CHECKSUM_BYTES, seal};
use crate::CoordinatorError;
use crate::storage::{GrowingFile, write_whole};

pub(crate) use key::{Scorer, ValueKey};
pub(crate) use pool::{Pool, PoolWriter};

/// First bytes of the file; the last one is the version.
const MAGIC: &[u8; 8] = b"PROSREF1";
/// Domain, step, prompt row, completion row, value, checksum.
const RECORD_BYTES: usize = 1 + 8 * 4 + CHECKSUM_BYTES;
/// Step of the values that a run had before its first one.
const AHEAD: Step = Step(0);

/// Which data set rows are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Domain {
    /// Training data.
    Train,
    /// Evaluation data.
    Eval,
}

/// Which prompt and which completion make up a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SequenceRows {
    /// Data set of both.
    pub(crate) domain: Domain,
    pub(crate) prompt: RowId,
    pub(crate) completion: RowId,
}

/// All values that a run knows.
#[derive(Debug)]
pub(crate) struct ReferenceCache {
    file: GrowingFile,
    values: HashMap<SequenceRows, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// Step in which the value was computed first; 0 where the run had it before.
    step: Step,
    log_prob: f64,
}

impl ReferenceCache {
    /// Makes the file of a run that begins with these values. A later start finds it and begins
    /// with the same.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn begin(
        path: &Path,
        values: &[(SequenceRows, f64)],
    ) -> Result<(), CoordinatorError> {
        let mut bytes = MAGIC.to_vec();
        for &(rows, log_prob) in values {
            bytes.extend(encode(rows, Known { step: AHEAD, log_prob }));
        }
        write_whole(path, &bytes)
    }

    /// The sequences whose values a run had before its first step; nothing is changed.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged anywhere but at its very end.
    pub(crate) fn ahead(path: &Path) -> Result<HashSet<SequenceRows>, CoordinatorError> {
        let values = read(path)?.into_iter();
        Ok(values.filter(|(_, known)| known.step == AHEAD).map(|(rows, _)| rows).collect())
    }

    /// Opens the file without the values of steps after `step`.
    ///
    /// # Errors
    /// A file that is damaged anywhere but at its very end, or cannot be written.
    pub(crate) fn open(path: &Path, step: Step) -> Result<Self, CoordinatorError> {
        let mut bytes = MAGIC.to_vec();
        let mut values = HashMap::new();
        for (rows, known) in read(path)? {
            if known.step <= step {
                bytes.extend(encode(rows, known));
                keep_first(&mut values, rows, known);
            }
        }
        write_whole(path, &bytes)?;
        Ok(Self { file: GrowingFile::open(path)?, values })
    }

    /// Adds what was computed in a step. A value that is known stays as it is.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn add(
        &mut self,
        domain: Domain,
        values: &[ReferenceValue],
        step: Step,
    ) -> Result<(), CoordinatorError> {
        let mut bytes = Vec::new();
        for value in values {
            let (prompt, completion) = (value.prompt_row, value.completion_row);
            let rows = SequenceRows { domain, prompt, completion };
            let known = Known { step, log_prob: value.log_prob };
            if keep_first(&mut self.values, rows, known) {
                bytes.extend(encode(rows, known));
            }
        }
        self.file.append(&bytes)
    }

    /// Waits until all values are on the disk.
    ///
    /// # Errors
    /// A disk that fails.
    pub(crate) fn sync(&mut self) -> Result<(), CoordinatorError> {
        self.file.sync()
    }

    /// A value, if it was first computed in `latest` or before. What a plan
    /// holds is then a function of its step alone, however far ahead it is made.
    pub(crate) fn get(
        &self,
        domain: Domain,
        prompt: RowId,
        completion: RowId,
        latest: Step,
    ) -> Option<f64> {
        let known = self.values.get(&SequenceRows { domain, prompt, completion })?;
        (known.step <= latest).then_some(known.log_prob)
    }

    /// Whether the run had the value before its first step.
    pub(crate) fn knew(&self, rows: SequenceRows) -> bool {
        self.get(rows.domain, rows.prompt, rows.completion, AHEAD).is_some()
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}

/// Whether the value is new.
fn keep_first(values: &mut HashMap<SequenceRows, Known>, rows: SequenceRows, known: Known) -> bool {
    match values.entry(rows) {
        Entry::Occupied(_) => false,
        Entry::Vacant(place) => {
            place.insert(known);
            true
        }
    }
}

fn encode(rows: SequenceRows, known: Known) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[0] = match rows.domain {
        Domain::Train => 0,
        Domain::Eval => 1,
    };
    let numbers = [known.step.0, rows.prompt.0, rows.completion.0, known.log_prob.to_bits()];
    for (place, number) in record[1..33].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    seal(&mut record);
    record
}

fn decode(content: &[u8]) -> Option<(SequenceRows, Known)> {
    let domain = match content[0] {
        0 => Domain::Train,
        1 => Domain::Eval,
        _ => return None,
    };
    let mut numbers = content[1..]
        .chunks_exact(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("chunks of 8 bytes have 8 bytes")));
    let mut next = || numbers.next().unwrap_or_default();
    let step = Step(next());
    let (prompt, completion) = (RowId(next()), RowId(next()));
    let log_prob = f64::from_bits(next());
    Some((SequenceRows { domain, prompt, completion }, Known { step, log_prob }))
}

/// All records in order. What a crash has left of the last one is passed over.
fn read(path: &Path) -> Result<Vec<(SequenceRows, Known)>, CoordinatorError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(path).map_err(CoordinatorError::storage("reading", path))?;
    let damaged = |problem: String| CoordinatorError::Damaged {
        path: path.to_owned(),
        problem: format!("{problem}; restore the file or choose another run directory"),
    };
    let Some(content) = bytes.strip_prefix(MAGIC) else {
        return Err(damaged("it does not begin as a reference cache does".to_owned()));
    };
    records::read(content, RECORD_BYTES, decode)
        .map_err(|idx| damaged(format!("record {idx} has a wrong checksum")))
}
