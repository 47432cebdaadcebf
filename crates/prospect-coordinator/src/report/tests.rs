use std::fs;
use std::path::Path;

use prospect_core::{Step, StepMetrics};

use super::journal::{FIRST, LAST};
use super::sampling::{MAX_POINTS, extremes, means, smooth};
use super::series::{Point, Table};
use super::ticks::{Ticks, duration, short};
use super::{Summary, write};

/// Writes the files and returns the page made of them.
fn page(summary: &Summary, files: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let path = write(dir.path(), summary).unwrap();
    assert_eq!(path, dir.path().join("reports/report.html"));
    let left: Vec<_> = fs::read_dir(dir.path().join("reports")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    fs::read_to_string(path).unwrap()
}

fn check_contains(page: &str, texts: &[&str]) {
    for text in texts {
        assert!(page.contains(text), "{text} is missing");
    }
}

fn line(step: u64, loss: f64) -> String {
    let metrics = StepMetrics {
        step: Step(step),
        loss,
        kl_raw: loss - 0.5,
        kl_stderr: 0.1,
        learning_rate: Some(5e-6),
        ..StepMetrics::default()
    };
    serde_json::to_string(&metrics).unwrap() + "\n"
}

fn summary() -> Summary {
    Summary { run_id: "run-1".to_owned(), phase: "complete".to_owned(), ..Summary::default() }
}

#[test]
fn a_run_is_shown_with_its_curves_metrics_events_and_configuration() {
    let metrics = line(1, 0.5) + &line(2, 0.4) + &line(3, 0.45);
    let files = [
        ("metrics.jsonl", metrics.as_str()),
        ("eval_metrics.jsonl", "{\"step\":2,\"eval_loss\":0.375}\n"),
        (
            "journal.jsonl",
            "{\"sequence\":1,\"time\":0,\"kind\":\"joined\",\"message\":\"w0 came\"}\n",
        ),
        ("run.toml", "[train]\nsteps = 3\n"),
    ];
    let summary = Summary { step: Step(3), total_steps: 1234, seconds: 65.0, ..summary() };
    check_contains(
        &page(&summary, &files),
        &[
            "<h3>Loss</h3>",
            "<h3>Learning rate</h3>",
            "train, step 2: 0.4000",
            "eval, step 2: 0.3750",
            "<dd>3 of 1,234</dd>",
            "1 min 05 s",
            // First, last, best and its step.
            "<code>loss</code></td><td class=\"part\">train</td><td class=\"number\">0.5000</td>\
             <td class=\"number\">0.4500</td><td class=\"number\">0.4000</td><td class=\"number\">2</td>",
            "w0 came",
            "1970-01-01 00:00:00Z",
            "[train]\nsteps = 3\n",
        ],
    );
}

#[test]
fn the_page_asks_for_nothing_from_elsewhere() {
    let page = page(&summary(), &[("metrics.jsonl", &line(1, 0.5))]);
    for reference in ["http:", "https:", "src=", "<link", "@import", "url("] {
        // The name of the SVG namespace is no address that is opened.
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(reference), "{reference}");
    }
}

#[test]
fn an_empty_directory_gives_a_page_that_says_so() {
    let page = page(&summary(), &[]);
    check_contains(&page, &["nothing to plot", "No metrics", "No events", "No run.toml"]);
    assert!(!page.contains("<svg"));
}

#[test]
fn one_step_and_half_a_line_are_shown() {
    let page = page(&summary(), &[("metrics.jsonl", &(line(1, 0.5) + "{\"step\":2,\"lo"))]);
    check_contains(&page, &["train, step 1: 0.5000"]);
    assert!(!page.contains("NaN") && !page.contains("inf\""), "a scale divides by zero");
}

#[test]
fn texts_are_escaped() {
    let hostile = "</pre><script>alert('x')</script>&\"";
    let key = "a</td><img>";
    let event = serde_json::json!({"kind": hostile, "message": hostile, "time": hostile, "sequence": hostile, "step": hostile});
    let metrics = serde_json::json!({"step": 1, key: 2.0}).to_string();
    let files = [
        ("metrics.jsonl", metrics.as_str()),
        ("journal.jsonl", &event.to_string()),
        ("run.toml", hostile),
    ];
    let summary = Summary {
        run_id: hostile.to_owned(),
        phase: hostile.to_owned(),
        message: hostile.to_owned(),
        ..Summary::default()
    };
    let page = page(&summary, &files);
    assert!(!page.contains("<script>alert") && !page.contains("<img>"));
    let escaped = "&lt;/pre&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;";
    // Title, name, phase, message, five cells, configuration.
    assert_eq!(page.matches(escaped).count(), 10);
}

#[test]
fn long_runs_stay_small_and_keep_their_peaks() {
    let num_steps = 100_000;
    let loss = |step| if step == 54_321 { 9.75 } else { 0.5 };
    let metrics: String = (1..=num_steps)
        .map(|step| format!("{{\"step\":{step},\"loss\":{},\"grad_norm\":1.5}}\n", loss(step)))
        .collect();
    let journal: String = (0..5000).map(|idx| format!("{{\"sequence\":{idx}}}\n")).collect();
    let page = page(&summary(), &[("metrics.jsonl", &metrics), ("journal.jsonl", &journal)]);
    assert!(page.len() < 400_000, "{} bytes", page.len());
    let left_out = 5000 - FIRST - LAST;
    assert_eq!(left_out, 4000);
    check_contains(
        &page,
        &["[54321,9.75]", "[1,0.5]", "[100000,0.5]", "4,000 events are left out"],
    );
}

#[test]
fn steps_taken_again_replace_what_came_after_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    fs::write(&path, line(1, 1.0) + &line(2, 2.0) + &line(3, 3.0) + &line(2, 4.0)).unwrap();
    let table = Table::read(&path, "").unwrap();
    assert_eq!(table.get("loss"), [(1, 1.0), (2, 4.0)]);
    assert_eq!(Table::read(Path::new("/nowhere/at/all"), "").unwrap().all, []);
}

#[test]
fn sampling_keeps_order_ends_and_extremes() {
    let points: Vec<Point> = (0..7919).map(|step| (step, ((step * 37) % 101) as f64)).collect();
    let kept = extremes(&points);
    assert!(kept.len() <= MAX_POINTS + 2 && kept.len() > MAX_POINTS / 2, "{}", kept.len());
    assert!(kept.is_sorted_by(|a, b| a.0 < b.0));
    assert_eq!((kept.first(), kept.last()), (points.first(), points.last()));
    assert!(kept.iter().any(|point| point.1 == 0.0) && kept.iter().any(|point| point.1 == 100.0));

    assert_eq!(means(&[(1, 1.0), (2, 3.0), (3, 5.0), (4, 9.0)], 2), [(2, 2.0), (4, 7.0)]);
    // A straight line stays as it is, but for its ends.
    let straight: Vec<Point> = (0..20).map(|step| (step, 0.5 * step as f64)).collect();
    let smoothed = smooth(&straight, 4);
    assert_eq!(smoothed[4..16], straight[4..16]);
    assert_eq!((smoothed[0], smoothed[19]), ((0, 1.0), (19, 8.5)));
}

#[test]
fn ticks_are_round_numbers() {
    let labels = |low, high, count| {
        let ticks = Ticks::new(low, high, count);
        ticks.values.iter().map(|&value| ticks.label(value)).collect::<Vec<_>>()
    };
    assert_eq!(labels(0.0, 1.0, 5), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    assert_eq!(labels(-0.031, 0.052, 5), ["−0.02", "0", "0.02", "0.04"]);
    assert_eq!(labels(950.0, 4800.0, 5), ["1,000", "2,000", "3,000", "4,000"]);
    assert_eq!(labels(0.0, 5e-6, 5), ["0", "1e−6", "2e−6", "3e−6", "4e−6", "5e−6"]);
    assert_eq!(labels(0.4999, 0.5001, 4), ["0.49990", "0.49995", "0.50000", "0.50005", "0.50010"]);
    assert_eq!(Ticks::whole(0.0, 2.0, 7).values, [0.0, 1.0, 2.0]);
}

#[test]
fn numbers_are_written_for_people() {
    let written: Vec<_> = [0.0, 0.42168, -12.5, 1234567.0, 5e-7, 32.0].map(short).into();
    assert_eq!(written, ["0", "0.4217", "−12.50", "1,234,567", "5e−7", "32"]);
    let durations: Vec<_> = [0.25, 59.0, 61.4, 3725.0].map(duration).into();
    assert_eq!(durations, ["0.2 s", "59 s", "1 min 01 s", "1 h 02 min 05 s"]);
}
