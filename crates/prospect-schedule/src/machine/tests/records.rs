//! What is read from records, and what is refused.

use prospect_core::{Generation, Incarnation, Rank, Restore, Step, WorkerId};

use crate::machine::{LedgerEntry, Phase, Record, Replay, ReplayError};

fn generation(generation: u64) -> Record {
    generation_with(generation, "a")
}

fn generation_with(generation: u64, process: &str) -> Record {
    Record::Generation {
        generation: Generation(generation),
        world_size: 1,
        committed: Step(0),
        restore: Restore::Initial,
        members: vec![(WorkerId("w0".into()), Incarnation(process.into()), Rank(0))],
    }
}

fn formed(generation: u64) -> Record {
    Record::Formed { generation: Generation(generation) }
}

fn regroup(generation: u64) -> Record {
    Record::Regroup { generation: Generation(generation), committed: Step(0) }
}

fn step(step: u64, attempt: u64, generation: u64) -> Record {
    Record::Step(LedgerEntry {
        step: Step(step),
        attempt,
        generation: Generation(generation),
        ..LedgerEntry::default()
    })
}

fn checkpoint(step: u64) -> Record {
    Record::Checkpoint { step: Step(step), manifest_sha256: "m".into(), content_sha256: "c".into() }
}

fn check(records: &[Record]) -> Replay {
    Replay::of(records).unwrap()
}

fn check_refused(records: &[Record], expected: &str) {
    let refused: ReplayError = Replay::of(records).unwrap_err();
    assert_eq!(refused.to_string(), expected);
}

#[test]
fn a_formed_generation_may_be_adopted_with_all_its_steps() {
    let replay = check(&[generation(1), formed(1), step(1, 1, 1), step(2, 1, 1), checkpoint(1)]);
    let adopt = replay.adopt.unwrap();
    assert_eq!((adopt.generation, adopt.committed), (Generation(1), Step(2)));
    assert_eq!(adopt.members.len(), 1);
    assert_eq!(replay.checkpoints.keys().copied().collect::<Vec<_>>(), [Step(1)]);
}

#[test]
fn a_generation_that_was_broken_up_or_did_not_form_is_not_adopted() {
    let begun = [generation(1), formed(1), step(1, 1, 1)];
    let ended = Record::Ended { phase: Phase::Stopped };
    for last in [regroup(2), generation(2), ended] {
        let replay = check(&[&begun[..], &[last]].concat());
        assert_eq!((replay.adopt, replay.committed), (None, Step(1)));
    }
    assert_eq!(check(&begun[..1]).adopt, None);
}

#[test]
fn a_run_that_begins_again_has_not_ended() {
    let stopped = [generation(1), formed(1), Record::Ended { phase: Phase::Stopped }];
    assert_eq!(check(&stopped).ended, Some(Phase::Stopped));
    assert_eq!(check(&[&stopped[..], &[generation(2)]].concat()).ended, None);
}

#[test]
fn a_roll_back_begins_an_attempt_and_forgets_what_lies_beyond() {
    let records = [
        generation(1),
        formed(1),
        step(1, 1, 1),
        step(2, 1, 1),
        checkpoint(1),
        checkpoint(2),
        regroup(2),
        Record::RolledBack { step: Step(1), attempt: 2 },
    ];
    let replay = check(&records);
    assert_eq!((replay.committed, replay.attempt), (Step(1), 2));
    assert_eq!(replay.attempt_generation, Generation(3));
    assert_eq!(replay.checkpoints.len(), 1);
    let again = [&records[..], &[regroup(3), generation(3), formed(3), step(2, 2, 3)]].concat();
    assert_eq!(check(&again).committed, Step(2));
}

#[test]
fn only_the_last_process_of_a_name_may_come_back() {
    let replay =
        check(&[generation_with(1, "a"), generation_with(2, "b"), generation_with(3, "c")]);
    let banished = &replay.banished[&WorkerId("w0".into())];
    assert_eq!(banished.iter().map(|process| process.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn records_that_no_run_leaves_are_refused() {
    check_refused(
        &[generation(1), formed(1), step(1, 1, 1), step(1, 1, 1)],
        "step 1 of attempt 1 stands after step 1 on record",
    );
    check_refused(
        &[generation(1), formed(1), regroup(2), step(1, 1, 1)],
        "generation 1 stands after generation 2 on record",
    );
    check_refused(&[regroup(2), regroup(2)], "generation 2 stands after generation 2 on record");
    check_refused(
        &[generation(1), formed(1), Record::RolledBack { step: Step(3), attempt: 2 }],
        "attempt 2 is on record to go on after step 3, but attempt 1 stood at step 0",
    );
}
