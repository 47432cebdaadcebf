//! `prospect train` as a person uses it: the real programs, Ctrl-C, and on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use prospect_core::Step;

use crate::outcome::{lines, number};
use crate::world::{World, read};
use prospect_integration::process::{Process, Signal, prospect_program};

/// Steps of a run: more than are done before a signal arrives.
const STEPS: u64 = 120;

fn world() -> World {
    World::new().workers(2).steps(STEPS)
}

fn train(world: &World, more: &[&str]) -> Command {
    let mut command = Command::new(prospect_program());
    command.arg("train").arg(world.write_config()).arg("--run-dir").arg(world.path("run"));
    command.args(["--device", "cpu"]).args(more);
    command.env("OMP_NUM_THREADS", "1").env_remove("PROSPECT_WORKER");
    command
}

fn num_steps(run_dir: &Path) -> u64 {
    let text = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap_or_default();
    text.lines().count() as u64
}

/// Runs until a few more steps are done, presses Ctrl-C and looks at what is left; what was said
/// on standard error.
fn interrupt(command: &mut Command, run_dir: &Path) -> String {
    let before = num_steps(run_dir);
    let run = Process::spawn(command);
    let began = Instant::now();
    while num_steps(run_dir) < before + 3 {
        assert!(began.elapsed() < Duration::from_secs(60), "no steps are done");
        thread::sleep(Duration::from_millis(5));
    }
    run.signal(Signal::INT);
    let (code, words) = run.wait();
    assert_eq!(code, Some(75), "{words}");
    assert!(words.contains("SIGINT: saving a checkpoint, then stopping"), "{words}");
    let last = Step(num_steps(run_dir));
    assert!((before + 3..STEPS).contains(&last.0), "stopped after step {last}");
    let checkpoint = run_dir.join("checkpoints").join(last.directory_name());
    assert!(checkpoint.join("MANIFEST.json").is_file(), "{words}");
    assert!(words.contains(checkpoint.to_str().unwrap()), "{words}");
    words
}

#[test]
fn the_same_command_goes_on_after_ctrl_c() {
    let world = world();
    let run_dir = world.path("run");
    let words = interrupt(&mut train(&world, &[]), &run_dir);
    for part in ["begins at step 1 of 120", "48 rows, 16 desirable and 32 undesirable"] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
    let last = num_steps(&run_dir);

    let (code, words) = Process::spawn(&mut train(&world, &[])).wait();
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains(&format!("goes on after step {last} of 120")), "{words}");
    let steps: Vec<f64> =
        lines(&read(&run_dir, "metrics.jsonl")).iter().map(|line| number(line, "step")).collect();
    assert_eq!(steps, (1..=STEPS).map(|step| step as f64).collect::<Vec<_>>());
    assert!(run_dir.join("final/model.safetensors").is_file());
}

#[test]
fn the_command_that_is_printed_goes_on_with_a_run_that_had_to_be_new() {
    let world = world();
    let run_dir = world.path("run");
    let words = interrupt(&mut train(&world, &["--resume", "never"]), &run_dir);
    let (_, printed) = words.split_once("to go on: ").expect("a command is printed");
    let mut shell = Command::new("sh");
    let program = prospect_program();
    let path = program.parent().unwrap().to_str().unwrap();
    let path = format!("{path}:{}", std::env::var("PATH").unwrap_or_default());
    // What replaces the shell gets its signals.
    shell.args(["-c", &format!("exec {}", printed.lines().next().unwrap())]);
    shell.env("PATH", path).env("OMP_NUM_THREADS", "1").env_remove("PROSPECT_WORKER");
    interrupt(&mut shell, &run_dir);
}
