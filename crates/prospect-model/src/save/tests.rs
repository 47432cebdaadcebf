//! Saved directories: the same bits, the right names, nothing left of an earlier save.

use std::fs;
use std::path::Path;

use serde_json::json;
use tch::{Kind, Tensor};

use crate::error::ErrorClass;
use crate::testing::{Copy, FIXTURES, fixture, load, load_dir};
use crate::{CausalLm, ModelPart, SaveType, StoredType};

/// All parameters of a model with their names.
fn tensors(model: &CausalLm) -> Vec<(String, Tensor)> {
    (0..model.num_segments())
        .flat_map(|segment| model.segment_parameters(segment))
        .map(|parameter| (parameter.name, parameter.tensor))
        .collect()
}

/// Checks that a directory holds exactly the model's numbers.
fn check_same(dir: &Path, model: &CausalLm) {
    let loaded = load_dir(dir).unwrap();
    assert_eq!(loaded.config().dtype, Some(StoredType::Float32));
    for ((name, found), (_, expected)) in tensors(&loaded).iter().zip(tensors(model)) {
        assert!(found.f_equal(&expected).unwrap(), "{name} changed");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn fp32_survives_bit_for_bit() {
    for name in FIXTURES {
        let model = load(name);
        let target = tempfile::tempdir().unwrap();
        let dir = target.path().join("new/model");
        model.save(&dir, SaveType::Float32).unwrap();
        check_same(&dir, &model);
    }
}

#[test]
fn sixteen_bits_are_written_as_they_are() {
    let bits = |dir: &Path| {
        let tensors = Tensor::read_safetensors(dir.join("model.safetensors")).unwrap();
        let mut tensors: Vec<(String, Tensor)> = tensors
            .into_iter()
            .map(|(name, tensor)| (name, tensor.f_view_dtype(Kind::Int16).unwrap()))
            .collect();
        tensors.sort_by(|left, right| left.0.cmp(&right.0));
        tensors
    };
    for (name, dtype, key, word) in [
        ("smollm2", SaveType::Bfloat16, "torch_dtype", "bfloat16"),
        ("mistral", SaveType::Float16, "dtype", "float16"),
    ] {
        let target = tempfile::tempdir().unwrap();
        load(name).save(target.path(), dtype).unwrap();
        assert_eq!(bits(target.path()), bits(&fixture(name)));
        let config = fs::read_to_string(target.path().join("config.json")).unwrap();
        assert!(config.contains(&format!("\"{key}\": \"{word}\"")), "{config}");
        assert_eq!(config.matches("dtype\"").count(), 1, "{config}");
    }
}

#[test]
fn the_configuration_changes_in_its_type_only() {
    let target = tempfile::tempdir().unwrap();
    load("smollm2").save(target.path(), SaveType::Compute).unwrap();
    let saved = Copy { dir: target }.json("config.json");
    let mut expected = Copy::of("smollm2").json("config.json");
    expected.insert("torch_dtype".to_owned(), json!("float32"));
    assert_eq!(saved, expected);
}

#[test]
fn companions_are_copied_and_nothing_else() {
    let source = Copy::of("smollm2");
    for name in ["tokenizer.json", "chat_template.jinja", "README.md"] {
        fs::write(source.path().join(name), name).unwrap();
    }
    let target = tempfile::tempdir().unwrap();
    load_dir(source.path()).unwrap().save(target.path(), SaveType::Float32).unwrap();
    assert_eq!(
        names(target.path()),
        [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json"
        ]
    );
    let copied = fs::read_to_string(target.path().join("tokenizer.json")).unwrap();
    assert_eq!(copied, "tokenizer.json");
}

#[test]
fn large_weights_are_split_and_an_earlier_save_is_gone() {
    let model = load("llama2");
    let target = tempfile::tempdir().unwrap();
    let dir = target.path();
    model.save(dir, SaveType::Float32).unwrap();
    let tensors = tensors(&model);
    CausalLm::save_shards(model.source_dir(), dir, &tensors, 50_000).unwrap();
    assert_eq!(
        names(dir),
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json"
        ]
    );
    check_same(dir, &model);
    model.save(dir, SaveType::Float32).unwrap();
    assert_eq!(names(dir), ["config.json", "model.safetensors"]);
    check_same(dir, &model);
}

/// Writes the segments of a model in turn to so many files.
fn save_in_parts(model: &CausalLm, dir: &Path, num_parts: usize) {
    for idx in 0..num_parts {
        let segments = (idx..model.num_segments()).step_by(num_parts);
        let tensors: Vec<(String, Tensor)> = segments
            .flat_map(|segment| model.segment_parameters(segment))
            .map(|parameter| (parameter.name, parameter.tensor))
            .collect();
        CausalLm::save_part(dir, ModelPart { idx, num_parts }, &tensors).unwrap();
    }
}

#[test]
fn parts_that_several_write_make_one_model() {
    for (name, num_parts) in FIXTURES.into_iter().zip([1, 2, 3, 4].into_iter().cycle()) {
        let model = load(name);
        let target = tempfile::tempdir().unwrap();
        let dir = target.path();
        save_in_parts(&model, dir, num_parts);
        assert!(load_dir(dir).is_err(), "it is no model before it is completed");
        CausalLm::complete_parts(model.source_dir(), dir, num_parts).unwrap();
        check_same(dir, &model);
        assert_eq!(dir.join("model.safetensors.index.json").exists(), num_parts > 1);
    }
}

#[test]
fn parts_that_do_not_make_the_model_are_refused() {
    let model = load("llama2");
    let check = |spoil: &dyn Fn(&Path), expected: &str| {
        let target = tempfile::tempdir().unwrap();
        save_in_parts(&model, target.path(), 2);
        spoil(target.path());
        let error = CausalLm::complete_parts(model.source_dir(), target.path(), 2).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(!target.path().join("config.json").exists(), "{text}");
    };
    let [first, second] = [0, 1].map(|idx| ModelPart { idx, num_parts: 2 }.file_name());
    check(&|dir| fs::remove_file(dir.join(&second)).unwrap(), "model-00002-of-00002");
    let cut = |dir: &Path| {
        let content = fs::read(dir.join(&first)).unwrap();
        fs::write(dir.join(&first), &content[..content.len() - 4]).unwrap();
    };
    check(&cut, "its header describes");
    let twice = |dir: &Path| {
        fs::copy(dir.join(&first), dir.join(&second)).unwrap();
    };
    check(&twice, "the model has a parameter");
    let halves = |dir: &Path| {
        let halved: Vec<(String, Tensor)> = (1..model.num_segments())
            .step_by(2)
            .flat_map(|segment| model.segment_parameters(segment))
            .map(|parameter| (parameter.name, parameter.tensor.f_to_kind(Kind::Half).unwrap()))
            .collect();
        CausalLm::save_part(dir, ModelPart { idx: 1, num_parts: 2 }, &halved).unwrap();
    };
    check(&halves, "they must be of one type");
}

/// Checks the message of saving changed tensors of a fixture to `dir`.
fn check_refused(dir: &Path, edit: impl FnOnce(&mut Vec<(String, Tensor)>), message: &str) {
    let model = load("llama2");
    let mut tensors = tensors(&model);
    edit(&mut tensors);
    let error = CausalLm::save_tensors(model.source_dir(), dir, &tensors).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn tensors_that_are_not_the_model_are_refused() {
    let target = tempfile::tempdir().unwrap();
    let dir = target.path().join("model");
    check_refused(
        &dir,
        |tensors| drop(tensors.remove(0)),
        "tensors is incomplete, but the model has a parameter \"model.embed_tokens.weight\"",
    );
    check_refused(
        &dir,
        |tensors| tensors.push(("extra".to_owned(), Tensor::from_slice(&[1.0_f32]))),
        "a tensor's name is \"extra\", but the configuration has no place for it",
    );
    check_refused(
        &dir,
        |tensors| tensors[1].1 = Tensor::from_slice(&[1.0_f32]),
        "the shape of \"model.layers.0.self_attn.q_proj.weight\" is [1], but the configuration gives it [32, 32]",
    );
    check_refused(
        &dir,
        |tensors| tensors[1].1 = tensors[1].1.f_to_kind(Kind::Half).unwrap(),
        "the type of the tensors is Float and Half, but they must be of one type",
    );
    check_refused(
        &dir,
        |tensors| {
            for (_, tensor) in tensors {
                *tensor = tensor.f_to_kind(Kind::Double).unwrap();
            }
        },
        "the type of \"model.embed_tokens.weight\" is Double, but checkpoints hold Float, Half or BFloat16",
    );
    let repeated = |tensors: &mut Vec<(String, Tensor)>| {
        let (name, tensor) = &tensors[0];
        let again = (name.clone(), tensor.shallow_clone());
        tensors.push(again);
    };
    check_refused(&dir, repeated, "number of tensors is 22, but the model has 21 parameters");
}

#[test]
fn the_source_and_what_is_no_directory_are_refused() {
    let source = Copy::of("llama2");
    let model = load_dir(source.path()).unwrap();
    let error = model.save(source.path(), SaveType::Float32).unwrap_err();
    let expected = format!(
        "the directory to save to is {}, but that is where the model was loaded from; give another directory",
        source.path().display()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.class(), ErrorClass::Configuration);
    check_same(source.path(), &model);
    let error =
        model.save(&source.path().join("config.json/model"), SaveType::Float32).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Storage);
}
