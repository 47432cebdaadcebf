//! The run as a state machine: an event and the time go in, actions come out.
//! Nothing here sleeps, sends or writes; the coordinator's shell carries the
//! actions out, in order. Every decision has a reason in words for a person.
//!
//! A step moves no weights before it is committed, so that whoever survives a loss stands at the
//! last committed step: the world forms again under the next generation and does the steps after
//! it. What a worker says about an earlier generation changes nothing.

mod action;
mod action_text;
mod adoption;
mod checkpoints;
mod clock;
mod collect;
mod event;
mod failing;
mod files;
mod forming;
mod gathering;
mod joining;
mod leaving;
mod losses;
mod member;
mod members;
mod options;
mod pipeline;
mod progress;
mod record;
mod recovery;
mod replay;
mod reports;
mod resend;
mod run;
mod sessions;
#[cfg(test)]
mod simulation;
mod stopping;
mod stragglers;
mod suspicion;
#[cfg(test)]
mod tests;
mod text;
mod view;
mod watchdog;

pub use action::Action;
pub use collect::Commit;
pub use event::Event;
pub use member::Member;
pub use options::{Adopt, MachineOptions, ResumePoint};
pub use prospect_core::{FailureKind, Phase, RefusalKind, WorkerState};
pub use record::{LedgerEntry, Record};
pub use replay::{DurableCheckpoint, Replay, ReplayError};
pub use run::RunMachine;
