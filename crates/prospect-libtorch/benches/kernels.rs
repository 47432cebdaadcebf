//! The fused work of a block and of the head against plain ATen, forward and backward, on tensors as a
//! model of 8 billion parameters has them (on a CPU smaller ones).
//!
//!     cargo bench --package prospect-libtorch --bench kernels -- [--device cpu|cuda]
//!
//! Prints one line an operation, and all ratios in the last.

use std::error::Error;
use std::time::Instant;

use prospect_libtorch::{
    HeadTile, Intermediates, KeepGraph, Linear, RmsNorm, add_norm_linear, cuda_kernels_ready,
    cuda_synchronize, ensure_cuda_loaded, head_tile_gradient, head_tile_visit, rms_norm, rotary,
    set_threads, swiglu_linear, vjp,
};
use tch::{Device, Kind, Tensor};

/// Whatever keeps the benchmark from going on.
type Outcome<T> = Result<T, Box<dyn Error>>;

/// Seconds for which an operation is repeated.
const SECONDS: f64 = 0.3;
/// Outputs of the projection that stands behind a fused operation: few, so that it is cheap.
const FEW: i64 = 16;
const EPS: f64 = 1e-5;

/// A function of leaves.
type Function<'a> = dyn Fn(&[Tensor]) -> Outcome<Vec<Tensor>> + 'a;

/// Shapes and where they are. Legend: T tokens, H width, I inner width, h heads, D head width.
struct Place {
    device: Device,
    kind: Kind,
    tokens: i64,
    width: i64,
    inner: i64,
    heads: [i64; 2],
    head_width: i64,
    /// Rows and tokens of a tile of logits.
    tile: [i64; 2],
}

impl Place {
    fn new(device: Device) -> Self {
        match device {
            Device::Cpu => Self {
                device,
                kind: Kind::Float,
                tokens: 1024,
                width: 576,
                inner: 1536,
                heads: [9, 3],
                head_width: 64,
                tile: [256, 8192],
            },
            _ => Self {
                device,
                kind: Kind::BFloat16,
                tokens: 8192,
                width: 4096,
                inner: 14_336,
                heads: [32, 8],
                head_width: 128,
                tile: [2048, 32_768],
            },
        }
    }

    fn numbers(&self, shape: &[i64]) -> Outcome<Tensor> {
        let numbers = Tensor::f_randn(shape, (Kind::Float, self.device))?;
        Ok(numbers.f_to_kind(self.kind)?)
    }

    /// Seconds of one call, once the device has done it.
    fn seconds(&self, call: &dyn Fn() -> Outcome<()>) -> Outcome<f64> {
        let took = |count: usize| -> Outcome<f64> {
            let began = Instant::now();
            for _ in 0..count {
                call()?;
            }
            if let Device::Cuda(idx) = self.device {
                cuda_synchronize(idx)?;
            }
            Ok(began.elapsed().as_secs_f64())
        };
        took(3)?;
        let count = (SECONDS / took(1)?.max(1e-9)).ceil().clamp(1.0, 1e4) as usize;
        Ok(took(count)? / count as f64)
    }

    /// Forward and backward of both functions of leaves of these shapes.
    fn compare(
        &self,
        shapes: &[&[i64]],
        fused: &Function<'_>,
        plain: &Function<'_>,
    ) -> Outcome<[f64; 2]> {
        let leaf = |shape: &&[i64]| -> Outcome<Tensor> {
            Ok(self.numbers(shape)?.f_set_requires_grad(true)?)
        };
        let leaves: Vec<Tensor> = shapes.iter().map(leaf).collect::<Outcome<_>>()?;
        let gradient = |output: &Tensor| -> Outcome<Tensor> { self.numbers(&output.size()) };
        let gradients: Vec<Tensor> =
            plain(&leaves)?.iter().map(gradient).collect::<Outcome<_>>()?;
        let both = |function: &Function<'_>| {
            self.seconds(&|| {
                vjp(&function(&leaves)?, &leaves, &gradients, KeepGraph::No)?;
                Ok(())
            })
        };
        Ok([both(fused)?, both(plain)?])
    }
}

fn main() -> Outcome<()> {
    // Cargo adds the first.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let device = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["--device", "cpu"] => Device::Cpu,
        ["--device", "cuda"] if ensure_cuda_loaded() => Device::Cuda(0),
        other => return Err(format!("{other:?}: expected --device cpu or a usable cuda").into()),
    };
    set_threads(1);
    if let Device::Cuda(idx) = device {
        cuda_kernels_ready(idx)?;
    }
    let place = Place::new(device);
    println!("{:?} in {:?}: milliseconds of forward and backward", place.device, place.kind);
    println!("{:24} {:>9} {:>9} {:>7}", "operation", "fused", "ATen", "times");
    let mut ratios = Vec::new();
    let found = [
        ("norm", norm(&place)?),
        ("sum and norm", sum_and_norm(&place)?),
        ("rotary", turn(&place)?),
        ("swiglu", swiglu(&place)?),
        ("tile of the head", head(&place)?),
    ];
    for (name, [fused, plain]) in found {
        let ratio = plain / fused;
        println!("{name:24} {:>9.3} {:>9.3} {ratio:>7.2}", 1e3 * fused, 1e3 * plain);
        ratios.push(format!("{name} {ratio:.2}"));
    }
    println!("times as fast as ATen: {}", ratios.join(", "));
    Ok(())
}

/// As transformers has it.
fn plain_norm(input: &Tensor, weight: &Tensor) -> Outcome<Tensor> {
    let exact = input.f_to_kind(Kind::Float)?;
    let scale =
        exact.f_square()?.f_mean_dim(-1, true, Kind::Float)?.f_add_scalar(EPS)?.f_rsqrt()?;
    Ok(exact.f_mul(&scale)?.f_to_kind(input.f_kind()?)?.f_mul(weight)?)
}

fn norm(place: &Place) -> Outcome<[f64; 2]> {
    place.compare(
        &[&[place.tokens, place.width], &[place.width]],
        &|x| Ok(vec![rms_norm(&x[0], RmsNorm { weight: &x[1], eps: EPS })?]),
        &|x| Ok(vec![plain_norm(&x[0], &x[1])?]),
    )
}

fn sum_and_norm(place: &Place) -> Outcome<[f64; 2]> {
    let rows = [place.tokens, place.width];
    place.compare(
        &[&rows, &rows, &[place.width], &[FEW, place.width]],
        &|x| {
            let linears = [Linear { weight: &x[3], bias: None }];
            let norm = RmsNorm { weight: &x[2], eps: EPS };
            let (sum, [out]) =
                add_norm_linear([&x[0], &x[1]], norm, linears, Intermediates::ComputedAgain)?;
            Ok(vec![sum, out])
        },
        &|x| {
            let sum = x[0].f_add(&x[1])?;
            let out = plain_norm(&sum, &x[2])?.f_linear::<Tensor>(&x[3], None)?;
            Ok(vec![sum, out])
        },
    )
}

fn turn(place: &Place) -> Outcome<[f64; 2]> {
    let half = place.head_width / 2;
    let [cos, sin] = [place.numbers(&[place.tokens, half])?, place.numbers(&[place.tokens, half])?];
    let plain = |x: &Tensor| -> Outcome<Tensor> {
        let whole = |half: &Tensor| -> Outcome<Tensor> {
            Ok(Tensor::f_cat(&[half, half], -1)?.f_unsqueeze(1)?)
        };
        let halves = x.f_chunk(2, -1)?;
        let swapped = Tensor::f_cat(&[&halves[1].f_neg()?, &halves[0]], -1)?;
        Ok(x.f_mul(&whole(&cos)?)?.f_add(&swapped.f_mul(&whole(&sin)?)?)?)
    };
    let [queries, keys] = place.heads.map(|heads| [place.tokens, heads, place.head_width]);
    place.compare(&[&queries, &keys], &|x| Ok(rotary([&x[0], &x[1]], [&cos, &sin])?.into()), &|x| {
        Ok(vec![plain(&x[0])?, plain(&x[1])?])
    })
}

fn swiglu(place: &Place) -> Outcome<[f64; 2]> {
    let rows = [place.tokens, place.inner];
    place.compare(
        &[&rows, &rows, &[FEW, place.inner], &[place.tokens, FEW]],
        &|x| {
            let down = Linear { weight: &x[2], bias: None };
            Ok(vec![swiglu_linear([&x[0], &x[1]], down, &x[3], Intermediates::ComputedAgain)?])
        },
        &|x| {
            let product = x[0].f_silu()?.f_mul(&x[1])?;
            Ok(vec![x[3].f_add(&product.f_linear::<Tensor>(&x[2], None)?)?])
        },
    )
}

/// Both visits of a tile against a softmax and what is made of it.
fn head(place: &Place) -> Outcome<[f64; 2]> {
    let [rows, width] = place.tile;
    let float = (Kind::Float, place.device);
    let logits = Tensor::f_randn([rows, width], float)?;
    let targets = Tensor::f_zeros([rows], (Kind::Int64, place.device))?;
    let coefficients = Tensor::f_randn([rows], float)?;
    let like = place.numbers(&[1, 1])?;
    let _no_grad = tch::no_grad_guard();
    let fused = place.seconds(&|| {
        let row = |value: f64| Tensor::f_full([rows], value, float);
        let (maximum, sum, chosen) = (row(f64::NEG_INFINITY)?, row(0.0)?, row(0.0)?);
        let tile = HeadTile { logits: &logits, targets: &targets, first_token: 0 };
        head_tile_visit(tile, &maximum, &sum, &chosen)?;
        // In place where the gradient is fp32, as in the engine, which needs the logits no more.
        let normalizers = maximum.f_add(&sum.f_log()?)?;
        let tile = HeadTile { logits: &logits, targets: &targets, first_token: 0 };
        drop(head_tile_gradient(tile, &normalizers, &coefficients, &like)?);
        Ok(())
    })?;
    let index = targets.f_unsqueeze(1)?;
    let plain = place.seconds(&|| {
        let log_probs = logits.f_log_softmax(1, Kind::Float)?;
        drop(log_probs.f_gather(1, &index, false)?);
        let gradient = log_probs.f_exp()?.f_neg()?.f_mul(&coefficients.f_unsqueeze(1)?)?;
        let gradient = gradient.f_scatter_add(1, &index, &coefficients.f_unsqueeze(1)?)?;
        drop(gradient.f_to_kind(place.kind)?);
        Ok(())
    })?;
    Ok([fused, plain])
}
