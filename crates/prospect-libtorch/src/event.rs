//! Moments on a CUDA stream. Work on a device goes on while the host prepares more of it, so a
//! clock of the host does not tell when the device did what.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use crate::checks::refuse;
use crate::error::Result;
use crate::ffi;

/// A moment on the current stream of a CUDA device: when all work that was started before it is
/// done.
#[derive(Debug)]
pub struct CudaEvent {
    pub(crate) raw: NonNull<ffi::Event>,
    device_idx: c_int,
}

// SAFETY: c10's events may be waited for, compared and released on any thread.
unsafe impl Send for CudaEvent {}

// === impl CudaEvent ===

impl CudaEvent {
    /// Marks the present end of the stream and returns at once.
    ///
    /// # Errors
    /// [`LibtorchError::BackendUnavailable`](crate::LibtorchError::BackendUnavailable) when this
    /// process can use no CUDA device.
    pub fn record(device_idx: usize) -> Result<Self> {
        const OP: &str = "CudaEvent::record";
        // c10d counts devices in a signed byte.
        let Ok(device_idx) = i8::try_from(device_idx) else {
            return refuse(OP, "device_idx", format!("no CUDA device has the index {device_idx}"));
        };
        let device_idx = c_int::from(device_idx);
        let mut raw = ptr::null_mut();
        ffi::call(OP, |message| {
            // SAFETY: `raw` outlives the call.
            unsafe { ffi::prospect_event_record(device_idx, &mut raw, message) }
        })?;
        let raw = NonNull::new(raw).expect("the shim stores a handle when it reports success");
        Ok(Self { raw, device_idx })
    }

    /// Waits until the device has passed it.
    ///
    /// # Errors
    /// What the device failed with meanwhile.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: the event is alive.
        ffi::call("CudaEvent::wait", |message| unsafe {
            ffi::prospect_event_wait(self.raw.as_ptr(), message)
        })
    }

    /// Seconds from an earlier moment on the same device to this one. Waits for both.
    ///
    /// # Errors
    /// An event of another device; what the device failed with meanwhile.
    pub fn seconds_since(&self, earlier: &Self) -> Result<f64> {
        const OP: &str = "CudaEvent::seconds_since";
        if self.device_idx != earlier.device_idx {
            let reason = format!("it is of device {}, not {}", earlier.device_idx, self.device_idx);
            return refuse(OP, "earlier", reason);
        }
        let mut seconds = 0.0;
        ffi::call(OP, |message| {
            // SAFETY: both events are alive, and `seconds` outlives the call.
            unsafe {
                ffi::prospect_event_seconds(
                    earlier.raw.as_ptr(),
                    self.raw.as_ptr(),
                    &mut seconds,
                    message,
                )
            }
        })?;
        Ok(seconds)
    }
}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        // SAFETY: the handle came from the shim and is freed once.
        unsafe { ffi::prospect_event_free(self.raw.as_ptr()) };
    }
}

#[cfg(test)]
mod tests;
