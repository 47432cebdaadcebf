//! Causal attention over sequences that lie end to end in one batch of tokens.
//!
//! Legend: T tokens, H query heads, K key heads, D head width, n sequences.

use std::ptr;

use tch::{Device, Kind, Tensor};

use crate::checks::{Argument, Spec, refuse};
use crate::error::Result;
use crate::ffi;

/// Each token attends to itself and to the earlier tokens of its own sequence; differentiable.
///
/// `q` is [T,H,D], `k` and `v` are [T,K,D] with H a multiple of K (grouped queries: query head h
/// reads key head `h / (H/K)`), all of one type. `cu_seqlens`, i32 [n+1] on the same device, and
/// `cu_seqlens_host` hold the same ascending offsets from 0 to T; `max_seqlen` is the longest
/// sequence. Scores are multiplied by `scale`. Returns [T,H,D].
///
/// On CUDA in half precision this is one flash attention over all sequences, elsewhere one fused
/// attention a sequence.
pub fn varlen_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_seqlens: &Tensor,
    cu_seqlens_host: &[i64],
    max_seqlen: i64,
    scale: f64,
) -> Result<Tensor> {
    const OP: &str = "varlen_attention";
    let query = Argument::new(OP, "q", q).spec()?;
    let &[tokens, heads, width] = query.size.as_slice() else {
        return refuse(OP, "q", format!("it is {query}, but has to be [T,H,D]"));
    };
    let keys = check_keys(OP, "k", k, &query)?;
    let values = check_keys(OP, "v", v, &query)?;
    if keys == 0 || heads % keys != 0 {
        let reason = format!("{heads} query heads cannot share {keys} key heads");
        return refuse(OP, "k", reason);
    }
    if values != keys {
        let reason = format!("it has {values} heads, but k has {keys}");
        return refuse(OP, "v", reason);
    }
    let lengths = lengths(OP, cu_seqlens_host, tokens)?;
    if lengths.iter().max() != Some(&max_seqlen) {
        let reason = format!("{max_seqlen} is not the length of the longest sequence");
        return refuse(OP, "max_seqlen", reason);
    }
    if !scale.is_finite() {
        return refuse(OP, "scale", format!("{scale} is not finite"));
    }
    let offsets = Argument::new(OP, "cu_seqlens", cu_seqlens).contiguous()?;
    let expected =
        Spec { size: vec![cu_seqlens_host.len() as i64], kind: Kind::Int, device: query.device };
    if offsets != expected {
        let reason = format!("it is {offsets}, but has to be {expected}");
        return refuse(OP, "cu_seqlens", reason);
    }
    let mut out = ptr::null_mut();
    ffi::call(OP, |message| {
        let (q, k, v) = (q.as_ptr(), k.as_ptr(), v.as_ptr());
        if has_flash(&query, width) {
            let offsets = cu_seqlens.as_ptr();
            // SAFETY: the tensors are defined, outlive the call and have the shapes it expects.
            unsafe {
                ffi::prospect_varlen_flash(q, k, v, offsets, max_seqlen, scale, &mut out, message)
            }
        } else {
            let (list, count) = (lengths.as_ptr(), lengths.len());
            // SAFETY: as above; the list has `count` lengths that add up to the tokens.
            unsafe { ffi::prospect_varlen_sdpa(q, k, v, list, count, scale, &mut out, message) }
        }
    })?;
    // SAFETY: on success the shim has stored a new tensor that belongs to us.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// The key heads of `tensor`, which has the tokens, width, type and device of the queries.
fn check_keys(op: &'static str, name: &'static str, tensor: &Tensor, query: &Spec) -> Result<i64> {
    let found = Argument::new(op, name, tensor).spec()?;
    match (found.size.as_slice(), query.size.as_slice()) {
        (&[tokens, heads, width], &[query_tokens, _, query_width])
            if (tokens, width) == (query_tokens, query_width)
                && found.kind == query.kind
                && found.device == query.device =>
        {
            Ok(heads)
        }
        _ => refuse(op, name, format!("it is {found}, but q is {query}")),
    }
}

fn lengths(op: &'static str, offsets: &[i64], tokens: i64) -> Result<Vec<i64>> {
    const NAME: &str = "cu_seqlens_host";
    let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
        return refuse(op, NAME, "it is empty");
    };
    if first != 0 || last != tokens {
        let reason = format!("it goes from {first} to {last}, but has to from 0 to {tokens}");
        return refuse(op, NAME, reason);
    }
    let lengths: Vec<i64> = offsets.windows(2).map(|pair| pair[1] - pair[0]).collect();
    if lengths.is_empty() || lengths.iter().any(|&length| length <= 0) {
        return refuse(op, NAME, "it has a sequence without tokens");
    }
    Ok(lengths)
}

/// Whether the flash kernel takes these queries.
fn has_flash(query: &Spec, width: i64) -> bool {
    matches!(query.device, Device::Cuda(_))
        && matches!(query.kind, Kind::Half | Kind::BFloat16)
        && width % 8 == 0
        && width <= 256
}

#[cfg(test)]
mod tests;
