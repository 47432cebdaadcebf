//! What the protocol adds to a step: a whole coordinator on loopback, and two workers that compute
//! nothing. Each gets 16 sequences of 240 tokens a step and as many mismatched ones.

#[path = "simulated/run.rs"]
mod run;
#[path = "simulated/worker.rs"]
mod worker;
#[path = "step_round_trip/world.rs"]
mod world;

use std::cell::RefCell;

use divan::Bencher;

use world::World;

fn main() {
    divan::main();
}

/// The whole of a step: shard out, sums in, reference point out, report in, commit out. With a lookahead of 1
/// the shard is sent once the step before is committed, so all of it comes one after the other;
/// with more, as in a run, shards lie ready with the workers.
#[divan::bench(args = [1, 2], sample_size = 1, sample_count = 300, max_time = 4)]
fn step(bencher: Bencher<'_, '_>, lookahead: u32) {
    let mut world = World::new(lookahead).expect("a world of two workers forms");
    bencher.bench_local(|| world.step().expect("the step succeeds"));
}

/// From the sums of both ranks to the reference point on both: the part of a step that a worker
/// can come to wait for while its shards lie ready. The step before is committed, as it is when
/// workers compute.
#[divan::bench(sample_size = 1, sample_count = 300, max_time = 4)]
fn reference_point(bencher: Bencher<'_, '_>) {
    let world = RefCell::new(World::new(1).expect("a world of two workers forms"));
    bencher
        .with_inputs(|| world.borrow_mut().begin_step().expect("the step begins"))
        .bench_local_values(|()| {
            world.borrow_mut().exchange().expect("the sums become a reference point");
        });
}
