//! All laws over a run, or over two.

use super::finding::{Finding, Verdict};
use super::run::{Run, State};
use super::{data, durability, sequence, trajectory, writer};
use crate::error::CliError;

/// A law and how it stands.
#[derive(Debug)]
pub(super) struct LawVerdict {
    /// Its number.
    pub(super) law: &'static str,
    /// What it is about.
    pub(super) about: &'static str,
    pub(super) verdict: Verdict,
}

/// A run in a line.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) run_dir: String,
    pub(super) state: State,
    /// Last committed step.
    pub(super) step: u64,
    /// Attempt of that step, 0 without one.
    pub(super) attempt: u64,
}

/// What was judged, and the judgement.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) run: Summary,
    pub(super) against: Option<Summary>,
    pub(super) laws: Vec<LawVerdict>,
}

impl Judgement {
    /// Judges a run, against another one if there is one.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub(super) fn new(run: &Run, against: Option<&Run>) -> Result<Self, CliError> {
        let damage = [Some(run), against].into_iter().flatten().find_map(unreadable);
        let law = |law, about, judge: &dyn Fn() -> Verdict| {
            let verdict = match &damage {
                None => judge(),
                Some(reason) => Verdict::NotJudged(reason.clone()),
            };
            LawVerdict { law, about, verdict }
        };
        let (same, elastic) = match (&damage, against) {
            (Some(reason), _) => {
                (Verdict::NotJudged(reason.clone()), Some(Verdict::NotJudged(reason.clone())))
            }
            (None, None) => (trajectory::within(run), None),
            (None, Some(other)) => {
                let (same, elastic) = trajectory::against(run, other);
                (same, Some(elastic))
            }
        };
        let mut laws = vec![
            LawVerdict { law: "N1", about: "trajectory", verdict: same },
            law("N2", "data", &|| data::judge(run).into()),
            law("N3", "durability", &|| durability::judge(run).into()),
        ];
        laws.extend(elastic.filter(|_| against.is_some()).map(|verdict| LawVerdict {
            law: "N4",
            about: "elasticity",
            verdict,
        }));
        laws.push(law("N5", "one writer", &|| writer::judge(run).into()));
        let records = sequence::judge(run).and_then(|text| match against.map(sequence::judge) {
            Some(Err(finding)) => Err(of_other(finding)),
            _ => Ok(text),
        });
        laws.push(LawVerdict { law: "N7", about: "records", verdict: records.into() });
        Ok(Self { run: Summary::new(run), against: against.map(Summary::new), laws })
    }

    /// Whether no law is broken and, against another run, one of N1 and N4 says that both are one.
    pub(super) fn holds(&self) -> bool {
        let mut laws = self.laws.iter();
        let is_compared = |law: &LawVerdict| {
            ["N1", "N4"].contains(&law.law) && matches!(law.verdict, Verdict::Holds(_))
        };
        !laws.clone().any(|law| matches!(law.verdict, Verdict::Broken(_)))
            && (self.against.is_none() || laws.any(is_compared))
    }
}

/// Why nothing can be said of what a run has done.
fn unreadable(run: &Run) -> Option<String> {
    let finding = run.journal.damage.as_ref()?;
    Some(format!("{} cannot be read from line {}", finding.file, finding.line.unwrap_or(1)))
}

fn of_other(finding: Finding) -> Finding {
    Finding { file: format!("(against) {}", finding.file), ..finding }
}

impl Summary {
    fn new(run: &Run) -> Self {
        let ledger = run.ledger();
        let last = ledger.values().next_back();
        Self {
            run_dir: run.root.display().to_string(),
            state: run.state(),
            step: last.map_or(0, |placed| placed.entry.step),
            attempt: last.map_or(0, |placed| placed.entry.attempt),
        }
    }
}
