//! What the coordinator says is looked at before anything acts on it: what belongs to an earlier
//! generation is stale, and what came before is a repeat.

use prospect_core::{Generation, ShardKind, Step};
use prospect_proto::{CoordinatorMessage as Heard, ToWorker};

use crate::device::PassId;

/// What has come so far.
#[derive(Debug)]
pub(super) struct Inbox {
    generation: Generation,
    /// Whether this worker has its place in the generation.
    is_placed: bool,
    /// Last training shard of the generation.
    last_step: Step,
    /// Evaluation shards of the generation.
    evaluations: Vec<PassId>,
    is_finishing: bool,
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Act on it.
    Fresh,
    /// A shard that came before.
    RepeatedShard(PassId),
    /// The order to finish, which came before.
    RepeatedFinish,
    /// The order to stand by, which came before.
    RepeatedRegroup,
    /// It came before, and that is all.
    Repeated,
    /// It belongs to a generation that is over.
    Stale,
}

impl Inbox {
    /// An inbox of a worker that joins a generation.
    pub fn new(generation: Generation) -> Self {
        Self {
            generation,
            is_placed: false,
            last_step: Step(0),
            evaluations: Vec::new(),
            is_finishing: false,
        }
    }

    /// The generation that this worker is in.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Looks at a message. One of a later generation begins that generation.
    pub fn admit(&mut self, message: &ToWorker) -> Admission {
        let ToWorker { generation, message } = message;
        // The last word counts whenever it comes.
        if matches!(message, Heard::Abort { .. } | Heard::Close) {
            return Admission::Fresh;
        }
        if *generation < self.generation {
            return Admission::Stale;
        }
        let is_later = *generation > self.generation;
        if is_later {
            *self = Self::new(*generation);
        }
        match message {
            Heard::Regroup { .. } if !is_later => Admission::RepeatedRegroup,
            Heard::Assignment { .. } if self.is_placed => Admission::Repeated,
            Heard::Assignment { .. } => {
                self.is_placed = true;
                Admission::Fresh
            }
            Heard::Shard(shard) => self.admit_shard(PassId::of(shard)),
            Heard::Finish { .. } if self.is_finishing => Admission::RepeatedFinish,
            Heard::Finish { .. } => {
                self.is_finishing = true;
                Admission::Fresh
            }
            _ => Admission::Fresh,
        }
    }

    fn admit_shard(&mut self, pass: PassId) -> Admission {
        let is_repeated = match pass.kind {
            ShardKind::Train => pass.step <= self.last_step,
            ShardKind::Eval => self.evaluations.contains(&pass),
        };
        if is_repeated {
            return Admission::RepeatedShard(pass);
        }
        match pass.kind {
            ShardKind::Train => {
                self.last_step = pass.step;
                self.evaluations.retain(|evaluation| evaluation.step >= pass.step);
            }
            ShardKind::Eval => self.evaluations.push(pass),
        }
        Admission::Fresh
    }
}
