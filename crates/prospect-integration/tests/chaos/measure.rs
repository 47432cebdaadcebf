//! How long it took until a fault was noticed and until the run was back. One
//! object a fault goes to `target/chaos/times.jsonl`, which `scripts/chaos` reads.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::journal::Line;
use crate::shared::shared_dir;

/// A fault that the test itself made.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What was done, in words.
    pub what: String,
    /// When.
    pub time: SystemTime,
}

/// How long a run needed after a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Until the journal says that the world is given up; nothing where it never was.
    pub detect: Option<Duration>,
    /// Until the first step that was committed in another generation, or at all where the
    /// generation stayed.
    pub back: Option<Duration>,
}

/// Reads from the journal what followed a fault.
pub fn times(lines: &[Line], fault: &Fault) -> Times {
    let after = |line: &&Line| line.time >= fault.time;
    let since = |line: &Line| line.time.duration_since(fault.time).ok();
    let before = lines.iter().filter(|line| line.time < fault.time);
    let generation = |line: &Line| line.number("generation");
    let old = before.filter(|line| line.is_record("step")).map(generation).next_back().unwrap_or(0);
    let given_up = lines.iter().filter(after).find(|line| line.is_record("regroup"));
    let steps = || lines.iter().filter(after).filter(|line| line.is_record("step"));
    let back = steps().find(|line| given_up.is_none() || generation(line) > old);
    Times { detect: given_up.and_then(since), back: back.and_then(since) }
}

/// Writes down the times of all faults of a run.
pub fn write(faults: &[Fault], times: &[Times]) {
    for (fault, times) in faults.iter().zip(times) {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        append(
            "times",
            &json!({
                "test": test_name(),
                "fault": fault.what,
                "detect_seconds": seconds(times.detect),
                "back_seconds": seconds(times.back),
            }),
        );
    }
}

/// Adds a line to a file of measurements.
pub fn append(file: &str, value: &Value) {
    let path = shared_dir().join(format!("{file}.jsonl"));
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    // One call, so that lines of tests side by side do not mix.
    file.write_all(format!("{value}\n").as_bytes()).unwrap();
}

/// Name of the test that runs in this thread.
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or("chaos").to_owned()
}

/// The seed of this process: the one that was asked for, or one of the moment. It is printed.
pub fn seed() -> u64 {
    let asked = std::env::var("PROSPECT_CHAOS_SEED").ok();
    let seed = asked.map_or_else(
        || {
            let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            u64::from(age.subsec_nanos()) ^ age.as_secs()
        },
        |seed| seed.parse().expect("PROSPECT_CHAOS_SEED is a number"),
    );
    println!("{}: PROSPECT_CHAOS_SEED={seed}", test_name());
    seed
}
