//! A Llama of one block that can be trained, made here so that no file has to
//! be kept, and feedback in the words of its tokenizer.

use std::fs;
use std::path::Path;

use crate::harness::{model_dir, write};

/// Width of the residual stream.
const HIDDEN: usize = 8;
/// Width of the gated layer.
const INNER: usize = 16;
/// Words of the tokenizer in `harness`.
const VOCAB: usize = 10;

/// A configuration of a run of `steps` steps over such a model.
pub fn trainable(dir: &Path, steps: u64) -> String {
    let model = model_dir(dir);
    let config = format!(
        r#"{{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_act":"silu",
            "bos_token_id":0,"eos_token_id":0,"hidden_size":{HIDDEN},"head_dim":4,
            "intermediate_size":{INNER},"num_hidden_layers":1,"num_attention_heads":2,
            "num_key_value_heads":2,"max_position_embeddings":64,"rms_norm_eps":1e-5,
            "rope_theta":10000.0,"rope_scaling":null,"attention_bias":false,"mlp_bias":false,
            "tie_word_embeddings":true,"torch_dtype":"float32","vocab_size":{VOCAB}}}"#
    );
    write(dir, "model/config.json", &config);
    write_weights(&dir.join("model/model.safetensors"));
    let text = format!(
        "[model]\npath = {model:?}\n[data]\ntrain = [{:?}]\n\
         [train]\nglobal_batch_size = 4\nsteps = {steps}\n[checkpoint]\nevery_steps = 10\n",
        feedback(dir),
    );
    write(dir, "run.toml", &text)
}

/// Sixteen rows of both classes, all of them different.
fn feedback(dir: &Path) -> String {
    let words = ["why", "how", "sky", "sea", "blue", "deep", "because", "no"];
    let rows: Vec<String> = (0..16)
        .map(|row| {
            let (first, second) = (words[row % 8], words[(row / 2 + 3) % 8]);
            let (third, label) = (words[(row * 3 + 1) % 8], row % 2 == 0);
            format!(
                r#"{{"prompt":"{first} {second}","completion":" {third} {first}","label":{label}}}"#
            )
        })
        .collect();
    write(dir, "feedback.jsonl", &(rows.join("\n") + "\n"))
}

/// Writes the safetensors format: the length of a JSON header, the header, the values.
fn write_weights(path: &Path) {
    let (matrix, vector) = (|rows, columns| vec![rows, columns], |length| vec![length]);
    let tensors = [
        ("embed_tokens", matrix(VOCAB, HIDDEN)),
        ("layers.0.self_attn.q_proj", matrix(HIDDEN, HIDDEN)),
        ("layers.0.self_attn.k_proj", matrix(HIDDEN, HIDDEN)),
        ("layers.0.self_attn.v_proj", matrix(HIDDEN, HIDDEN)),
        ("layers.0.self_attn.o_proj", matrix(HIDDEN, HIDDEN)),
        ("layers.0.mlp.gate_proj", matrix(INNER, HIDDEN)),
        ("layers.0.mlp.up_proj", matrix(INNER, HIDDEN)),
        ("layers.0.mlp.down_proj", matrix(HIDDEN, INNER)),
        ("layers.0.input_layernorm", vector(HIDDEN)),
        ("layers.0.post_attention_layernorm", vector(HIDDEN)),
        ("norm", vector(HIDDEN)),
    ];
    let (mut entries, mut values) = (Vec::new(), Vec::new());
    for (name, shape) in tensors {
        let begin = values.len();
        for idx in 0..shape.iter().product() {
            let value = if shape.len() == 1 { 1.0 } else { (idx as f32 * 0.7 + 0.3).sin() * 0.4 };
            values.extend_from_slice(&f32::to_le_bytes(value));
        }
        let end = values.len();
        entries.push(format!(
            r#""model.{name}.weight":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values);
    fs::write(path, bytes).unwrap();
}
