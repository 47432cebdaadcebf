//! Counts rows as they come by.

use std::collections::{HashMap, HashSet};

use super::{DataReport, FileRows, LengthUnit, Lengths, Percentiles, WeightAdvice};
use crate::BadRow;
use crate::pipeline::{Kept, Outcome, Size};
use crate::read::Source;

/// A report in the making.
pub(crate) struct Tally {
    report: DataReport,
    unit: LengthUnit,
    prompt_lengths: Vec<u32>,
    completion_lengths: Vec<u32>,
    /// Prompt and completion by their hashes: which labels were seen.
    seen: HashMap<(u64, u64), Seen>,
    prompts: HashSet<u64>,
}

#[derive(Default)]
struct Seen {
    desirable: bool,
    undesirable: bool,
}

impl Tally {
    pub fn new(sources: &[Source], unit: LengthUnit, max_length: u32) -> Self {
        let files =
            sources.iter().map(|source| FileRows { file: source.name(), rows: 0 }).collect();
        let report = DataReport {
            files,
            rows_read: 0,
            rows: 0,
            num_desirable: 0,
            num_undesirable: 0,
            lengths: None,
            num_tokens: 0,
            max_length,
            truncated: 0,
            overlong: 0,
            duplicates: 0,
            contradictory: 0,
            distinct_prompts: 0,
            non_prefix_prompts: 0,
            weight_advice: None,
            bad_rows: Vec::new(),
        };
        Self {
            report,
            unit,
            prompt_lengths: Vec::new(),
            completion_lengths: Vec::new(),
            seen: HashMap::new(),
            prompts: HashSet::new(),
        }
    }

    /// Counts one outcome and hands a usable row back.
    pub fn add(&mut self, file: usize, line: u64, outcome: Outcome) -> Option<Kept> {
        self.report.rows_read += 1;
        self.report.files[file].rows += 1;
        match outcome {
            Outcome::Bad(error) => {
                let file = self.report.files[file].file.clone();
                let bad = BadRow { file, line, field: error.field, message: error.message };
                self.report.bad_rows.push(bad);
                None
            }
            Outcome::Overlong(size) => {
                self.measure(size);
                self.report.overlong += 1;
                None
            }
            Outcome::Kept(row) => {
                self.measure(row.size);
                self.count(&row);
                Some(row)
            }
        }
    }

    pub fn finish(mut self) -> DataReport {
        let both = self.prompt_lengths.iter().zip(&self.completion_lengths);
        let both = both.map(|(prompt, completion)| prompt.saturating_add(*completion)).collect();
        let parts = [self.prompt_lengths, self.completion_lengths, both].map(Percentiles::of);
        if let [Some(prompt), Some(completion), Some(both)] = parts {
            self.report.lengths = Some(Lengths { unit: self.unit, prompt, completion, both });
        }
        let report = &mut self.report;
        report.contradictory =
            self.seen.values().filter(|seen| seen.desirable && seen.undesirable).count() as u64;
        report.distinct_prompts = self.prompts.len() as u64;
        report.weight_advice =
            WeightAdvice::new((report.num_desirable, report.num_undesirable), (1.0, 1.0));
        self.report
    }

    fn measure(&mut self, size: Size) {
        self.prompt_lengths.push(size.prompt);
        self.completion_lengths.push(size.completion);
    }

    fn count(&mut self, row: &Kept) {
        let report = &mut self.report;
        report.rows += 1;
        report.num_tokens += u64::from(row.num_tokens);
        report.truncated += u64::from(row.truncated);
        report.non_prefix_prompts += u64::from(row.lost_prompt_tokens > 0);
        let seen = self.seen.entry((row.prompt_hash, row.completion_hash)).or_default();
        report.duplicates += u64::from(seen.desirable || seen.undesirable);
        if row.label.is_desirable() {
            report.num_desirable += 1;
            seen.desirable = true;
        } else {
            report.num_undesirable += 1;
            seen.undesirable = true;
        }
        self.prompts.insert(row.prompt_hash);
    }
}
