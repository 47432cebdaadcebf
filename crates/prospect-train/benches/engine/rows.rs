//! Made-up rows, and the shards of a world.

use prospect_core::{Label, ReferenceValue, RowId, Sequence, Shard, ShardPart, Step, Target};

use crate::request::Request;

/// Spread of the logarithm of lengths. With these and a mean of 256 tokens the lengths are near to
/// those of dialogue feedback: prompts of some turns, answers from a few words to a few paragraphs.
const PROMPT_SPREAD: f64 = 0.7;
const COMPLETION_SPREAD: f64 = 0.8;
/// Prompt's share of a row.
const PROMPT_SHARE: f64 = 0.6;
/// A third of the rows are desirable.
const DESIRABLE_OF: u64 = 3;

/// A batch, the same for equal requests.
pub struct Batch {
    prompts: Vec<Vec<u32>>,
    completions: Vec<Vec<u32>>,
    max_length: usize,
    microbatch_tokens: usize,
}

impl Batch {
    /// Draws prompts and completions.
    pub fn new(request: &Request, vocab_size: u32) -> Self {
        let mut numbers = Numbers(7);
        let mut draw = |mean: f64, spread: f64, most: usize| -> Vec<u32> {
            // The mean of a log-normal distribution lies above its median.
            let median = mean / (spread * spread / 2.0).exp();
            let length = (median * (spread * numbers.normal()).exp()).round() as usize;
            let length = length.clamp(2, most);
            (0..length).map(|_| (numbers.next() % u64::from(vocab_size)) as u32).collect()
        };
        let mean = request.tokens as f64;
        let rows: Vec<(Vec<u32>, Vec<u32>)> = (0..request.batch)
            .map(|_| {
                let prompt = draw(mean * PROMPT_SHARE, PROMPT_SPREAD, 3 * request.max_length / 4);
                let mean = mean * (1.0 - PROMPT_SHARE);
                (prompt, draw(mean, COMPLETION_SPREAD, request.max_length))
            })
            .collect();
        let (prompts, completions) = rows.into_iter().unzip();
        let (max_length, microbatch_tokens) = (request.max_length, request.microbatch_tokens);
        Self { prompts, completions, max_length, microbatch_tokens }
    }

    /// The shards of a step by rank: slots are dealt longest first, as the planner does.
    pub fn shards(&self, step: u64, ranks: usize) -> Vec<Shard> {
        let batch = self.prompts.len();
        let mismatched = |slot: usize| self.sequence(slot, (slot + batch - 1) % batch);
        let cost =
            |slot: usize| self.sequence(slot, slot).num_tokens() + mismatched(slot).num_tokens();
        let mut slots: Vec<usize> = (0..batch).collect();
        slots.sort_by_key(|&slot| std::cmp::Reverse(cost(slot)));
        let mut of_ranks = vec![(0, Vec::new()); ranks];
        for slot in slots {
            if let Some((load, own)) = of_ranks.iter_mut().min_by_key(|(load, _)| *load) {
                *load += cost(slot);
                own.push(slot);
            }
        }
        let part = |(part, (_, mut slots)): (u32, (usize, Vec<usize>))| {
            slots.sort_unstable();
            let targets: Vec<Target> = slots.iter().map(|&slot| self.target(slot)).collect();
            let mismatched: Vec<Sequence> = slots.iter().map(|&slot| mismatched(slot)).collect();
            ShardPart {
                part,
                target_microbatches: self.pack(targets.iter().map(|target| &target.sequence)),
                mismatched_microbatches: self.pack(mismatched.iter()),
                targets,
                mismatched,
            }
        };
        let shard = |part| Shard {
            step: Step(step),
            num_examples_global: batch as u32,
            num_pairs_global: batch as u32,
            learning_rate: 1e-6,
            parts: vec![part],
            ..Shard::default()
        };
        (0..).zip(of_ranks).map(part).map(shard).collect()
    }

    fn target(&self, slot: usize) -> Target {
        let label = Label::from((slot as u64).is_multiple_of(DESIRABLE_OF));
        Target { sequence: self.sequence(slot, slot), label, weight: 1.0 }
    }

    fn sequence(&self, prompt: usize, completion: usize) -> Sequence {
        let (start, end) = (&self.prompts[prompt], &self.completions[completion]);
        let room = (self.max_length - start.len()).min(end.len());
        Sequence {
            prompt_row: RowId(prompt as u64),
            completion_row: RowId(completion as u64),
            token_ids: [start.as_slice(), &end[..room]].concat(),
            completion_start: start.len() as u32,
            reference_log_prob: None,
        }
    }

    /// Longest first, each microbatch as full as the next sequence allows.
    fn pack<'a>(&self, sequences: impl Iterator<Item = &'a Sequence>) -> Vec<Vec<u32>> {
        let lengths: Vec<usize> = sequences.map(Sequence::num_tokens).collect();
        let mut positions: Vec<u32> = (0..lengths.len() as u32).collect();
        positions.sort_by_key(|&position| std::cmp::Reverse(lengths[position as usize]));
        let mut microbatches: Vec<Vec<u32>> = Vec::new();
        let mut room = 0;
        for position in positions {
            let length = lengths[position as usize];
            match microbatches.last_mut().filter(|_| length <= room) {
                Some(microbatch) => {
                    microbatch.push(position);
                    room -= length;
                }
                None => {
                    microbatches.push(vec![position]);
                    room = self.microbatch_tokens.saturating_sub(length);
                }
            }
        }
        microbatches
    }
}

/// Puts known values of the reference into a shard.
pub fn fill(shard: &mut Shard, values: &[ReferenceValue]) {
    for part in &mut shard.parts {
        let targets = part.targets.iter_mut().map(|target| &mut target.sequence);
        for sequence in targets.chain(&mut part.mismatched) {
            let key = (sequence.prompt_row, sequence.completion_row);
            let value = values.iter().find(|v| (v.prompt_row, v.completion_row) == key);
            sequence.reference_log_prob = value.map(|value| value.log_prob);
        }
    }
}

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Between 0 and 1, neither included.
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Normally distributed (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        let (left, right) = (self.uniform(), self.uniform());
        (-2.0 * left.ln()).sqrt() * (std::f64::consts::TAU * right).cos()
    }
}
