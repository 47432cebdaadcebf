//! One safetensors file, memory-mapped: its header checked once, its tensors read on demand.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tch::{Device, Kind, TchError, Tensor};

use crate::error::{ModelError, TorchContext};

/// Bytes before the header: its length.
const LENGTH_BYTES: usize = 8;
/// The format's own bound for headers.
const MAX_HEADER_BYTES: usize = 100_000_000;
const FORMAT: &str = "a valid safetensors file";

/// An open weights file.
pub(crate) struct WeightsFile {
    path: PathBuf,
    metadata: Metadata,
    /// The whole file as bytes. It is mapped copy-on-write and never written to.
    bytes: Tensor,
    /// Where the tensors' data begins.
    data_start: usize,
}

impl WeightsFile {
    /// Opens and checks a file. `advice` says what to change if there is none.
    pub(crate) fn open(path: &Path, advice: &'static str) -> Result<Self, ModelError> {
        let read_error = |source| ModelError::read(path, advice, source);
        let mut file = File::open(path).map_err(read_error)?;
        let file_len = file.metadata().map_err(read_error)?.len() as usize;
        let malformed = |message: String| ModelError::Malformed {
            path: path.to_owned(),
            format: FORMAT,
            message,
        };
        if file_len < LENGTH_BYTES {
            return Err(malformed(format!("it has only {file_len} bytes")));
        }
        let mut length = [0; LENGTH_BYTES];
        file.read_exact(&mut length).map_err(read_error)?;
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_HEADER_BYTES.min(file_len - LENGTH_BYTES) {
            let message = format!("its header claims {length} bytes, the file has {file_len}");
            return Err(malformed(message));
        }
        let mut header = vec![0; length];
        file.read_exact(&mut header).map_err(read_error)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| malformed(format!("its header cannot be read: {error}")))?;
        let data_start = LENGTH_BYTES + length;
        let expected = data_start + metadata.data_len();
        if expected != file_len {
            let message = format!("its header describes {expected} bytes, the file has {file_len}");
            return Err(malformed(message));
        }
        let Some(name) = path.to_str() else {
            return Err(ModelError::argument("path", path.display(), "it must be valid UTF-8"));
        };
        let bytes = Tensor::f_from_file(name, false, file_len as i64, (Kind::Uint8, Device::Cpu))
            .action("map a weights file")?;
        Ok(Self { path: path.to_owned(), metadata, bytes, data_start })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, in the order of the file.
    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// The shape of a tensor of this file; empty for one that it does not hold.
    pub(crate) fn shape(&self, name: &str) -> Vec<i64> {
        self.metadata.info(name).map(shape).unwrap_or_default()
    }

    /// Checks a tensor against `expected` and gives it as a view of the mapped file.
    pub(crate) fn tensor(&self, name: &str, expected: &[i64]) -> Result<Tensor, ModelError> {
        let Some(info) = self.metadata.info(name) else {
            return Err(ModelError::MissingTensor {
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                path: self.path.clone(),
            });
        };
        let found = shape(info);
        if found != expected {
            return Err(ModelError::WrongShape {
                tensor: name.to_owned(),
                found,
                expected: expected.to_vec(),
                path: self.path.clone(),
            });
        }
        let kind = match info.dtype {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            other => {
                return Err(ModelError::WrongDtype {
                    tensor: name.to_owned(),
                    found: other.to_string(),
                    expected: "F32, F16 or BF16",
                    path: self.path.clone(),
                });
            }
        };
        self.view(info, kind, &found).action("read a tensor out of a weights file")
    }

    fn view(&self, info: &TensorInfo, kind: Kind, shape: &[i64]) -> Result<Tensor, TchError> {
        let (begin, end) = info.data_offsets;
        let begin = self.data_start + begin;
        let bytes = self.bytes.f_narrow(0, begin as i64, (self.data_start + end - begin) as i64)?;
        // A header of odd length puts the data where it cannot be viewed as numbers.
        let aligned = begin.is_multiple_of(kind.elt_size_in_bytes());
        let bytes = if aligned { bytes } else { bytes.f_to_dtype(Kind::Uint8, false, true)? };
        bytes.f_view_dtype(kind)?.f_view(shape)
    }
}

fn shape(info: &TensorInfo) -> Vec<i64> {
    info.shape.iter().map(|&size| size as i64).collect()
}
