//! What a configuration may and may not say.

use std::path::Path;

use serde_json::{Map, Value, json};

use prospect_core::ExitCode;

use super::{Family, Llama3Scaling, ModelConfig, RopeConfig, StoredType};
use crate::error::ShapeError;
use crate::testing::{FIXTURES, fixture};

/// A fixture's configuration with some keys set (or, with `None`, left out).
fn edited(name: &str, edits: &[(&str, Option<Value>)]) -> Result<ModelConfig, ShapeError> {
    let text = std::fs::read(fixture(name).join("config.json")).unwrap();
    let mut map: Map<String, Value> = serde_json::from_slice(&text).unwrap();
    for (key, value) in edits {
        match value {
            Some(value) => map.insert((*key).to_owned(), value.clone()),
            None => map.shift_remove(*key),
        };
    }
    ModelConfig::parse(Path::new("m/config.json"), map)
}

/// Checks the message for a fixture whose `key` is set to `value`.
fn check(name: &str, key: &str, value: Value, message: &str) {
    let error = edited(name, &[(key, Some(value))]).unwrap_err();
    assert_eq!(error.to_string(), message);
    assert_eq!(error.exit_code(), ExitCode::Usage);
}

#[test]
fn every_key_that_defines_the_mathematics_is_required() {
    let required = [
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "model_type",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "tie_word_embeddings",
        "vocab_size",
    ];
    for name in FIXTURES {
        for key in required {
            let message = edited(name, &[(key, None)]).unwrap_err().to_string();
            let beginning = format!("key {key:?} is missing in m/config.json; add it (");
            assert!(message.starts_with(&beginning), "{name}: {message}");
        }
    }
}

#[test]
fn keys_of_one_family_are_required_there() {
    let missing = |name, key| edited(name, &[(key, None)]).unwrap_err().to_string();
    assert_eq!(
        missing("mistral", "sliding_window"),
        "key \"sliding_window\" is missing in m/config.json; add it (null if the model attends to all earlier tokens)"
    );
    assert_eq!(
        missing("qwen3", "head_dim"),
        "key \"head_dim\" is missing in m/config.json; add it (128 in the published Qwen3 models)"
    );
    assert_eq!(
        missing("llama3", "rope_theta"),
        "key \"rope_scaling.rope_theta\" is missing in m/config.json; add it (the base of the rotary frequencies, 10000.0 for Llama 2)"
    );
    assert_eq!(
        missing("llama2", "rope_parameters"),
        "key \"rope_theta\" is missing in m/config.json; add it (the base of the rotary frequencies, 10000.0 for Llama 2)"
    );
}

#[test]
fn unknown_keys_are_named() {
    check(
        "llama2",
        "logit_scale",
        json!(0.5),
        "unknown key \"logit_scale\" (value 0.5) in m/config.json; remove it if it does not change the model's mathematics",
    );
    check(
        "llama2",
        "quantization_config",
        json!({"quant_method": "gptq", "bits": 4, "note": "a text that is far too long to show"}),
        "unknown key \"quantization_config\" (value {\"quant_method\":\"gptq\",\"bits\":4,\"note\":\"a text that is far t...) in m/config.json; remove it if it does not change the model's mathematics",
    );
    check(
        "llama2",
        "rope_parameters",
        json!({"rope_type": "default", "rope_theta": 1e4, "factor": 2.0}),
        "unknown key \"rope_parameters.factor\" (value 2.0) in m/config.json; remove it if it does not change the model's mathematics",
    );
    // A key of another family is unknown as well.
    check(
        "llama2",
        "sliding_window",
        json!(16),
        "unknown key \"sliding_window\" (value 16) in m/config.json; remove it if it does not change the model's mathematics",
    );
}

#[test]
fn values_that_change_the_mathematics_are_refused() {
    let cases = [
        (
            "llama2",
            "model_type",
            json!("gemma"),
            "only llama, mistral, qwen2 and qwen3 are supported",
        ),
        (
            "llama2",
            "architectures",
            json!(["LlamaForSequenceClassification"]),
            "a llama model must be [\"LlamaForCausalLM\"]",
        ),
        ("llama2", "hidden_act", json!("gelu"), "only \"silu\" is supported"),
        ("llama2", "pretraining_tp", json!(2), "only 1 is supported"),
        ("llama2", "rope_interleaved", json!(true), "only split halves are supported: false"),
        (
            "llama2",
            "partial_rotary_factor",
            json!(0.5),
            "only whole heads are turned: it must be 1.0",
        ),
        ("llama2", "num_key_value_heads", json!(3), "must divide num_attention_heads, which is 4"),
        ("llama2", "head_dim", json!(7), "it must be even"),
        ("llama2", "hidden_size", json!(0), "must be a positive integer"),
        ("llama2", "hidden_size", json!("32"), "must be a positive integer"),
        ("llama2", "rms_norm_eps", json!(-1), "must be a positive number"),
        ("llama2", "tie_word_embeddings", json!("no"), "must be true or false"),
        ("llama2", "dtype", json!("float8"), "only float32, float16 and bfloat16 are supported"),
        ("llama2", "rope_parameters", json!([1]), "must be an object"),
        (
            "mistral",
            "sliding_window",
            json!(128),
            "windowed attention is not supported: it must be null or at least max_position_embeddings, which is 256",
        ),
        (
            "qwen2",
            "use_sliding_window",
            json!(true),
            "windowed attention is not supported: it must be false",
        ),
        (
            "qwen2",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "must be \"full_attention\" for all 2 layers",
        ),
    ];
    for (name, key, value, expected) in cases {
        let message = format!("{key} is {value} in m/config.json, but {expected}");
        check(name, key, value, &message);
    }
}

#[test]
fn rotary_sections_are_checked_inside() {
    let section = |edit: Value| {
        let mut section = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        });
        for (key, value) in edit.as_object().unwrap() {
            section[key] = value.clone();
        }
        section
    };
    let cases = [
        (
            json!({"rope_type": "yarn"}),
            "rope_scaling.rope_type is \"yarn\" in m/config.json, but only \"default\" and \"llama3\" are supported",
        ),
        (
            json!({"high_freq_factor": 1.0}),
            "rope_scaling.high_freq_factor is 1.0 in m/config.json, but must be above low_freq_factor, which is 1",
        ),
        (
            json!({"rope_theta": 7.0}),
            "rope_scaling.rope_theta is 7.0 in m/config.json, but rope_theta beside it is 500; keep one of the two",
        ),
        (
            json!({"original_max_position_embeddings": null}),
            "key \"rope_scaling.original_max_position_embeddings\" is missing in m/config.json; add it (8192 for Llama 3.1)",
        ),
        (
            json!({"partial_rotary_factor": 0.5}),
            "rope_scaling.partial_rotary_factor is 0.5 in m/config.json, but only whole heads are turned: it must be 1.0",
        ),
    ];
    for (edit, message) in cases {
        check("llama3", "rope_scaling", section(edit), message);
    }
    check(
        "llama3",
        "rope_parameters",
        section(json!({})),
        "rope_parameters is {\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"hi... in m/config.json, but rope_scaling is there too; keep one of the two",
    );
}

#[test]
fn old_and_new_forms_say_the_same() {
    let old = edited("llama3", &[]).unwrap();
    let scaling = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 64,
    };
    assert_eq!(old.rope, RopeConfig { theta: 500.0, scaling: Some(scaling) });
    let parameters = json!({
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    });
    let edits = [
        ("rope_theta", None),
        ("rope_scaling", None),
        ("rope_parameters", Some(parameters)),
        ("torch_dtype", None),
        ("dtype", Some(json!("float32"))),
    ];
    assert_eq!(edited("llama3", &edits).unwrap(), old);
    let older = [("rope_scaling", Some(json!({"type": "default"})))];
    assert_eq!(edited("llama3", &older).unwrap().rope, RopeConfig { theta: 500.0, scaling: None });
}

#[test]
fn what_older_files_leave_out_has_one_meaning() {
    let absent = ["attention_bias", "mlp_bias", "head_dim", "pretraining_tp", "dtype"];
    let edits = absent.map(|key| (key, None));
    let config = edited("llama2", &edits).unwrap();
    assert_eq!((config.qkv_bias, config.mlp_bias, config.head_dim), (false, false, 8));
    assert_eq!(config.dtype, None);
    let config = edited("mistral", &[("sliding_window", Some(json!(256)))]).unwrap();
    assert_eq!((config.family, config.dtype), (Family::Mistral, Some(StoredType::Float16)));
    let odd = [("head_dim", None), ("num_attention_heads", Some(json!(6)))];
    assert_eq!(
        edited("llama2", &odd).unwrap_err().to_string(),
        "num_attention_heads is 6 in m/config.json, but must divide hidden_size, which is 32"
    );
}

#[test]
fn keys_without_effect_on_the_mathematics_are_accepted() {
    let edits = [
        ("_name_or_path", Some(json!("somewhere"))),
        ("is_llama_config", Some(json!(true))),
        ("rope_interleaved", Some(json!(false))),
        ("attention_dropout", Some(json!(0.1))),
        ("transformers.js_config", Some(json!({"dtype": "q4"}))),
        ("use_mrope", Some(json!(false))),
    ];
    assert_eq!(edited("llama2", &edits).unwrap(), edited("llama2", &[]).unwrap());
}

#[test]
fn a_directory_that_is_no_model_is_told_apart_from_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = || {
        let error = ModelConfig::read(dir.path()).unwrap_err();
        (error.to_string().replace(dir.path().to_str().unwrap(), "DIR"), error.exit_code())
    };
    std::fs::write(dir.path().join("config.json"), "{\"model_type\":").unwrap();
    let damaged =
        "DIR/config.json is not valid JSON: EOF while parsing a value at line 1 column 14";
    assert_eq!(refusal(), (damaged.to_owned(), ExitCode::Corrupt));
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    let absent = "DIR/config.json does not exist; give the directory of a Hugging Face model";
    assert_eq!(refusal(), (absent.to_owned(), ExitCode::Usage));
}
