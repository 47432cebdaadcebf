//! The page around plots and tables.

use super::charts::charts;
use super::markup::escape;
use super::ticks::{count, duration, short};
use super::{Records, Summary, table};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("hover.js");
/// Nothing may be loaded from anywhere: the page is complete.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The whole page.
pub(super) fn render(summary: &Summary, records: &Records) -> String {
    let plots = charts(&records.train, &records.eval);
    let is_smoothed =
        plots.iter().flat_map(|plot| &plot.curves).any(|curve| !curve.smooth.is_empty());
    let plots: String = plots.iter().map(|plot| plot.render()).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <title>{run} · Prospect report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         {header}<main>\n<section><div class=\"heading\"><h2>Curves</h2>{smoothing}</div>\n{plots}</section>\n\
         <section><h2>Metrics</h2>\n{metrics}</section>\n\
         <section><h2>Events</h2>\n{events}</section>\n\
         <section><h2>Configuration</h2>\n{config}</section>\n\
         </main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        run = escape(&summary.run_id),
        header = header(summary, records),
        smoothing = if is_smoothed { SMOOTHING } else { "" },
        plots = plots_or_note(plots),
        metrics = table::metrics(&records.train, &records.eval),
        events = table::events(&records.journal),
        config = config(records.config.as_deref()),
    )
}

/// Works without the script: the style sheet looks at the box.
const SMOOTHING: &str = "<label class=\"switch\"><input type=\"checkbox\" id=\"smoothing\" checked> smooth curves</label>";

fn plots_or_note(plots: String) -> String {
    if plots.is_empty() {
        "<p class=\"none\">No step was recorded, so there is nothing to plot.</p>".to_owned()
    } else {
        format!("<div class=\"plots\">\n{plots}</div>\n")
    }
}

fn header(summary: &Summary, records: &Records) -> String {
    let Records { train, eval, .. } = records;
    let mut facts = vec![
        ("Steps", format!("{} of {}", count(summary.step.0), count(summary.total_steps))),
        ("Duration", duration(summary.seconds)),
        ("World size", count(summary.world_size.into())),
    ];
    let optional = [
        ("Epochs", train.last("epoch").map(short)),
        ("Target tokens", train.last("num_tokens").map(short)),
        ("Last loss", train.last("loss").map(short)),
        ("Last margin", train.last("rewards/margins").map(short)),
        ("Last eval loss", eval.last("loss").map(short)),
        ("Mean tokens / s", mean(train.get("tokens_per_second")).map(short)),
    ];
    facts.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>"))
        .collect();
    let message = match summary.message.is_empty() {
        true => String::new(),
        false => format!("<p class=\"message\">{}</p>", escape(&summary.message)),
    };
    format!(
        "<header><p class=\"product\">Prospect · KTO run</p><h1>{run} <span class=\"phase {class}\">{phase}</span></h1>\
         {message}<dl class=\"facts\">{facts}</dl></header>\n",
        run = escape(&summary.run_id),
        class = phase_class(&summary.phase),
        phase = escape(&summary.phase),
    )
}

fn config(text: Option<&str>) -> String {
    match text {
        Some(text) => format!("<pre class=\"scroll\">{}</pre>\n", escape(text)),
        None => "<p class=\"none\">No run.toml was found.</p>\n".to_owned(),
    }
}

fn phase_class(phase: &str) -> &'static str {
    let phase = phase.to_lowercase();
    if phase.contains("complete") {
        "good"
    } else if phase.contains("fail") {
        "bad"
    } else {
        "open"
    }
}

fn mean(points: &[(u64, f64)]) -> Option<f64> {
    let sum: f64 = points.iter().map(|point| point.1).sum();
    (!points.is_empty()).then(|| sum / points.len() as f64)
}
