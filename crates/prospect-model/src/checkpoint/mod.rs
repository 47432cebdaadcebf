//! The weights of a model directory: one safetensors file, or an index with its files.

mod file;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::Tensor;

pub(crate) use file::WeightsFile;
pub(crate) use write::{TensorsFile, write_file};

use crate::error::ModelError;
use crate::spec;

/// The weights, if they are in one file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// The map of tensors to files, if they are in several.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// All weights files of a directory.
pub(crate) struct Checkpoint {
    /// What is named in messages about the checkpoint as a whole: the file or the index.
    path: PathBuf,
    files: Vec<WeightsFile>,
    /// Which file holds a tensor.
    places: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the weights of a directory; as in transformers, a single file goes before an index.
    pub(crate) fn open(dir: &Path) -> Result<Self, ModelError> {
        let (single, index) = (dir.join(SINGLE_FILE), dir.join(INDEX_FILE));
        if !single.exists() && index.exists() {
            return Self::open_index(index);
        }
        let file = WeightsFile::open(
            &single,
            "the directory needs model.safetensors, or model.safetensors.index.json and its files",
        )?;
        let places = file.names().into_iter().map(|name| (name, 0)).collect();
        Ok(Self { path: single, files: vec![file], places })
    }

    fn open_index(path: PathBuf) -> Result<Self, ModelError> {
        let malformed = |message: String| ModelError::Malformed {
            path: path.clone(),
            format: "a valid index",
            message,
        };
        let text = fs::read(&path)
            .map_err(|source| ModelError::read(&path, "it was there a moment ago", source))?;
        let index: Index =
            serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        let mut shards: Vec<&String> = index.weight_map.values().collect();
        shards.sort_unstable();
        shards.dedup();
        let mut files = Vec::new();
        for shard in &shards {
            if Path::new(shard).components().count() != 1 || shard.starts_with('.') {
                return Err(malformed(format!("{shard:?} is not the name of a file beside it")));
            }
            let file = path.with_file_name(shard);
            if !file.exists() {
                return Err(ModelError::MissingShard { index: path, file: shard.to_string() });
            }
            files.push(WeightsFile::open(&file, "the index names it")?);
        }
        let mut places = BTreeMap::new();
        for (tensor, shard) in &index.weight_map {
            let place = shards.binary_search(&shard).expect("all shards of the map were listed");
            if !files[place].contains(tensor) {
                let (tensor, file) = (tensor.clone(), shard.clone());
                return Err(ModelError::WrongShard { tensor, file, index: path });
            }
            places.insert(tensor.clone(), place);
        }
        // A tensor that only the files know of must not be passed over.
        for (place, file) in files.iter().enumerate() {
            for tensor in file.names() {
                places.entry(tensor).or_insert(place);
            }
        }
        Ok(Self { path, files, places })
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The file that holds a tensor; the checkpoint's main file for one that it does not hold.
    pub(crate) fn path_of(&self, name: &str) -> &Path {
        self.places.get(name).map_or(&self.path, |&place| self.files[place].path())
    }

    /// A tensor as a view of its file, in the file's type.
    pub(crate) fn tensor(&self, name: &str, expected: &[i64]) -> Result<Tensor, ModelError> {
        let Some(&place) = self.places.get(name) else {
            return Err(ModelError::MissingTensor {
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                path: self.path.clone(),
            });
        };
        self.files[place].tensor(name, expected)
    }

    /// Refuses tensors that `known` does not name, other than those that follow from the
    /// configuration.
    pub(crate) fn refuse_unknown(&self, known: &dyn Fn(&str) -> bool) -> Result<(), ModelError> {
        let unknown = self.places.iter().find(|(name, _)| !known(name) && !spec::is_derived(name));
        let Some((name, &place)) = unknown else { return Ok(()) };
        Err(ModelError::UnknownTensor {
            tensor: name.clone(),
            found: self.files[place].shape(name),
            path: self.files[place].path().to_owned(),
        })
    }
}
