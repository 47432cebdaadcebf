//! F27: one fault after the other, of a kind and at a moment that chance chooses. At
//! the end nothing is lost and nothing is left behind.

use std::time::Duration;

use prospect_integration::fixture::Numbers;
use prospect_integration::process::Signal;

use crate::chaos::Chaos;
use crate::journal;
use crate::measure;
use crate::running::Running;

/// Most random milliseconds between two faults.
const MOST_PAUSE: u32 = 400;

/// How long a worker rests in a step, in milliseconds.
const PACE: u64 = 80;
/// Steps that may pass from one fault to the next.
const STEPS_PER_FAULT: u64 = 7;

/// Makes one fault.
fn strike(run: &mut Running, numbers: &mut Numbers) {
    let slot = numbers.below(3);
    let millis =
        |numbers: &mut Numbers, most: u32| Duration::from_millis(u64::from(numbers.below(most)));
    match numbers.below(10) {
        0..3 => run.kill_worker(slot),
        3 => run.kill_workers(&[slot, (slot + 1) % 3]),
        4 => run.kill_workers(&[0, 1, 2]),
        5 | 6 => {
            let away = millis(numbers, 1500);
            run.kill_coordinator(away);
        }
        7 => {
            let away = millis(numbers, 1000);
            run.kill_coordinator(away);
            run.kill_worker(slot);
        }
        8 => {
            run.note(&format!("cut all sessions, worker {slot} stands still for a moment"));
            run.relay.as_ref().unwrap().cut();
            let time = millis(numbers, 1000);
            if run.slot(slot).process().is_some() {
                run.signal_worker(slot, Signal::STOP);
                std::thread::sleep(time);
                run.signal_worker(slot, Signal::CONT);
            }
        }
        _ => {
            run.note("cut all sessions");
            run.relay.as_ref().unwrap().cut();
        }
    }
}

/// So many faults from this seed. After each the run does a step before the next.
fn check(seed: u64, num_faults: u32) {
    let mut numbers = Numbers(seed);
    let open = open_files();
    let steps = STEPS_PER_FAULT * u64::from(num_faults + 2);
    let chaos = Chaos::new()
        .steps(steps)
        .pace(PACE)
        .relayed()
        .set("checkpoint.every_steps=4")
        .set("coordinator.max_failures_without_progress=20");
    let mut run = chaos.start();
    for number in 1..=num_faults {
        run.wait_for_steps(1);
        let pause = Duration::from_millis(u64::from(numbers.below(MOST_PAUSE)));
        run.wait(pause);
        let last = journal::last_step(&run.run_dir);
        assert!(last + 2 < steps, "seed {seed}: step {last} was done before fault {number}");
        strike(&mut run, &mut numbers);
    }
    let slots = run.slots();
    let ended = run.finish().expect_equal();
    assert!(slots.iter().all(|slot| ended.workers.contains_key(slot)));
    let left = processes_below(ended.dir.path());
    assert!(left.is_empty(), "processes are left: {left:?}");
    let names: Vec<String> = std::fs::read_dir(ended.run_dir.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|name| name.starts_with("step-")), "{names:?}");
    assert!(names.len() <= 2, "checkpoints were not removed: {names:?}");
    drop(ended);
    let after = open_files();
    assert!(after <= open + 8, "{open} files were open, now {after}");
}

/// Open files of this process.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Processes that were started with a path below `dir`.
fn processes_below(dir: &std::path::Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let commands = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let bytes = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    });
    commands.filter(|command| command.contains(dir)).collect()
}

/// Open files and threads of a process.
fn held(pid: u32) -> (usize, usize) {
    let count = |name: &str| std::fs::read_dir(format!("/proc/{pid}/{name}")).unwrap().count();
    (count("fd"), count("task"))
}

#[test]
fn f27_who_lives_through_many_worlds_keeps_nothing_of_them() {
    let chaos = Chaos::new().steps(60).set("coordinator.max_failures_without_progress=20");
    let mut run = chaos.start();
    run.wait_for_step(2);
    let survivor = run.slot(0).process().expect("it runs").pid();
    let pids = [survivor, run.coordinator().process().expect("it runs").pid()];
    let mut early = pids.map(held);
    for death in 1..=9 {
        run.kill_worker(1);
        run.wait_for_records("formed", 1 + death);
        run.wait_for_steps(1);
        if death == 2 {
            early = pids.map(held);
        }
    }
    for (pid, early) in pids.into_iter().zip(early) {
        let late = held(pid);
        let most = (early.0 + 6, early.1 + 6);
        assert!(
            late.0 <= most.0 && late.1 <= most.1,
            "files and threads: {early:?}, then {late:?}"
        );
    }
    run.finish().expect_equal();
}

#[test]
fn f27_a_few_random_faults() {
    check(measure::seed(), 8);
}

#[test]
#[ignore = "it takes long; scripts/chaos runs it"]
fn f27_a_hundred_random_faults() {
    check(measure::seed(), 100);
}
