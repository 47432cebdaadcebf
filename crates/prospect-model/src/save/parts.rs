//! Weights in several files, which several processes may write, and the index that makes one model
//! of them.

use std::path::Path;

use serde_json::{Map, Value, json};
use tch::Tensor;

use super::{check_tensors, refuse_source, write_json, write_rest};
use crate::checkpoint::{INDEX_FILE, SINGLE_FILE, TensorsFile, WeightsFile};
use crate::config::ModelConfig;
use crate::error::{ModelError, TorchContext};
use crate::model::CausalLm;

/// One of the weights files of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelPart {
    /// Which one it is, from 0.
    pub idx: usize,
    /// How many there are.
    pub num_parts: usize,
}

/// What the headers of all weights files of a directory tell.
pub(super) struct Headers {
    num_parts: usize,
    /// Name and a view of every tensor, nothing of which is read.
    tensors: Vec<(String, Tensor)>,
    /// Which file holds a tensor.
    places: Map<String, Value>,
}

impl ModelPart {
    /// Name of the file in the model's directory, as transformers counts them: from 1.
    pub fn file_name(self) -> String {
        match self {
            Self { num_parts: 1, .. } => SINGLE_FILE.to_owned(),
            Self { idx, num_parts } => {
                format!("model-{:05}-of-{num_parts:05}.safetensors", idx + 1)
            }
        }
    }
}

impl CausalLm {
    /// Writes one of several weights files into `dir`, which has to be there, durably.
    /// [`complete_parts`](Self::complete_parts) makes a model of them.
    ///
    /// # Errors
    /// A tensor of a type that checkpoints do not have; storage that is full, read-only or failing.
    pub fn save_part(
        dir: &Path,
        part: ModelPart,
        tensors: &[(String, Tensor)],
    ) -> Result<(), ModelError> {
        write_part(dir, part, tensors)
    }

    /// Makes a model like the one in `source_dir` of the `num_parts` weights files in `dir`: holds
    /// names, shapes and types that their headers tell, and their sizes, against the configuration,
    /// and writes the index, the files of the tokenizer and, last, the configuration. Every file and
    /// `dir` itself are durable when this returns.
    ///
    /// # Errors
    /// A file that is missing or cut off; a parameter that is in none of them or in two, is unknown
    /// or of the wrong shape; mixed types; `dir` being `source_dir`; storage that is full, read-only
    /// or failing.
    pub fn complete_parts(
        source_dir: &Path,
        dir: &Path,
        num_parts: usize,
    ) -> Result<(), ModelError> {
        refuse_source(source_dir, dir)?;
        let config = ModelConfig::read(source_dir)?;
        let headers = Headers::read(dir, num_parts)?;
        let kind = check_tensors(&config, &headers.tensors)?;
        headers.write_index(dir)?;
        write_rest(source_dir, dir, kind)
    }
}

/// Writes a weights file.
pub(super) fn write_part(
    dir: &Path,
    part: ModelPart,
    tensors: &[(String, Tensor)],
) -> Result<(), ModelError> {
    let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    TensorsFile { tensors }.write(&dir.join(part.file_name()))
}

impl Headers {
    pub(super) fn read(dir: &Path, num_parts: usize) -> Result<Self, ModelError> {
        let (mut tensors, mut places) = (Vec::new(), Map::new());
        for idx in 0..num_parts {
            let name = ModelPart { idx, num_parts }.file_name();
            let file =
                WeightsFile::open(&dir.join(&name), "one of the model's files was not written")?;
            for tensor in file.names() {
                let shape = file.shape(&tensor);
                tensors.push((tensor.clone(), file.tensor(&tensor, &shape)?));
                places.insert(tensor, json!(name));
            }
        }
        Ok(Self { num_parts, tensors, places })
    }

    /// Writes the map of tensors to files; a single file needs none.
    pub(super) fn write_index(self, dir: &Path) -> Result<(), ModelError> {
        if self.num_parts == 1 {
            return Ok(());
        }
        let mut total_bytes = 0;
        for (_, tensor) in &self.tensors {
            let kind = tensor.f_kind().action("read a tensor's type")?;
            total_bytes += tensor.numel() * kind.elt_size_in_bytes();
        }
        let index = json!({"metadata": {"total_size": total_bytes}, "weight_map": self.places});
        write_json(&dir.join(INDEX_FILE), &index)
    }
}
