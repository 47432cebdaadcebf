//! Values and gradients against plain ATen in float64, on the same numbers.

use std::ffi::{c_char, c_int, c_void};

use tch::{Device, Kind};

use super::*;
use crate::testing::{assert_close, devices, numbers, values};
use crate::{KeepGraph, LibtorchError, vjp};

const EPS: f64 = 1e-5;
const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Inputs of a function, its results, and the results' gradients times fixed numbers.
type Run<'a> = dyn Fn(&[Tensor]) -> Vec<Tensor> + 'a;

/// The outputs of a run and the gradients of its inputs.
fn run(function: &Run<'_>, inputs: &[Tensor]) -> Vec<Tensor> {
    let leaves: Vec<Tensor> = inputs
        .iter()
        .map(|input| input.f_detach().unwrap().f_set_requires_grad(true).unwrap())
        .collect();
    let outputs = function(&leaves);
    let gradients: Vec<Tensor> = outputs
        .iter()
        .enumerate()
        .map(|(idx, output)| {
            let options = (output.f_kind().unwrap(), output.device());
            numbers(&output.size(), 50 + idx as i64, (Kind::BFloat16, Device::Cpu))
                .f_to_device(options.1)
                .and_then(|gradient| gradient.f_to_kind(options.0))
                .unwrap()
        })
        .collect();
    let found = vjp(&outputs, &leaves, &gradients, KeepGraph::No).unwrap();
    outputs
        .iter()
        .map(|output| output.f_detach().unwrap())
        .chain(found.into_iter().map(|gradient| gradient.expect("every input has its part")))
        .collect()
}

/// Runs CUDA's kernels on the CPU, for this thread's tensors in main memory.
struct Emulated;

impl Emulated {
    fn by(emulator: ffi::Emulator) -> Self {
        // SAFETY: the function is an emulator's, and stays in the process.
        unsafe { ffi::prospect_fused_emulate(Some(emulator)) };
        Self
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        // SAFETY: without an emulator the CPU's own loops run again.
        unsafe { ffi::prospect_fused_emulate(None) };
    }
}

/// Runs `body` on the CPU, on a CUDA device where there is one, and on the CPU once more with the
/// text of CUDA's kernels.
fn on_each_device(body: impl Fn(Device)) {
    devices().into_iter().for_each(&body);
    let _emulated = Emulated::by(ffi::prospect_emulate_kernel);
    body(Device::Cpu);
}

/// A fused function against plain ATen in float64, for inputs of these shapes. In bf16, where
/// gradients cancel, it may be no worse than plain ATen in bf16 is.
fn check(shapes: &[&[i64]], fused: &Run<'_>, plain: &Run<'_>) {
    on_each_device(|device| {
        for (kind, tolerance) in
            [(Kind::Float, 5e-6), (Kind::Double, 1e-12), (Kind::BFloat16, 0.01)]
        {
            let inputs: Vec<Tensor> = shapes
                .iter()
                .enumerate()
                .map(|(idx, shape)| numbers(shape, idx as i64, (kind, device)))
                .collect();
            let exact: Vec<Tensor> =
                inputs.iter().map(|input| input.f_to_kind(Kind::Double).unwrap()).collect();
            let (found, expected) = (run(fused, &inputs), run(plain, &exact));
            let rounded = (kind == Kind::BFloat16).then(|| run(plain, &inputs));
            assert_eq!(found.len(), expected.len());
            for (idx, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.f_kind().unwrap(), kind);
                let largest = expected.f_abs().unwrap().f_max().unwrap();
                let scale = f64::try_from(largest).unwrap().max(1.0);
                let of_plain = rounded.as_ref().map_or(0.0, |all| distance(&all[idx], expected));
                assert_close(found, expected, tolerance * scale + 1.5 * of_plain);
            }
        }
    });
}

/// The largest difference of two elements.
fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let differences = values(found).into_iter().zip(values(expected)).map(|(x, y)| (x - y).abs());
    differences.fold(0.0, f64::max)
}

/// In fp32 or better, rounded, then scaled, as transformers has it.
fn plain_norm(input: &Tensor, weight: &Tensor) -> Tensor {
    let kind = input.f_kind().unwrap();
    let wide = if kind == Kind::Double { Kind::Double } else { Kind::Float };
    let exact = input.f_to_kind(wide).unwrap();
    let mean = exact.f_square().unwrap().f_mean_dim(-1, true, wide).unwrap();
    let scale = mean.f_add_scalar(EPS).unwrap().f_rsqrt().unwrap();
    exact.f_mul(&scale).unwrap().f_to_kind(kind).unwrap().f_mul(weight).unwrap()
}

fn plain_linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    input.f_linear(weight, bias).unwrap()
}

fn norm(weight: &Tensor) -> RmsNorm<'_> {
    RmsNorm { weight, eps: EPS }
}

fn linear<'a>(weight: &'a Tensor, bias: Option<&'a Tensor>) -> Linear<'a> {
    Linear { weight, bias }
}

#[test]
fn the_norm_equals_aten() {
    // Widths that fill vectors and widths that do not; more rows than one partial sum has; blocks of
    // several warps that do more than one row.
    for shape in [[150, 48], [3, 5], [1, 100], [513, 520]] {
        check(&[&shape, &shape[1..]], &|x| vec![rms_norm(&x[0], norm(&x[1])).unwrap()], &|x| {
            vec![plain_norm(&x[0], &x[1])]
        });
    }
    check(&[&[7, 3, 16], &[16]], &|x| vec![rms_norm(&x[0], norm(&x[1])).unwrap()], &|x| {
        vec![plain_norm(&x[0], &x[1])]
    });
}

const PROJECTED: [&[i64]; 9] =
    [&[70, 24], &[70, 24], &[24], &[16, 24], &[16], &[8, 24], &[8], &[9, 24], &[9]];

#[test]
fn projections_of_a_norm_equal_aten() {
    for intermediates in [Intermediates::Saved, Intermediates::ComputedAgain] {
        check(
            &[PROJECTED[0], PROJECTED[2], PROJECTED[3], PROJECTED[4], PROJECTED[5], PROJECTED[7]],
            &|x| {
                let linears =
                    [linear(&x[2], Some(&x[3])), linear(&x[4], None), linear(&x[5], None)];
                norm_linear(&x[0], norm(&x[1]), linears, intermediates).unwrap().into()
            },
            &|x| {
                let y = plain_norm(&x[0], &x[1]);
                vec![
                    plain_linear(&y, &x[2], Some(&x[3])),
                    plain_linear(&y, &x[4], None),
                    plain_linear(&y, &x[5], None),
                ]
            },
        );
    }
}

#[test]
fn a_residual_sum_under_a_norm_equals_aten() {
    for intermediates in [Intermediates::Saved, Intermediates::ComputedAgain] {
        check(
            &[&[70, 24], &[70, 24], &[24], &[16, 24], &[9, 24], &[9]],
            &|x| {
                let linears = [linear(&x[3], None), linear(&x[4], Some(&x[5]))];
                let (sum, outputs) =
                    add_norm_linear([&x[0], &x[1]], norm(&x[2]), linears, intermediates).unwrap();
                std::iter::once(sum).chain(outputs).collect()
            },
            &|x| {
                let sum = x[0].f_add(&x[1]).unwrap();
                let y = plain_norm(&sum, &x[2]);
                vec![sum, plain_linear(&y, &x[3], None), plain_linear(&y, &x[4], Some(&x[5]))]
            },
        );
    }
}

#[test]
fn rotation_equals_aten() {
    for width in [16, 6] {
        let angles = |device| {
            let angles = numbers(&[11, width / 2], 9, (Kind::Double, device));
            angles.f_mul_scalar(3.0).unwrap()
        };
        let tables = |x: &Tensor| {
            // Rounded like the ones of a bf16 model, so that both sides turn by the same.
            let round = |table: Tensor| {
                table.f_to_kind(Kind::BFloat16).unwrap().f_to_kind(x.f_kind().unwrap()).unwrap()
            };
            let angles = angles(x.device());
            [round(angles.f_cos().unwrap()), round(angles.f_sin().unwrap())]
        };
        check(
            &[&[11, 6, width], &[11, 2, width]],
            &|x| {
                let [cos, sin] = &tables(&x[0]);
                rotary([&x[0], &x[1]], [cos, sin]).unwrap().into()
            },
            &|x| {
                let [cos, sin] = tables(&x[0]).map(|table| {
                    let table = table.f_unsqueeze(1).unwrap();
                    Tensor::f_cat(&[&table, &table], -1).unwrap()
                });
                let turn = |x: &Tensor| {
                    let halves = x.f_chunk(2, -1).unwrap();
                    let swapped =
                        Tensor::f_cat(&[&halves[1].f_neg().unwrap(), &halves[0]], -1).unwrap();
                    x.f_mul(&cos).unwrap().f_add(&swapped.f_mul(&sin).unwrap()).unwrap()
                };
                vec![turn(&x[0]), turn(&x[1])]
            },
        );
    }
}

#[test]
fn swiglu_equals_aten() {
    // Elements one by one, and several at a time.
    for (width, intermediates) in [
        (21, Intermediates::Saved),
        (21, Intermediates::ComputedAgain),
        (32, Intermediates::Saved),
        (32, Intermediates::ComputedAgain),
    ] {
        check(
            &[&[13, width], &[13, width], &[6, width], &[6], &[13, 6]],
            &|x| {
                let down = linear(&x[2], Some(&x[3]));
                vec![swiglu_linear([&x[0], &x[1]], down, &x[4], intermediates).unwrap()]
            },
            &|x| {
                let product = x[0].f_silu().unwrap().f_mul(&x[1]).unwrap();
                vec![x[4].f_add(&plain_linear(&product, &x[2], Some(&x[3]))).unwrap()]
            },
        );
    }
}

#[test]
fn silu_is_exact_far_from_zero_and_keeps_what_is_not_a_number() {
    // More than vector units take at once.
    const REPEATED: usize = 8;
    let x = [-200.0_f32, -88.0, -30.0, -1e-6, 0.0, 1e-6, 30.0, 88.0, 200.0, f32::NAN];
    let x = x.repeat(REPEATED);
    on_each_device(|device| {
        // A row that meets a NaN is NaN throughout, so each number stands in a row of its own.
        let gate = Tensor::f_from_slice(&x).unwrap().f_view([-1, 1]).unwrap();
        let gate = gate.f_to_device(device).unwrap();
        let (ones, zeros) = (gate.f_ones_like().unwrap(), gate.f_zeros_like().unwrap());
        let one = Tensor::f_ones([1, 1], (Kind::Float, device)).unwrap();
        let down = linear(&one, None);
        let found = swiglu_linear([&gate, &ones], down, &zeros, Intermediates::Saved).unwrap();
        for (x, found) in x.iter().zip(values(&found)) {
            let exact = f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
            let equal = (found - exact).abs() <= 1e-6 * exact.abs() + 1e-30;
            let both_are_none = exact.is_nan() && found.is_nan();
            assert!(equal || both_are_none, "silu({x}) is {exact}, not {found}");
        }
    });
}

#[test]
fn a_row_of_logits_with_a_nan_has_no_sum() {
    on_each_device(|device| {
        let row = |value: f64| Tensor::f_full([1], value, (Kind::Float, device)).unwrap();
        let logits: Vec<f32> = (0..300).map(|idx| if idx == 77 { f32::NAN } else { 1.0 }).collect();
        let logits = Tensor::f_from_slice(&logits).unwrap().f_view([1, 300]).unwrap();
        let logits = logits.f_to_device(device).unwrap();
        let targets = Tensor::f_zeros([1], (Kind::Int64, device)).unwrap();
        let (maximum, sum, chosen) = (row(f64::NEG_INFINITY), row(0.0), row(0.0));
        let tile = HeadTile { logits: &logits, targets: &targets, first_token: 0 };
        head_tile_visit(tile, &maximum, &sum, &chosen).unwrap();
        assert!(values(&sum)[0].is_nan(), "{:?}", values(&sum));
    });
}

unsafe extern "C" fn refuse_to_run(
    _kernel: c_int,
    _grid: *const c_void,
    _arguments: *mut *mut c_void,
) -> *const c_char {
    c"it refuses".as_ptr()
}

#[test]
fn where_kernels_are_emulated_it_is_they_that_run() {
    devices();
    let (x, weight) = (numbers(&[3, 8], 1, CPU), numbers(&[8], 2, CPU));
    let emulated = Emulated::by(refuse_to_run);
    let error = rms_norm(&x, norm(&weight)).unwrap_err().to_string();
    assert!(error.contains("kernels run in main memory: it refuses"), "{error}");
    drop(emulated);
    assert!(rms_norm(&x, norm(&weight)).is_ok());
}

#[test]
fn computing_again_changes_no_bit() {
    on_each_device(|device| {
        for kind in [Kind::Float, Kind::BFloat16] {
            let inputs: Vec<Tensor> = (PROJECTED[..4].iter().copied())
                .chain([&[16_i64, 24] as &[i64], &[24, 16]])
                .enumerate()
                .map(|(idx, shape)| numbers(shape, idx as i64, (kind, device)))
                .collect();
            let results = |intermediates| {
                let block = |x: &[Tensor]| {
                    let linears = [linear(&x[3], None), linear(&x[4], None)];
                    let (sum, [gate, up]) =
                        add_norm_linear([&x[0], &x[1]], norm(&x[2]), linears, intermediates)
                            .unwrap();
                    let down = linear(&x[5], None);
                    vec![swiglu_linear([&gate, &up], down, &sum, intermediates).unwrap()]
                };
                run(&block, &inputs).iter().map(values).collect::<Vec<_>>()
            };
            assert_eq!(results(Intermediates::Saved), results(Intermediates::ComputedAgain));
        }
    });
}

#[test]
fn tiles_of_a_head_equal_log_softmax() {
    const ROWS: i64 = 9;
    const VOCABULARY: i64 = 100;
    on_each_device(|device| {
        let all =
            numbers(&[ROWS, VOCABULARY], 1, (Kind::Float, device)).f_mul_scalar(40.0).unwrap();
        let ids: Vec<i64> = (0..ROWS).map(|row| row * 12 % VOCABULARY).collect();
        let targets = Tensor::f_from_slice(&ids).unwrap().f_to_device(device).unwrap();
        let coefficients = numbers(&[ROWS], 2, (Kind::Float, device));
        let row = |value: f64| Tensor::f_full([ROWS], value, (Kind::Float, device)).unwrap();
        let (maximum, sum, chosen) = (row(f64::NEG_INFINITY), row(0.0), row(f64::NAN));
        let tile = |first_token: i64, width: i64| {
            all.f_narrow(1, first_token, width).unwrap().f_contiguous().unwrap()
        };
        let tiles = [(0, 37), (37, 60), (97, 3)];
        for (first_token, width) in tiles {
            let tile =
                HeadTile { logits: &tile(first_token, width), targets: &targets, first_token };
            head_tile_visit(tile, &maximum, &sum, &chosen).unwrap();
        }
        let normalizers = maximum.f_add(&sum.f_log().unwrap()).unwrap();
        let exact = all.f_to_kind(Kind::Double).unwrap();
        let expected = exact.f_logsumexp([1_i64], false).unwrap();
        assert_close(&normalizers, &expected, 1e-5);
        let index = targets.f_unsqueeze(1).unwrap();
        let expected_chosen = exact.f_gather(1, &index, false).unwrap().f_squeeze_dim(1).unwrap();
        assert_close(&chosen, &expected_chosen, 0.0);

        let onehot = exact.f_zeros_like().unwrap();
        let onehot = onehot.f_scatter_value(1, &index, 1.0).unwrap();
        let column = coefficients.f_to_kind(Kind::Double).unwrap().f_unsqueeze(1).unwrap();
        let expected = onehot
            .f_sub(&exact.f_softmax(1, Kind::Double).unwrap())
            .unwrap()
            .f_mul(&column)
            .unwrap();
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 4e-3)] {
            let like = Tensor::f_zeros([1, 1], (kind, device)).unwrap();
            for (first_token, width) in tiles {
                let tile =
                    HeadTile { logits: &tile(first_token, width), targets: &targets, first_token };
                let found = head_tile_gradient(tile, &normalizers, &coefficients, &like).unwrap();
                assert_eq!(found.f_kind().unwrap(), kind);
                let expected = expected.f_narrow(1, first_token, width).unwrap();
                assert_close(&found, &expected, tolerance);
            }
        }
    });
}

/// Without NVRTC, as in a build for CPUs alone, there is nothing to compile with; the error says so.
#[test]
fn every_kernel_compiles_for_ampere_and_hopper() {
    devices();
    for architecture in ["sm_80", "sm_90"] {
        match compile_cuda_kernels(architecture) {
            Ok(num_bytes) => assert!(num_bytes > 10_000, "{num_bytes} bytes for {architecture}"),
            Err(LibtorchError::BackendUnavailable { reason, .. }) => {
                assert!(reason.contains("libnvrtc is neither"), "{reason}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn kernels_are_ready_where_there_is_a_device() {
    let has_cuda = devices().len() > 1;
    let ready = cuda_kernels_ready(0);
    assert_eq!(ready.is_ok(), has_cuda, "{ready:?}");
}

/// Checks the words of a refused call.
fn check_refused<T: std::fmt::Debug>(result: Result<T>, expected: &str) {
    let error = result.unwrap_err();
    let refused = matches!(error, LibtorchError::InvalidArgument { .. });
    assert!(refused && error.to_string().contains(expected), "{error}");
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    devices();
    let x = |shape: &[i64]| numbers(shape, 1, (Kind::Float, Device::Cpu));
    let (input, weight) = (x(&[4, 6]), x(&[6]));
    check_refused(rms_norm(&input, norm(&x(&[5]))), "norm: it is Float [5] on Cpu");
    let bad = RmsNorm { weight: &weight, eps: -1.0 };
    check_refused(rms_norm(&input, bad), "eps: -1 is not a number from 0");
    let narrow = x(&[3, 5]);
    let linears = [linear(&narrow, None)];
    check_refused(
        norm_linear(&input, norm(&weight), linears, Intermediates::Saved),
        "linear: it is Float [3, 5] on Cpu, but what fits the input is Float [3, 6] on Cpu",
    );
    check_refused(
        rotary([&x(&[4, 2, 5]), &x(&[4, 1, 5])], [&input, &input]),
        "query: its width 5 has no halves",
    );
    check_refused(
        rotary([&x(&[4, 2, 6]), &x(&[3, 1, 6])], [&input, &input]),
        "key: it is Float [3, 1, 6] on Cpu, but what fits the queries is Float [4, 1, 6] on Cpu",
    );
    check_refused(
        swiglu_linear([&input, &x(&[4, 5])], linear(&input, None), &input, Intermediates::Saved),
        "up: it is Float [4, 5] on Cpu, but gate is Float [4, 6] on Cpu",
    );
    let targets = Tensor::f_from_slice(&[0_i64, 1, 2]).unwrap();
    let tile = HeadTile { logits: &input, targets: &targets, first_token: 0 };
    let rows = x(&[4]);
    check_refused(head_tile_visit(tile, &rows, &rows, &rows), "targets: it is Int64 [3] on Cpu");
}
