use super::*;
use crate::testing::{assert_close, devices, numbers};
use crate::{KeepGraph, LibtorchError, vjp};

const WIDTH: i64 = 16;
const SCALE: f64 = 0.3;
const LENGTHS: [i64; 4] = [5, 1, 9, 4];

fn offsets(lengths: &[i64]) -> Vec<i64> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

fn attend(q: &Tensor, k: &Tensor, v: &Tensor, lengths: &[i64]) -> Result<Tensor> {
    let host = offsets(lengths);
    let device = Tensor::f_from_slice(&host)?.f_to_kind(Kind::Int)?.f_to_device(q.device())?;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    varlen_attention(q, k, v, &device, &host, longest, SCALE)
}

/// Softmax attention with every score written out, one mask over all tokens.
fn naive(q: &Tensor, k: &Tensor, v: &Tensor, lengths: &[i64]) -> Tensor {
    let tokens: i64 = lengths.iter().sum();
    let sequence_of: Vec<i64> =
        (0..lengths.len() as i64).flat_map(|s| vec![s; lengths[s as usize] as usize]).collect();
    let hidden: Vec<f64> = (0..tokens * tokens)
        .map(|idx| (idx / tokens, idx % tokens))
        .map(|(i, j)| {
            let same = sequence_of[i as usize] == sequence_of[j as usize];
            if same && j <= i { 0.0 } else { f64::NEG_INFINITY }
        })
        .collect();
    let mask = Tensor::f_from_slice(&hidden).unwrap();
    let mask = mask.f_reshape([tokens, tokens]).unwrap().f_to_device(q.device()).unwrap();
    let group = q.size()[1] / k.size()[1];
    let heads = |x: &Tensor, repeats: i64| {
        let repeated = x.f_repeat_interleave_self_int(repeats, 1, None).unwrap();
        repeated.f_transpose(0, 1).unwrap().f_to_kind(Kind::Double).unwrap()
    };
    let (q, k, v) = (heads(q, 1), heads(k, group), heads(v, group));
    let scores = q.f_bmm(&k.f_transpose(1, 2).unwrap()).unwrap() * SCALE + mask;
    let weights = scores.f_softmax(-1, Kind::Double).unwrap();
    weights.f_bmm(&v).unwrap().f_transpose(0, 1).unwrap()
}

/// Output and gradients against the naive computation on the same numbers.
fn check(heads: i64, key_heads: i64, (kind, device): (Kind, Device), tolerance: f64) {
    let tokens = LENGTHS.iter().sum();
    let input = |heads, seed| {
        numbers(&[tokens, heads, WIDTH], seed, (kind, device)).f_set_requires_grad(true).unwrap()
    };
    let inputs = [input(heads, 1), input(key_heads, 2), input(key_heads, 3)];
    let [q, k, v] = &inputs;
    let found = attend(q, k, v, &LENGTHS).unwrap();
    let expected = naive(q, k, v, &LENGTHS);
    assert_eq!(found.f_kind().unwrap(), kind);
    assert_close(&found, &expected, tolerance);

    let grad_output = numbers(&found.size(), 4, (kind, device));
    let grads = |output: Tensor, grad: Tensor| {
        let grads = vjp(&[output], &inputs, &[grad], KeepGraph::No).unwrap();
        grads.into_iter().map(Option::unwrap).collect::<Vec<_>>()
    };
    let double = grad_output.f_to_kind(Kind::Double).unwrap();
    let expected = grads(expected, double);
    for (found, expected) in grads(found, grad_output).iter().zip(&expected) {
        assert_close(found, expected, 4.0 * tolerance);
    }
}

#[test]
fn equals_softmax_attention_of_each_sequence() {
    for device in devices() {
        for (heads, key_heads) in [(4, 4), (6, 2), (3, 1)] {
            check(heads, key_heads, (Kind::Float, device), 2e-6);
            check(heads, key_heads, (Kind::BFloat16, device), 3e-2);
        }
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    for device in devices() {
        let of = |seed| numbers(&[9, 2, WIDTH], seed, (Kind::Float, device));
        let (q, k, v) = (of(1), of(2), of(3));
        let both = attend(&q, &k, &v, &[4, 5]).unwrap();
        let part = |x: &Tensor| x.f_narrow(0, 4, 5).unwrap();
        let alone = attend(&part(&q), &part(&k), &part(&v), &[5]).unwrap();
        assert_close(&part(&both), &alone, 0.0);
    }
}

fn check_refused(q: &[i64], k: &[i64], host: &[i64], max_seqlen: i64, expected: &str) {
    devices();
    let float = (Kind::Float, Device::Cpu);
    let (q, k) = (numbers(q, 1, float), numbers(k, 2, float));
    let cu_seqlens = Tensor::f_from_slice(host).unwrap().f_to_kind(Kind::Int).unwrap();
    let error = varlen_attention(&q, &k, &k, &cu_seqlens, host, max_seqlen, SCALE).unwrap_err();
    let refused = matches!(error, LibtorchError::InvalidArgument { .. });
    assert!(refused && error.to_string().contains(expected), "{error}");
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let q: &[i64] = &[6, 4, 8];
    check_refused(&[6, 32], q, &[0, 6], 6, "q: it is Float [6, 32] on Cpu");
    check_refused(q, &[6, 4, 4], &[0, 6], 6, "k: it is Float [6, 4, 4] on Cpu");
    check_refused(q, &[6, 3, 8], &[0, 6], 6, "4 query heads cannot share 3");
    check_refused(q, q, &[0, 5], 5, "goes from 0 to 5");
    check_refused(q, q, &[0, 3, 3, 6], 3, "a sequence without tokens");
    check_refused(q, q, &[0, 2, 6], 3, "3 is not the length of the longest");
}

#[test]
fn offsets_of_another_type_are_refused() {
    devices();
    let x = numbers(&[3, 1, 8], 1, (Kind::Float, Device::Cpu));
    let long = Tensor::f_from_slice(&[0_i64, 3]).unwrap();
    let error = varlen_attention(&x, &x, &x, &long, &[0, 3], 3, SCALE).unwrap_err();
    assert!(error.to_string().contains("cu_seqlens: it is Int64 [2]"), "{error}");
}
