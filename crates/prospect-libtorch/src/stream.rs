//! Streams of a CUDA device beside the current one, on which copies wait for nothing but each other.

use std::ffi::c_int;

use crate::error::Result;
use crate::event::CudaEvent;
use crate::ffi;

/// A stream of a CUDA device. libtorch has a few dozen and gives them out in turn, so that others may
/// use it too.
#[derive(Debug)]
pub struct SideStream {
    device_idx: c_int,
    id: i64,
}

/// Makes the stream from before the current one again.
struct Restore<'a> {
    stream: &'a SideStream,
    previous: i64,
}

// === impl SideStream ===

impl SideStream {
    /// A stream that is not the current one.
    ///
    /// # Errors
    /// [`LibtorchError::BackendUnavailable`](crate::LibtorchError::BackendUnavailable) when this
    /// process can use no CUDA device; a device that is not there.
    pub fn new(device_idx: usize) -> Result<Self> {
        let device_idx = c_int::try_from(device_idx).unwrap_or(c_int::MAX);
        let mut id = 0;
        ffi::call("SideStream::new", |message| {
            // SAFETY: `id` outlives the call.
            unsafe { ffi::prospect_stream_new(device_idx, &mut id, message) }
        })?;
        Ok(Self { device_idx, id })
    }

    /// Does `body`, whose work on the device goes to this stream.
    ///
    /// # Errors
    /// A device that has failed; `body` is then not done.
    pub fn run<T>(&self, body: impl FnOnce() -> T) -> Result<T> {
        let _restore = Restore { stream: self, previous: self.exchange(self.id)? };
        Ok(body())
    }

    /// What the stream is given from here on waits for `event`. Returns at once.
    ///
    /// # Errors
    /// A device that has failed.
    pub fn wait_for(&self, event: &CudaEvent) -> Result<()> {
        ffi::call("SideStream::wait_for", |message| {
            // SAFETY: the event is alive, and the stream is the device's for good.
            unsafe {
                ffi::prospect_stream_wait(self.device_idx, self.id, event.raw.as_ptr(), message)
            }
        })
    }

    fn exchange(&self, id: i64) -> Result<i64> {
        let mut previous = 0;
        ffi::call("SideStream::run", |message| {
            // SAFETY: the stream is one of the device's, and `previous` outlives the call.
            unsafe { ffi::prospect_stream_exchange(self.device_idx, id, &mut previous, message) }
        })?;
        Ok(previous)
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        // It was the current stream of this device: taking it back asks nothing of the device.
        let _ = self.stream.exchange(self.previous);
    }
}

#[cfg(test)]
mod tests;
