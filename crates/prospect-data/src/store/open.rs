//! Opening a store: every length and checksum is compared before a row is
//! believed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::TokenStore;
use super::format::{
    HEADER_BYTES, Header, INDEX_FILE, IndexRow, REPORT_FILE, ROW_BYTES, TOKEN_BYTES, TOKENS_FILE,
};
use crate::{DataError, DataReport};

/// Opens the store in `dir`.
///
/// # Errors
/// [`DataError::DamagedStore`] when anything does not fit; other errors of the disk as they are.
pub(super) fn open(dir: &Path) -> Result<(TokenStore, DataReport), DataError> {
    let damaged = |message: String| DataError::DamagedStore { path: dir.to_owned(), message };
    let bytes = read(dir, INDEX_FILE)?;
    let header = Header::decode(&bytes).map_err(damaged)?;
    let rows = &bytes[HEADER_BYTES..];
    let (entries, rest) = rows.as_chunks::<ROW_BYTES>();
    if !rest.is_empty() || entries.len() as u64 != header.num_rows {
        return Err(damaged(format!(
            "the index has {} bytes of rows, expected {} rows of {ROW_BYTES}",
            rows.len(),
            header.num_rows
        )));
    }
    if *blake3::hash(rows).as_bytes() != header.rows_hash {
        return Err(damaged("the checksum of the index does not fit".to_owned()));
    }
    let index: Vec<IndexRow> = entries.iter().map(IndexRow::decode).collect();
    let mut starts = Vec::with_capacity(index.len());
    let mut end = 0_usize;
    for entry in &index {
        starts.push(end);
        end += entry.num_tokens();
    }
    if end as u64 != header.num_tokens {
        return Err(damaged(format!("its rows have {end} tokens, expected {}", header.num_tokens)));
    }
    let token_ids = read_tokens(dir, &header)?;
    let report = read(dir, REPORT_FILE)?;
    if *blake3::hash(&report).as_bytes() != header.report_hash {
        return Err(damaged("the checksum of the report does not fit".to_owned()));
    }
    let report: DataReport =
        serde_json::from_slice(&report).map_err(|error| damaged(error.to_string()))?;
    let num_desirable = index.iter().filter(|entry| entry.label.is_desirable()).count() as u64;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header.tokens_hash).update(&header.rows_hash);
    let digest = hasher.finalize().to_hex().to_string();
    let num_tokens = report.num_tokens;
    Ok((TokenStore { index, starts, token_ids, num_desirable, num_tokens, digest }, report))
}

fn read_tokens(dir: &Path, header: &Header) -> Result<Vec<u32>, DataError> {
    let path = dir.join(TOKENS_FILE);
    let damaged = |message: String| DataError::DamagedStore { path: dir.to_owned(), message };
    let mut file = File::open(&path).map_err(|error| unreadable(dir, TOKENS_FILE, error))?;
    let found = file.metadata().map_err(|error| unreadable(dir, TOKENS_FILE, error))?.len();
    if Some(found) != header.num_tokens.checked_mul(TOKEN_BYTES as u64) {
        return Err(damaged(format!(
            "it has {found} bytes of tokens, expected {} tokens",
            header.num_tokens
        )));
    }
    let mut token_ids = Vec::with_capacity(header.num_tokens as usize);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut left = found as usize;
    while left > 0 {
        let part = left.min(buffer.len());
        let bytes = &mut buffer[..part];
        file.read_exact(bytes).map_err(|error| unreadable(dir, TOKENS_FILE, error))?;
        hasher.update(bytes);
        token_ids
            .extend(bytes.as_chunks::<TOKEN_BYTES>().0.iter().map(|id| u32::from_le_bytes(*id)));
        left -= part;
    }
    if *hasher.finalize().as_bytes() != header.tokens_hash {
        return Err(damaged("the checksum of the tokens does not fit".to_owned()));
    }
    Ok(token_ids)
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>, DataError> {
    fs::read(dir.join(name)).map_err(|error| unreadable(dir, name, error))
}

/// A part that is missing is damage, which building anew mends; another error is the disk's.
fn unreadable(dir: &Path, name: &str, error: io::Error) -> DataError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::UnexpectedEof => {
            DataError::DamagedStore { path: dir.to_owned(), message: format!("{name}: {error}") }
        }
        _ => DataError::Store { path: dir.join(name), action: "reading", source: error },
    }
}
