//! Optimizer state as a safetensors file, written and read piece by piece, so that neither needs a
//! second copy of it in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::manifest::FileRecord;
use crate::TrainError;
use crate::parameters::Numbers;
use crate::progress::Progress;

/// Longest header that is read: far above what any model needs.
const MAX_HEADER_BYTES: u64 = 100 << 20;

/// Bytes that are read at once, or written before they are made durable.
const PIECE_BYTES: usize = 64 << 20;

/// The only type that is written.
const DTYPE: &str = "F32";

/// An open file whose header was read.
pub(crate) struct TensorsFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    entries: BTreeMap<String, Entry>,
}

/// One tensor of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    dtype: String,
    shape: Vec<i64>,
    data_offsets: [u64; 2],
}

/// Writes f32 tensors under their names. Each piece is durable before the next one is begun, so
/// that no wait for the disk is long. Returns size and digest of what was written.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    progress: &Progress,
) -> Result<FileRecord, TrainError> {
    let mut header = Map::new();
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += 4 * tensor.numel() as u64;
        let entry = Entry { dtype: DTYPE.into(), shape: tensor.size(), data_offsets: [start, end] };
        let entry = serde_json::to_value(entry).map_err(|error| encoding(path, &error))?;
        header.insert(name.clone(), entry);
    }
    let mut header =
        serde_json::to_vec(&Value::Object(header)).map_err(|error| encoding(path, &error))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let storage = |error| TrainError::storage("write", path)(error);
    let mut file = BufWriter::new(File::create(path).map_err(storage)?);
    let mut hasher = Sha256::new();
    for piece in [&(header.len() as u64).to_le_bytes()[..], &header] {
        file.write_all(piece).map_err(storage)?;
        hasher.update(piece);
    }
    let mut num_waiting = 0;
    for (_, tensor) in tensors {
        for piece in bytes(tensor)?.chunks(PIECE_BYTES) {
            file.write_all(piece).map_err(storage)?;
            hasher.update(piece);
            num_waiting += piece.len();
            if num_waiting >= PIECE_BYTES {
                file.flush().and_then(|()| file.get_ref().sync_data()).map_err(storage)?;
                num_waiting = 0;
            }
            progress.tick();
        }
    }
    file.flush().map_err(storage)?;
    Ok(FileRecord::new(8 + header.len() as u64 + end, &hasher.finalize()))
}

/// The elements of an f32 tensor as bytes.
pub(crate) fn bytes(tensor: &Tensor) -> Result<Vec<u8>, TrainError> {
    let mut bytes = vec![0; 4 * tensor.numel()];
    tensor.f_to_kind(Kind::Float)?.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}

// === impl TensorsFile ===

impl TensorsFile {
    /// Opens a file that [`write_tensors`] wrote.
    pub(crate) fn open(path: &Path) -> Result<Self, TrainError> {
        let mut file = File::open(path).map_err(unreadable(path))?;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(unreadable(path))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES {
            return Err(TrainError::damaged(path, format!("has a header of {length} bytes")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(unreadable(path))?;
        let entries = serde_json::from_slice(&header)
            .map_err(|error| TrainError::damaged(path, format!("has a bad header: {error}")))?;
        Ok(Self { path: path.to_owned(), file, data_start: 8 + length, entries })
    }

    /// Finds a tensor, which must have this shape, and forgets it.
    pub(crate) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Entry, TrainError> {
        let Some(entry) = self.entries.remove(name) else {
            return Err(TrainError::damaged(&self.path, format!("holds no tensor {name:?}")));
        };
        let expected = (DTYPE, shape, 4 * shape.iter().product::<i64>() as u64);
        let [start, end] = entry.data_offsets;
        let found = (entry.dtype.as_str(), entry.shape.as_slice(), end.saturating_sub(start));
        if found != expected {
            let path = self.path.clone();
            let [found, expected] = [found, expected].map(|(dtype, shape, bytes)| {
                format!("{name} of {dtype} {shape:?} in {bytes} bytes")
            });
            return Err(TrainError::Incompatible { path, key: "tensor", found, expected });
        }
        Ok(entry)
    }

    /// Copies elements of a tensor that was found, counted in memory order, into the flat
    /// `destination`, which has room for as many.
    pub(crate) fn read(
        &mut self,
        entry: &Entry,
        elements: Range<i64>,
        destination: &Numbers,
    ) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let skipped = 4 * elements.start as u64;
        // Past any file, and so its end, where the sum would be past any number.
        let place = self.data_start.saturating_add(entry.data_offsets[0]).saturating_add(skipped);
        let place = SeekFrom::Start(place.min(i64::MAX as u64));
        self.file.seek(place).map_err(unreadable(&self.path))?;
        let piece_len = (PIECE_BYTES / 4) as i64;
        let mut bytes = Vec::new();
        for start in elements.clone().step_by(piece_len as usize) {
            let len = piece_len.min(elements.end - start);
            bytes.resize(4 * len as usize, 0);
            self.file.read_exact(&mut bytes).map_err(unreadable(&self.path))?;
            let piece = Tensor::f_from_data_size(&bytes, &[len], Kind::Float)?;
            let place = start - elements.start;
            destination.narrowed(&(place..place + len))?.write(&piece)?;
        }
        Ok(())
    }

    /// Refuses tensors that nobody took.
    pub(crate) fn finish(self) -> Result<(), TrainError> {
        match self.entries.into_keys().next() {
            Some(name) => Err(TrainError::Incompatible {
                path: self.path,
                key: "tensor",
                found: name,
                expected: "no such tensor".into(),
            }),
            None => Ok(()),
        }
    }
}

/// What a file that cannot be read, is not there or ends early means.
pub(crate) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> TrainError {
    let path = path.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            TrainError::damaged(&path, "is missing")
        }
        io::ErrorKind::UnexpectedEof => TrainError::damaged(&path, "ends early"),
        _ => TrainError::storage("read", &path)(error),
    }
}

fn encoding(path: &Path, error: &serde_json::Error) -> TrainError {
    TrainError::damaged(path, format!("cannot be encoded: {error}"))
}
