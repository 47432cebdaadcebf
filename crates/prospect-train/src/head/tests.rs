use prospect_libtorch::{ensure_cuda_loaded, set_threads};
use tch::{Device, Kind, Tensor};

use super::{HeadGradient, Range, TILE_BYTES, Tiling, Visits, gradient, log_probs};

const NUM_ROWS: i64 = 11;
const WIDTH: i64 = 6;
const VOCAB_SIZE: i64 = 37;

/// Numbers that look random, between −1 and 1.
fn numbers(shape: [i64; 2], seed: i64) -> Tensor {
    let values: Vec<f32> = (0..shape[0] * shape[1])
        .map(|idx| (((idx * 37 + seed * 101) as f64) * 0.618_03).sin() as f32)
        .collect();
    Tensor::f_from_slice(&values).unwrap().f_view(shape).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.f_to_kind(Kind::Double).unwrap().f_reshape([-1]).unwrap();
    Vec::try_from(flat).unwrap()
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size());
    for (idx, (found, expected)) in values(found).iter().zip(values(expected)).enumerate() {
        assert!((found - expected).abs() <= tolerance, "element {idx}: {found} is not {expected}");
    }
}

/// Both visits with tiles of this size, against autograd through all logits at once: on the CPU,
/// and where there is a GPU on that, whose products round gradients of bf16 models to bf16.
fn check(tile_bytes: i64, kind: Kind, tolerance: f64) {
    // Before the first backward pass of the process, which settles what devices passes run on.
    let has_cuda = ensure_cuda_loaded();
    check_on(Device::Cpu, tile_bytes, kind, tolerance);
    if has_cuda {
        let tolerance = if kind == Kind::Float { tolerance } else { 2e-2 };
        check_on(Device::Cuda(0), tile_bytes, kind, tolerance);
    }
}

fn check_on(device: Device, tile_bytes: i64, kind: Kind, tolerance: f64) {
    set_threads(1);
    let place = |tensor: Tensor| tensor.f_to_kind(kind).unwrap().f_to_device(device).unwrap();
    let hidden = place(numbers([NUM_ROWS, WIDTH], 1));
    let weight = place(numbers([VOCAB_SIZE, WIDTH], 2).f_mul_scalar(3.0).unwrap());
    let ids: Vec<i64> = (0..NUM_ROWS).map(|row| (row * row * 7) % VOCAB_SIZE).collect();
    let targets = Tensor::f_from_slice(&ids).unwrap().f_to_device(device).unwrap();
    let coefficients: Vec<f32> = (0..NUM_ROWS).map(|row| (row as f32 - 4.0) * 0.3).collect();
    let coefficients = Tensor::f_from_slice(&coefficients).unwrap().f_to_device(device).unwrap();

    let leaf = |tensor: &Tensor| {
        let exact = tensor.f_to_kind(Kind::Float).unwrap().f_detach().unwrap();
        exact.f_set_requires_grad(true).unwrap()
    };
    let (hidden_leaf, weight_leaf) = (leaf(&hidden), leaf(&weight));
    let logits = hidden_leaf.f_mm(&weight_leaf.f_tr().unwrap()).unwrap();
    let expected = logits
        .f_log_softmax(1, Kind::Float)
        .and_then(|all| all.f_gather(1, &targets.f_unsqueeze(1)?, false)?.f_squeeze_dim(1))
        .unwrap();
    let loss = expected.f_mul(&coefficients).unwrap().f_sum(Kind::Float).unwrap();
    loss.f_backward().unwrap();

    let visit = log_probs(&hidden, &weight, &targets, Visits::Twice, tile_bytes).unwrap();
    if device == Device::Cpu {
        assert_eq!(visit.kept_nv.is_some(), tile_bytes == TILE_BYTES);
    }
    assert_close(&visit.log_probs_n, &expected.f_detach().unwrap(), tolerance);
    // What is there already must stay in the sum.
    let sum = Tensor::f_full([VOCAB_SIZE, WIDTH], 5.0, (Kind::Float, device)).unwrap();
    let options =
        HeadGradient { coefficients_n: &coefficients, weight_gradient_vh: &sum, tile_bytes };
    let found = gradient(&hidden, &weight, &targets, visit, &options).unwrap();
    assert_close(&found, &hidden_leaf.f_grad().unwrap(), tolerance);
    assert_close(&sum.f_sub_scalar(5.0).unwrap(), &weight_leaf.f_grad().unwrap(), tolerance);
}

#[test]
fn tiles_of_every_size_equal_autograd() {
    // One row and one token at a time; a few rows; a few tokens; all at once and kept.
    for tile_bytes in [1, 4, 4 * 5, 4 * NUM_ROWS, 4 * 7 * NUM_ROWS, TILE_BYTES] {
        check(tile_bytes, Kind::Float, 1e-5);
    }
}

/// The head of a model in bf16 works on fp32 copies on a CPU, so only the weights are rounded.
#[test]
fn bf16_operands_are_multiplied_in_fp32() {
    check(4 * 7 * NUM_ROWS, Kind::BFloat16, 1e-5);
    check(TILE_BYTES, Kind::BFloat16, 1e-5);
}

#[test]
fn a_tile_never_holds_more_than_it_may() {
    let sizes = [(1, 10), (37, 49_152), (5000, 128_256), (1 << 20, 151_936)];
    for (num_rows, vocab_size) in sizes {
        for (kind, tile_bytes) in [Kind::Float, Kind::BFloat16]
            .into_iter()
            .flat_map(|kind| [1, 4, 4096, TILE_BYTES].map(|tile_bytes| (kind, tile_bytes)))
        {
            let shape = |rows| {
                let one = Tensor::f_zeros([1, 1], (kind, Device::Cpu)).unwrap();
                one.f_expand([rows, 2048], false).unwrap()
            };
            let tiling = Tiling::new(&shape(num_rows), &shape(vocab_size), tile_bytes).unwrap();
            let (rows, tokens) = (tiling.rows().next().unwrap(), tiling.tokens().next().unwrap());
            assert!(4 * rows.length * tokens.length <= tile_bytes.max(4));
            // What the tile's weights are copied into is no larger, unless one token's is.
            let copied = if kind == Kind::Float { 0 } else { 4 * 2048 * tokens.length };
            assert!(copied <= tile_bytes.max(4 * 2048), "{copied} bytes of {tile_bytes}");
            let covered = |ranges: Vec<Range>| ranges.iter().map(|range| range.length).sum::<i64>();
            assert_eq!(covered(tiling.tokens().collect()), vocab_size);
        }
    }
}

#[test]
fn a_single_visit_keeps_no_logits() {
    set_threads(1);
    let (hidden, weight) = (numbers([NUM_ROWS, WIDTH], 1), numbers([VOCAB_SIZE, WIDTH], 2));
    let targets = Tensor::f_zeros([NUM_ROWS], (Kind::Int64, Device::Cpu)).unwrap();
    let visit = log_probs(&hidden, &weight, &targets, Visits::Once, TILE_BYTES).unwrap();
    assert!(visit.kept_nv.is_none());
}
