use super::*;
use crate::testing::{assert_close, devices, numbers};
use crate::{KeepGraph, LibtorchError, vjp};

const WIDTH: i64 = 16;
const SCALE: f64 = 0.3;
const LENGTHS: [i64; 4] = [5, 1, 9, 4];

/// Keys of sequences that continue something: none, one and several queries after a prefix.
const LONGER: [i64; 4] = [5, 7, 12, 8];

fn attend((q, k, v): (&Tensor, &Tensor, &Tensor), queries: &[i64], keys: &[i64]) -> Result<Tensor> {
    let queries = Offsets::new(queries, q.device())?;
    let keys = Offsets::new(keys, q.device())?;
    varlen_attention(&VarlenAttention { q, k, v, queries: &queries, keys: &keys, scale: SCALE })
}

/// Sequence and place of each key, or of each of the last tokens of sequences with these `keys`.
fn places(lengths: &[i64], keys: &[i64]) -> Vec<(usize, i64)> {
    let pairs = lengths.iter().zip(keys).enumerate();
    pairs
        .flat_map(|(idx, (&length, &keys))| (keys - length..keys).map(move |at| (idx, at)))
        .collect()
}

/// Softmax attention with every score written out, one mask over all tokens.
fn naive((q, k, v): (&Tensor, &Tensor, &Tensor), queries: &[i64], keys: &[i64]) -> Tensor {
    let (rows, columns) = (places(queries, keys), places(keys, keys));
    let hidden: Vec<f64> = rows
        .iter()
        .flat_map(|row| columns.iter().map(move |column| (row, column)))
        .map(
            |(row, column)| {
                if row.0 == column.0 && column.1 <= row.1 { 0.0 } else { f64::NEG_INFINITY }
            },
        )
        .collect();
    let mask = Tensor::f_from_slice(&hidden).unwrap();
    let shape = [rows.len() as i64, columns.len() as i64];
    let mask = mask.f_reshape(shape).unwrap().f_to_device(q.device()).unwrap();
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
fn check(
    (heads, key_heads): (i64, i64),
    keys: &[i64],
    (kind, device): (Kind, Device),
    tolerance: f64,
) {
    let input = |lengths: &[i64], heads, seed| {
        let tokens = lengths.iter().sum();
        numbers(&[tokens, heads, WIDTH], seed, (kind, device)).f_set_requires_grad(true).unwrap()
    };
    let inputs = [input(&LENGTHS, heads, 1), input(keys, key_heads, 2), input(keys, key_heads, 3)];
    let [q, k, v] = &inputs;
    let found = attend((q, k, v), &LENGTHS, keys).unwrap();
    let expected = naive((q, k, v), &LENGTHS, keys);
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

/// CUDA's kernels for fp32 multiply in three passes of narrower numbers.
fn float_tolerance(device: Device) -> f64 {
    if device == Device::Cpu { 2e-6 } else { 1e-5 }
}

#[test]
fn equals_softmax_attention_of_each_sequence() {
    for device in devices() {
        for keys in [LENGTHS, LONGER] {
            for heads in [(4, 4), (6, 2), (3, 1)] {
                check(heads, &keys, (Kind::Float, device), float_tolerance(device));
                check(heads, &keys, (Kind::BFloat16, device), 3e-2);
            }
        }
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    for device in devices() {
        let of = |seed| numbers(&[9, 2, WIDTH], seed, (Kind::Float, device));
        let (q, k, v) = (of(1), of(2), of(3));
        let both = attend((&q, &k, &v), &[4, 5], &[4, 5]).unwrap();
        let part = |x: &Tensor| x.f_narrow(0, 4, 5).unwrap();
        let alone = attend((&part(&q), &part(&k), &part(&v)), &[5], &[5]).unwrap();
        assert_close(&part(&both), &alone, 0.0);
    }
}

#[test]
fn the_last_tokens_alone_get_what_they_get_in_the_whole_sequence() {
    for device in devices() {
        let of = |seed| numbers(&[9, 4, WIDTH], seed, (Kind::Float, device));
        let (q, k, v) = (of(1), of(2), of(3));
        let whole = attend((&q, &k, &v), &[9], &[9]).unwrap();
        for count in [1, 4, 8] {
            let last = |x: &Tensor| x.f_narrow(0, 9 - count, count).unwrap();
            let found = attend((&last(&q), &k, &v), &[count], &[9]).unwrap();
            assert_close(&found, &last(&whole), float_tolerance(device) / 2.0);
        }
    }
}

/// The error for queries and keys of these shapes, in sequences of these lengths.
fn check_refused(shapes: [&[i64]; 2], lengths: [&[i64]; 2], expected: &str) {
    devices();
    let float = (Kind::Float, Device::Cpu);
    let (q, k) = (numbers(shapes[0], 1, float), numbers(shapes[1], 2, float));
    let error = attend((&q, &k, &k), lengths[0], lengths[1]).unwrap_err();
    let refused = matches!(error, LibtorchError::InvalidArgument { .. });
    assert!(refused && error.to_string().contains(expected), "{error}");
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let q: &[i64] = &[6, 4, 8];
    let six: [&[i64]; 2] = [&[6], &[6]];
    check_refused([&[6, 32], q], six, "q: it is Float [6, 32] on Cpu");
    check_refused([q, &[6, 4, 4]], six, "k: it is Float [6, 4, 4] on Cpu");
    check_refused([q, &[6, 3, 8]], six, "4 query heads cannot share 3");
    check_refused([q, q], [&[5], &[6]], "queries: its sequences have 5 tokens, but q has 6");
    check_refused([q, q], [&[6], &[7]], "k: it is Float [6, 4, 8] on Cpu");
    check_refused([q, q], [&[2, 4], &[6]], "1 sequences have keys, 2 have queries");
    check_refused([q, q], [&[2, 4], &[3, 3]], "sequence 1 has 3 keys for 4 queries");
    check_refused([q, q], [&[3, 0, 3], &[6]], "sequence 1 has 0 tokens");
    check_refused([q, q], [&[], &[6]], "lengths: it is empty");
    check_refused([q, q], [&[1 << 31], &[6]], "fewer than 2^31 tokens");
}

#[test]
fn a_scale_that_is_not_finite_is_refused() {
    devices();
    let x = numbers(&[3, 1, 8], 1, (Kind::Float, Device::Cpu));
    let offsets = Offsets::new(&[3], Device::Cpu).unwrap();
    assert_eq!((offsets.lengths(), offsets.total()), ([3].as_slice(), 3));
    let (queries, keys, scale) = (&offsets, &offsets, f64::NAN);
    let error = varlen_attention(&VarlenAttention { q: &x, k: &x, v: &x, queries, keys, scale })
        .unwrap_err();
    assert!(error.to_string().contains("scale: NaN is not finite"), "{error}");
}
