//! Values of a reference model that runs share, found by content. A directory holds the values of
//! one scorer: files that only grow, one a writer, each with a first line that says whose values
//! it holds. Any number of processes may read and write there at once.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::key::{Scorer, ValueKey};
use super::records::{self, CHECKSUM_BYTES, seal};
use crate::CoordinatorError;
use crate::storage::GrowingFile;

/// Ending of the files' names.
const EXTENSION: &str = "values";
/// What the first line begins with; the number is the version.
const FORMAT: &str = "prospect reference values 1";
/// Key, value, checksum.
const RECORD_BYTES: usize = 32 + 8 + CHECKSUM_BYTES;

/// Known values of one scorer, in memory.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    values: HashMap<ValueKey, f64>,
}

/// A file of values that this process alone writes to. One that nothing was added to is removed
/// in the end.
#[derive(Debug)]
pub(crate) struct PoolWriter {
    scorer: Scorer,
    file: GrowingFile,
    is_empty: bool,
}

/// The first line of a file.
#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    #[serde(flatten)]
    scorer: Scorer,
}

impl Pool {
    /// Reads all values of the scorer below these directories; those that are not there hold none.
    ///
    /// # Errors
    /// Files that cannot be read, that hold another scorer's values, or that are damaged anywhere
    /// but at their very end.
    pub(crate) fn read(scorer: &Scorer, roots: &[PathBuf]) -> Result<Self, CoordinatorError> {
        let mut pool = Self::default();
        for root in roots {
            let dir = root.join(scorer.directory_name());
            for path in files(&dir).map_err(CoordinatorError::storage("reading", &dir))? {
                pool.add_file(scorer, &path)?;
            }
        }
        Ok(pool)
    }

    /// A value. Where several were computed it is the first of the first file.
    pub(crate) fn get(&self, key: &ValueKey) -> Option<f64> {
        self.values.get(key).copied()
    }

    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn add_file(&mut self, scorer: &Scorer, path: &Path) -> Result<(), CoordinatorError> {
        let bytes = match fs::read(path) {
            // Its writer has ended without a value.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            result => result.map_err(CoordinatorError::storage("reading", path))?,
        };
        let damaged = |problem: String| CoordinatorError::Damaged {
            path: path.to_owned(),
            problem: format!("{problem}; move the file away: what it held is computed again"),
        };
        let expected = header(scorer);
        if expected.starts_with(&bytes) {
            // Its writer is about to write the first line, or died there.
            return Ok(());
        }
        let Some(content) = bytes.strip_prefix(expected.as_slice()) else {
            return Err(damaged(foreign(scorer, &bytes)));
        };
        let records = records::read(content, RECORD_BYTES, decode)
            .map_err(|idx| damaged(format!("value {idx} has a wrong checksum")))?;
        for (key, value) in records {
            self.values.entry(key).or_insert(value);
        }
        Ok(())
    }
}

impl PoolWriter {
    /// Makes a file of its own in the scorer's directory below `root`, and the directory.
    ///
    /// # Errors
    /// The system's words.
    pub(crate) fn create(root: &Path, scorer: Scorer) -> io::Result<Self> {
        let dir = root.join(scorer.directory_name());
        fs::create_dir_all(&dir)?;
        loop {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let name = format!("{:020}-{}.{EXTENSION}", since.as_nanos(), process::id());
            match GrowingFile::create_new(&dir.join(name)) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(mut file) => {
                    // Values that are added later are of no use behind a header that is lost.
                    file.append_at_once(&header(&scorer))?;
                    file.sync_at_once()?;
                    return Ok(Self { scorer, file, is_empty: true });
                }
            }
        }
    }

    /// Whose values they are.
    pub(crate) fn scorer(&self) -> &Scorer {
        &self.scorer
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Adds values, but for those that are not finite.
    ///
    /// # Errors
    /// The system's words.
    pub(crate) fn add(
        &mut self,
        values: impl IntoIterator<Item = (ValueKey, f64)>,
    ) -> io::Result<()> {
        let finite = values.into_iter().filter(|(_, value)| value.is_finite());
        let bytes: Vec<u8> = finite.flat_map(encode).collect();
        self.is_empty &= bytes.is_empty();
        self.file.append_at_once(&bytes)
    }

    /// Waits until all values are on the disk.
    ///
    /// # Errors
    /// A disk that fails.
    pub(crate) fn sync(&mut self) -> Result<(), CoordinatorError> {
        self.file.sync()
    }
}

#[cfg(test)]
impl PoolWriter {
    /// Lets every later value meet a full disk.
    pub(crate) fn fill_disk(&mut self) {
        self.file = GrowingFile::open(Path::new("/dev/full")).expect("it is there");
        self.is_empty = false;
    }
}

impl Drop for PoolWriter {
    fn drop(&mut self) {
        if self.is_empty {
            // Left over it does no harm.
            let _ = fs::remove_file(self.file.path());
        }
    }
}

/// The files of values in a directory, by name.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        paths.extend(path.extension().is_some_and(|ext| ext == EXTENSION).then_some(path));
    }
    paths.sort();
    Ok(paths)
}

fn header(scorer: &Scorer) -> Vec<u8> {
    let header = Header { format: FORMAT.to_owned(), scorer: scorer.clone() };
    let mut line = serde_json::to_vec(&header).expect("strings and numbers are valid JSON");
    line.push(b'\n');
    line
}

/// What a file is instead of one with this scorer's values.
fn foreign(scorer: &Scorer, bytes: &[u8]) -> String {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    match serde_json::from_slice::<Header>(line) {
        Ok(found) if found.format == FORMAT => format!(
            "it holds values of {:?}, but its directory is for those of {scorer:?}",
            found.scorer
        ),
        _ => "it does not begin as a file of reference values does".to_owned(),
    }
}

fn encode((ValueKey(key), value): (ValueKey, f64)) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..32].copy_from_slice(&key);
    record[32..40].copy_from_slice(&value.to_le_bytes());
    seal(&mut record);
    record
}

/// A log-probability that is not finite is none.
fn decode(content: &[u8]) -> Option<(ValueKey, f64)> {
    let (key, value) = content.split_at_checked(32)?;
    let value = f64::from_le_bytes(value.try_into().ok()?);
    Some((ValueKey(key.try_into().ok()?), value)).filter(|(_, value)| value.is_finite())
}
