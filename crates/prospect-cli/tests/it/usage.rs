//! Help, mistakes in what is typed, completions.

use crate::harness::{call, config, prospect, scratch, write};

#[test]
fn every_command_has_help_with_examples() {
    let commands: [&[&str]; 12] = [
        &[],
        &["plan"],
        &["train"],
        &["score"],
        &["coordinator"],
        &["worker"],
        &["status"],
        &["verify"],
        &["data", "check"],
        &["eval"],
        &["generate"],
        &["doctor"],
    ];
    for command in commands {
        let called = call(prospect(command).arg("--help"));
        called.check(0, &[]).printed(&["Usage: prospect", "Examples:", "prospect "]);
    }
}

#[test]
fn a_mistake_in_the_arguments_is_a_usage_error() {
    call(&mut prospect(&[])).check(64, &["Usage: prospect"]);
    call(&mut prospect(&["trian"])).check(64, &["trian", "train"]);
    call(&mut prospect(&["train", "run.toml", "--workers", "0"])).check(64, &["--workers"]);
    call(&mut prospect(&["generate", "--model", "m"])).check(64, &["--prompt", "--data"]);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() {
    let dir = scratch();
    let config = config(dir.path(), "run.toml");
    let set = ["--set", "train.learning_rat=1e-5"];
    for command in ["train", "score", "coordinator"] {
        call(prospect(&[command, &config]).args(set)).check(
            64,
            &["run.toml", "\"train.learning_rat\"", "did you mean \"train.learning_rate\"?"],
        );
    }
}

#[test]
fn a_value_out_of_range_says_what_is_expected() {
    let dir = scratch();
    let config = config(dir.path(), "run.toml");
    call(&mut prospect(&["train", &config, "--set", "train.global_batch_size=1"]))
        .check(64, &["train.global_batch_size is 1", "set 2 or more"]);
}

#[test]
fn options_that_stand_for_keys_are_checked_as_keys() {
    let dir = scratch();
    let config = config(dir.path(), "run.toml");
    for command in ["train", "coordinator"] {
        let call_with = |more: &[&str]| call(prospect(&[command, &config]).args(more));
        call_with(&["--workers", "2", "--min-workers", "3"]).check(
            64,
            &["coordinator.min_workers is 3", "at most coordinator.workers, which is 2"],
        );
        // An option counts more than what is set.
        call_with(&["--workers", "4", "--set", "coordinator.workers=2", "--max-workers", "3"])
            .check(64, &["coordinator.max_workers is 3", "which is 4"]);
        call_with(&["--min-workers", "0"]).check(64, &["--min-workers"]);
    }
    call(&mut prospect(&["train", &config, "--max-restarts", "many"]))
        .check(64, &["--max-restarts"]);
}

#[test]
fn a_missing_configuration_is_named() {
    call(&mut prospect(&["train", "nowhere/run.toml"]))
        .check(64, &["error: nowhere/run.toml cannot be read", "hint:"]);
}

#[test]
fn broken_toml_shows_the_place() {
    let dir = scratch();
    let config = write(dir.path(), "run.toml", "[model\npath = 1\n");
    call(&mut prospect(&["train", &config])).check(64, &["run.toml", "line 1"]);
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        call(&mut prospect(&["completions", shell])).check(0, &[]).printed(&["prospect", "doctor"]);
    }
}

#[test]
fn the_version_is_printed() {
    call(&mut prospect(&["--version"])).check(0, &[]).printed(&[env!("CARGO_PKG_VERSION")]);
}
