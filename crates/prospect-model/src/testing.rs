//! What the tests share: the fixtures, copies of them to damage, and the comparison of tensors.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use crate::{CausalLm, ComputeType, LoadOptions, ModelError};

/// All fixtures, as `fixtures/make_fixtures.py` names them.
pub(crate) const FIXTURES: [&str; 7] =
    ["llama2", "llama3", "llama-biases", "smollm2", "mistral", "qwen2", "qwen3"];

pub(crate) const FP32: LoadOptions =
    LoadOptions { device: Device::Cpu, compute: ComputeType::Float32 };

/// A tensor of a weights file: type, shape and bytes.
pub(crate) type Stored = (Dtype, Vec<usize>, Vec<u8>);

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Loads a fixture in fp32, on one thread.
pub(crate) fn load(name: &str) -> CausalLm {
    load_dir(&fixture(name)).unwrap()
}

pub(crate) fn load_dir(dir: &Path) -> Result<CausalLm, ModelError> {
    prospect_libtorch::set_threads(1);
    CausalLm::load(dir, &FP32)
}

/// What transformers computed for a fixture.
pub(crate) fn expected(name: &str) -> HashMap<String, Tensor> {
    let tensors = Tensor::read_safetensors(fixture(name).join("expected.safetensors")).unwrap();
    tensors.into_iter().collect()
}

pub(crate) fn ids(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor).unwrap()
}

/// The two sequences of a fixture, end to end, with their lengths.
pub(crate) fn packed(expected: &HashMap<String, Tensor>) -> (Tensor, [usize; 2]) {
    let (first, second) = (&expected["first"], &expected["second"]);
    (Tensor::f_cat(&[first, second], 0).unwrap(), [first.numel(), second.numel()])
}

/// The largest difference, relative to the largest expected number.
pub(crate) fn relative_difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let wide = |tensor: &Tensor| tensor.f_detach().unwrap().f_to_kind(Kind::Double).unwrap();
    let (found, expected) = (wide(found), wide(expected));
    let largest = |tensor: Tensor| f64::try_from(tensor.f_abs().unwrap().f_max().unwrap()).unwrap();
    largest(found.f_sub(&expected).unwrap()) / largest(expected)
}

/// A copy of a fixture that a test may change.
pub(crate) struct Copy {
    pub(crate) dir: tempfile::TempDir,
}

impl Copy {
    pub(crate) fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let path = entry.unwrap().path();
            let file_name = path.file_name().unwrap();
            if file_name != "expected.safetensors" {
                fs::copy(&path, dir.path().join(file_name)).unwrap();
            }
        }
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn json(&self, name: &str) -> Map<String, Value> {
        serde_json::from_slice(&fs::read(self.path().join(name)).unwrap()).unwrap()
    }

    pub(crate) fn edit_json(self, name: &str, edit: impl FnOnce(&mut Map<String, Value>)) -> Self {
        let mut object = self.json(name);
        edit(&mut object);
        fs::write(self.path().join(name), Value::Object(object).to_string()).unwrap();
        self
    }

    /// Changes the tensors of `model.safetensors`.
    pub(crate) fn edit_weights(self, edit: impl FnOnce(&mut BTreeMap<String, Stored>)) -> Self {
        let path = self.path().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let mut tensors: BTreeMap<String, Stored> = SafeTensors::deserialize(&bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| {
                (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            })
            .collect();
        edit(&mut tensors);
        let views = tensors.iter().map(|(name, (dtype, shape, data))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
        self
    }

    /// The error of loading it, with its directory written as `DIR`.
    pub(crate) fn load_error(&self) -> String {
        let error = load_dir(self.path()).unwrap_err();
        error.to_string().replace(self.path().to_str().unwrap(), "DIR")
    }
}
