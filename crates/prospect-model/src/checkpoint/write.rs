//! Writes files so that a reader never sees half of one: into a hidden neighbour, synced, renamed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, TorchContext};

/// The content of one safetensors file.
pub(crate) struct TensorsFile<'a> {
    /// Names and tensors, all of one of the types that checkpoints may have.
    pub(crate) tensors: Vec<(&'a str, &'a Tensor)>,
}

/// Writes a file with `fill`, durably and as a whole or not at all.
pub(crate) fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let result = write_partial(&partial, fill).and_then(|()| {
        fs::rename(&partial, path).map_err(|source| ModelError::write(path, source))
    });
    if result.is_err() {
        // What is wrong was found already; a leftover is hidden and will be overwritten.
        let _ = fs::remove_file(&partial);
    }
    result
}

fn write_partial(
    partial: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let write_error = |source| ModelError::write(partial, source);
    let file = File::create(partial).map_err(write_error)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    fill(&mut writer)?;
    let file = writer.into_inner().map_err(|error| write_error(error.into_error()))?;
    file.sync_all().map_err(write_error)
}

impl TensorsFile<'_> {
    /// Writes the header and then one tensor after the other, holding one on the host at a time.
    pub(crate) fn write(&self, path: &Path) -> Result<(), ModelError> {
        let header = self.header(path)?;
        write_file(path, |writer| {
            let write_error = |source: io::Error| ModelError::write(path, source);
            writer.write_all(&(header.len() as u64).to_le_bytes()).map_err(write_error)?;
            writer.write_all(&header).map_err(write_error)?;
            for (_, tensor) in &self.tensors {
                let bytes = bytes(tensor).action("copy a tensor to the host")?;
                writer.write_all(&bytes).map_err(write_error)?;
            }
            Ok(())
        })
    }

    fn header(&self, path: &Path) -> Result<Vec<u8>, ModelError> {
        let mut offset = 0;
        let mut infos = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            let kind = tensor.f_kind().action("read a tensor's type")?;
            let begin = offset;
            offset += tensor.numel() * kind.elt_size_in_bytes();
            let shape = tensor.size().iter().map(|&size| size as usize).collect();
            let info =
                TensorInfo { dtype: dtype(name, kind)?, shape, data_offsets: (begin, offset) };
            infos.push(((*name).to_owned(), info));
        }
        let malformed = |message: String| ModelError::Malformed {
            path: path.to_owned(),
            format: "a valid safetensors file",
            message,
        };
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let metadata =
            Metadata::new(Some(format), infos).map_err(|error| malformed(error.to_string()))?;
        let mut header =
            serde_json::to_vec(&metadata).map_err(|error| malformed(error.to_string()))?;
        // Data that begins at a multiple of 8 can be mapped as numbers.
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(header)
    }
}

fn dtype(name: &str, kind: Kind) -> Result<Dtype, ModelError> {
    match kind {
        Kind::Float => Ok(Dtype::F32),
        Kind::Half => Ok(Dtype::F16),
        Kind::BFloat16 => Ok(Dtype::BF16),
        other => {
            let expected = "checkpoints hold Float, Half or BFloat16";
            Err(ModelError::argument(
                format!("the type of {name:?}"),
                format!("{other:?}"),
                expected,
            ))
        }
    }
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>, tch::TchError> {
    let tensor = tensor.f_detach()?.f_to(Device::Cpu)?.f_contiguous()?;
    let numel = tensor.numel();
    let mut bytes = vec![0; numel * tensor.f_kind()?.elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, numel)?;
    Ok(bytes)
}
