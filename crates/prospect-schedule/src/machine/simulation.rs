//! Whole runs with simulated workers: whatever the order in which messages
//! arrive, and however often, every step is committed once and in order.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use prospect_core::{Incarnation, KlSums, Rank, ShardKind, Step, StepReport, StepSums, WorkerId};

use super::{Action, Event, MachineOptions, Phase, ResumePoint, RunMachine};

/// A worker that does in order what it is told, and says it in order. On the
/// way its words wait in a queue and may be doubled.
#[derive(Default)]
struct Worker {
    rank: u32,
    told: VecDeque<Action>,
    /// Passes whose reference point has come.
    points: BTreeSet<(Step, bool, u32)>,
    /// Whether the sums of the first pass in `told` were sent.
    has_sent_sums: bool,
    said: VecDeque<Event>,
}

/// What a run has done.
#[derive(Default)]
struct Record {
    steps: Vec<u64>,
    evaluations: Vec<u64>,
    durable: Vec<u64>,
    sent: u64,
    num_closes: u32,
}

#[derive(Clone, Debug)]
struct Case {
    options: MachineOptions,
    /// Decides which worker is next, and whether its words are doubled.
    choices: Vec<u16>,
}

fn cases() -> impl Strategy<Value = Case> {
    let options = (1..5_u32, 1..9_u64, 1..4_u32, 0..4_u64, 0..4_u64, 0..3_u32);
    (options, 0..9_u64, prop::collection::vec(any::<u16>(), 1..200)).prop_map(
        |((world_size, total_steps, lookahead_steps, checkpoint, eval, shards), from, choices)| {
            let resume = ResumePoint {
                step: Step(from),
                path: "checkpoints/resumed".into(),
                evaluated: from % 2 == 0,
            };
            let options = MachineOptions {
                world_size,
                total_steps,
                lookahead_steps,
                checkpoint_every: checkpoint,
                eval_every: Some(eval),
                num_eval_shards: shards,
                resume: (1..=total_steps).contains(&from).then_some(resume),
                ..MachineOptions::default()
            };
            Case { options, choices }
        },
    )
}

impl Worker {
    fn name(&self) -> WorkerId {
        WorkerId(format!("w{}", self.rank))
    }

    /// Does the next piece of work if it can.
    fn work(&mut self) {
        let rank = Rank(self.rank);
        match self.told.front() {
            Some(&Action::SendShard { step, kind, eval_index, checkpoint_after }) => {
                if !self.has_sent_sums {
                    self.has_sent_sums = true;
                    let sums = KlSums { sum: 1.0, sum_of_squares: 1.0, count: 1 };
                    self.said.push_back(Event::KlReport { rank, step, kind, eval_index, sums });
                } else if self.points.contains(&(step, kind == ShardKind::Eval, eval_index)) {
                    self.has_sent_sums = false;
                    self.told.pop_front();
                    let sums = StepSums { num_desirable: 1, ..StepSums::default() };
                    let report =
                        StepReport { rank, step, kind, eval_index, sums, ..StepReport::default() };
                    self.said.push_back(Event::StepReport(report));
                    if checkpoint_after && self.rank == 0 {
                        self.save(step);
                    }
                }
            }
            Some(Action::SendFinish { path }) => {
                if self.rank == 0 {
                    self.said.push_back(Event::FinalSaved { path: path.clone() });
                }
                self.told.pop_front();
                self.leave();
            }
            Some(Action::SendStop { .. }) => {
                if self.rank == 0 {
                    let done = self.points.iter().filter(|(_, is_eval, _)| !is_eval);
                    let last = done.map(|&(step, _, _)| step).max().unwrap_or(Step(0));
                    self.save(last);
                }
                self.told.clear();
                self.leave();
            }
            _ => {}
        }
    }

    fn save(&mut self, step: Step) {
        let path = format!("checkpoints/{}", step.directory_name());
        let manifest_sha256 = "sha".into();
        self.said.push_back(Event::CheckpointSaved { step, path, manifest_sha256 });
    }

    fn leave(&mut self) {
        self.said.push_back(Event::Leave { worker: self.name(), reason: "done".into() });
    }
}

impl Record {
    /// Gives actions to the workers and checks the order of what was done.
    fn carry_out(&mut self, workers: &mut [Worker], options: &MachineOptions, actions: &[Action]) {
        let lookahead = u64::from(options.lookahead_steps);
        for action in actions {
            match action {
                Action::SendShard { step, kind: ShardKind::Train, .. } => {
                    assert_eq!(step.0, self.sent + 1, "steps are sent once, in order");
                    self.sent = step.0;
                    assert!(step.0 <= self.committed(options) + lookahead, "sent too early");
                    let due = (1..step.0).rfind(|&earlier| options.evaluate_after(Step(earlier)));
                    if let Some(due) = due.filter(|&due| due > options.first_committed().0) {
                        assert!(self.evaluations.contains(&due), "sent before an evaluation");
                    }
                }
                Action::CommitStep(commit) => {
                    assert_eq!(commit.step.0, self.committed(options) + 1, "steps in order");
                    assert_eq!(commit.sums.num_examples(), u64::from(options.world_size));
                    assert_eq!(commit.point.num_pairs, u64::from(options.world_size));
                    self.steps.push(commit.step.0);
                }
                Action::CommitEval(commit) => {
                    let passes = u64::from(options.world_size * options.num_eval_shards);
                    assert_eq!(commit.sums.num_examples(), passes);
                    assert_eq!(commit.step.0, self.committed(options), "evaluated weights");
                    self.evaluations.push(commit.step.0);
                }
                Action::CheckpointDurable { step, .. } => {
                    assert!(step.0 <= self.committed(options), "durable before its commit");
                    self.durable.push(step.0);
                }
                Action::SendClose => self.num_closes += 1,
                Action::SendAbort { reason, .. } => panic!("aborted: {reason}"),
                _ => {}
            }
            for worker in workers.iter_mut() {
                match action {
                    Action::SendReferencePoint { step, kind, eval_index, .. } => {
                        worker.points.insert((*step, *kind == ShardKind::Eval, *eval_index));
                    }
                    Action::SendShard { .. }
                    | Action::SendFinish { .. }
                    | Action::SendStop { .. } => worker.told.push_back(action.clone()),
                    _ => {}
                }
            }
        }
    }

    fn committed(&self, options: &MachineOptions) -> u64 {
        self.steps.last().copied().unwrap_or(options.first_committed().0)
    }
}

/// Runs to the end; a stop is requested after `stop_after` words, if any.
fn simulate(case: &Case, stop_after: Option<usize>) -> (RunMachine, Record) {
    let Case { options, choices } = case;
    let mut machine = RunMachine::new(options.clone());
    let mut workers: Vec<Worker> =
        (0..options.world_size).map(|rank| Worker { rank, ..Worker::default() }).collect();
    let mut record = Record { sent: options.first_committed().0, ..Record::default() };
    for worker in &mut workers {
        let (name, incarnation) = (worker.name(), Incarnation("a".into()));
        worker.said.extend([
            Event::WorkerJoined {
                worker: name.clone(),
                incarnation: incarnation.clone(),
                preferred_rank: Some(Rank(worker.rank)),
            },
            Event::SessionOpened { worker: name, incarnation },
        ]);
    }
    let mut num_heard = 0;
    for &choice in choices.iter().cycle().take(20_000) {
        if machine.phase().is_terminal() {
            return (machine, record);
        }
        let idx = choice as usize % workers.len();
        let worker = &mut workers[idx];
        // A worker works or is heard, so that words of different workers overtake each other.
        if choice & 0x100 == 0 {
            worker.work();
            continue;
        }
        let Some(event) = worker.said.front().cloned() else { continue };
        if choice & 0x200 == 0 {
            worker.said.pop_front();
        }
        num_heard += 1;
        let mut actions = machine.handle(Duration::ZERO, event);
        if stop_after == Some(num_heard) {
            let reason = "SIGTERM".into();
            actions.extend(machine.handle(Duration::ZERO, Event::StopRequested { reason }));
        }
        for action in &actions {
            if let Action::Assign { worker, rank, .. } = action {
                let worker = workers.iter_mut().find(|w| w.name() == *worker).unwrap();
                assert_eq!(rank.0, worker.rank);
                if rank.0 == 0 {
                    let (name, host) = (worker.name(), "host".into());
                    worker.said.push_back(Event::StoreReady { worker: name, host, port: 1 });
                }
                worker.said.push_back(Event::Ready {
                    worker: worker.name(),
                    model_digest: String::new(),
                    resumed_step: options.first_committed(),
                });
            }
        }
        record.carry_out(&mut workers, options, &actions);
    }
    (machine, record)
}

/// Choices that let everyone work and be heard, so that no case goes on forever.
fn fair(mut case: Case) -> Case {
    for rank in 0..case.options.world_size as u16 {
        // The bits of work and speech stand clear of the rank for every world below 256.
        let step = case.options.world_size as u16;
        let chosen = |flags: u16| (0..step).map(|add| flags + add).find(|c| c % step == rank);
        case.choices.extend([chosen(0), chosen(0x100)].into_iter().flatten());
    }
    case
}

proptest! {
    #[test]
    fn every_run_completes_with_each_step_once_and_in_order(case in cases()) {
        let case = fair(case);
        let (machine, record) = simulate(&case, None);
        let options = &case.options;
        let first = options.first_committed().0;
        let steps: Vec<u64> = (first + 1..=options.total_steps).collect();
        prop_assert_eq!(machine.phase(), Phase::Complete, "{}", machine.reason());
        prop_assert_eq!(&record.steps, &steps);
        prop_assert_eq!(record.num_closes, 1);
        let ordered = steps.iter().copied().filter(|&step| options.checkpoint_after(Step(step)));
        prop_assert_eq!(record.durable, ordered.collect::<Vec<_>>());
        let lacks_evaluation = options.resume.as_ref().is_some_and(|resume| !resume.evaluated);
        let due = (first..=options.total_steps).filter(|&step| {
            options.evaluate_after(Step(step)) && (step > first || lacks_evaluation)
        });
        prop_assert_eq!(record.evaluations, due.collect::<Vec<_>>());
    }

    #[test]
    fn a_stop_at_any_moment_loses_no_step(case in cases(), after in 1..60_usize) {
        let case = fair(case);
        let (machine, record) = simulate(&case, Some(after));
        prop_assert!(machine.phase().is_terminal(), "{}: {}", machine.phase(), machine.reason());
        prop_assert_eq!(record.num_closes, 1);
        if machine.phase() == Phase::Stopped {
            let committed = machine.committed_step();
            prop_assert_eq!(committed.0, record.sent, "what was sent is done");
            prop_assert_eq!(machine.checkpoint_step(), committed, "what is done is saved");
        } else {
            prop_assert_eq!(machine.committed_step().0, case.options.total_steps);
        }
    }
}
