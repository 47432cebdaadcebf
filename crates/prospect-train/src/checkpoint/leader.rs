//! Work that rank 0 does for all, such as reading a checkpoint. It may take longer than a
//! collective is allowed to, so rank 0 tells the others every second that it is still at it.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use prospect_libtorch::ProcessGroup;
use tch::{Device, Tensor};

use crate::TrainError;

/// How often the others hear from rank 0.
const INTERVAL: Duration = Duration::from_secs(1);

const BUSY: i64 = 0;
const DONE: i64 = 1;
const FAILED: i64 = 2;

/// Runs `job` on rank 0, on a thread of its own, while every rank waits. Returns what it gave on
/// rank 0 and nothing elsewhere; if it fails, every rank gets an error.
pub(crate) fn on_leader<T: Send>(
    group: &ProcessGroup,
    device: Device,
    action: &'static str,
    job: impl FnOnce() -> Result<T, TrainError> + Send,
) -> Result<Option<T>, TrainError> {
    if group.rank() == 0 {
        return lead(group, device, job).map(Some);
    }
    loop {
        match share(group, device, [BUSY])? {
            [BUSY] => {}
            [DONE] => return Ok(None),
            _ => return Err(TrainError::Peer { rank: 0, action }),
        }
    }
}

/// Replaces the numbers on every rank by those of rank 0.
pub(crate) fn share<const N: usize>(
    group: &ProcessGroup,
    device: Device,
    numbers: [i64; N],
) -> Result<[i64; N], TrainError> {
    let mut tensor = Tensor::f_from_slice(&numbers)?.f_to_device(device)?;
    group.broadcast(&mut tensor, 0)?.wait()?;
    let mut shared = [0; N];
    tensor.f_to_device(Device::Cpu)?.f_copy_data(&mut shared, N)?;
    // What a failed collective left behind is not to be believed.
    group.check_health()?;
    Ok(shared)
}

fn lead<T: Send>(
    group: &ProcessGroup,
    device: Device,
    job: impl FnOnce() -> Result<T, TrainError> + Send,
) -> Result<T, TrainError> {
    thread::scope(|scope| {
        let (ended, wait) = mpsc::channel::<()>();
        let worker = scope.spawn(move || {
            // Dropped when the job ends in whatever way, which ends the wait below.
            let _ended = ended;
            job()
        });
        while wait.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
            share(group, device, [BUSY])?;
        }
        let result = match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let status = if result.is_ok() { DONE } else { FAILED };
        // The job's own error says more than a broken connection.
        let told = share(group, device, [status]);
        let value = result?;
        told?;
        Ok(value)
    })
}
