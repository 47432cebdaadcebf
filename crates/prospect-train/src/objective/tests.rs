use prospect_core::{Label, ObjectiveConfig, ObjectiveName};

use tch::{Device, Tensor};

use super::{BatchLogProbs, ExampleLogProbs, Objective, Term, objective};

const BETA: f64 = 0.3;

fn make(name: ObjectiveName) -> Box<dyn Objective> {
    objective(&ObjectiveConfig { name, beta: BETA, ..ObjectiveConfig::default() })
}

fn example(policy: f64, label: Label) -> ExampleLogProbs {
    ExampleLogProbs { policy, reference: -20.0, num_tokens: 7, label, weight: 1.7 }
}

/// Evaluates and holds the coefficient against a central difference of the loss.
fn check(name: ObjectiveName, log_ratio: f64, label: Label, z0: f64) -> Term {
    let objective = make(name);
    let at = |shift: f64| objective.evaluate(&example(-20.0 + log_ratio + shift, label), z0);
    let term = at(0.0);
    let difference = (at(1e-5).loss - at(-1e-5).loss) / 2e-5;
    assert!(
        (term.coefficient - difference).abs() < 1e-9,
        "{name:?} {label:?} at {log_ratio}: coefficient {} is not {difference}",
        term.coefficient,
    );
    assert!((term.reward - BETA * log_ratio).abs() < 1e-12);
    term
}

#[test]
fn derivatives_equal_finite_differences() {
    for name in [ObjectiveName::Kto, ObjectiveName::ApoZeroUnpaired] {
        for label in [Label::Desirable, Label::Undesirable] {
            for log_ratio in [-30.0, -4.0, -0.5, 0.0, 0.25, 3.0, 40.0] {
                for z0 in [0.0, 0.4, 5.0] {
                    check(name, log_ratio, label, z0);
                }
            }
        }
    }
}

// import torch; s = torch.sigmoid; f = lambda x: s(torch.tensor(x, dtype=torch.float64))
// desirable: 1.7 * (1 - f(0.3 * (2.0 - 0.5))); undesirable: 1.7 * (1 - f(0.3 * (0.5 - 2.0)))
#[test]
fn kto_equals_its_formula() {
    let desirable = check(ObjectiveName::Kto, 2.0, Label::Desirable, 0.5);
    assert!((desirable.loss - 0.661_913_302_286_322_5).abs() < 1e-9, "{}", desirable.loss);
    assert!(desirable.is_correct && desirable.coefficient < 0.0);
    let undesirable = check(ObjectiveName::Kto, 2.0, Label::Undesirable, 0.5);
    assert!((undesirable.loss + desirable.loss - 1.7).abs() < 1e-12);
    assert!(!undesirable.is_correct && undesirable.coefficient > 0.0);
}

#[test]
fn apo_ignores_the_reference_point() {
    for label in [Label::Desirable, Label::Undesirable] {
        let near = check(ObjectiveName::ApoZeroUnpaired, 1.0, label, 0.0);
        let far = check(ObjectiveName::ApoZeroUnpaired, 1.0, label, 9.0);
        assert_eq!(near, far);
        assert_eq!(near, check(ObjectiveName::Kto, 1.0, label, 0.0));
    }
}

#[test]
fn saturation_is_one_at_the_threshold_and_vanishes_far_from_it() {
    assert_eq!(check(ObjectiveName::Kto, 1.5, Label::Desirable, 1.5).saturation, 1.0);
    let far = check(ObjectiveName::Kto, 4000.0, Label::Desirable, 0.0);
    assert_eq!((far.saturation, far.loss), (0.0, 0.0));
    let wrong = check(ObjectiveName::Kto, -4000.0, Label::Desirable, 0.0);
    assert_eq!((wrong.saturation, wrong.loss), (0.0, 1.7));
}

#[test]
fn a_log_prob_that_is_not_finite_gives_no_finite_loss() {
    let term = make(ObjectiveName::Kto).evaluate(&example(f64::NAN, Label::Desirable), 0.0);
    assert!(term.loss.is_nan() && term.coefficient.is_nan());
}

/// Log-ratios, reference points and weights from small to saturated, in both labels.
fn grid() -> Vec<(ExampleLogProbs, f64)> {
    let mut grid = Vec::new();
    for log_ratio in [-700.0, -30.0, -4.0, -0.5, 0.0, 1e-9, 0.25, 3.0, 40.0, 700.0] {
        for (label, weight) in [(Label::Desirable, 1.0), (Label::Undesirable, 1.5e3)] {
            for z0 in [0.0, 0.4, 5.0] {
                grid.push((ExampleLogProbs { weight, ..example(log_ratio - 20.0, label) }, z0));
            }
        }
    }
    grid
}

#[test]
fn coefficients_of_a_batch_equal_those_of_single_examples() {
    let grid = grid();
    let cuda = prospect_libtorch::ensure_cuda_loaded().then_some(Device::Cuda(0));
    for device in [Device::Cpu].into_iter().chain(cuda) {
        let column = |of: &dyn Fn(&ExampleLogProbs) -> f64| {
            let values: Vec<f64> = grid.iter().map(|(example, _)| of(example)).collect();
            Tensor::f_from_slice(&values).unwrap().f_to_device(device).unwrap()
        };
        let batch = BatchLogProbs {
            policy_s: column(&|example| example.policy),
            reference_s: column(&|example| example.reference),
            num_tokens_s: column(&|example| example.num_tokens as f64),
            sign_s: column(&|example| example.label.sign()),
            weight_s: column(&|example| example.weight),
        };
        for name in [ObjectiveName::Kto, ObjectiveName::ApoZeroUnpaired] {
            let objective = make(name);
            for (idx, (example, z0)) in grid.iter().enumerate() {
                let found = objective.coefficients(&batch, *z0).unwrap();
                let found = found.f_double_value(&[idx as i64]).unwrap();
                let expected = objective.evaluate(example, *z0).coefficient;
                let tolerance = 1e-12 * expected.abs();
                assert!((found - expected).abs() <= tolerance, "{name:?}: {found}, {expected}");
            }
        }
    }
}
