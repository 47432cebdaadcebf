//! The weights of a model as they lie in its files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Content of the weights files of a model's directory, by name.
///
/// # Panics
/// Where there are none, or one cannot be read.
pub fn weights(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    assert!(!files.is_empty(), "{} holds no weights", dir.display());
    files
}
