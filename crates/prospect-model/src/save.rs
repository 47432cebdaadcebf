//! From a model to a Hugging Face directory that transformers loads: weights, the configuration
//! with the saved type, and the files of tokenizer and generation as they were.

mod parts;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

pub use self::parts::ModelPart;
use self::parts::{Headers, write_part};
use crate::checkpoint::{INDEX_FILE, SINGLE_FILE, write_file};
use crate::config::{CONFIG_FILE, ModelConfig, read_object};
use crate::error::{ModelError, TorchContext};
use crate::model::CausalLm;
use crate::spec;

/// Above this, weights are split into several files.
const MAX_SHARD_BYTES: usize = 5_000_000_000;

/// Files that belong to a model but not to its weights; those that the source has are copied.
const COMPANIONS: [&str; 11] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// The type that weights are saved in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveType {
    /// The type that the model computes in.
    Compute,
    /// fp32.
    Float32,
    /// bf16.
    Bfloat16,
    /// fp16.
    Float16,
}

impl CausalLm {
    /// Saves the model into `dir`, which is created if it does not exist.
    ///
    /// # Errors
    /// As [`save_tensors`](Self::save_tensors).
    pub fn save(&self, dir: &Path, dtype: SaveType) -> Result<(), ModelError> {
        let _no_grad = tch::no_grad_guard();
        let kind = match dtype {
            SaveType::Compute => self.kind,
            SaveType::Float32 => Kind::Float,
            SaveType::Bfloat16 => Kind::BFloat16,
            SaveType::Float16 => Kind::Half,
        };
        let mut tensors = Vec::new();
        for parameter in self.segments.iter().flatten() {
            let tensor = parameter.tensor.f_to_kind(kind).action("round a parameter")?;
            tensors.push((parameter.name.clone(), tensor));
        }
        Self::save_tensors(&self.source_dir, dir, &tensors)
    }

    /// Saves `tensors` under their checkpoint names as the weights of a model like the one in
    /// `source_dir`, with its configuration and the files of its tokenizer. They must be all of
    /// the model's parameters, all of one type. Every file and `dir` itself are durable when this
    /// returns.
    ///
    /// # Errors
    /// A parameter that is missing, unknown or of the wrong shape; mixed types; `dir` being
    /// `source_dir`; storage that is full, read-only or failing.
    pub fn save_tensors(
        source_dir: &Path,
        dir: &Path,
        tensors: &[(String, Tensor)],
    ) -> Result<(), ModelError> {
        Self::save_shards(source_dir, dir, tensors, MAX_SHARD_BYTES)
    }

    /// As [`save_tensors`](Self::save_tensors), with the size in bytes above which weights are split
    /// into several files (a tensor is never split).
    ///
    /// # Errors
    /// As [`save_tensors`](Self::save_tensors).
    pub fn save_shards(
        source_dir: &Path,
        dir: &Path,
        tensors: &[(String, Tensor)],
        max_shard_bytes: usize,
    ) -> Result<(), ModelError> {
        save_shards(source_dir, dir, tensors, max_shard_bytes)
    }
}

fn save_shards(
    source_dir: &Path,
    dir: &Path,
    tensors: &[(String, Tensor)],
    max_shard_bytes: usize,
) -> Result<(), ModelError> {
    let config = ModelConfig::read(source_dir)?;
    let kind = check_tensors(&config, tensors)?;
    fs::create_dir_all(dir).map_err(|source| ModelError::write(dir, source))?;
    refuse_source(source_dir, dir)?;
    remove_weights(dir)?;
    write_weights(dir, tensors, max_shard_bytes)?;
    write_rest(source_dir, dir, kind)
}

/// Writes what belongs to a model beside its weights, the configuration last, and makes the
/// directory durable.
fn write_rest(source_dir: &Path, dir: &Path, kind: Kind) -> Result<(), ModelError> {
    copy_companions(source_dir, dir)?;
    let (_, object) = read_object(source_dir)?;
    write_json(&dir.join(CONFIG_FILE), &Value::Object(with_dtype(object, kind)))?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    for directory in [Some(dir), parent].into_iter().flatten() {
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| ModelError::write(directory, source))?;
    }
    Ok(())
}

/// The common type of tensors that are exactly the model's parameters.
fn check_tensors(config: &ModelConfig, tensors: &[(String, Tensor)]) -> Result<Kind, ModelError> {
    let specs: Vec<_> = spec::segments(config).into_iter().flatten().collect();
    for spec in &specs {
        let Some((name, tensor)) = tensors.iter().find(|(name, _)| *name == spec.name) else {
            let expected = format!("the model has a parameter {:?}", spec.name);
            return Err(ModelError::argument("tensors", "incomplete", expected));
        };
        if tensor.size() != spec.shape {
            let (argument, found) = (format!("the shape of {name:?}"), tensor.size());
            let expected = format!("the configuration gives it {:?}", spec.shape);
            return Err(ModelError::argument(argument, format!("{found:?}"), expected));
        }
    }
    if let Some((name, _)) =
        tensors.iter().find(|(name, _)| specs.iter().all(|spec| spec.name != *name))
    {
        let expected = "the configuration has no place for it";
        return Err(ModelError::argument("a tensor's name", format!("{name:?}"), expected));
    }
    if tensors.len() != specs.len() {
        let expected = format!("the model has {} parameters", specs.len());
        return Err(ModelError::argument("number of tensors", tensors.len(), expected));
    }
    let mut kinds = Vec::new();
    for (_, tensor) in tensors {
        kinds.push(tensor.f_kind().action("read a tensor's type")?);
    }
    match kinds.iter().find(|kind| **kind != kinds[0]) {
        None => Ok(kinds[0]),
        Some(other) => {
            let found = format!("{:?} and {other:?}", kinds[0]);
            Err(ModelError::argument("the type of the tensors", found, "they must be of one type"))
        }
    }
}

/// Saving over the files that a model was loaded from would lose them on a failure.
fn refuse_source(source_dir: &Path, dir: &Path) -> Result<(), ModelError> {
    let same = match (fs::canonicalize(source_dir), fs::canonicalize(dir)) {
        (Ok(source), Ok(target)) => source == target,
        _ => false,
    };
    if same {
        let expected = "that is where the model was loaded from; give another directory";
        return Err(ModelError::argument("the directory to save to", dir.display(), expected));
    }
    Ok(())
}

/// Removes weights of an earlier save, which would be mixed with the new ones.
fn remove_weights(dir: &Path) -> Result<(), ModelError> {
    let write_error = |source: io::Error| ModelError::write(dir, source);
    for entry in fs::read_dir(dir).map_err(write_error)? {
        let entry = entry.map_err(write_error)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let shard = name.starts_with("model-") && name.ends_with(".safetensors");
        if shard || name == SINGLE_FILE || name == INDEX_FILE {
            fs::remove_file(entry.path())
                .map_err(|source| ModelError::write(&entry.path(), source))?;
        }
    }
    Ok(())
}

fn write_weights(
    dir: &Path,
    tensors: &[(String, Tensor)],
    max_shard_bytes: usize,
) -> Result<(), ModelError> {
    let mut parts: Vec<&[(String, Tensor)]> = Vec::new();
    let (mut begin, mut part_bytes) = (0, 0);
    for (idx, (_, tensor)) in tensors.iter().enumerate() {
        let kind = tensor.f_kind().action("read a tensor's type")?;
        let bytes = tensor.numel() * kind.elt_size_in_bytes();
        if part_bytes > 0 && part_bytes + bytes > max_shard_bytes {
            parts.push(&tensors[begin..idx]);
            (begin, part_bytes) = (idx, 0);
        }
        part_bytes += bytes;
    }
    parts.push(&tensors[begin..]);
    let num_parts = parts.len();
    for (idx, part) in parts.into_iter().enumerate() {
        write_part(dir, ModelPart { idx, num_parts }, part)?;
    }
    Headers::read(dir, num_parts)?.write_index(dir)
}

fn copy_companions(source_dir: &Path, dir: &Path) -> Result<(), ModelError> {
    for name in COMPANIONS {
        let (source, target) = (source_dir.join(name), dir.join(name));
        let content = match fs::read(&source) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(ModelError::Read { path: source, source: error }),
        };
        write_file(&target, |writer| {
            writer.write_all(&content).map_err(|source| ModelError::write(&target, source))
        })?;
    }
    Ok(())
}

/// The configuration with the saved type, under the name that the source uses for it.
fn with_dtype(mut object: Map<String, Value>, kind: Kind) -> Map<String, Value> {
    let name = json!(match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    });
    let old_form = object.contains_key("torch_dtype");
    if old_form {
        object.insert("torch_dtype".to_owned(), name.clone());
    }
    if !old_form || object.contains_key("dtype") {
        object.insert("dtype".to_owned(), name);
    }
    object
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    write_file(path, |writer| {
        serde_json::to_writer_pretty(&mut *writer, value)
            .map_err(io::Error::from)
            .and_then(|()| writer.write_all(b"\n"))
            .map_err(|source| ModelError::write(path, source))
    })
}
