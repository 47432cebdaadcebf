//! What is refused, with the figure that would work.

use super::*;
use crate::devices::MainMemory;
use crate::testing::{setup, smollm2_135m};

/// A model of about 8 billion parameters.
fn large() -> Parts {
    Parts::new(&crate::ModelConfig {
        hidden_size: 4096,
        intermediate_size: 14336,
        num_layers: 32,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 128,
        vocab_size: 128_256,
        tie_word_embeddings: false,
        ..smollm2_135m()
    })
}

fn demand<'a>(
    parts: &'a Parts,
    setup: &'a Setup,
    gigabytes: f64,
    tokens: Option<u32>,
) -> Demand<'a> {
    let memory_bytes = (gigabytes * 1e9) as u64;
    let room = Room { memory_bytes, main_memory: None, completion_share: 1.0 };
    Demand { parts, setup, room, longest: 1024, most: u32::MAX, tokens }
}

#[test]
fn the_largest_budget_fits_and_one_more_does_not() {
    let (parts, setup) = (Parts::new(&smollm2_135m()), setup(DeviceKind::Cpu));
    let demand = demand(&parts, &setup, 16.0, None);
    let largest = check_memory(&demand).unwrap();
    assert!(largest > 1024);
    assert!(demand.room.holds(&parts, &setup, largest));
    assert!(!demand.room.holds(&parts, &setup, largest + 1));
    assert_eq!(check_memory(&Demand { tokens: Some(largest), ..demand }), Ok(largest));
    let refusal = check_memory(&Demand { tokens: Some(largest + 1), ..demand }).unwrap_err();
    let words = format!("set it to {largest} or less, or to \"auto\"");
    assert!(refusal.to_string().contains(&words), "{refusal}");
    assert!(refusal.to_string().contains("train.memory_gb"), "{refusal}");
    // What no worker ever has needs no room.
    let [little, much] = [largest, largest + 1]
        .map(|most| check_memory(&Demand { most, tokens: Some(1 << 20), ..demand }));
    assert_eq!(little, Ok(1 << 20));
    assert!(matches!(much, Err(BudgetRefusal::Microbatch { .. })), "{much:?}");
}

/// The budget of the large model on H200s, so many in a machine with this much main memory.
fn on_machine(setup: &Setup, gigabytes: f64, workers: u32) -> Result<u32, BudgetRefusal> {
    let parts = large();
    let demand = demand(&parts, setup, 150.1, None);
    let main_memory = Some(MainMemory { bytes: (gigabytes * 1e9) as u64, workers });
    check_memory(&Demand { room: Room { main_memory, ..demand.room }, ..demand })
}

/// Every remedy that is told is one.
#[track_caller]
fn check(setup: &Setup, gigabytes: f64, told: &[&str]) {
    let parts = large();
    let refusal = check_memory(&demand(&parts, setup, gigabytes, None)).unwrap_err();
    let text = refusal.to_string();
    for words in told {
        assert!(text.contains(words), "{words:?} is missing in: {text}");
    }
    let BudgetRefusal::Model { remedies, planned, .. } = refusal else { panic!("{text}") };
    assert!(!remedies.is_empty() && remedies.len() <= NUM_TOLD, "{text}");
    assert!(remedies.iter().all(|remedy| remedy.needed <= planned), "{text}");
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_what_would() {
    let one = setup(DeviceKind::Cuda);
    check(
        &one,
        80.0,
        &[
            "the model does not fit",
            "1024 tokens",
            "72.0 GB can be planned with",
            "for optimizer",
            "fully_sharded",
            "workers",
        ],
    );
    // Without the optimizer's state one device holds it.
    let told = ["train.offload_optimizer = true (", "GB of main memory)", "train.memory_gb where"];
    check(&one, 141.0, &told);
    let eight = Setup { world_size: 8, ..one };
    check(&eight, 80.0, &["train.mode = \"fully_sharded\""]);
}

#[test]
fn a_reference_that_does_not_fit_behind_a_small_policy_is_refused() {
    let policy = smollm2_135m();
    let (alike, apart) =
        (Parts::new(&policy), Parts::new(&policy).with_reference(large().config()));
    let setup = setup(DeviceKind::Cuda);
    assert!(check_memory(&demand(&alike, &setup, 16.0, None)).is_ok());
    let refusal = check_memory(&demand(&apart, &setup, 16.0, None)).unwrap_err();
    let BudgetRefusal::Model { needed, kind, of_kind, .. } = &refusal else { panic!("{refusal}") };
    assert_eq!((*kind, *of_kind), (Kind::Reference, 2 * large().whole()));
    assert!(*needed > 16_000_000_000 && *needed < 22_000_000_000, "{refusal}");
    // Where all its values are known, it is not there.
    let known = Setup { loads_reference: false, ..setup };
    assert_eq!(
        check_memory(&demand(&apart, &known, 16.0, None)),
        check_memory(&demand(&alike, &known, 16.0, None))
    );
}

#[test]
fn main_memory_is_held_against_what_there_is() {
    let offloaded = Setup { offload_optimizer: true, ..setup(DeviceKind::Cuda) };
    // 12 bytes a weight for the optimizer and 14 for a checkpoint.
    assert!(on_machine(&offloaded, 300.0, 1).is_ok());
    let refusal = on_machine(&offloaded, 200.0, 1).unwrap_err();
    let text = refusal.to_string();
    for told in [
        "too little main memory: a worker needs 21",
        "180.0 GB can be planned with",
        "is for checkpoint: set train.mode = \"fully_sharded\" with 2 workers (",
        "or use machines with more than 21",
    ] {
        assert!(text.contains(told), "{told:?} is missing in: {text}");
    }
    // A world that stops makes a copy, whatever the interval.
    assert!(!text.contains("checkpoint.every_steps"), "{text}");
    assert!(!text.contains("fewer workers"), "{text}");
    let BudgetRefusal::MainMemory { remedies, planned, .. } = refusal else { panic!("{text}") };
    assert!(remedies.iter().all(|remedy| remedy.in_main_memory <= planned), "{text}");
    // Offloading is no way out where there is nowhere to go.
    let kept = setup(DeviceKind::Cuda);
    let text = on_machine(&kept, 100.0, 1).unwrap_err().to_string();
    assert!(text.starts_with("the model does not fit"), "{text}");
    assert!(!text.contains("set train.offload_optimizer"), "{text}");
}

#[test]
fn the_workers_of_a_machine_share_its_main_memory() {
    // Rank 0 of a replicated world copies 14 bytes a weight, 112 GB, and others nothing; the runtime of
    // each takes 2 GB.
    let two = Setup { world_size: 2, ..setup(DeviceKind::Cuda) };
    let replicated = Setup { loads_reference: false, recompute: Recompute::Blocks, ..two };
    assert!(on_machine(&replicated, 135.0, 2).is_ok());
    let text = on_machine(&replicated, 125.0, 2).unwrap_err().to_string();
    for told in ["the 2 workers of one need 11", "112.5 GB can be", "or fewer workers on each"] {
        assert!(text.contains(told), "{told:?} is missing in: {text}");
    }
    // Together the ranks of a sharded world copy as much.
    let sharded = Setup { mode: Mode::FullySharded, ..two };
    assert!(on_machine(&sharded, 135.0, 2).is_ok());
    assert!(on_machine(&sharded, 125.0, 2).is_err());
    assert!(on_machine(&sharded, 125.0, 1).is_ok());
    // Every rank of a replicated world has an optimizer.
    let offloaded = Setup { offload_optimizer: true, ..replicated };
    let refusal = on_machine(&offloaded, 300.0, 2).unwrap_err();
    let text = refusal.to_string();
    assert!(
        text.contains("is for optimizer") && text.contains("GB of main memory for 2"),
        "{text}"
    );
    assert!(on_machine(&offloaded, 360.0, 2).is_ok());
    let BudgetRefusal::MainMemory { remedies, planned, .. } = refusal else { panic!("{text}") };
    assert!(remedies.iter().all(|remedy| remedy.in_main_memory <= planned), "{text}");
}

#[test]
fn memory_that_nothing_helps_is_told_as_such() {
    let parts = Parts::new(&smollm2_135m());
    let canonical = Setup { num_parts: Some(8), ..setup(DeviceKind::Cpu) };
    let text = check_memory(&demand(&parts, &canonical, 1.0, None)).unwrap_err().to_string();
    let (_, figure) = text.split_once("train.memory_gb = ").expect(&text);
    let figure: f64 = figure.split(' ').next().unwrap().parse().unwrap();
    let fits = |gigabytes| check_memory(&demand(&parts, &canonical, gigabytes, None)).is_ok();
    assert!(fits(figure) && !fits(figure - 0.02), "{text}");
}

#[test]
fn a_budget_holds_the_longest_sequence() {
    assert_eq!(check_longest(31, 31), Ok(()));
    assert_eq!(
        check_longest(24, 31).unwrap_err().to_string(),
        "train.microbatch_tokens is 24, but the longest training sequence has 31 tokens: set it to 31 or more, or to \"auto\", or data.max_length to at most 24"
    );
}
