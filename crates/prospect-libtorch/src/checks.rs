//! Preconditions of the calls into C++, each an error that names the argument.

use std::time::Duration;

use tch::{Device, Kind, Tensor};

use crate::error::{LibtorchError, Result};

/// The argument `name` of the function `op`.
#[derive(Clone, Copy)]
pub(crate) struct Argument<'a> {
    pub(crate) op: &'static str,
    pub(crate) name: &'static str,
    pub(crate) tensor: &'a Tensor,
}

/// What an argument is: known only for tensors that have data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    pub(crate) size: Vec<i64>,
    pub(crate) kind: Kind,
    pub(crate) device: Device,
}

// === impl Argument ===

impl<'a> Argument<'a> {
    pub(crate) fn new(op: &'static str, name: &'static str, tensor: &'a Tensor) -> Self {
        Self { op, name, tensor }
    }

    pub(crate) fn refuse<T>(&self, reason: impl Into<String>) -> Result<T> {
        refuse(self.op, self.name, reason)
    }

    /// The shape, type and device; undefined and sparse tensors are refused.
    pub(crate) fn spec(&self) -> Result<Spec> {
        if !self.tensor.defined() {
            return self.refuse("the tensor has no data");
        }
        if self.tensor.is_sparse() {
            return self.refuse("the tensor is sparse");
        }
        Ok(Spec {
            size: self.tensor.size(),
            kind: self.tensor.f_kind()?,
            device: self.tensor.device(),
        })
    }

    /// As [`Argument::spec`], and the elements lie one after another.
    pub(crate) fn contiguous(&self) -> Result<Spec> {
        let spec = self.spec()?;
        if !self.tensor.is_contiguous() {
            return self.refuse(format!("the tensor of shape {:?} is not contiguous", spec.size));
        }
        Ok(spec)
    }

    pub(crate) fn expect_like(&self, expected: &Spec, what: &'static str) -> Result<()> {
        let found = self.spec()?;
        if found != *expected {
            return self.refuse(format!("it is {found}, but {what} is {expected}"));
        }
        Ok(())
    }
}

// === impl Spec ===

impl Spec {
    pub(crate) fn numel(&self) -> i64 {
        self.size.iter().product()
    }
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} on {:?}", self.kind, self.size, self.device)
    }
}

/// The error for an argument that cannot be taken.
pub(crate) fn refuse<T>(
    op: &'static str,
    argument: &'static str,
    reason: impl Into<String>,
) -> Result<T> {
    Err(LibtorchError::InvalidArgument { op, argument, reason: reason.into() })
}

/// A timeout in the milliseconds that c10d counts in; zero would mean none at all there.
pub(crate) fn timeout_ms(op: &'static str, timeout: Duration) -> Result<i64> {
    match i64::try_from(timeout.as_millis()) {
        Ok(0) => refuse(op, "timeout", "it is below a millisecond"),
        // Deadlines are computed in nanoseconds there, which overflow beyond some 290 years.
        Ok(ms) if ms <= 365 * 24 * 3600 * 1000 => Ok(ms),
        _ => refuse(op, "timeout", "it is longer than a year"),
    }
}
