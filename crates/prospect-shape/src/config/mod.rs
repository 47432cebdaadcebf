//! `config.json`: what of it defines the mathematics, read strictly. Every key is used, or is one
//! of those that cannot change a forward pass, or is refused by name.

mod family;
mod keys;
mod rope;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

pub use family::Family;
use keys::Keys;
pub use rope::{Llama3Scaling, RopeConfig};

use crate::error::ShapeError;

/// Name of the configuration file in a model directory.
pub const CONFIG_FILE: &str = "config.json";

/// Keys that do not change a forward pass, whatever their value: identities, tokens that
/// generation and tokenizers use, the spread of a random initialisation, the output format of
/// Python classes, and dropout, which is off in all of this project's passes.
const INERT_KEYS: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "max_window_layers",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "problem_type",
    "return_dict",
    "return_dict_in_generate",
    "task_specific_params",
    "tokenizer_class",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// A type that the weights of a checkpoint can be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// fp32.
    Float32,
    /// fp16.
    Float16,
    /// bf16.
    Bfloat16,
}

/// What of a configuration defines the mathematics, and the checkpoint's type.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which of the supported architectures it is.
    pub family: Family,
    /// Width of the residual stream, H.
    pub hidden_size: i64,
    /// Width of the gated layer between the two halves of a block's MLP.
    pub intermediate_size: i64,
    /// Number of blocks, L.
    pub num_layers: usize,
    /// Number of query heads.
    pub num_heads: i64,
    /// Number of key and value heads; divides `num_heads`.
    pub num_kv_heads: i64,
    /// Width of a head; even.
    pub head_dim: i64,
    /// Number of rows of the embedding, V.
    pub vocab_size: i64,
    /// The padding token. Its row of the embedding gets no gradient from look-ups, as with
    /// `padding_idx` of torch's `Embedding`, which transformers sets to `pad_token_id`.
    pub padding_idx: Option<i64>,
    /// Longest sequence that the model was made for.
    pub max_positions: usize,
    /// Added to the mean square in the norms.
    pub rms_norm_eps: f64,
    /// The rotary embedding.
    pub rope: RopeConfig,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the MLP's three projections have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// The type that the configuration declares for the weights; files may hold another one.
    pub dtype: Option<StoredType>,
}

impl ModelConfig {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// A file that is absent or no JSON object, a key that is left out or unknown, a value that is
    /// not supported: each named.
    pub fn read(dir: &Path) -> Result<Self, ShapeError> {
        let (path, map) = read_object(dir)?;
        Self::parse(&path, map)
    }

    /// Number of queries that share a key and value head.
    pub fn num_groups(&self) -> i64 {
        self.num_heads / self.num_kv_heads
    }

    fn parse(path: &Path, map: Map<String, Value>) -> Result<Self, ShapeError> {
        let mut keys = Keys::new(path, "", map);
        for key in INERT_KEYS {
            keys.take(key);
        }
        let family = Family::take(&mut keys)?;
        expect_common_neutral(&mut keys)?;
        let max_positions =
            keys.require_count("max_position_embeddings", "the longest sequence of the model")?;
        let num_layers = keys.require_count("num_hidden_layers", "the number of blocks")?;
        family.expect_full_attention(&mut keys, max_positions, num_layers)?;
        let hidden_size = keys.require_count("hidden_size", "the width of the residual stream")?;
        let num_heads = keys.require_count("num_attention_heads", "the number of query heads")?;
        let num_kv_heads = keys.require_count(
            "num_key_value_heads",
            "num_attention_heads if queries do not share keys",
        )?;
        if num_heads % num_kv_heads != 0 {
            let expected = format!("must divide num_attention_heads, which is {num_heads}");
            return Err(keys.bad("num_key_value_heads", &json!(num_kv_heads), &expected));
        }
        let head_dim = family.take_head_dim(&mut keys, hidden_size, num_heads)?;
        let biases = family.take_biases(&mut keys)?;
        let vocab_size = keys.require_count("vocab_size", "the rows of the embedding")?;
        let config = Self {
            family,
            hidden_size,
            intermediate_size: keys.require_count("intermediate_size", "the width of the MLP")?,
            num_layers: num_layers as usize,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size,
            padding_idx: take_padding_idx(&mut keys, vocab_size)?,
            max_positions: max_positions as usize,
            rms_norm_eps: keys.require_number("rms_norm_eps", "1e-5 or 1e-6 in most models")?,
            rope: RopeConfig::take(&mut keys)?,
            tie_word_embeddings: match keys.take_bool("tie_word_embeddings")? {
                Some(tied) => tied,
                None => {
                    let advice = "true if the head is the embedding";
                    return Err(keys.missing("tie_word_embeddings", advice));
                }
            },
            qkv_bias: biases.qkv,
            output_bias: biases.output,
            mlp_bias: biases.mlp,
            qk_norm: family == Family::Qwen3,
            dtype: take_dtype(&mut keys)?,
        };
        keys.finish()?;
        Ok(config)
    }
}

/// The configuration of a model directory as it stands in the file, with the file's path.
pub fn read_object(dir: &Path) -> Result<(PathBuf, Map<String, Value>), ShapeError> {
    let path = dir.join(CONFIG_FILE);
    let advice = "give the directory of a Hugging Face model";
    let text = fs::read(&path).map_err(|source| ShapeError::read(&path, advice, source))?;
    match serde_json::from_slice(&text) {
        Ok(map) => Ok((path, map)),
        Err(error) => {
            Err(ShapeError::Malformed { path, format: "valid JSON", message: error.to_string() })
        }
    }
}

/// The row of `pad_token_id`; as in torch, a negative one counts from the end.
fn take_padding_idx(keys: &mut Keys<'_>, vocab_size: i64) -> Result<Option<i64>, ShapeError> {
    let Some(value) = keys.take("pad_token_id") else { return Ok(None) };
    match value.as_i64() {
        Some(id) if (-vocab_size..vocab_size).contains(&id) => Ok(Some(id.rem_euclid(vocab_size))),
        _ => {
            let expected =
                format!("must be null or a token below vocab_size, which is {vocab_size}");
            Err(keys.bad("pad_token_id", &value, &expected))
        }
    }
}

/// Keys of all families that could change the mathematics but must not.
fn expect_common_neutral(keys: &mut Keys<'_>) -> Result<(), ShapeError> {
    let activation = keys.require("hidden_act", "\"silu\"")?;
    if activation != json!("silu") {
        return Err(keys.bad("hidden_act", &activation, "only \"silu\" is supported"));
    }
    let off = [json!(false)];
    keys.expect_neutral("is_encoder_decoder", &off, "only decoders are supported")?;
    keys.expect_neutral("add_cross_attention", &off, "only decoders are supported")?;
    keys.expect_neutral("rope_interleaved", &off, "only split halves are supported: false")?;
    keys.expect_neutral("use_mrope", &off, "only text positions are supported: false")?;
    keys.expect_neutral("pretraining_tp", &[json!(1)], "only 1 is supported")?;
    keys.expect_neutral(
        "partial_rotary_factor",
        &[json!(1), json!(1.0)],
        "only whole heads are turned: it must be 1.0",
    )
}

/// The declared type of the weights, under its new or old name.
fn take_dtype(keys: &mut Keys<'_>) -> Result<Option<StoredType>, ShapeError> {
    let mut found = None;
    for key in ["torch_dtype", "dtype"] {
        let Some(name) = keys.take_text(key)? else { continue };
        let stored = match name.trim_start_matches("torch.") {
            "float32" => StoredType::Float32,
            "float16" => StoredType::Float16,
            "bfloat16" => StoredType::Bfloat16,
            _ => {
                let expected = "only float32, float16 and bfloat16 are supported";
                return Err(keys.bad(key, &json!(name), expected));
            }
        };
        found = Some(stored);
    }
    Ok(found)
}
