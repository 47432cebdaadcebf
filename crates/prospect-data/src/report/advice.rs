//! Advice on the class weights (Ethayarajh et al. 2024, section 4.2).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Range that λ_D n_D / (λ_U n_U) should lie in.
const RANGE: [f64; 2] = [1.0, 1.5];

/// Where the class weights stand, and which values would be right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightAdvice {
    /// λ_D n_D / (λ_U n_U) as it is.
    pub ratio: f64,
    /// Whether it lies between 1 and 3/2.
    pub in_range: bool,
    /// Least and greatest λ_D that would bring it there, λ_U staying as it is.
    pub desirable_weight: [f64; 2],
    /// Least and greatest λ_U that would bring it there, λ_D staying as it is.
    pub undesirable_weight: [f64; 2],
}

impl WeightAdvice {
    /// Advice for class counts and the weights in use; nothing unless both classes occur and
    /// have a weight.
    pub fn new(
        (num_desirable, num_undesirable): (u64, u64),
        (desirable_weight, undesirable_weight): (f64, f64),
    ) -> Option<Self> {
        let desirable = num_desirable as f64 * desirable_weight;
        let undesirable = num_undesirable as f64 * undesirable_weight;
        if !(desirable > 0.0 && undesirable > 0.0) {
            return None;
        }
        let ratio = desirable / undesirable;
        let [least, most] = RANGE;
        Some(Self {
            ratio,
            in_range: (least..=most).contains(&ratio),
            desirable_weight: RANGE.map(|bound| desirable_weight * bound / ratio),
            undesirable_weight: [most, least].map(|bound| undesirable_weight * ratio / bound),
        })
    }
}

impl fmt::Display for WeightAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ratio, in_range, desirable_weight, undesirable_weight } = self;
        let [least, most] = RANGE;
        if *in_range {
            return write!(
                f,
                "λ_D n_D / (λ_U n_U) is {ratio:.2}, inside {least} to {most}: the class weights are fine"
            );
        }
        // The rarer class gets the greater weight, the other stays.
        let (key, [low, high]) = if *ratio < least {
            ("objective.desirable_weight", desirable_weight)
        } else {
            ("objective.undesirable_weight", undesirable_weight)
        };
        write!(
            f,
            "λ_D n_D / (λ_U n_U) is {ratio:.2}, outside {least} to {most}: set {key} to a value from {low:.3} to {high:.3}, or to \"auto\""
        )
    }
}
