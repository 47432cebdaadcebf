//! What a plan says of memory that is short.

use std::path::Path;

use prospect_core::RunConfig;
use prospect_shape::{Hardware, Lengths, ModelConfig, Parts, Room, Workload};

use super::super::rows::Rows;
use super::*;

/// The lines of memory for one of two workers with so many GB on a GPU, and so many in a machine.
fn lines(device: u64, main: u64) -> Vec<String> {
    let text = "[model]\npath = \"x\"\n[data]\ntrain = [\"x\"]\n[coordinator]\nworkers = 2\n";
    let config = RunConfig::parse(text, &[]).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../prospect-model/fixtures/smollm2");
    let lengths = Lengths::uniform(64, 64);
    let main_memory = Some(MainMemory { bytes: main * 1_000_000_000, workers: 2 });
    let room = Room {
        memory_bytes: device * 1_000_000_000,
        main_memory,
        completion_share: lengths.completion_share(),
    };
    let estimate = Estimate {
        name: "x".to_owned(),
        device: "2 on GPUs".to_owned(),
        dtype: "bfloat16",
        num_workers: 2,
        parts: Parts::new(&ModelConfig::read(&fixture).unwrap()),
        setup: Setup::new(&config, DeviceKind::Cuda),
        rows: Rows { lengths, num_rows: None, source: "as typed".to_owned() },
        workload: Workload::of_run(&config, lengths),
        room: Some(room),
        hardware: Hardware::cpu(1, 2),
        microbatch_tokens: 128,
        num_steps: None,
        refusal: None,
        assumptions: Vec::new(),
    };
    let text = estimate.to_text();
    let of_room = |line: &&str| ["  of ", "  and "].iter().any(|name| line.starts_with(name));
    text.lines().filter(of_room).map(|line| line[12..].trim().to_owned()).collect()
}

#[track_caller]
fn check(device: u64, main: u64, expected: [&str; 2]) {
    let lines = lines(device, main);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{expected:?} is missing in: {line}");
    }
    assert_eq!(lines[0].contains("no microbatch"), device < 2, "{lines:?}");
    assert_eq!(lines[1].contains("not fit"), main < 5, "{lines:?}");
}

#[test]
fn the_memory_that_is_short_is_named() {
    // The runtimes of two workers take 2.1 GB each.
    let need = "its workers (2) need 4.3 GB";
    check(24, 5, ["21.6 GB are planned with: the largest microbatch_tokens that fits is", need]);
    check(24, 4, ["the largest microbatch_tokens", "4.3 GB, which do not fit"]);
    check(24, 4, ["24.0 GB a worker", "4.0 GB of main memory a machine, of which 3.6 GB are"]);
    check(1, 5, ["1.0 GB a worker, of which 900 MB are planned with: no microbatch fits", need]);
}
