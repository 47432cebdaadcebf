//! The canonical reduction: the same bits whoever does which part.

use prospect_core::{PartSums, Reduction, ReferencePoint, RunConfig};

use super::support::{canonical_shard, config, gradients, shard, step, total, values, world};

/// Parts of a global batch; two of them are empty.
const NUM_PARTS: usize = 8;

const STEPS: u64 = 3;

pub(super) fn canonical_config(num_parts: usize) -> RunConfig {
    let mut config = config("smollm2", "llama2");
    config.train.reduction = Reduction::Canonical;
    config.train.reduction_parts = num_parts as u32;
    config
}

/// What a world reports of a step: the parts' sums, the gradient's norm and the reference point.
type Reported = (Vec<PartSums>, f64, ReferencePoint);

/// Trains in a world of this size. Returns what each step reports and the digest at the end.
fn check(world_size: usize, num_parts: usize) -> (Vec<Reported>, String) {
    let config = canonical_config(num_parts);
    let runs = world(world_size, &config, |rank, trainer, exchange| {
        let mut reports = Vec::new();
        for number in 1..=STEPS {
            let shard = canonical_shard(number, num_parts, (rank, world_size));
            reports.push(step(trainer, &shard, exchange).unwrap());
        }
        (reports, exchange.points.clone(), trainer.digest().unwrap())
    });
    let (first_reports, points, digest) = &runs[0];
    assert!(runs.iter().all(|(_, _, other)| other == digest), "all ranks hold the same bits");
    let steps = (0..STEPS as usize).map(|idx| {
        let parts = runs.iter().flat_map(|(reports, ..)| reports[idx].parts.clone());
        (parts.collect(), first_reports[idx].grad_norm, points[idx])
    });
    (steps.collect(), digest.clone())
}

#[test]
fn one_to_four_ranks_give_the_same_bits() {
    let expected = check(1, NUM_PARTS);
    assert_eq!(expected.0[0].0.len(), NUM_PARTS);
    assert!(expected.0[0].1 > 0.0);
    for world_size in 2..=4 {
        assert_eq!(check(world_size, NUM_PARTS), expected, "{world_size} ranks");
    }
}

#[test]
fn a_number_of_parts_that_is_no_power_of_two_gives_the_same_bits() {
    let expected = check(1, 5);
    for world_size in [2, 3, 5] {
        assert_eq!(check(world_size, 5), expected, "{world_size} ranks");
    }
}

#[test]
fn canonical_and_fast_differ_in_roundings_only() {
    let run = |config: &RunConfig, shard| {
        world(1, config, |_, trainer, exchange| {
            let report = trainer.step(&shard, exchange).unwrap();
            (total([&report]), gradients(trainer))
        })
        .remove(0)
    };
    let (fast_sums, fast) = run(&config("smollm2", "llama2"), shard(1, 32, (0, 1)));
    let shard = canonical_shard(1, NUM_PARTS, (0, 1));
    let (sums, canonical) = run(&canonical_config(NUM_PARTS), shard);
    assert!((sums.loss - fast_sums.loss).abs() < 1e-5 * fast_sums.loss);
    assert_eq!((sums.num_tokens, sums.flops), (fast_sums.num_tokens, fast_sums.flops));
    for ((name, found), (_, expected)) in canonical.iter().zip(&fast) {
        super::support::assert_close(name, found, expected, 1e-5);
        assert!(values(found).iter().any(|&element| element != 0.0), "{name}");
    }
}
