//! Whole worlds in one test: a coordinator, workers that meet over Gloo, a tiny
//! model with its own tokenizer, and feedback in a file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bad_input;
mod files;
mod long;
mod loss;
mod outcome;
mod python;
mod reference_values;
mod resume;
mod sharded;
mod stop;
mod train_command;
mod trl;
mod world;
mod world_size;
