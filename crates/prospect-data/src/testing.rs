//! What the tests share: model directories made of the fixtures, data files in
//! temporary directories, configurations.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use prospect_core::{Columns, DataConfig, Order, Overlong};
use serde_json::Value;
use tempfile::TempDir;

/// Folder of the fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The expected texts and tokens that `make_fixtures.py` wrote.
pub(crate) fn expected() -> Value {
    serde_json::from_slice(&fs::read(fixtures().join("expected.json")).unwrap()).unwrap()
}

/// Families whose template is that of the TRL package, unchanged.
const FROM_TRL: [&str; 3] = ["qwen2_5", "qwen3", "llama3"];

/// A template of the TRL package in the workspace's environment.
fn trl_template(family: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let place = format!(".venv/lib/python3*/site-packages/trl/chat_templates/{family}.jinja");
    let pattern = root.join(&place);
    let found = glob::glob(pattern.to_str().unwrap()).unwrap().next();
    found.unwrap_or_else(|| panic!("{place} is missing: run `make setup`")).unwrap()
}

/// A model directory of a family, without weights.
pub(crate) fn model_dir(family: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in fixtures().join(family).read_dir().unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    if FROM_TRL.contains(&family) {
        fs::copy(trl_template(family), dir.path().join("chat_template.jinja")).unwrap();
    }
    let tokenizer =
        if family.starts_with("llama3") { "tokenizer-bos.json" } else { "tokenizer.json" };
    fs::copy(fixtures().join(tokenizer), dir.path().join("tokenizer.json")).unwrap();
    dir
}

/// Writes a file of the directory and gives its path.
pub(crate) fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// One JSON object a line.
pub(crate) fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// The usual configuration.
pub(crate) fn config() -> DataConfig {
    DataConfig {
        train: Vec::new(),
        eval: Vec::new(),
        max_length: 1024,
        order: Order::default(),
        columns: Columns::default(),
        label_threshold: None,
        overlong: Overlong::default(),
        skip_bad_rows: false,
        cache_dir: None,
    }
}
