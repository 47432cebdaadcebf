//! The language of the tables: one command a line, `name words key=value: text`.

use std::time::Duration;

use prospect_core::{
    Incarnation, KlSums, PhaseSeconds, Rank, ReferenceValue, RowId, ShardKind, Step, StepReport,
    StepSums, WorkerId,
};

use crate::machine::{Event, FailureKind, MachineOptions, ResumePoint, RunMachine};

/// A machine and its clock.
#[derive(Default)]
pub(super) struct History {
    machine: Option<RunMachine>,
    now: Duration,
}

/// One line, taken apart.
struct Command<'a> {
    words: Vec<&'a str>,
    values: Vec<(&'a str, &'a str)>,
    text: String,
}

impl History {
    /// Carries out a line and answers with one line for each action.
    pub(super) fn run(&mut self, line: &str) -> Vec<String> {
        let command = Command::parse(line);
        match command.words[0] {
            "options" => {
                self.machine = Some(RunMachine::new(command.options()));
                self.show()
            }
            "at" => {
                self.now = Duration::from_secs_f64(command.words[1].parse().unwrap());
                Vec::new()
            }
            "show" => self.show(),
            "quietly" => {
                self.run(line.strip_prefix("quietly ").unwrap());
                Vec::new()
            }
            "form" => {
                let names: Vec<&str> = command.words[1..].to_vec();
                let resumed = self.machine().committed_step();
                let mut answers = Vec::new();
                for name in &names {
                    answers.extend(self.run(&format!("join {name} a")));
                    answers.extend(self.run(&format!("open {name} a")));
                }
                answers.extend(self.run(&format!("store {} host port=1", names[0])));
                for name in &names {
                    answers.extend(self.run(&format!("ready {name} digest=d resumed={resumed}")));
                }
                answers
            }
            "done" => {
                let rest = line.strip_prefix("done ").unwrap();
                let ranks = 0..self.machine().world_size();
                let lines = ["kl", "report"].map(|name| {
                    ranks.clone().map(move |rank| format!("{name} rank={rank} {rest}"))
                });
                lines.into_iter().flatten().flat_map(|line| self.run(&line)).collect()
            }
            _ => {
                let now = self.now;
                let actions = self.machine().handle(now, command.event());
                actions.iter().map(ToString::to_string).collect()
            }
        }
    }

    fn machine(&mut self) -> &mut RunMachine {
        self.machine.as_mut().expect("a table begins with its options")
    }

    fn show(&mut self) -> Vec<String> {
        let machine = self.machine();
        let exit = machine.exit_code().map_or("none".into(), |exit| exit.code().to_string());
        let mut lines = vec![format!(
            "{}, step {} of {}, checkpoint {}, exit code {exit}: {}",
            machine.phase(),
            machine.committed_step(),
            machine.total_steps(),
            machine.checkpoint_step(),
            machine.reason()
        )];
        for member in machine.members() {
            let heard = member.last_heard.as_secs_f64();
            lines.push(format!(
                "{}: {:?}, step {}, heard at {heard} s",
                member.describe(),
                member.state,
                member.step
            ));
        }
        lines
    }
}

impl<'a> Command<'a> {
    fn parse(line: &'a str) -> Self {
        let (head, text) = line.split_once(": ").unwrap_or((line, ""));
        let (values, words): (Vec<&str>, Vec<&str>) =
            head.split_whitespace().partition(|word| word.contains('='));
        let values = values.into_iter().map(|value| value.split_once('=').unwrap()).collect();
        Self { words, values, text: text.to_owned() }
    }

    fn value(&self, key: &str) -> Option<&'a str> {
        self.values.iter().find(|(name, _)| *name == key).map(|&(_, value)| value)
    }

    fn number(&self, key: &str, default: u64) -> u64 {
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

    fn options(&self) -> MachineOptions {
        let resume = self.value("resume").map(|step| ResumePoint {
            step: Step(step.parse().unwrap()),
            path: format!("checkpoints/step-{step}"),
            evaluated: self.value("evaluated") == Some("yes"),
        });
        MachineOptions {
            world_size: self.number("workers", 1) as u32,
            total_steps: self.number("steps", 1),
            lookahead_steps: self.number("lookahead", 2) as u32,
            checkpoint_every: self.number("checkpoint", 0),
            eval_every: self.value("eval").map(|every| every.parse().unwrap()),
            num_eval_shards: self.number("shards", 0) as u32,
            resume,
            model_digest: "d".into(),
            ..MachineOptions::default()
        }
    }

    fn pass(&self) -> (Rank, Step, ShardKind, u32) {
        let kind = if self.value("shard").is_some() { ShardKind::Eval } else { ShardKind::Train };
        let rank = Rank(self.number("rank", 0) as u32);
        (rank, Step(self.number("step", 0)), kind, self.number("shard", 0) as u32)
    }

    fn report(&self) -> StepReport {
        let (rank, step, kind, eval_index) = self.pass();
        let value = ReferenceValue {
            prompt_row: RowId(u64::from(rank.0)),
            completion_row: RowId(step.0),
            log_prob: -1.0,
        };
        StepReport {
            rank,
            step,
            kind,
            eval_index,
            sums: StepSums {
                loss: self.real("loss", 1.0),
                num_desirable: 1,
                num_undesirable: 1,
                ..StepSums::default()
            },
            grad_norm: self.real("norm", 0.5),
            reference_values: vec![value],
            phase_seconds: PhaseSeconds::default(),
            peak_memory_bytes: 100,
        }
    }

    fn event(self) -> Event {
        let text = self.text.clone();
        match self.words[0] {
            "join" => Event::WorkerJoined {
                worker: self.worker(),
                incarnation: self.incarnation(),
                preferred_rank: self.value("rank").map(|rank| Rank(rank.parse().unwrap())),
            },
            "open" => {
                Event::SessionOpened { worker: self.worker(), incarnation: self.incarnation() }
            }
            "close" => Event::SessionClosed {
                worker: self.worker(),
                incarnation: self.incarnation(),
                cause: text,
            },
            "store" => Event::StoreReady {
                worker: self.worker(),
                host: self.words[2].into(),
                port: self.number("port", 1) as u16,
            },
            "ready" => Event::Ready {
                worker: self.worker(),
                model_digest: self.value("digest").unwrap().into(),
                resumed_step: Step(self.number("resumed", 0)),
            },
            "kl" => {
                let (rank, step, kind, eval_index) = self.pass();
                let sums = KlSums {
                    sum: self.real("sum", 1.0),
                    sum_of_squares: self.real("squares", 1.0),
                    count: self.number("count", 2),
                };
                Event::KlReport { rank, step, kind, eval_index, sums }
            }
            "report" => Event::StepReport(self.report()),
            "saved" => {
                let step = Step(self.number("step", 0));
                let path = format!("checkpoints/{}", step.directory_name());
                Event::CheckpointSaved { step, path, manifest_sha256: "sha".into() }
            }
            "final" => Event::FinalSaved { path: "final".into() },
            "fail" => Event::Failure {
                worker: self.worker(),
                step: Step(self.number("step", 0)),
                message: text,
                kind: match self.value("kind").unwrap() {
                    "configuration" => FailureKind::Configuration,
                    "storage" => FailureKind::Storage,
                    "peer_lost" => FailureKind::PeerLost,
                    "not_finite" => FailureKind::NotFinite,
                    kind => panic!("no failure of kind {kind} in the tables"),
                },
            },
            "leave" => Event::Leave { worker: self.worker(), reason: text },
            "beat" => {
                Event::Heartbeat { worker: self.worker(), step: Step(self.number("step", 0)) }
            }
            "tick" => Event::Tick,
            "stop" => Event::StopRequested { reason: text },
            name => panic!("no command {name}"),
        }
    }
}
