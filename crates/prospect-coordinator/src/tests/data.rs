//! What the rows of the files become in the shards.

use std::fs;

use prospect_core::Sequence;
use serde_json::json;

use super::script::Script;
use super::world::World;
use crate::{Coordinator, CoordinatorError};

const MAX_LENGTH: usize = 8;

/// Tokens of prompts and completions, a prompt and a completion longer by one in every row.
/// The words of a row are its own; `<eos>` is token 0.
fn tokens(row: u64) -> (Vec<u32>, Vec<u32>) {
    let (first, len) = (10 * row as u32 + 2, row as u32 + 1);
    let completion = (first + len..first + 2 * len).chain([0]).collect();
    ((first..first + len).collect(), completion)
}

fn write_rows(world: &World, name: &str, labels: &[bool]) {
    let words = |token_ids: &[u32]| {
        let words: Vec<String> = token_ids.iter().map(|id| format!("w{}", id - 2)).collect();
        words.join(" ")
    };
    let lines = labels.iter().zip(0..).map(|(label, row)| {
        let (prompt, completion) = tokens(row);
        let completion = format!(" {}", words(&completion[..completion.len() - 1]));
        let row = json!({"prompt": words(&prompt), "completion": completion, "label": label});
        format!("{row}\n")
    });
    fs::write(world.path(name), lines.collect::<String>()).unwrap();
}

/// The tokens are those that TRL trains on: joined whole, then cut.
#[track_caller]
fn check(sequence: &Sequence) {
    let (prompt, _) = tokens(sequence.prompt_row.0);
    let (_, completion) = tokens(sequence.completion_row.0);
    let mut expected = [prompt.as_slice(), &completion].concat();
    expected.truncate(MAX_LENGTH);
    assert_eq!(sequence.token_ids, expected, "{sequence:?}");
    assert_eq!(sequence.completion_start as usize, prompt.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_are_cut_by_the_prompt_that_they_follow() {
    let overrides = ["data.max_length=8", "data.eval=[]", "train.steps=4", "coordinator.workers=1"];
    let world = World::new().with(&overrides);
    write_rows(&world, "train.jsonl", &[true, false, true, false, true, false]);
    let finished = world.run("run", &[Script::default()]).await;
    let parts = || finished.workers[0].shards.iter().flat_map(|shard| &shard.parts);
    let mut num_longer = 0;
    for pair in parts().flat_map(|part| &part.mismatched) {
        check(pair);
        // Behind its own prompt the completion is shorter than behind this one.
        let (own, _) = tokens(pair.completion_row.0);
        num_longer += usize::from(pair.num_completion_tokens() > MAX_LENGTH - own.len());
    }
    assert!(num_longer > 0);
    let targets = parts().flat_map(|part| &part.targets);
    targets.for_each(|target| check(&target.sequence));
    for part in parts() {
        let longest = |sequences: &mut dyn Iterator<Item = &Sequence>| {
            sequences.map(Sequence::num_tokens).max().unwrap()
        };
        assert_eq!(longest(&mut part.targets.iter().map(|target| &target.sequence)), MAX_LENGTH);
        assert_eq!(longest(&mut part.mismatched.iter()), MAX_LENGTH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_class_can_be_evaluated_but_not_trained_on() {
    let world = World::new().with(&["train.steps=2", "coordinator.workers=1"]);
    write_rows(&world, "eval.jsonl", &[false, false, false]);
    world.run("run", &[Script::default()]).await;
    let evaluations = world.lines("run", "eval_metrics.jsonl");
    let last = evaluations.last().unwrap();
    assert!(last["eval_rewards/rejected"].is_f64(), "{last:?}");
    assert!(last.get("eval_rewards/chosen").is_none_or(|value| value.is_null()), "{last:?}");

    for (objective, words) in [
        ("objective.name=kto", "none is desirable: kto weighs"),
        ("objective.name=apo_zero_unpaired", "none is desirable: apo_zero_unpaired raises"),
    ] {
        let world = World::new().with(&[objective]);
        write_rows(&world, "train.jsonl", &[false, false, false]);
        let error = Coordinator::bind(world.options("other")).await.err().unwrap();
        assert!(matches!(error, CoordinatorError::Data { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}
