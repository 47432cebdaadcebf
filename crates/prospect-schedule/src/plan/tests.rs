//! Small plans as tables.

use prospect_core::{Label, Order, RowId, Step};

use crate::{EpochOrder, PlanOptions, RowFacts, StepPlan, plan_eval, plan_step, tables};

/// Rows and options of a table.
struct Bench {
    options: PlanOptions,
    rows: Vec<RowFacts>,
}

fn check(name: &str) {
    let options = PlanOptions {
        seed: 1,
        order: Order::Sequential,
        global_batch_size: 4,
        microbatch_tokens: 100,
        max_length: 100,
        needs_pairs: true,
    };
    let mut bench = Bench { options, rows: Vec::new() };
    tables::check(&format!("plan/testdata/{name}.txt"), |line| bench.run(line));
}

impl Bench {
    fn run(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |key: &str, default: u64| {
            let value = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            value.map_or(default, |value| value.parse().unwrap())
        };
        match words[0] {
            "rows" => self.rows.clear(),
            "batch" => self.options.global_batch_size = words[1].parse().unwrap(),
            "budget" => self.options.microbatch_tokens = words[1].parse().unwrap(),
            "max_length" => self.options.max_length = words[1].parse().unwrap(),
            "no_pairs" => self.options.needs_pairs = false,
            "plan" => {
                let (step, parts) = (Step(number("step", 1)), number("parts", 1));
                let epochs = EpochOrder::new(&self.rows, &self.options, 0).steps_per_epoch();
                let epoch = EpochOrder::epoch_of(step, epochs);
                let order = EpochOrder::new(&self.rows, &self.options, epoch);
                let plan = plan_step(&order, &self.rows, &self.options, step, parts as u32);
                return describe(&plan);
            }
            "eval" => {
                let plans = plan_eval(&self.rows, &self.options, number("parts", 1) as u32);
                return plans.iter().flat_map(describe).collect();
            }
            _ => self.rows.push(row(&words)),
        }
        Vec::new()
    }
}

/// A row as `label prompt:tokens completion:tokens`; a name stands for a hash.
fn row(words: &[&str]) -> RowFacts {
    let part = |word: &str| {
        let (name, length) = word.split_once(':').unwrap();
        (name.bytes().fold(7, |hash: u64, byte| hash * 31 + u64::from(byte)), length.parse())
    };
    let (prompt_hash, prompt_len) = part(words[1]);
    let (completion_hash, completion_len) = part(words[2]);
    RowFacts {
        prompt_len: prompt_len.unwrap(),
        completion_len: completion_len.unwrap(),
        label: Label::from(words[0] == "+"),
        prompt_hash,
        completion_hash,
    }
}

fn describe(plan: &StepPlan) -> Vec<String> {
    let list = |items: &[u32]| items.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let packed = |batches: &[Vec<u32>]| {
        batches.iter().map(|batch| list(batch)).collect::<Vec<_>>().join(" | ")
    };
    let pairs: Vec<String> = plan
        .rows
        .iter()
        .zip(&plan.partners)
        .map(|(row, partner)| match partner {
            Some(RowId(partner)) => format!("{row}+{partner}"),
            None => format!("{row}+none"),
        })
        .collect();
    let mut lines = vec![format!(
        "step {} of epoch {}, {} epochs done: rows with partners {}; {} rotated on, {} from \
         outside, {} unpaired",
        plan.step,
        plan.epoch,
        plan.epochs_done,
        pairs.join(" "),
        plan.next_rotation_count,
        plan.outside_count,
        plan.unpaired_count
    )];
    for (part, work) in plan.parts.iter().enumerate() {
        lines.push(format!(
            "part {part}: slots [{}] as {{{}}}, mismatched [{}] as {{{}}}",
            list(&work.slots),
            packed(&work.target_microbatches),
            list(&work.mismatched),
            packed(&work.mismatched_microbatches)
        ));
    }
    lines
}

#[test]
fn completions_are_rotated_by_one_over_the_batch() {
    check("rotation");
}

#[test]
fn what_is_not_mismatched_takes_another_completion() {
    check("mismatch");
}

#[test]
fn parts_are_balanced_and_microbatches_filled() {
    check("assignment");
}

#[test]
fn evaluation_is_in_file_order() {
    check("eval");
}
