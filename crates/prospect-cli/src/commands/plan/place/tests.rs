//! Places on machines that are made up.

use clap::Parser;
use prospect_shape::MainMemory;

use super::*;
use crate::args::{Cli, Command};

/// A machine with these GPUs, by the driver's names, each with 24 GB and a measured rate of
/// 50 TFLOP/s; its CPU has one of 0.15.
fn machine(gpus: &[&str]) -> Vec<Device> {
    let device = |name: String, model: Option<&str>, memory_bytes, rate| Device {
        name,
        model: model.map(str::to_owned),
        memory_bytes,
        flops_per_second: Some(rate),
    };
    if gpus.is_empty() {
        return vec![device("cpu".to_owned(), None, None, 0.15e12)];
    }
    let gpu = |(idx, &name): (usize, &&str)| {
        device(format!("cuda:{idx}"), Some(name), Some(24_000_000_000), 50e12)
    };
    gpus.iter().enumerate().map(gpu).collect()
}

fn parsed(typed: &[&str]) -> Result<PlanArgs, clap::Error> {
    let words = ["prospect", "plan", "none.toml"].into_iter().chain(typed.iter().copied());
    Cli::try_parse_from(words).map(|cli| match cli.command {
        Command::Plan(args) => args,
        other => panic!("{other:?} is no plan"),
    })
}

/// What is planned on a machine with these GPUs whose devices were measured.
fn place(gpus: &[&str], typed: &[&str]) -> Result<Place, CliError> {
    Place::among(machine(gpus), &parsed(typed).unwrap())
}

/// Checks what each of two workers has: its GPU's name, its memory in GB where it is a GPU's, its rate
/// in TFLOP/s and where that comes from.
#[track_caller]
fn check(gpus: &[&str], typed: &[&str], expected: (Option<&str>, Option<f64>, f64, &str)) {
    let (name, memory, rate, source) = expected;
    let place = place(gpus, typed).unwrap();
    assert_eq!(place.gpu_name().as_deref(), name);
    let device = place.of_worker(2);
    assert_eq!(device.kind == DeviceKind::Cuda, name.is_some());
    let memory_bytes = memory.map(|gigabytes| (gigabytes * 1e9) as u64);
    assert_eq!(device.memory_bytes.filter(|_| name.is_some()), memory_bytes);
    let (hardware, assumptions) = place.hardware(&parsed(typed).unwrap(), 2);
    assert_eq!(hardware.flops / 1e12, rate);
    assert!(assumptions[0].contains(source), "{assumptions:?}");
}

#[test]
fn a_place_is_this_machine_unless_gpus_are_typed() {
    let (l4, measured) = (Some("NVIDIA L4"), "were measured");
    check(&[], &[], (None, None, 0.075, measured));
    check(&["NVIDIA L4"; 2], &[], (l4, Some(24.0), 50.0, measured));
    // Two workers on one GPU.
    check(&["NVIDIA L4"], &[], (l4, Some(12.0), 25.0, measured));
    check(&["NVIDIA L4"; 2], &["--gpu-memory", "20"], (l4, Some(24.0), 50.0, measured));
    check(&["NVIDIA L4"], &["--gpus", "2"], (l4, Some(24.0), 50.0, measured));
    let typed = ["--gpus", "2", "--flops-per-second", "7e13"];
    check(&["NVIDIA L4"], &typed, (l4, Some(24.0), 70.0, "as typed"));
}

#[test]
fn the_workers_of_this_machine_share_its_main_memory() {
    let of = |gpus: &[&str], typed: &[&str]| place(gpus, typed).unwrap().of_worker(2);
    let machine = devices::main_memory_bytes().map(|bytes| MainMemory { bytes, workers: 2 });
    assert_eq!(of(&["NVIDIA L4"], &[]).main_memory, machine);
    assert_eq!(of(&["NVIDIA L4"; 2], &[]).main_memory, machine);
    assert_eq!(of(&["NVIDIA L4"], &["--gpus", "2"]).main_memory, None);
    let cpu = of(&[], &[]);
    assert_eq!(cpu.memory_bytes, machine.map(|machine| machine.bytes / 2));
    assert_eq!(cpu.main_memory, None);
}

#[test]
fn gpus_that_are_named_have_their_own_rates_and_memory() {
    let sheet = "half of the data sheet's peak";
    check(&["NVIDIA L4"], &["--gpu", "H200"], (Some("H200"), Some(150.1), 494.5, sheet));
    check(&[], &["--gpus", "2", "--gpu", "a100"], (Some("a100"), Some(85.0), 156.0, sheet));
    // Memory that is a GPU's asks for GPUs.
    check(&[], &["--gpu-memory", "80"], (Some("H100"), Some(85.0), 494.5, sheet));
    let error = place(&[], &["--gpu", "H1000"]).err().unwrap();
    for told in ["--gpu is \"H1000\"", "H100 PCIe, ", "L4; for another"] {
        assert!(error.to_string().contains(told), "{error}");
    }
    assert_eq!(error.exit_code(), prospect_core::ExitCode::Usage);
}

#[test]
fn gpus_of_this_machine_that_nothing_is_known_of_are_told_as_such() {
    let found =
        Device { flops_per_second: None, ..machine(&["NVIDIA GeForce RTX 4090"]).remove(0) };
    let place = Place::among(vec![found], &parsed(&[]).unwrap()).unwrap();
    let (hardware, assumptions) = place.hardware(&parsed(&[]).unwrap(), 1);
    assert_eq!((hardware.peak_flops, hardware.flops), (None, 494.5e12));
    assert!(assumptions[0].contains("half of an H100's peak, since"), "{assumptions:?}");
}

#[test]
fn another_device_is_not_measured() {
    let error = parsed(&["--measure", "--gpu", "H100"]).unwrap_err();
    assert!(error.to_string().contains("cannot be used with"), "{error}");
    for typed in [["--gpus", "8"], ["--gpu-memory", "80"]] {
        let typed = [&typed[..], &["--measure"]].concat();
        let error = place(&[], &typed).err().unwrap();
        assert!(error.to_string().contains("there is none"), "{error}");
        check(&["NVIDIA L4"; 2], &typed, (Some("NVIDIA L4"), Some(24.0), 50.0, "were measured"));
    }
}
