//! Causal attention over sequences that lie end to end in one batch of tokens. A sequence's
//! queries are its last tokens: keys that come before them are those of a prefix that was computed
//! elsewhere.
//!
//! Legend: T tokens, U keys, H query heads, K key heads, D head width, n sequences.

use std::ptr;

use tch::{Device, Kind, Tensor};

use crate::checks::{Argument, Spec, refuse};
use crate::error::Result;
use crate::{cuda, ffi, upload};

/// Where sequences lie that lie end to end.
#[derive(Debug)]
pub struct Offsets {
    /// i32 [n+1] on the device of what the sequences are made of.
    device: Tensor,
    /// Per sequence, at least 1.
    lengths: Vec<i64>,
    longest: i64,
    total: i64,
}

/// What [`varlen_attention`] computes: `q` is [T,H,D], `k` and `v` are [U,K,D] with H a multiple of
/// K (grouped queries: query head h reads key head `h / (H/K)`), all of one type.
#[derive(Clone, Copy, Debug)]
pub struct VarlenAttention<'a> {
    /// Queries.
    pub q: &'a Tensor,
    /// Keys.
    pub k: &'a Tensor,
    /// Values.
    pub v: &'a Tensor,
    /// Where each sequence's queries lie, T in all.
    pub queries: &'a Offsets,
    /// Where each sequence's keys and values lie, U in all: at least as many as it has queries.
    pub keys: &'a Offsets,
    /// Factor of the scores.
    pub scale: f64,
}

/// Each query attends to the keys of its own sequence up to its own place, the last query being at
/// the place of the last key; differentiable. Returns [T,H,D].
///
/// On CUDA in half precision this is one flash attention over all sequences, elsewhere one fused
/// attention a sequence.
///
/// # Errors
/// Arguments that do not fit together; libtorch's.
pub fn varlen_attention(attention: &VarlenAttention<'_>) -> Result<Tensor> {
    const OP: &str = "varlen_attention";
    let VarlenAttention { q, k, v, queries, keys, scale } = *attention;
    let query = Argument::new(OP, "q", q).spec()?;
    let &[tokens, heads, width] = query.size.as_slice() else {
        return refuse(OP, "q", format!("it is {query}, but has to be [T,H,D]"));
    };
    let key_heads = check_keys(OP, ("k", k), &query, keys.total)?;
    if key_heads == 0 || heads % key_heads != 0 {
        let reason = format!("{heads} query heads cannot share {key_heads} key heads");
        return refuse(OP, "k", reason);
    }
    let value_heads = check_keys(OP, ("v", v), &query, keys.total)?;
    if value_heads != key_heads {
        let reason = format!("it has {value_heads} heads, but k has {key_heads}");
        return refuse(OP, "v", reason);
    }
    queries.check(OP, ("queries", tokens), query.device)?;
    keys.check(OP, ("keys", keys.total), query.device)?;
    if queries.lengths.len() != keys.lengths.len() {
        let (found, expected) = (keys.lengths.len(), queries.lengths.len());
        return refuse(OP, "keys", format!("{found} sequences have keys, {expected} have queries"));
    }
    let mut lengths = queries.lengths.iter().zip(&keys.lengths);
    if let Some(idx) = lengths.position(|(queries, keys)| keys < queries) {
        let (found, expected) = (keys.lengths[idx], queries.lengths[idx]);
        let reason = format!("sequence {idx} has {found} keys for {expected} queries");
        return refuse(OP, "keys", reason);
    }
    if !scale.is_finite() {
        return refuse(OP, "scale", format!("{scale} is not finite"));
    }
    let mut out = ptr::null_mut();
    ffi::call(OP, |message| {
        let (q, k, v) = (q.as_ptr(), k.as_ptr(), v.as_ptr());
        if has_flash(&query, width) {
            let (cu_q, cu_k) = (queries.device.as_ptr(), keys.device.as_ptr());
            let (max_q, max_k) = (queries.longest, keys.longest);
            // SAFETY: the tensors are defined, outlive the call and have the shapes it expects.
            unsafe {
                ffi::prospect_varlen_flash(
                    q, k, v, cu_q, cu_k, max_q, max_k, scale, &mut out, message,
                )
            }
        } else {
            let (queries, keys) = (queries.lengths.as_ptr(), keys.lengths.as_ptr());
            let count = attention.queries.lengths.len();
            // SAFETY: as above; both lists have `count` lengths that add up to T and to U.
            unsafe {
                ffi::prospect_varlen_sdpa(q, k, v, queries, keys, count, scale, &mut out, message)
            }
        }
    })?;
    // SAFETY: on success the shim has stored a new tensor that belongs to us.
    Ok(unsafe { Tensor::from_ptr(out) })
}

// === impl Offsets ===

impl Offsets {
    /// The places of sequences with these lengths, for tensors on `device`.
    ///
    /// # Errors
    /// No sequence, one without tokens, or 2^31 tokens and more; libtorch's.
    pub fn new(lengths: &[i64], device: Device) -> Result<Self> {
        const OP: &str = "Offsets::new";
        const NAME: &str = "lengths";
        let Some(&longest) = lengths.iter().max() else {
            return refuse(OP, NAME, "it is empty");
        };
        if let Some(idx) = lengths.iter().position(|&length| length <= 0) {
            return refuse(OP, NAME, format!("sequence {idx} has {} tokens", lengths[idx]));
        }
        let mut ends = vec![0_i32];
        let mut total = 0_i64;
        for &length in lengths {
            total = total.saturating_add(length);
            let Ok(end) = i32::try_from(total) else {
                return refuse(OP, NAME, "the flash kernel takes fewer than 2^31 tokens");
            };
            ends.push(end);
        }
        Ok(Self { device: upload(&ends, device)?, lengths: lengths.to_vec(), longest, total })
    }

    /// Per sequence, its number of tokens.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// Number of tokens of all sequences.
    pub fn total(&self) -> i64 {
        self.total
    }

    /// Refuses offsets over another number of tokens than `tokens`, or for another device.
    fn check(
        &self,
        op: &'static str,
        (name, tokens): (&'static str, i64),
        device: Device,
    ) -> Result<()> {
        if self.total != tokens {
            let reason = format!("its sequences have {} tokens, but q has {tokens}", self.total);
            return refuse(op, name, reason);
        }
        if self.device.device() != device {
            let reason = format!("it is on {:?}, but q is on {device:?}", self.device.device());
            return refuse(op, name, reason);
        }
        Ok(())
    }
}

/// The key heads of a tensor, which has `tokens` rows and the width, type and device of the
/// queries.
fn check_keys(
    op: &'static str,
    (name, tensor): (&'static str, &Tensor),
    query: &Spec,
    tokens: i64,
) -> Result<i64> {
    let found = Argument::new(op, name, tensor).spec()?;
    match (found.size.as_slice(), query.size.as_slice()) {
        (&[rows, heads, width], &[_, _, query_width])
            if (rows, width) == (tokens, query_width)
                && found.kind == query.kind
                && found.device == query.device =>
        {
            Ok(heads)
        }
        _ => {
            refuse(op, name, format!("it is {found}, but q is {query} and there are {tokens} keys"))
        }
    }
}

/// Whether the flash kernel takes these queries.
fn has_flash(query: &Spec, width: i64) -> bool {
    /// Major compute capability of Ampere, the first that the kernel is made for.
    const AMPERE: i32 = 8;
    matches!(query.device, Device::Cuda(idx) if cuda::capability(idx) >= AMPERE)
        && matches!(query.kind, Kind::Half | Kind::BFloat16)
        && width % 8 == 0
        && width <= 256
}

#[cfg(test)]
mod tests;
