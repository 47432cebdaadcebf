//! One module a command: what was typed becomes what is done.

pub mod completions;
pub mod coordinator;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod plan;
pub mod score;
pub mod status;
pub mod train;
pub mod verify;
pub mod worker;
