//! The figures for a person.

use serde_json::Value;

/// Rates, then a line for every setting and kind of step.
pub fn print(rates: &[Value], steps: &[Value]) {
    println!(
        "{:10} {:>9} {:>11} {:>11} {:>9}   GFLOP/s of the machine",
        "dtype", "square", "attention", "gate and up", "down"
    );
    for rate in rates {
        let giga = |key: &str| rate[key].as_f64().unwrap_or_default() / 1e9;
        println!(
            "{:10} {:>9.1} {:>11.1} {:>11.1} {:>9.1}",
            text(&rate["dtype"]),
            giga("square"),
            giga("attention_projection"),
            giga("gate_and_up"),
            giga("down"),
        );
    }
    println!(
        "\n{:8} {:17} {:9} {:5} {:9} {:>8} {:>9} {:>9} {:>7} {:>6} {:>7}   share of the step: scoring, point, passes, reduce, gather, update",
        "dtype",
        "mode",
        "recompute",
        "ranks",
        "reference",
        "step s",
        "tokens/s",
        "GFLOP/s",
        "of rate",
        "MFU",
        "peak GB",
    );
    for step in steps {
        let settings = &step["settings"];
        let rate = rates.iter().find(|rate| rate["dtype"] == settings["dtype"]);
        let rate_of = |key: &str| rate.and_then(|rate| rate[key].as_f64());
        for (name, key) in [("computed", "first_epoch"), ("known", "later_epochs")] {
            let of = &step[key];
            let number = |key: &str| of[key].as_f64().unwrap_or_default();
            let of_peak = |key: &str| match rate_of(key) {
                Some(peak) => format!("{:.0} %", 100.0 * number("flops_per_second") / peak),
                None => "-".to_owned(),
            };
            let share = |phase: &str| {
                let seconds = of["phase_seconds"][phase].as_f64().unwrap_or_default();
                format!("{:.0} %", 100.0 * seconds / number("step_seconds"))
            };
            let phases = [
                "scoring",
                "reference_point",
                "forward_backward",
                "all_reduce",
                "gather",
                "optimizer",
            ];
            println!(
                "{:8} {:17} {:9} {:>5} {:9} {:>8.3} {:>9.1} {:>9.1} {:>7} {:>6} {:>7.2}   {}",
                text(&settings["dtype"]),
                text(&settings["mode"]),
                text(&settings["recompute"]),
                settings["ranks"],
                name,
                number("step_seconds"),
                number("useful_tokens_per_second"),
                number("flops_per_second") / 1e9,
                of_peak("square"),
                of_peak("data_sheet"),
                number("peak_memory_bytes") / 1e9,
                phases.map(share).join(", "),
            );
        }
    }
    println!(
        "tokens/s: tokens of target sequences, mismatched ones not counted; of rate: of the rate of \
         the large square product; MFU: of the data sheet's dense bf16 peak; FLOPs are those that \
         the mathematics needs"
    );
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
