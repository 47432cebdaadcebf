//! Log-probabilities under the reference model, each computed once. The file
//! is a row of fixed-size records, each with its own checksum; the values lie
//! in memory besides.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::Path;

use prospect_core::{ReferenceValue, RowId, Step};

use crate::CoordinatorError;
use crate::crc32c::crc32c;
use crate::storage::{GrowingFile, write_whole};

/// First bytes of the file; the last one is the version.
const MAGIC: &[u8; 8] = b"PROSREF1";
/// Domain, step, prompt row, completion row, value, checksum.
const RECORD_BYTES: usize = 1 + 8 * 4 + 4;

/// Which data set rows are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Domain {
    /// Training data.
    Train,
    /// Evaluation data.
    Eval,
}

/// All known values.
#[derive(Debug)]
pub(crate) struct ReferenceCache {
    file: GrowingFile,
    values: HashMap<(Domain, RowId, RowId), Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// Step in which the value was computed first.
    step: Step,
    log_prob: f64,
}

impl ReferenceCache {
    /// Opens the file without the values of steps after `step`.
    ///
    /// # Errors
    /// A file that is damaged anywhere but at its very end, or cannot be written.
    pub(crate) fn open(path: &Path, step: Step) -> Result<Self, CoordinatorError> {
        let mut bytes = MAGIC.to_vec();
        let mut values = HashMap::new();
        for (domain, value, computed) in read(path)? {
            if computed <= step {
                bytes.extend(encode(domain, &value, computed));
                keep_first(&mut values, domain, &value, computed);
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
            if keep_first(&mut self.values, domain, value, step) {
                bytes.extend(encode(domain, value, step));
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
        let known = self.values.get(&(domain, prompt, completion))?;
        (known.step <= latest).then_some(known.log_prob)
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}

/// Whether the value is new.
fn keep_first(
    values: &mut HashMap<(Domain, RowId, RowId), Known>,
    domain: Domain,
    value: &ReferenceValue,
    step: Step,
) -> bool {
    match values.entry((domain, value.prompt_row, value.completion_row)) {
        Entry::Occupied(_) => false,
        Entry::Vacant(place) => {
            place.insert(Known { step, log_prob: value.log_prob });
            true
        }
    }
}

fn encode(domain: Domain, value: &ReferenceValue, step: Step) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[0] = match domain {
        Domain::Train => 0,
        Domain::Eval => 1,
    };
    let numbers = [step.0, value.prompt_row.0, value.completion_row.0, value.log_prob.to_bits()];
    for (place, number) in record[1..33].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let checksum = crc32c(&record[..33]);
    record[33..].copy_from_slice(&checksum.to_le_bytes());
    record
}

fn decode(record: &[u8]) -> Option<(Domain, ReferenceValue, Step)> {
    let (content, checksum) = record.split_at_checked(33)?;
    if checksum != crc32c(content).to_le_bytes() {
        return None;
    }
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
    let (prompt_row, completion_row) = (RowId(next()), RowId(next()));
    let log_prob = f64::from_bits(next());
    Some((domain, ReferenceValue { prompt_row, completion_row, log_prob }, step))
}

/// All records in order. What a crash has left of the last one is passed over.
fn read(path: &Path) -> Result<Vec<(Domain, ReferenceValue, Step)>, CoordinatorError> {
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
    let records = content.chunks_exact(RECORD_BYTES);
    let num_records = records.len();
    let is_whole = records.remainder().is_empty();
    let mut values = Vec::with_capacity(num_records);
    for (idx, record) in records.enumerate() {
        match decode(record) {
            Some(value) => values.push(value),
            None if is_whole && idx + 1 == num_records => break,
            None => return Err(damaged(format!("record {idx} has a wrong checksum"))),
        }
    }
    Ok(values)
}
