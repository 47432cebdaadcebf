//! How sequences lie end to end in one pass, without padding, and what their tokens attend to.

use std::ops::Range;

use prospect_libtorch::{Offsets, VarlenAttention, upload, varlen_attention};
use tch::Tensor;

use crate::error::{ModelError, TorchContext};
use crate::model::CausalLm;
use crate::rotary::RotaryTables;

/// Tokens of one sequence that lie one after another in a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Places in the pass of the tokens that come before these in their sequence: the first tokens
    /// of a span further ahead. Empty where the sequence begins here.
    pub prefix: Range<usize>,
    /// Number of tokens; at least 1.
    pub length: usize,
}

/// Packed sequences: T tokens in all.
#[derive(Debug)]
pub struct Layout {
    /// Where the tokens of each span lie, T in all.
    pub queries: Offsets,
    /// What they attend to, unless that is the tokens of their own span alone.
    pub keys: Option<PrefixedKeys>,
    /// Cosines and sines per token.
    pub rotary: RotaryTables,
}

/// Keys and values, each span's behind those of its prefix.
#[derive(Debug)]
pub struct PrefixedKeys {
    /// i64 `[U]`: places in the pass.
    pub places_u: Tensor,
    /// Where those of each span lie among the U.
    pub offsets: Offsets,
}

impl Layout {
    /// Number of tokens, T.
    pub fn num_tokens(&self) -> usize {
        self.queries.total() as usize
    }

    /// Number of spans.
    pub fn num_spans(&self) -> usize {
        self.queries.lengths().len()
    }

    /// Causal attention of the pass: queries `[T, heads, D]`, keys and values `[T, kv_heads, D]`
    /// to `[T, heads, D]`.
    ///
    /// # Errors
    /// Tensors that do not fit the layout; libtorch's.
    pub fn attend(
        &self,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        scale: f64,
    ) -> Result<Tensor, ModelError> {
        let queries = &self.queries;
        let Some(PrefixedKeys { places_u, offsets }) = &self.keys else {
            let whole = VarlenAttention { q, k, v, queries, keys: queries, scale };
            return Ok(varlen_attention(&whole)?);
        };
        let gather = |tensor: &Tensor| tensor.f_index_select(0, places_u);
        let k = gather(k).action("gather the keys of prefixes")?;
        let v = gather(v).action("gather the values of prefixes")?;
        let prefixed = VarlenAttention { q, k: &k, v: &v, queries, keys: offsets, scale };
        Ok(varlen_attention(&prefixed)?)
    }
}

impl CausalLm {
    /// The layout of whole sequences with these lengths, in tokens.
    ///
    /// # Errors
    /// No sequence, an empty one, or one that is longer than the model's positions.
    pub fn layout(&self, lengths: &[usize]) -> Result<Layout, ModelError> {
        let whole = |&length: &usize| Span { prefix: 0..0, length };
        self.layout_of(&lengths.iter().map(whole).collect::<Vec<_>>())
    }

    /// The layout of these spans, in their order.
    ///
    /// # Errors
    /// As [`layout`](Self::layout); a prefix that does not lie ahead of its span.
    pub fn layout_of(&self, spans: &[Span]) -> Result<Layout, ModelError> {
        if spans.is_empty() {
            return Err(ModelError::argument("lengths", "empty", "a pass needs a sequence"));
        }
        let max_positions = self.config().max_positions;
        let mut positions: Vec<i64> = Vec::new();
        for (sequence_idx, Span { prefix, length }) in spans.iter().enumerate() {
            if *length == 0 {
                let argument = format!("length of sequence {sequence_idx}");
                return Err(ModelError::argument(argument, 0, "a sequence needs a token"));
            }
            if prefix.start > prefix.end || prefix.end > positions.len() {
                let argument = format!("prefix of sequence {sequence_idx}");
                let expected = format!("only {} tokens lie ahead of it", positions.len());
                return Err(ModelError::argument(argument, format!("{prefix:?}"), expected));
            }
            let length = prefix.len() + length;
            if length > max_positions {
                return Err(ModelError::SequenceTooLong { sequence_idx, length, max_positions });
            }
            positions.extend(prefix.len() as i64..length as i64);
        }
        let lengths: Vec<i64> = spans.iter().map(|span| span.length as i64).collect();
        let shares = spans.iter().any(|span| !span.prefix.is_empty());
        Ok(Layout {
            queries: Offsets::new(&lengths, self.device())?,
            keys: shares.then(|| self.prefixed_keys(spans)).transpose()?,
            rotary: self.rotary(&positions)?,
        })
    }

    fn prefixed_keys(&self, spans: &[Span]) -> Result<PrefixedKeys, ModelError> {
        let (mut places, mut lengths) = (Vec::new(), Vec::with_capacity(spans.len()));
        let mut begin = 0;
        for Span { prefix, length } in spans {
            let own = begin..begin + length;
            begin = own.end;
            places.extend(prefix.clone().chain(own).map(|place| place as i64));
            lengths.push((prefix.len() + length) as i64);
        }
        Ok(PrefixedKeys {
            places_u: upload(&places, self.device())?,
            offsets: Offsets::new(&lengths, self.device())?,
        })
    }

    /// Cosines and sines for tokens at these positions of their sequences, for passes that lay
    /// out their attention themselves.
    ///
    /// # Errors
    /// libtorch's.
    pub fn rotary(&self, positions: &[i64]) -> Result<RotaryTables, ModelError> {
        let positions_t = upload(positions, self.device())?;
        RotaryTables::new(self.frequencies(), &positions_t, self.kind())
            .action("compute the rotary tables")
    }
}
