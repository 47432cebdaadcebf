use tch::{Device, Kind};

use super::*;
use crate::LibtorchError;
use crate::testing::{assert_close, devices, numbers};

fn leaf(shape: &[i64], seed: i64, options: (Kind, Device)) -> Tensor {
    numbers(shape, seed, options).f_set_requires_grad(true).unwrap()
}

#[test]
fn gradients_equal_the_products_written_by_hand() {
    for device in devices() {
        let options = (Kind::Double, device);
        let (a, b) = (leaf(&[2, 3], 1, options), leaf(&[3, 4], 2, options));
        let unused = leaf(&[5], 3, options);
        let product = a.f_mm(&b).unwrap();
        let square = a.f_mul(&a).unwrap();
        let (g, h) = (numbers(&[2, 4], 4, options), numbers(&[2, 3], 5, options));
        let found = vjp(
            &[product, square],
            &[a.shallow_clone(), unused, b.shallow_clone()],
            &[g.shallow_clone(), h.shallow_clone()],
            KeepGraph::No,
        )
        .unwrap();
        // d(ab) for a is g bᵀ, for b is aᵀ g; d(a²) is 2 a h.
        let by_hand_a =
            g.f_mm(&b.f_tr().unwrap()).unwrap() + a.f_mul(&h).unwrap().f_mul_scalar(2.0).unwrap();
        let by_hand_b = a.f_tr().unwrap().f_mm(&g).unwrap();
        let [Some(grad_a), None, Some(grad_b)] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_close(grad_a, &by_hand_a, 1e-12);
        assert_close(grad_b, &by_hand_b, 1e-12);
        assert!(!a.grad().defined() && !grad_a.requires_grad());
    }
}

#[test]
fn a_kept_graph_can_be_used_again_and_a_freed_one_cannot() {
    devices();
    let options = (Kind::Float, Device::Cpu);
    let a = leaf(&[3], 1, options);
    let output = a.f_mul(&a).unwrap();
    let product = |keep_graph| {
        vjp(
            &[output.shallow_clone()],
            &[a.shallow_clone()],
            &[numbers(&[3], 2, options)],
            keep_graph,
        )
    };
    let first = product(KeepGraph::Yes).unwrap();
    let second = product(KeepGraph::No).unwrap();
    assert_eq!(
        first[0].as_ref().map(crate::testing::values),
        second[0].as_ref().map(crate::testing::values)
    );
    let error = product(KeepGraph::No).unwrap_err();
    assert!(matches!(error, LibtorchError::Torch { op: "vjp", .. }), "{error}");
}

fn check_refused(outputs: &[Tensor], inputs: &[Tensor], grads: &[Tensor], expected: &str) {
    let error = vjp(outputs, inputs, grads, KeepGraph::No).unwrap_err();
    assert_eq!(error.to_string(), expected);
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    devices();
    let options = (Kind::Float, Device::Cpu);
    let a = leaf(&[3], 1, options);
    let output = || [a.f_mul(&a).unwrap()];
    let input = [a.shallow_clone()];
    let constant = || [numbers(&[3], 2, options)];
    check_refused(&[], &input, &[], "vjp cannot take outputs: there is none");
    check_refused(
        &output(),
        &input,
        &[],
        "vjp cannot take grad_outputs: there are 0 for 1 outputs",
    );
    check_refused(
        &output(),
        &input,
        &[numbers(&[4], 2, options)],
        "vjp cannot take grad_outputs: it is Float [4] on Cpu, but its output is Float [3] on Cpu",
    );
    check_refused(
        &constant(),
        &input,
        &constant(),
        "vjp cannot take outputs: the one that is Float [3] on Cpu has no graph",
    );
    check_refused(
        &output(),
        &constant(),
        &constant(),
        "vjp cannot take inputs: the one that is Float [3] on Cpu requires no gradient",
    );
}
