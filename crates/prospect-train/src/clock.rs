//! Where the time of a step goes. On a CPU the host's clock tells it. A CUDA device works on while
//! the host prepares more for it, so there moments are marked on its stream and compared when all
//! of them have passed: a phase is the time that the device worked or stood still in it.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::time::Instant;

use prospect_core::PhaseSeconds;
use prospect_libtorch::CudaEvent;
use tch::Device;

use crate::TrainError;

/// What a stretch of time went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Scoring,
    ReferencePoint,
    ForwardBackward,
    AllReduce,
    Optimizer,
    /// Between two steps.
    Commit,
}

/// A clock that runs from phase to phase, and from step to step.
pub(crate) struct Clock {
    device: Device,
    /// Each with the phase that ended then; none where the clock stood still before.
    moments: RefCell<Vec<(Option<Phase>, Moment)>>,
    is_running: Cell<bool>,
}

/// A moment on a device. Those of one device are all of one kind.
pub(crate) enum Moment {
    Host(Instant),
    Cuda(CudaEvent),
}

// === impl Clock ===

impl Clock {
    /// A clock that stands still.
    pub(crate) fn new(device: Device) -> Self {
        Self { device, moments: RefCell::default(), is_running: Cell::default() }
    }

    /// Ends a phase; the next begins. A clock that stands still starts.
    pub(crate) fn lap(&self, phase: Phase) -> Result<(), TrainError> {
        let moment = Moment::of(self.device)?;
        let ended = self.is_running.replace(true).then_some(phase);
        self.moments.borrow_mut().push((ended, moment));
        Ok(())
    }

    /// Stands still until the next lap: what happens meanwhile belongs to no step.
    pub(crate) fn stop(&self) {
        self.is_running.set(false);
    }

    /// Stands still and forgets what was not read.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.device);
    }

    /// The phases that ended since the last reading. Waits until the device has passed them.
    pub(crate) fn read(&self) -> Result<PhaseSeconds, TrainError> {
        let mut seconds = PhaseSeconds::default();
        let mut moments = self.moments.borrow_mut();
        for (before, (phase, moment)) in moments.iter().zip(moments.iter().skip(1)) {
            let Some(phase) = phase else { continue };
            let passed = moment.seconds_since(&before.1)?;
            *phase.of(&mut seconds) += passed;
            seconds.total += passed;
        }
        let num_read = moments.len().saturating_sub(1);
        moments.drain(..num_read);
        Ok(seconds)
    }
}

// === impl Phase ===

impl Phase {
    fn of(self, seconds: &mut PhaseSeconds) -> &mut f64 {
        match self {
            Self::Scoring => &mut seconds.scoring,
            Self::ReferencePoint => &mut seconds.reference_point,
            Self::ForwardBackward => &mut seconds.forward_backward,
            Self::AllReduce => &mut seconds.all_reduce,
            Self::Optimizer => &mut seconds.optimizer,
            Self::Commit => &mut seconds.commit,
        }
    }
}

// === impl Moment ===

impl Moment {
    /// The present end of what a device has to do; on a CPU the present.
    pub(crate) fn of(device: Device) -> Result<Self, TrainError> {
        Ok(match device {
            Device::Cuda(device_idx) => Self::Cuda(CudaEvent::record(device_idx)?),
            _ => Self::Host(Instant::now()),
        })
    }

    /// Time since an earlier moment on the same device. Waits until the device has passed both.
    pub(crate) fn seconds_since(&self, earlier: &Self) -> Result<f64, TrainError> {
        match (self, earlier) {
            (Self::Host(now), Self::Host(then)) => Ok(now.duration_since(*then).as_secs_f64()),
            (Self::Cuda(now), Self::Cuda(then)) => Ok(now.seconds_since(then)?),
            _ => unreachable!("the moments of one device are of one kind"),
        }
    }
}
