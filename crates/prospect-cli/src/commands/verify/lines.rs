//! Files with one JSON object a line.

use std::fs;
use std::io;
use std::path::Path;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};
use serde_json::value::RawValue;

use super::finding::Finding;
use crate::error::CliError;

/// What a file of lines holds.
#[derive(Debug, Default)]
pub(super) struct Lines<T> {
    /// The values, one a line.
    pub(super) values: Vec<T>,
    /// The first line that cannot be read; those after it are not in `values`.
    pub(super) damage: Option<Finding>,
    /// Whether the last line was cut off in the middle.
    pub(super) is_torn: bool,
}

/// A number with exactly the bits that were written: JSON libraries may round the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Number(pub(super) f64);

/// Reads a file of lines; one that is not there holds none.
pub(super) fn read<T: DeserializeOwned>(root: &Path, name: &str) -> Result<Lines<T>, CliError> {
    let path = root.join(name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(CliError::Read { path, source }),
    };
    let mut lines = Lines { values: Vec::new(), damage: None, is_torn: false };
    for (number, line) in (1..).zip(bytes.split_inclusive(|&byte| byte == b'\n')) {
        if !line.ends_with(b"\n") {
            lines.is_torn = true;
            break;
        }
        match serde_json::from_slice(line) {
            Ok(value) => lines.values.push(value),
            Err(error) => {
                let found = Finding::in_file(name, "the line", error, "a JSON object of its kind");
                lines.damage = Some(found.at_line(number));
                break;
            }
        }
    }
    Ok(lines)
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let parsed = raw.get().parse().map_err(|_| {
            D::Error::custom(format_args!("{} stands where a number belongs", raw.get()))
        });
        parsed.map(Self)
    }
}

impl Number {
    /// Whether both have the same bits.
    pub(super) fn is(self, other: f64) -> bool {
        self.0.to_bits() == other.to_bits()
    }
}
