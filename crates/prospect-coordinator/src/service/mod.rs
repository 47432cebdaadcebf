//! The gRPC services. They convert, ask the event loop or read the records, and
//! decide nothing.

mod control;
mod server;
mod session;
mod status;

pub(crate) use control::{ControlService, Terms};
pub(crate) use server::{Server, serve};
pub(crate) use session::{Outbound, SessionId};
pub(crate) use status::StatusApi;
