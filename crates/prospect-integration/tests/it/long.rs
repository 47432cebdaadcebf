//! A run of thousands of steps is at its end as lean and as fast as in its first minute: both
//! programs are watched from outside.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::outcome::{lines, number};
use crate::world::{World, read};
use prospect_integration::process::{Process, prospect_program};

/// Steps of the run.
const STEPS: u64 = 2_000;
/// Steps before allocators, pools of threads and caches have their size.
const WARM_UP: u64 = 500;
/// How often the programs are looked at.
const INTERVAL: Duration = Duration::from_millis(20);
/// Bytes by which the resident memory of a program may grow a step. The coordinator keeps the
/// metrics of every step for its readers and every reference value, less than 1 kB a step.
const MOST_GROWTH: f64 = 3_000.0;
/// Samples that a course has at least: fewer tell too little of its quarters.
const LEAST_SAMPLES: usize = 40;
/// How many times as long as in the first quarter a step may take in the last one.
const MOST_SLOWDOWN: f64 = 1.3;

/// What a program had after so many steps.
struct Sample {
    step: u64,
    resident_bytes: f64,
    num_files: usize,
}

/// All samples of one program.
type Course = Vec<Sample>;

fn sample(pid: u32, step: u64) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    let num_files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some(Sample { step, resident_bytes: 1024.0 * kilobytes, num_files })
}

/// The worker that the command has started.
fn child_of(pid: u32) -> Option<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let children =
        threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    children.flatten().find_map(|children| children.split_whitespace().next()?.parse().ok())
}

fn num_steps(run_dir: &Path) -> u64 {
    let bytes = fs::read(run_dir.join("metrics.jsonl")).unwrap_or_default();
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Trains to the end with one worker; what became of the command's process and of the worker's.
fn train(world: &World) -> [Course; 2] {
    let mut command = Command::new(prospect_program());
    command.arg("train").arg(world.write_config()).arg("--run-dir").arg(world.path("run"));
    command.args(["--device", "cpu"]).env("OMP_NUM_THREADS", "1").env_remove("PROSPECT_WORKER");
    let mut run = Process::spawn(&mut command);
    let mut courses = [Course::new(), Course::new()];
    while run.status().is_none() {
        thread::sleep(INTERVAL);
        let step = num_steps(&world.path("run"));
        let Some(worker) = child_of(run.pid()).filter(|_| (WARM_UP..STEPS).contains(&step)) else {
            continue;
        };
        for (course, pid) in courses.iter_mut().zip([run.pid(), worker]) {
            course.extend(sample(pid, step));
        }
    }
    let (code, words) = run.wait();
    assert_eq!(code, Some(0), "{words}");
    courses
}

/// Bytes a step between the first and the last quarter of the samples, by their medians: single
/// peaks do not count.
fn growth(course: &Course) -> f64 {
    let [early, late] = ends(course).map(|samples| {
        let step = median(samples.iter().map(|sample| sample.step));
        (step as f64, median(samples.iter().map(|sample| sample.resident_bytes)))
    });
    assert!(late.0 > early.0, "all samples are of step {}", late.0);
    (late.1 - early.1) / (late.0 - early.0)
}

/// The first and the last quarter of the samples.
fn ends(course: &Course) -> [&[Sample]; 2] {
    let quarter = course.len() / 4;
    [&course[..quarter], &course[course.len() - quarter..]]
}

fn median<T: Copy + PartialOrd>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|left, right| left.partial_cmp(right).expect("they can be compared"));
    values[values.len() / 2]
}

fn check_lean(program: &str, course: &Course) {
    let count = course.len();
    assert!(count >= LEAST_SAMPLES, "{program}: {count} samples, {LEAST_SAMPLES} are needed");
    let growth = growth(course);
    let [early, late] =
        ends(course).map(|samples| median(samples.iter().map(|sample| sample.num_files)));
    println!("{program}: {growth:.0} bytes a step, {early} files early and {late} late");
    assert!(growth < MOST_GROWTH, "{program}: {growth:.0} bytes a step, limit {MOST_GROWTH}");
    assert!(late <= early, "{program}: {early} open files became {late}");
}

fn world() -> World {
    World::new().steps(STEPS).evaluate_every(250).set("checkpoint.every_steps=200")
}

#[test]
fn thousands_of_steps_take_no_more_memory_or_files() {
    let [coordinator, worker] = train(&world());
    check_lean("coordinator", &coordinator);
    check_lean("worker", &worker);
}

#[test]
#[ignore = "it compares times; scripts/run-benches runs it"]
fn thousands_of_steps_are_as_fast_at_the_end() {
    let world = world();
    train(&world);
    let metrics = lines(&read(&world.path("run"), "metrics.jsonl"));
    let seconds: Vec<f64> = metrics.iter().map(|line| number(line, "step_seconds")).collect();
    let (warm, quarter) = (WARM_UP as usize, STEPS as usize / 4);
    let first = median(seconds[warm..warm + quarter].iter().copied());
    let last = median(seconds[seconds.len() - quarter..].iter().copied());
    println!("{:.2} ms a step after {WARM_UP} steps, {:.2} ms at the end", 1e3 * first, 1e3 * last);
    assert!(last < MOST_SLOWDOWN * first, "{last} s a step after {first} s");
}
