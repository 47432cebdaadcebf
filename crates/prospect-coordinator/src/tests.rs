//! Whole runs against workers that speak the protocol and compute nothing.

mod budget;
mod data;
mod duties;
mod elastic;
mod failures;
mod made_up;
mod passes;
mod recovery;
mod restarts;
mod runs;
mod script;
mod services;
mod shared_values;
mod started;
mod worker;
mod world;
