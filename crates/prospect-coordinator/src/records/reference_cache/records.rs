//! Files of fixed-size records, each with its own checksum.

use crate::crc32c::crc32c;

/// Bytes of a checksum.
pub(super) const CHECKSUM_BYTES: usize = 4;

/// Puts the checksum of what stands before it at the end of a record.
pub(super) fn seal(record: &mut [u8]) {
    let (content, place) = record.split_at_mut(record.len() - CHECKSUM_BYTES);
    place.copy_from_slice(&crc32c(content).to_le_bytes());
}

/// The values of all records of `record_bytes` bytes, in order. What stands behind the last good
/// one is what a crash has left, or what a writer is just writing, and is passed over.
///
/// # Errors
/// Index of a record that is damaged and has a good one behind it.
pub(super) fn read<T>(
    bytes: &[u8],
    record_bytes: usize,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, usize> {
    let decode = |record: &[u8]| {
        let (content, checksum) = record.split_at(record_bytes - CHECKSUM_BYTES);
        (checksum == crc32c(content).to_le_bytes()).then(|| decode(content)).flatten()
    };
    let mut values = Vec::with_capacity(bytes.len() / record_bytes);
    let mut damaged = None;
    for (idx, record) in bytes.chunks_exact(record_bytes).enumerate() {
        match (decode(record), damaged) {
            (Some(_), Some(damaged)) => return Err(damaged),
            (Some(value), None) => values.push(value),
            (None, _) => damaged = damaged.or(Some(idx)),
        }
    }
    Ok(values)
}
