//! F24: the wall clocks of the machines differ by hours, and nothing depends on them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::chaos::Chaos;
use crate::shared::{shared_dir, shared_lock};

/// Builds the library that shifts a process's wall clock; it is preloaded.
fn shifter() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/clock.c");
    let library = shared_dir().join("clock.so");
    let _lock = shared_lock("clock");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    let output = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

#[test]
fn f24_clocks_that_differ_by_an_hour() {
    let library = shifter();
    let library = library.to_str().unwrap();
    let mut chaos = Chaos::new();
    for (slot, shift) in [(1, "3600"), (2, "-3600")] {
        chaos = chaos.environment(slot, "LD_PRELOAD", library);
        chaos = chaos.environment(slot, "CLOCK_SHIFT_SECONDS", shift);
    }
    check_shift(library);
    let mut run = chaos.start();
    run.wait_for_step(6);
    run.kill_worker(1);
    run.wait_for_steps(2);
    let ended = run.finish().expect_equal();
    assert_eq!(ended.generations().len(), 2, "{:?}", ended.generations());
}

/// The library does what it is built for.
fn check_shift(library: &str) {
    let seconds = |shift: &str| -> i64 {
        let mut date = Command::new("date");
        date.arg("+%s").env("LD_PRELOAD", library).env("CLOCK_SHIFT_SECONDS", shift);
        let output = date.output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    let ahead = seconds("3600") - seconds("0");
    assert!((3590..3610).contains(&ahead), "the clock moved by {ahead} seconds");
}
