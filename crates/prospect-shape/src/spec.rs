//! The parameters of the chain, derived from the configuration: their checkpoint names, shapes and
//! order, segment by segment. Everything that loads, saves, runs or costs a model follows this
//! table.

use crate::config::ModelConfig;

/// Checkpoint name of the embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// Checkpoint name of the head, if it is not the embedding.
pub const HEAD: &str = "lm_head.weight";
const FINAL_NORM: &str = "model.norm.weight";

/// One parameter as the configuration wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<i64>,
    /// Whether weight decay applies: to matrices, not to norms and biases.
    pub decay: bool,
}

/// Where the parameters of a block lie in its segment. The same for all blocks of a model.
#[derive(Clone, Debug)]
pub struct BlockSlots {
    /// Queries.
    pub query: LinearSlots,
    /// Keys.
    pub key: LinearSlots,
    /// Values.
    pub value: LinearSlots,
    /// Output of the attention.
    pub output: LinearSlots,
    /// Norms of queries and keys, if the family has them.
    pub qk_norms: Option<(usize, usize)>,
    /// Gate of the MLP.
    pub gate: LinearSlots,
    /// What is gated.
    pub up: LinearSlots,
    /// Output of the MLP.
    pub down: LinearSlots,
    /// Norm before the attention.
    pub input_norm: usize,
    /// Norm before the MLP.
    pub post_attention_norm: usize,
}

/// A projection's weight and, where the family has one, its bias.
#[derive(Clone, Copy, Debug)]
pub struct LinearSlots {
    /// The matrix, `[out, in]`.
    pub weight: usize,
    /// The bias, `[out]`.
    pub bias: Option<usize>,
}

/// The parameters of every segment: the embedding, the blocks, the end of the chain.
pub fn segments(config: &ModelConfig) -> Vec<Vec<ParameterSpec>> {
    let mut segments = vec![vec![matrix(EMBEDDING.to_owned(), embedding_shape(config))]];
    for layer in 0..config.num_layers {
        segments.push(block(config, &format!("model.layers.{layer}.")).0);
    }
    let mut last = vec![vector(FINAL_NORM.to_owned(), config.hidden_size)];
    if !config.tie_word_embeddings {
        last.push(matrix(HEAD.to_owned(), embedding_shape(config)));
    }
    segments.push(last);
    segments
}

/// The places of a block's parameters within its segment.
pub fn block_slots(config: &ModelConfig) -> BlockSlots {
    block(config, "").1
}

/// Whether a tensor is one that old checkpoints carry although it follows from the configuration.
pub fn is_derived(name: &str) -> bool {
    name.starts_with("model.") && name.ends_with(".rotary_emb.inv_freq")
}

/// A block in the order of transformers' `named_parameters`.
fn block(config: &ModelConfig, prefix: &str) -> (Vec<ParameterSpec>, BlockSlots) {
    let ModelConfig { hidden_size, intermediate_size, head_dim, .. } = *config;
    let query_size = config.num_heads * head_dim;
    let kv_size = config.num_kv_heads * head_dim;
    let mut table = Table { prefix, parameters: Vec::new() };
    let query = table.linear("self_attn.q_proj", [query_size, hidden_size], config.qkv_bias);
    let key = table.linear("self_attn.k_proj", [kv_size, hidden_size], config.qkv_bias);
    let value = table.linear("self_attn.v_proj", [kv_size, hidden_size], config.qkv_bias);
    let output = table.linear("self_attn.o_proj", [hidden_size, query_size], config.output_bias);
    let qk_norms = config.qk_norm.then(|| {
        (table.norm("self_attn.q_norm", head_dim), table.norm("self_attn.k_norm", head_dim))
    });
    let gate = table.linear("mlp.gate_proj", [intermediate_size, hidden_size], config.mlp_bias);
    let up = table.linear("mlp.up_proj", [intermediate_size, hidden_size], config.mlp_bias);
    let down = table.linear("mlp.down_proj", [hidden_size, intermediate_size], config.mlp_bias);
    let input_norm = table.norm("input_layernorm", hidden_size);
    let post_attention_norm = table.norm("post_attention_layernorm", hidden_size);
    let slots = BlockSlots {
        query,
        key,
        value,
        output,
        qk_norms,
        gate,
        up,
        down,
        input_norm,
        post_attention_norm,
    };
    (table.parameters, slots)
}

struct Table<'a> {
    prefix: &'a str,
    parameters: Vec<ParameterSpec>,
}

impl ParameterSpec {
    /// Number of elements.
    pub fn numel(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product()
    }
}

impl Table<'_> {
    fn linear(&mut self, name: &str, shape: [i64; 2], bias: bool) -> LinearSlots {
        let weight = self.push(matrix(format!("{}{name}.weight", self.prefix), shape));
        let bias = bias.then(|| self.push(vector(format!("{}{name}.bias", self.prefix), shape[0])));
        LinearSlots { weight, bias }
    }

    fn norm(&mut self, name: &str, size: i64) -> usize {
        self.push(vector(format!("{}{name}.weight", self.prefix), size))
    }

    fn push(&mut self, parameter: ParameterSpec) -> usize {
        self.parameters.push(parameter);
        self.parameters.len() - 1
    }
}

fn embedding_shape(config: &ModelConfig) -> [i64; 2] {
    [config.vocab_size, config.hidden_size]
}

fn matrix(name: String, shape: [i64; 2]) -> ParameterSpec {
    ParameterSpec { name, shape: shape.to_vec(), decay: true }
}

fn vector(name: String, size: i64) -> ParameterSpec {
    ParameterSpec { name, shape: vec![size], decay: false }
}
