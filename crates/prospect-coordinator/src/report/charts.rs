//! Which plots the report has, and what each is made of.

use super::plot::{Band, Curve, Plot, Style};
use super::sampling::{MAX_POINTS, extremes, means, smooth};
use super::series::{Point, Table};

/// Curves with fewer points than this are not smoothed.
const FEWEST_SMOOTHED: usize = 40;
/// Parts of a curve that each keep a detail when it is smoothed.
const SMOOTH_PARTS: usize = 40;
/// Places along the standard error's band.
const BAND_POINTS: usize = 300;

/// All plots for which there are values.
pub(super) fn charts(train: &Table, eval: &Table) -> Vec<Plot> {
    let noisy = |key, name, colour| curve(train, key, name, colour).smoothed();
    let held_out =
        |key, name, colour| Curve { style: Style::Marked, ..curve(eval, key, name, colour) };
    let plots = vec![
        Plot {
            curves: vec![noisy("loss", "train", "c1"), held_out("loss", "eval", "c2")],
            ..plot("Loss", "Mean weighted loss of the step's global batch", "loss")
        },
        Plot {
            curves: vec![
                noisy("rewards/chosen", "desirable (chosen)", "c1"),
                noisy("rewards/rejected", "undesirable (rejected)", "c2"),
                held_out("rewards/chosen", "eval desirable", "c3"),
                held_out("rewards/rejected", "eval undesirable", "c4"),
            ],
            ..plot(
                "Rewards",
                "β times the log-ratio of policy and reference, by label",
                "mean reward",
            )
        },
        Plot {
            curves: vec![
                noisy("rewards/margins", "train", "c1"),
                held_out("rewards/margins", "eval", "c2"),
            ],
            ..plot("Reward margin", "Desirable less undesirable reward", "margin")
        },
        Plot {
            range: Some((0.0, 1.0)),
            curves: vec![
                noisy("rewards/accuracies", "train", "c1"),
                held_out("rewards/accuracies", "eval", "c2"),
            ],
            ..plot(
                "Accuracy",
                "Examples on the right side of the reference point",
                "share of examples",
            )
        },
        Plot {
            curves: vec![
                noisy("kl_raw", "before the clamp", "c1"),
                Curve { style: Style::Dashed, ..noisy("kl", "clamped at 0, as used", "c2") },
            ],
            band: standard_error(train),
            ..plot("KL reference point", "Mean log-ratio of the mismatched pairs", "KL (nats)")
        },
        Plot {
            curves: vec![noisy("grad_norm", "before clipping", "c1")],
            ..plot("Gradient norm", "Over all parameters, of the summed gradient", "L2 norm")
        },
        Plot {
            curves: vec![curve(train, "learning_rate", "learning rate", "c1")],
            ..plot("Learning rate", "As the optimizer used it", "learning rate")
        },
        Plot {
            curves: vec![noisy("tokens_per_second", "all ranks", "c1")],
            ..plot(
                "Throughput",
                "Target and mismatched tokens by the step's duration",
                "tokens / s",
            )
        },
    ];
    plots.into_iter().filter_map(Plot::with_values).collect()
}

fn plot(title: &'static str, note: &'static str, axis: &'static str) -> Plot {
    Plot { title, note, axis, range: None, curves: Vec::new(), band: None }
}

fn curve(table: &Table, key: &str, name: &'static str, colour: &'static str) -> Curve {
    let points = table.get(key).to_vec();
    Curve { name, colour, style: Style::Solid, points, smooth: Vec::new() }
}

/// The raw reference point, less and more its standard error.
fn standard_error(train: &Table) -> Option<Band> {
    let (raw, errors) = (train.get("kl_raw"), train.get("kl_stderr"));
    let mut errors = errors.iter().peekable();
    let (mut low, mut high) = (Vec::new(), Vec::new());
    for &(step, value) in raw {
        while errors.next_if(|error| error.0 < step).is_some() {}
        if let Some(&(_, error)) = errors.next_if(|error| error.0 == step) {
            low.push((step, value - error));
            high.push((step, value + error));
        }
    }
    let sampled = |points: Vec<Point>| means(&points, BAND_POINTS);
    let band =
        Band { name: "± standard error", colour: "c1", low: sampled(low), high: sampled(high) };
    (band.low.len() > 1).then_some(band)
}

impl Plot {
    /// The plot without the curves that have no values, if any are left, and
    /// with no more points than can be told apart.
    fn with_values(mut self) -> Option<Self> {
        self.curves.retain(|curve| !curve.points.is_empty());
        for curve in &mut self.curves {
            curve.points = extremes(&curve.points);
        }
        (!self.curves.is_empty()).then_some(self)
    }
}

impl Curve {
    fn smoothed(mut self) -> Self {
        if self.points.len() >= FEWEST_SMOOTHED {
            let half_window = (self.points.len() / SMOOTH_PARTS).max(3);
            self.smooth = means(&smooth(&self.points, half_window), MAX_POINTS / 2);
        }
        self
    }
}
