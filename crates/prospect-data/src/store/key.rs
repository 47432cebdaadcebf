//! The name of a store: a hash of all that decides its content.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use prospect_core::DataConfig;

use super::format::FORMAT_VERSION;
use crate::DataError;
use crate::read::Source;
use crate::tokenizer::TOKENIZER_FILES;

const KEY_CHARS: usize = 32;

/// Hash of the data files' contents and formats, the tokenizer's files and the options, in hexadecimal.
pub(super) fn key(
    sources: &[Source],
    model_dir: &Path,
    config: &DataConfig,
) -> Result<String, DataError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&FORMAT_VERSION.to_le_bytes());
    let DataConfig { max_length, columns, label_threshold, overlong, skip_bad_rows, .. } = config;
    let options =
        format!("{max_length} {columns:?} {label_threshold:?} {overlong:?} {skip_bad_rows}");
    add(&mut hasher, options.as_bytes());
    for name in TOKENIZER_FILES {
        let path = model_dir.join(name);
        if path.exists() {
            add(&mut hasher, name.as_bytes());
            add(&mut hasher, hash_file(&path)?.as_bytes());
        }
    }
    for source in sources {
        add(&mut hasher, format!("{:?} {:?}", source.layout, source.codec).as_bytes());
        add(&mut hasher, hash_file(&source.path)?.as_bytes());
    }
    Ok(hasher.finalize().to_hex()[..KEY_CHARS].to_owned())
}

fn add(hasher: &mut blake3::Hasher, part: &[u8]) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part);
}

fn hash_file(path: &Path) -> Result<blake3::Hash, DataError> {
    let hash = || -> io::Result<blake3::Hash> {
        let mut file = File::open(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finalize()),
                read => hasher.update(&buffer[..read]),
            };
        }
    };
    hash().map_err(|source| DataError::Read { path: path.to_owned(), line: 0, source })
}
