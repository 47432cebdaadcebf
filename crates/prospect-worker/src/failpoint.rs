//! Fail points of the worker itself, as its own errors.

use prospect_core::failpoint;

use crate::WorkerError;

/// Passes a place at which a test may want something to happen.
///
/// # Errors
/// [`WorkerError::Place`] where a test asks for an error.
pub(crate) fn hit(place: &'static str) -> Result<(), WorkerError> {
    failpoint::hit(place).map_err(|source| WorkerError::Place { place, source })
}
