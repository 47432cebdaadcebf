//! Numbers worked out by hand.

use super::*;

fn row(label: Label, log_prob: f64, reference: Option<f64>) -> Scored {
    Scored { label, weight: 1.0, num_tokens: 10, log_prob, reference_log_prob: reference }
}

fn check(metrics: &Metrics, expected: &[(&str, f64)]) {
    for (key, value) in expected {
        let found = metrics.get(*key).and_then(Value::as_f64);
        let found = found.unwrap_or_else(|| panic!("{key} is missing in {metrics:?}"));
        assert!((found - value).abs() < 1e-12, "{key} is {found}, expected {value}");
    }
}

#[test]
fn rewards_are_measured_against_the_reference_point() {
    // log-ratios 3 and -1, z0 = 1: both arguments are 2 β = 1 with β = 0.5.
    let rows = [row(Label::Desirable, -2.0, Some(-5.0)), row(Label::Undesirable, -9.0, Some(-8.0))];
    let sigmoid = 1.0 / (1.0 + (-1.0_f64).exp());
    check(
        &metrics(&rows, &[0.0, 2.0], 0.5),
        &[
            ("kl", 1.0),
            ("kl_pairs", 2.0),
            ("rewards/chosen", 1.5),
            ("rewards/rejected", -0.5),
            ("rewards/margins", 2.0),
            ("rewards/accuracies", 1.0),
            ("loss", 1.0 - sigmoid),
            ("saturation", 4.0 * sigmoid * (1.0 - sigmoid)),
            ("logps/chosen", -2.0),
            ("num_tokens", 20.0),
        ],
    );
}

#[test]
fn a_negative_mean_is_clamped_and_kept_raw() {
    let rows = [row(Label::Desirable, -1.0, Some(-1.0))];
    check(&metrics(&rows, &[-4.0], 0.1), &[("kl", 0.0), ("kl_raw", -4.0), ("loss", 0.5)]);
}

#[test]
fn without_a_reference_there_are_no_rewards() {
    let rows = [row(Label::Desirable, -2.0, None), row(Label::Undesirable, -4.0, None)];
    let metrics = metrics(&rows, &[], 0.1);
    check(&metrics, &[("logps/chosen", -2.0), ("logps/rejected", -4.0)]);
    assert!(!metrics.contains_key("loss") && !metrics.contains_key("rewards/chosen"));
}
