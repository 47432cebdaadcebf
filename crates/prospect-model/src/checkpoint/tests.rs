//! Weights that are missing, foreign, damaged or in several files.

use std::fs;

use safetensors::tensor::Dtype;
use serde_json::json;

use super::{INDEX_FILE, SINGLE_FILE};
use crate::error::ErrorClass;
use crate::testing::{Copy, load, load_dir, relative_difference};

const QUERY: &str = "model.layers.0.self_attn.q_proj.weight";

/// Checks the message of loading a changed copy.
fn check(copy: &Copy, message: &str) {
    assert_eq!(copy.load_error(), message);
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let copy = Copy::of("llama2").edit_weights(|tensors| {
        tensors.remove(QUERY).unwrap();
    });
    check(
        &copy,
        "tensor \"model.layers.0.self_attn.q_proj.weight\" of shape [32, 32] is missing in DIR/model.safetensors",
    );
    let copy = Copy::of("llama2").edit_weights(|tensors| {
        tensors.insert(
            "model.layers.2.mlp.up_proj.weight".to_owned(),
            (Dtype::U8, vec![2], vec![0; 2]),
        );
    });
    check(
        &copy,
        "unknown tensor \"model.layers.2.mlp.up_proj.weight\" of shape [2] in DIR/model.safetensors; the configuration has no place for it",
    );
    let copy = Copy::of("llama2").edit_weights(|tensors| {
        tensors.get_mut(QUERY).unwrap().1 = vec![16, 64];
    });
    check(
        &copy,
        "tensor \"model.layers.0.self_attn.q_proj.weight\" has shape [16, 64] in DIR/model.safetensors, but the configuration gives it [32, 32]",
    );
    let copy = Copy::of("llama2").edit_weights(|tensors| {
        tensors.get_mut(QUERY).unwrap().0 = Dtype::I32;
    });
    check(
        &copy,
        "tensor \"model.layers.0.self_attn.q_proj.weight\" is I32 in DIR/model.safetensors, but F32, F16 or BF16 is expected",
    );
    assert_eq!(load_dir(copy.path()).unwrap_err().class(), ErrorClass::Corrupt);
}

#[test]
fn a_tied_head_is_the_embedding_or_refused() {
    let tied = |change: u8| {
        Copy::of("llama3").edit_weights(|tensors| {
            let mut head = tensors["model.embed_tokens.weight"].clone();
            head.2[0] ^= change;
            tensors.insert("lm_head.weight".to_owned(), head);
        })
    };
    assert_eq!(load_dir(tied(0).path()).unwrap().segment_parameters(3).len(), 1);
    check(
        &tied(1),
        "tie_word_embeddings is true, but DIR/model.safetensors holds an lm_head.weight that differs from model.embed_tokens.weight; set tie_word_embeddings to false, or remove lm_head.weight",
    );
    let untied = Copy::of("llama3").edit_json("config.json", |config| {
        config.insert("tie_word_embeddings".to_owned(), json!(false));
    });
    check(
        &untied,
        "tensor \"lm_head.weight\" of shape [128, 32] is missing in DIR/model.safetensors",
    );
}

#[test]
fn frequencies_in_old_checkpoints_are_known() {
    let copy = Copy::of("llama2").edit_weights(|tensors| {
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
        tensors.insert(name.to_owned(), (Dtype::F32, vec![4], vec![0; 16]));
    });
    assert_eq!(load_dir(copy.path()).unwrap().num_parameters(), load("llama2").num_parameters());
}

#[test]
fn damaged_files_are_refused() {
    let copy = Copy::of("llama2");
    let path = copy.path().join(SINGLE_FILE);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    check(
        &copy,
        "DIR/model.safetensors is not a valid safetensors file: its header describes 96952 bytes, the file has 96951",
    );
    fs::write(&path, &bytes[..100]).unwrap();
    check(
        &copy,
        "DIR/model.safetensors is not a valid safetensors file: its header claims 2096 bytes, the file has 100",
    );
    fs::write(&path, &bytes[..5]).unwrap();
    check(&copy, "DIR/model.safetensors is not a valid safetensors file: it has only 5 bytes");
    fs::write(&path, [b"\x02\0\0\0\0\0\0\0".as_slice(), b"{]"].concat()).unwrap();
    check(
        &copy,
        "DIR/model.safetensors is not a valid safetensors file: its header cannot be read: key must be a string at line 1 column 2",
    );
    fs::remove_file(&path).unwrap();
    check(
        &copy,
        "DIR/model.safetensors does not exist; the directory needs model.safetensors, or model.safetensors.index.json and its files",
    );
    assert_eq!(load_dir(copy.path()).unwrap_err().class(), ErrorClass::Configuration);
}

#[test]
fn an_index_must_agree_with_its_files() {
    let copy = Copy::of("qwen3");
    fs::remove_file(copy.path().join("model-00003-of-00004.safetensors")).unwrap();
    check(
        &copy,
        "DIR/model.safetensors.index.json names \"model-00003-of-00004.safetensors\", which is not in that directory; copy the missing file or download the model again",
    );
    assert_eq!(load_dir(copy.path()).unwrap_err().class(), ErrorClass::Corrupt);
    let place = |file: &'static str| {
        Copy::of("qwen3").edit_json(INDEX_FILE, |index| {
            index["weight_map"]["lm_head.weight"] = json!(file);
        })
    };
    check(
        &place("model-00002-of-00004.safetensors"),
        "DIR/model.safetensors.index.json says that tensor \"lm_head.weight\" lies in \"model-00002-of-00004.safetensors\", but that file does not hold it",
    );
    check(
        &place("../model.safetensors"),
        "DIR/model.safetensors.index.json is not a valid index: \"../model.safetensors\" is not the name of a file beside it",
    );
}

#[test]
fn data_may_lie_at_any_byte() {
    let copy = Copy::of("llama2");
    let path = copy.path().join(SINGLE_FILE);
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let (header, data) = bytes[8..].split_at(length as usize);
    let moved = [&(length + 1).to_le_bytes(), header, b" ", data].concat();
    fs::write(&path, moved).unwrap();
    let (moved, model) = (load_dir(copy.path()).unwrap(), load("llama2"));
    assert_eq!(relative_difference(&moved.head_weight(), &model.head_weight()), 0.0);
}
