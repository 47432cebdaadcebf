//! A machine, its clock and its records, driven by commands.

use std::ops::Range;
use std::time::Duration;

use prospect_core::{Generation, Rank, parts_of_rank};

use super::command::{Command, resume_point};
use crate::machine::{Action, LedgerEntry, MachineOptions, Record, Replay, RunMachine};

/// What a command takes from the machine where it does not say itself.
pub(super) struct Context {
    pub(super) generation: Generation,
    /// Parts of the worker that it is about.
    pub(super) own: Range<u32>,
}

/// A machine and its clock.
#[derive(Default)]
pub(super) struct History {
    machine: Option<RunMachine>,
    now: Duration,
    options: MachineOptions,
    records: Vec<Record>,
}

impl History {
    /// Carries out a line and answers with one line for each action.
    pub(super) fn run(&mut self, line: &str) -> Vec<String> {
        let command = Command::parse(line);
        match command.words[0] {
            "options" => {
                self.options = command.options();
                self.records.clear();
                self.machine = Some(RunMachine::new(self.options.clone()));
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
                let mut answers = Vec::new();
                for name in &command.words[1..] {
                    answers.extend(self.run(&format!("come {name} a")));
                }
                answers.extend(self.run("formed"));
                answers
            }
            "come" => {
                let rest = command.words[1..].join(" ");
                let (name, lines) = (command.words[1], ["join", "open"]);
                let rank =
                    command.value("rank").map_or(String::new(), |rank| format!(" rank={rank}"));
                let mut answers = Vec::new();
                for line in lines {
                    let rank = if line == "join" { rank.as_str() } else { "" };
                    answers.extend(self.run(&format!("{line} {rest}{rank}")));
                }
                answers.extend(self.run(&format!("loaded {name}")));
                answers
            }
            "formed" => {
                let names = self.world();
                let step = self.machine().committed_step();
                let mut answers = self.run(&format!("store {} host port=1", names[0]));
                for name in &names {
                    answers.extend(self.run(&format!("ready {name} step={step}")));
                }
                answers
            }
            "stand" => {
                let step = command.number("step", self.machine().committed_step().0);
                let names = command.words[1..].iter();
                let lines = names.map(|name| format!("standing {name} step={step}"));
                lines.flat_map(|line| self.run(&line)).collect()
            }
            "done" => {
                let rest = line.strip_prefix("done ").unwrap();
                let names = self.world();
                let lines = ["kl", "report"]
                    .map(|what| names.iter().map(move |name| format!("{what} {name} {rest}")));
                lines.into_iter().flatten().flat_map(|line| self.run(&line)).collect()
            }
            "restart" => {
                self.restart();
                self.show()
            }
            _ => {
                let now = self.now;
                let context = self.context(&command);
                let actions = self.machine().handle(now, command.event(&context));
                self.records.extend(actions.iter().filter_map(Self::record));
                actions.iter().map(ToString::to_string).collect()
            }
        }
    }

    /// The coordinator ends and another one starts, with what is on record.
    fn restart(&mut self) {
        let replay = Replay::of(&self.records).unwrap();
        let Replay { generation, committed, attempt, attempt_generation, adopt, .. } = replay;
        let resume =
            replay.checkpoints.last_key_value().map(|(step, _)| resume_point(step.0, true));
        let next = Generation(generation.0 + 1);
        self.now = Duration::ZERO;
        self.machine = Some(RunMachine::new(MachineOptions {
            generation: adopt.as_ref().map_or(next, |adopt| adopt.generation),
            committed,
            attempt,
            attempt_generation,
            adopt,
            banished: replay.banished,
            last_processes: replay.last_processes,
            resume,
            ..self.options.clone()
        }));
    }

    /// What the shell puts on record.
    fn record(action: &Action) -> Option<Record> {
        Some(match action.clone() {
            Action::Regroup { generation, committed, to: None, .. } => {
                Record::Regroup { generation, committed }
            }
            Action::BeginGeneration { generation, world_size, committed, restore, members } => {
                Record::Generation { generation, world_size, committed, restore, members }
            }
            Action::GenerationFormed { generation } => Record::Formed { generation },
            Action::CommitStep(commit) => Record::Step(LedgerEntry {
                step: commit.step,
                attempt: commit.attempt,
                generation: commit.generation,
                world_size: commit.world_size,
                ..LedgerEntry::default()
            }),
            Action::CheckpointDurable { step, manifest_sha256, .. } => {
                Record::Checkpoint { step, manifest_sha256, content_sha256: String::new() }
            }
            Action::RollBack { step, attempt } => Record::RolledBack { step, attempt },
            _ => return None,
        })
    }

    fn context(&mut self, command: &Command<'_>) -> Context {
        let machine = self.machine();
        let name = command.words.get(1).copied().unwrap_or_default();
        let ranks = (0..machine.world_size()).map(Rank);
        let is_it = |rank: &Rank| {
            machine.member_of_rank(*rank).is_some_and(|member| member.worker.0 == name)
        };
        let rank = ranks.into_iter().find(is_it);
        let own = rank.map(|rank| parts_of_rank(rank, machine.world_size(), machine.num_parts()));
        Context { generation: machine.generation(), own: own.unwrap_or(0..1) }
    }

    /// Names of the workers of the world, by rank.
    fn world(&mut self) -> Vec<String> {
        let machine = self.machine();
        let ranks = (0..machine.world_size()).map(Rank);
        let members = ranks.filter_map(|rank| machine.member_of_rank(rank));
        members.map(|member| member.worker.0.clone()).collect()
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
        lines.push(format!(
            "generation {}, attempt {}, {} lost, {} without progress, {} checkpoints failed",
            machine.generation(),
            machine.attempt(),
            machine.num_losses(),
            machine.failures_without_progress(),
            machine.num_failed_checkpoints()
        ));
        for member in machine.members() {
            let slowdown =
                member.slowdown.map_or(String::new(), |slowdown| format!(", slowdown {slowdown}"));
            let mark = if member.is_straggler { ", straggler" } else { "" };
            lines.push(format!(
                "{}: {}, step {}, {}{slowdown}{mark}",
                member.describe(),
                member.state,
                member.step,
                member.phase
            ));
        }
        lines
    }
}
