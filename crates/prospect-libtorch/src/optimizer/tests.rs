use tch::Device;

use super::*;
use crate::testing::{assert_close, devices, numbers};

const OPTIONS: AdamWOptions =
    AdamWOptions { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };

/// One element of algorithm 2 of the paper, in f64.
fn update(w: &mut f64, m: &mut f64, v: &mut f64, g: f64, step: i32, o: &AdamWOptions) {
    *w -= o.lr * o.weight_decay * *w;
    *m = o.beta1 * *m + (1.0 - o.beta1) * g;
    *v = o.beta2 * *v + (1.0 - o.beta2) * g * g;
    let m_hat = *m / (1.0 - o.beta1.powi(step));
    let v_hat = *v / (1.0 - o.beta2.powi(step));
    *w -= o.lr * m_hat / (v_hat.sqrt() + o.eps);
}

fn check_steps(options: &AdamWOptions, device: Device) {
    let shapes: [&[i64]; 2] = [&[5, 7], &[33]];
    let make = |seed| shapes.map(|shape| numbers(shape, seed, (Kind::Float, device)));
    let zeros = || shapes.map(|shape| Tensor::f_zeros(shape, (Kind::Float, device)).unwrap());
    let (params, exp_avgs, exp_avg_sqs) = (make(0), zeros(), zeros());
    let mut expected = params.each_ref().map(crate::testing::values);
    let mut first = shapes.map(|shape| vec![0.0; shape.iter().product::<i64>() as usize]);
    let mut second = first.clone();
    for step in 1..=6 {
        let grads = make(i64::from(step));
        let steps = [step, step]
            .map(|step| Tensor::f_full([], f64::from(step), (Kind::Float, device)).unwrap());
        fused_adamw(&params, &grads, &exp_avgs, &exp_avg_sqs, &steps, options).unwrap();
        for (list, grads) in grads.iter().map(crate::testing::values).enumerate() {
            for (idx, g) in grads.into_iter().enumerate() {
                let (w, m, v) =
                    (&mut expected[list][idx], &mut first[list][idx], &mut second[list][idx]);
                update(w, m, v, g, step, options);
            }
        }
    }
    let compare = |found: &[Tensor], expected: &[Vec<f64>]| {
        for (found, expected) in found.iter().zip(expected) {
            let expected = Tensor::f_from_slice(expected).unwrap();
            assert_close(&found.f_reshape([-1]).unwrap(), &expected, 2e-6);
        }
    };
    compare(&params, &expected);
    compare(&exp_avgs, &first);
    compare(&exp_avg_sqs, &second);
}

#[test]
fn updates_equal_the_loop_written_by_hand() {
    for device in devices() {
        check_steps(&OPTIONS, device);
        check_steps(&AdamWOptions { weight_decay: 0.0, ..OPTIONS }, device);
    }
}

#[test]
fn leaves_that_require_gradients_are_updated() {
    devices();
    let options = (Kind::Float, Device::Cpu);
    let param = numbers(&[4], 1, options).f_set_requires_grad(true).unwrap();
    let before = crate::testing::values(&param);
    let [zeros, more_zeros] = [(); 2].map(|()| [Tensor::f_zeros([4], options).unwrap()]);
    let step = [Tensor::f_full([], 1.0, options).unwrap()];
    let params = [param];
    let grads = [numbers(&[4], 2, options)];
    fused_adamw(&params, &grads, &zeros, &more_zeros, &step, &OPTIONS).unwrap();
    assert_ne!(crate::testing::values(&params[0]), before);
    assert!(params[0].is_leaf());
}

fn check_refused(grad: &[i64], step: (Kind, &[i64]), options: &AdamWOptions, expected: &str) {
    devices();
    let float = (Kind::Float, Device::Cpu);
    let four = || [numbers(&[4], 1, float)];
    let grads = [numbers(grad, 1, float)];
    let steps = [Tensor::f_ones(step.1, (step.0, Device::Cpu)).unwrap()];
    let error = fused_adamw(&four(), &grads, &four(), &four(), &steps, options).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    check_refused(
        &[3],
        (Kind::Float, &[]),
        &OPTIONS,
        "grads: it is Float [3] on Cpu, but its parameter is Float [4] on Cpu",
    );
    check_refused(
        &[4],
        (Kind::Int64, &[]),
        &OPTIONS,
        "steps: it is Int64 [] on Cpu, but has to be one float",
    );
    check_refused(&[4], (Kind::Float, &[2]), &OPTIONS, "steps: it is Float [2] on Cpu");
    let lr = f64::NAN;
    check_refused(&[4], (Kind::Float, &[]), &AdamWOptions { lr, ..OPTIONS }, "lr: NaN");
    let beta2 = 1.0;
    check_refused(
        &[4],
        (Kind::Float, &[]),
        &AdamWOptions { beta2, ..OPTIONS },
        "beta2: 1 is not from 0 to below 1",
    );
    let error = fused_adamw(&[], &[Tensor::new()], &[], &[], &[], &OPTIONS).unwrap_err();
    assert!(error.to_string().contains("grads: there are 1 for 0 parameters"));
}
