//! What tells the supported architectures apart, as data.

use serde_json::{Value, json};

use super::keys::Keys;
use crate::error::ShapeError;

/// A supported architecture, by `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3 and what shares their architecture, such as SmolLM2.
    Llama,
    /// Mistral without a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen3: queries and keys are normalised per head.
    Qwen3,
}

/// Which projections have biases.
pub(super) struct Biases {
    pub(super) qkv: bool,
    pub(super) output: bool,
    pub(super) mlp: bool,
}

impl Family {
    const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The `model_type` of configurations.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class name in `architectures`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    pub(super) fn take(keys: &mut Keys<'_>) -> Result<Self, ShapeError> {
        let value = keys.require("model_type", "llama, mistral, qwen2 or qwen3")?;
        let found = Self::ALL.into_iter().find(|family| value == json!(family.model_type()));
        let Some(family) = found else {
            let expected = "only llama, mistral, qwen2 and qwen3 are supported";
            return Err(keys.bad("model_type", &value, expected));
        };
        keys.expect_neutral(
            "architectures",
            &[json!([family.architecture()])],
            &format!("a {} model must be [{:?}]", family.model_type(), family.architecture()),
        )?;
        Ok(family)
    }

    /// Refuses every form of windowed attention.
    pub(super) fn expect_full_attention(
        self,
        keys: &mut Keys<'_>,
        max_positions: i64,
        num_layers: i64,
    ) -> Result<(), ShapeError> {
        match self {
            Self::Llama => Ok(()),
            Self::Mistral => {
                // transformers takes an absent key for a window of 4,096 tokens.
                let advice = "null if the model attends to all earlier tokens";
                let Some(window) = keys.take_nullable("sliding_window", advice)? else {
                    return Ok(());
                };
                if window.as_i64().is_some_and(|window| window >= max_positions) {
                    return Ok(());
                }
                let expected = format!(
                    "windowed attention is not supported: it must be null or at least \
                     max_position_embeddings, which is {max_positions}"
                );
                Err(keys.bad("sliding_window", &window, &expected))
            }
            Self::Qwen2 | Self::Qwen3 => {
                let expected = "windowed attention is not supported: it must be false";
                keys.expect_neutral("use_sliding_window", &[json!(false)], expected)?;
                // The window's width has no meaning while it is not used.
                keys.take("sliding_window");
                let full = Value::from(vec!["full_attention"; num_layers as usize]);
                let expected = format!("must be \"full_attention\" for all {num_layers} layers");
                keys.expect_neutral("layer_types", &[full], &expected)
            }
        }
    }

    /// The width of a head: Qwen3 states it, the others may leave it to `hidden_size`.
    pub(super) fn take_head_dim(
        self,
        keys: &mut Keys<'_>,
        hidden_size: i64,
        num_heads: i64,
    ) -> Result<i64, ShapeError> {
        let stated = keys.take_count("head_dim")?;
        let head_dim = match stated {
            Some(head_dim) => head_dim,
            None if self == Self::Qwen3 => {
                return Err(keys.missing("head_dim", "128 in the published Qwen3 models"));
            }
            None if hidden_size % num_heads != 0 => {
                let expected = format!("must divide hidden_size, which is {hidden_size}");
                return Err(keys.bad("num_attention_heads", &json!(num_heads), &expected));
            }
            None => hidden_size / num_heads,
        };
        if head_dim % 2 != 0 {
            return Err(keys.bad("head_dim", &json!(head_dim), "it must be even"));
        }
        Ok(head_dim)
    }

    /// Older files leave these keys out where they are false; the weights prove it, since a bias
    /// that the configuration has no place for is an unknown tensor.
    pub(super) fn take_biases(self, keys: &mut Keys<'_>) -> Result<Biases, ShapeError> {
        match self {
            Self::Llama => {
                let attention = keys.take_bool("attention_bias")?.unwrap_or(false);
                let mlp = keys.take_bool("mlp_bias")?.unwrap_or(false);
                Ok(Biases { qkv: attention, output: attention, mlp })
            }
            Self::Mistral => Ok(Biases { qkv: false, output: false, mlp: false }),
            Self::Qwen2 => Ok(Biases { qkv: true, output: false, mlp: false }),
            Self::Qwen3 => {
                let attention = keys.take_bool("attention_bias")?.unwrap_or(false);
                Ok(Biases { qkv: attention, output: attention, mlp: false })
            }
        }
    }
}
