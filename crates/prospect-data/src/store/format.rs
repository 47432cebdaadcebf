//! The bytes of a store's files, all numbers little-endian.
//!
//! `index.bin` is a header of 160 bytes and 40 bytes a row; `tokens.bin` is 4
//! bytes a token; `report.json` is the report. The header holds the hash of
//! each part and of itself.

use prospect_core::Label;

pub(super) const INDEX_FILE: &str = "index.bin";
pub(super) const TOKENS_FILE: &str = "tokens.bin";
pub(super) const REPORT_FILE: &str = "report.json";

/// Grows whenever the files or the meaning of their content change.
pub(super) const FORMAT_VERSION: u32 = 2;

const MAGIC: [u8; 8] = *b"PRSPCTTS";
const HASHED_HEADER_BYTES: usize = 128;
pub(super) const HEADER_BYTES: usize = HASHED_HEADER_BYTES + 32;
pub(super) const ROW_BYTES: usize = 40;
pub(super) const TOKEN_BYTES: usize = 4;

type Hash = [u8; 32];

/// What the index file begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub num_rows: u64,
    pub num_tokens: u64,
    pub rows_hash: Hash,
    pub tokens_hash: Hash,
    pub report_hash: Hash,
}

/// A row without its tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct IndexRow {
    pub prompt_len: u32,
    pub completion_len: u32,
    pub label: Label,
    pub weight: f64,
    pub prompt_hash: u64,
    pub completion_hash: u64,
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((ROW_BYTES as u32).to_le_bytes());
        bytes.extend(self.num_rows.to_le_bytes());
        bytes.extend(self.num_tokens.to_le_bytes());
        for hash in [&self.rows_hash, &self.tokens_hash, &self.report_hash] {
            bytes.extend(hash);
        }
        let own = blake3::hash(&bytes);
        bytes.extend(own.as_bytes());
        bytes
    }

    /// # Errors
    /// What does not fit.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < HEADER_BYTES {
            return Err(format!(
                "the index has {} bytes, its header alone {HEADER_BYTES}",
                bytes.len()
            ));
        }
        let (hashed, own) = bytes[..HEADER_BYTES].split_at(HASHED_HEADER_BYTES);
        let mut fields = Fields(hashed);
        if fields.take::<8>() != MAGIC {
            return Err("the index does not begin as one".to_owned());
        }
        if blake3::hash(hashed).as_bytes() != own {
            return Err("the header's checksum does not fit".to_owned());
        }
        let (version, row_bytes) =
            (u32::from_le_bytes(fields.take()), u32::from_le_bytes(fields.take()));
        if (version, row_bytes as usize) != (FORMAT_VERSION, ROW_BYTES) {
            return Err(format!("it has version {version}, expected {FORMAT_VERSION}"));
        }
        Ok(Self {
            num_rows: u64::from_le_bytes(fields.take()),
            num_tokens: u64::from_le_bytes(fields.take()),
            rows_hash: fields.take(),
            tokens_hash: fields.take(),
            report_hash: fields.take(),
        })
    }
}

impl IndexRow {
    pub fn num_tokens(&self) -> usize {
        self.prompt_len as usize + self.completion_len as usize
    }

    pub fn encode(&self) -> [u8; ROW_BYTES] {
        let mut bytes = [0; ROW_BYTES];
        bytes[0..4].copy_from_slice(&self.prompt_len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.completion_len.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.weight.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.prompt_hash.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.completion_hash.to_le_bytes());
        bytes[32] = u8::from(self.label.is_desirable());
        bytes
    }

    pub fn decode(bytes: &[u8; ROW_BYTES]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            prompt_len: u32::from_le_bytes(fields.take()),
            completion_len: u32::from_le_bytes(fields.take()),
            weight: f64::from_le_bytes(fields.take()),
            prompt_hash: u64::from_le_bytes(fields.take()),
            completion_hash: u64::from_le_bytes(fields.take()),
            label: Label::from(fields.take::<1>() != [0]),
        }
    }
}

/// Bytes of fixed-size fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the caller checked the length");
        self.0 = rest;
        *field
    }
}
