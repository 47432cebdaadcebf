//! Whole runs against workers that speak the protocol and compute nothing.

mod data;
mod failures;
mod made_up;
mod runs;
mod services;
mod worker;
mod world;
