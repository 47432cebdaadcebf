//! The language of the tables: one command a line, `name words key=value: text`.

use std::ops::Range;
use std::time::Duration;

use prospect_core::{
    Generation, Incarnation, KlSums, PartKlSums, PartSums, PhaseSeconds, Rank, ReferenceValue,
    RowId, ShardKind, Step, StepPhase, StepReport, StepSums, Weights, WorkerId,
};

use super::history::Context;
use crate::machine::{Event, FailureKind, MachineOptions, ResumePoint};

/// One line, taken apart.
pub(super) struct Command<'a> {
    pub(super) words: Vec<&'a str>,
    values: Vec<(&'a str, &'a str)>,
    text: String,
}

impl<'a> Command<'a> {
    pub(super) fn parse(line: &'a str) -> Self {
        let (head, text) = line.split_once(": ").unwrap_or((line, ""));
        let (values, words): (Vec<&str>, Vec<&str>) =
            head.split_whitespace().partition(|word| word.contains('='));
        let values = values.into_iter().map(|value| value.split_once('=').unwrap()).collect();
        Self { words, values, text: text.to_owned() }
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a str> {
        self.values.iter().find(|(name, _)| *name == key).map(|&(_, value)| value)
    }

    pub(super) fn number(&self, key: &str, default: u64) -> u64 {
        self.value(key).map_or(default, |value| value.parse().unwrap())
    }

    fn real(&self, key: &str, default: f64) -> f64 {
        self.value(key).map_or(default, |value| value.parse().unwrap())
    }

    fn worker(&self) -> WorkerId {
        WorkerId(self.words[1].into())
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation(self.words[2].into())
    }

    pub(super) fn options(&self) -> MachineOptions {
        let seconds = |key: &str, default: f64| Duration::from_secs_f64(self.real(key, default));
        let resume = self.value("resume").map(|step| {
            resume_point(step.parse().unwrap(), self.value("evaluated") == Some("yes"))
        });
        let target = self.number("workers", 1) as u32;
        MachineOptions {
            target,
            min_workers: self.number("min", u64::from(target)) as u32,
            max_workers: self.number("max", u64::from(target)) as u32,
            fixed_parts: self.value("parts").map(|parts| parts.parse().unwrap()),
            total_steps: self.number("steps", 1),
            lookahead_steps: self.number("lookahead", 2) as u32,
            checkpoint_every: self.number("checkpoint", 0),
            eval_every: self.value("eval").map(|every| every.parse().unwrap()),
            num_eval_shards: self.number("shards", 0) as u32,
            sharded: self.value("sharded") == Some("yes"),
            committed: Step(self.number("committed", 0)),
            resume,
            model_digest: "d".into(),
            join_timeout: seconds("join_timeout", 600.0),
            step_timeout: seconds("step_timeout", 300.0),
            replacement_wait: seconds("wait", 30.0),
            max_failures_without_progress: self.number("failures", 3) as u32,
            checkpoint_fail_after: self.value("fail_after").map(|count| count.parse().unwrap()),
            ..MachineOptions::default()
        }
    }

    fn pass(&self) -> (Step, ShardKind, u32) {
        let kind = if self.value("shard").is_some() { ShardKind::Eval } else { ShardKind::Train };
        (Step(self.number("step", 0)), kind, self.number("shard", 0) as u32)
    }

    /// The parts that are reported: `parts=2,3`, the worker's own where absent.
    fn parts(&self, own: &Range<u32>) -> Vec<u32> {
        match self.value("part") {
            Some(parts) => parts.split(',').map(|part| part.parse().unwrap()).collect(),
            None => own.clone().collect(),
        }
    }

    fn report(&self, own: &Range<u32>) -> StepReport {
        let (step, kind, eval_index) = self.pass();
        let value = ReferenceValue {
            prompt_row: RowId(u64::from(own.start)),
            completion_row: RowId(step.0),
            log_prob: -1.0,
        };
        let sums = StepSums {
            loss: self.real("loss", 1.0),
            num_desirable: 1,
            num_undesirable: 1,
            ..StepSums::default()
        };
        let forward_backward = self.real("seconds", 1.0);
        StepReport {
            rank: Rank(0),
            step,
            kind,
            eval_index,
            parts: self.parts(own).into_iter().map(|part| PartSums { part, sums }).collect(),
            grad_norm: self.real("norm", 0.5),
            reference_values: vec![value],
            phase_seconds: PhaseSeconds { forward_backward, ..PhaseSeconds::default() },
            peak_memory_bytes: 100,
        }
    }

    fn phase(&self) -> StepPhase {
        match self.value("phase").unwrap_or("idle") {
            "idle" => StepPhase::Idle,
            "scoring" => StepPhase::Scoring,
            "backward" => StepPhase::ForwardBackward,
            "reduce" => StepPhase::AllReduce,
            "saving" => StepPhase::Saving,
            phase => panic!("no phase {phase} in the tables"),
        }
    }

    fn weights(&self) -> Option<Weights> {
        let step = |key: &str| Some(Step(self.value(key)?.parse().unwrap()));
        Some(Weights { done: step("has")?, pending: step("pending") })
    }

    pub(super) fn event(&self, context: &Context) -> Event {
        let text = self.text.clone();
        let generation = self.value("gen").map(|number| Generation(number.parse().unwrap()));
        let generation = generation.unwrap_or(context.generation);
        let step = Step(self.number("step", 0));
        match self.words[0] {
            "join" => Event::WorkerJoined {
                worker: self.worker(),
                incarnation: self.incarnation(),
                preferred_rank: self.value("rank").map(|rank| Rank(rank.parse().unwrap())),
            },
            "open" => Event::SessionOpened {
                worker: self.worker(),
                incarnation: self.incarnation(),
                generation,
                weights: self.weights(),
            },
            "close" => Event::SessionClosed {
                worker: self.worker(),
                incarnation: self.incarnation(),
                cause: text,
            },
            "loaded" => Event::Loaded {
                worker: self.worker(),
                model_digest: self.value("digest").unwrap_or("d").into(),
            },
            "store" => Event::StoreReady {
                worker: self.worker(),
                generation,
                host: self.words[2].into(),
                port: self.number("port", 1) as u16,
            },
            "standing" => Event::Standing { worker: self.worker(), generation, step },
            "ready" => Event::Ready { worker: self.worker(), generation, step },
            "kl" => {
                let (step, kind, eval_index) = self.pass();
                let sums = KlSums {
                    sum: self.real("sum", 1.0),
                    sum_of_squares: self.real("squares", 1.0),
                    count: self.number("count", 2),
                };
                let parts = self.parts(&context.own);
                let parts = parts.into_iter().map(|part| PartKlSums { part, sums }).collect();
                Event::KlReport { worker: self.worker(), generation, step, kind, eval_index, parts }
            }
            "report" => {
                let report = self.report(&context.own);
                Event::StepReport { worker: self.worker(), generation, report }
            }
            "written" => Event::CheckpointWritten {
                worker: self.worker(),
                step,
                path: format!("checkpoints/.staged-{step}"),
                manifest_sha256: "sha".into(),
            },
            "unwritten" => {
                let num_retries = self.number("again", 0) as u32;
                Event::CheckpointFailed { worker: self.worker(), step, num_retries, message: text }
            }
            "published" => Event::CheckpointPublished {
                step,
                path: format!("checkpoints/{}", step.directory_name()),
                manifest_sha256: "sha".into(),
            },
            "rejected" => Event::CheckpointRejected { step, reason: text },
            "final" => {
                let path = ".staged-final".into();
                Event::FinalWritten { worker: self.worker(), generation, path }
            }
            "final_published" => Event::FinalPublished { path: "final".into() },
            "final_rejected" => Event::FinalRejected { reason: text },
            "found" => {
                let point =
                    self.value("step").map(|step| resume_point(step.parse().unwrap(), true));
                Event::RestorePoint { point }
            }
            "fail" => Event::Failure {
                worker: self.worker(),
                generation,
                step,
                message: text,
                kind: match self.value("kind").unwrap() {
                    "configuration" => FailureKind::Configuration,
                    "storage" => FailureKind::Storage,
                    "peer_lost" => FailureKind::PeerLost,
                    "not_finite" => FailureKind::NotFinite,
                    "internal" => FailureKind::Internal,
                    kind => panic!("no failure of kind {kind} in the tables"),
                },
            },
            "leave" => Event::Leave { worker: self.worker(), reason: text },
            "beat" => Event::Heartbeat {
                worker: self.worker(),
                step,
                phase: self.phase(),
                progress: self.number("progress", 0),
            },
            "tick" => Event::Tick,
            "stop" => Event::StopRequested { reason: text },
            name => panic!("no command {name}"),
        }
    }
}

/// A checkpoint to go on from.
pub(super) fn resume_point(step: u64, evaluated: bool) -> ResumePoint {
    let path = format!("checkpoints/{}", Step(step).directory_name());
    ResumePoint { step: Step(step), path, evaluated }
}
