//! The real binary, as a person or a script calls it. The worker program is
//! played by a shell script, but for `recovery`, which needs the real one.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
mod data;
mod doctor;
mod harness;
mod inference;
mod model;
mod plan;
mod recovery;
mod runs;
mod score;
mod usage;
