//! The coordinator of a run: a tonic server around the pure state machine of
//! prospect-schedule. It owns the data, plans and hands out the work of every
//! step, keeps the records of the run directory and tells its status. It never
//! computes with tensors and never links libtorch.

mod board;
mod budget;
mod convert;
mod coordinator;
mod crc32c;
mod effective;
mod error;
mod eta;
mod hex;
mod mirror;
mod model_digest;
mod options;
mod plan;
mod prepare;
mod records;
mod reference;
mod reference_work;
mod report;
mod run_dir;
mod service;
mod shell;
mod starting_point;
mod storage;
mod tensorboard;
#[cfg(test)]
mod tests;

pub use coordinator::Coordinator;
pub use error::{CoordinatorError, Difference};
pub use options::{Options, RunOutcome, StartNote};
pub use prospect_proto::Phase;
pub use reference_work::ReferenceWork;
