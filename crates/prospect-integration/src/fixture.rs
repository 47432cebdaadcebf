//! The model, the tokenizer and the feedback that every world starts from.
//! All of it is made here, from a counter-based generator, so that it is the
//! same everywhere and no file has to be kept.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value, json};

/// Words of the tokenizer besides the special tokens.
pub const NUM_WORDS: u32 = 197;
/// Size of the vocabulary: `<unk>`, `<s>`, `</s>` and the words.
pub const VOCAB_SIZE: u32 = NUM_WORDS + 3;
/// Rows of the training file.
pub const NUM_ROWS: u32 = 48;
/// Rows of the evaluation file.
pub const NUM_EVAL_ROWS: u32 = 10;
/// Width of the residual stream.
const HIDDEN_SIZE: usize = 32;
/// Width of the gated layer.
const INTERMEDIATE_SIZE: usize = 64;
/// Spread of the weights: large enough for probabilities that differ.
const SPREAD: f32 = 0.35;

/// SplitMix64: equal seeds give equal numbers on every machine.
pub struct Numbers(pub u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Between -1 and 1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }
}

/// Writes a Llama of two blocks with its tokenizer.
pub fn write_model(dir: &Path, seed: u64) {
    fs::create_dir_all(dir).unwrap();
    write_json(&dir.join("config.json"), &config());
    write_weights(&dir.join("model.safetensors"), seed, |_, shape| shape);
    write_json(&dir.join("tokenizer.json"), &tokenizer());
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 128,
        "clean_up_tokenization_spaces": false,
    });
    write_json(&dir.join("tokenizer_config.json"), &tokenizer_config);
    let generation = json!({"bos_token_id": 1, "eos_token_id": 2});
    write_json(&dir.join("generation_config.json"), &generation);
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": HIDDEN_SIZE,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE_SIZE,
        "max_position_embeddings": 128,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": null,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": VOCAB_SIZE,
    })
}

/// Writes the weights; `shape` may change a tensor's shape by its name.
pub fn write_weights(path: &Path, seed: u64, shape: impl Fn(&str, Vec<usize>) -> Vec<usize>) {
    let mut numbers = Numbers(seed);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensor_shapes()
        .into_iter()
        .map(|(name, usual)| {
            let is_norm = name.contains("norm");
            let shape = shape(&name, usual);
            let values: Vec<u8> = (0..shape.iter().product())
                .map(|_| numbers.signed() * SPREAD)
                .map(|value| if is_norm { 1.0 + 0.1 * value } else { value })
                .flat_map(f32::to_le_bytes)
                .collect();
            (name, shape, values)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, values)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), values).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Puts the weights into two files and their index in place of one file; the second one's name.
pub fn divide_weights(dir: &Path) -> &'static str {
    let (whole, parts) = (
        dir.join("model.safetensors"),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    );
    let bytes = fs::read(&whole).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let part_of = |name: &str| usize::from(name.contains("layers.1"));
    for (idx, part) in parts.iter().enumerate() {
        let views = tensors.tensors().into_iter().filter(|(name, _)| part_of(name) == idx);
        fs::write(dir.join(part), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    let places: Map<String, Value> = tensors
        .names()
        .into_iter()
        .map(|name| (name.to_string(), json!(parts[part_of(name)])))
        .collect();
    write_json(&dir.join("model.safetensors.index.json"), &json!({"weight_map": places}));
    fs::remove_file(whole).unwrap();
    parts[1]
}

fn tensor_shapes() -> Vec<(String, Vec<usize>)> {
    let matrix = |rows, columns| vec![rows, columns];
    let (hidden, inner) = (HIDDEN_SIZE, INTERMEDIATE_SIZE);
    let mut shapes =
        vec![("model.embed_tokens.weight".to_owned(), matrix(VOCAB_SIZE as usize, hidden))];
    for block in 0..2 {
        let parts = [
            ("self_attn.q_proj", matrix(hidden, hidden)),
            ("self_attn.k_proj", matrix(hidden / 2, hidden)),
            ("self_attn.v_proj", matrix(hidden / 2, hidden)),
            ("self_attn.o_proj", matrix(hidden, hidden)),
            ("mlp.gate_proj", matrix(inner, hidden)),
            ("mlp.up_proj", matrix(inner, hidden)),
            ("mlp.down_proj", matrix(hidden, inner)),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ];
        let named = |(part, shape)| (format!("model.layers.{block}.{part}.weight"), shape);
        shapes.extend(parts.into_iter().map(named));
    }
    shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
    shapes
}

/// Whole words, divided at spaces.
fn tokenizer() -> Value {
    let special = ["<unk>", "<s>", "</s>"];
    let mut vocab = Map::new();
    for (id, token) in special.iter().enumerate() {
        vocab.insert((*token).to_owned(), json!(id));
    }
    for word in 0..NUM_WORDS {
        vocab.insert(format!("w{word}"), json!(word + 3));
    }
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
}

/// Writes rows of plain text; every third one is desirable.
pub fn write_feedback(path: &Path, num_rows: u32, seed: u64) {
    let mut numbers = Numbers(seed);
    let lines: String = (0..num_rows)
        .map(|row| {
            let prompt = words(&mut numbers, 2, 8);
            let completion = format!(" {}", words(&mut numbers, 1, 12));
            let label = row % 3 == 0;
            json!({"prompt": prompt, "completion": completion, "label": label}).to_string() + "\n"
        })
        .collect();
    fs::write(path, lines).unwrap();
}

/// Between `least` and `most` words.
fn words(numbers: &mut Numbers, least: u32, most: u32) -> String {
    let count = least + numbers.below(most - least + 1);
    let words: Vec<String> = (0..count).map(|_| format!("w{}", numbers.below(NUM_WORDS))).collect();
    words.join(" ")
}

fn write_json(path: &Path, value: &Value) {
    fs::write(path, serde_json::to_string_pretty(value).unwrap()).unwrap();
}
