//! Work that ranks do at the same time, each for itself, such as reading files. It may take
//! longer than a collective is allowed to, so they tell each other every second that it goes on.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use prospect_libtorch::ProcessGroup;
use tch::{Device, Kind, Tensor};

use crate::TrainError;
use crate::readback::fetch;

/// How often ranks hear of each other.
const INTERVAL: Duration = Duration::from_secs(1);

const BUSY: i64 = 0;
const DONE: i64 = 1;
const FAILED: i64 = 2;

/// Runs `job` on every rank, on a thread of its own, until all have ended. If one fails, every rank
/// gets an error: its own, or the word that another one could not do this `action`.
pub(crate) fn together<T: Send>(
    group: &ProcessGroup,
    device: Device,
    action: &'static str,
    job: impl FnOnce() -> Result<T, TrainError> + Send,
) -> Result<T, TrainError> {
    thread::scope(|scope| {
        let (ended, end) = mpsc::channel();
        let worker = scope.spawn(move || {
            let result = job();
            // Nobody listens any more where a collective has failed.
            let _ = ended.send(if result.is_ok() { DONE } else { FAILED });
            result
        });
        let told = tell(group, device, &end);
        let result = match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // The job's own error says more than a broken connection.
        let value = result?;
        match told?.iter().position(|status| *status == FAILED) {
            None => Ok(value),
            Some(rank) => Err(TrainError::Peer { rank, action }),
        }
    })
}

/// Tells the others every second how far this rank is, until all have ended. Returns how.
fn tell(
    group: &ProcessGroup,
    device: Device,
    end: &mpsc::Receiver<i64>,
) -> Result<Vec<i64>, TrainError> {
    let mut mine = BUSY;
    loop {
        if mine == BUSY {
            mine = match end.recv_timeout(INTERVAL) {
                Ok(status) => status,
                Err(mpsc::RecvTimeoutError::Timeout) => BUSY,
                // It panicked.
                Err(mpsc::RecvTimeoutError::Disconnected) => FAILED,
            };
        }
        let input = Tensor::f_from_slice(&[mine])?.f_to_device(device)?;
        let mut all = Tensor::f_zeros([group.world_size() as i64], (Kind::Int64, device))?;
        group.all_gather(&mut all, &input)?.wait()?;
        let all = Vec::<i64>::try_from(&fetch(&all)?)?;
        // What a failed collective left behind is not to be believed.
        group.check_health()?;
        if !all.contains(&BUSY) {
            return Ok(all);
        }
    }
}

/// Replaces the numbers on every rank by those of rank 0.
pub(crate) fn share<const N: usize>(
    group: &ProcessGroup,
    device: Device,
    numbers: [i64; N],
) -> Result<[i64; N], TrainError> {
    let shared = broadcast(group, device, Tensor::f_from_slice(&numbers)?)?;
    let mut numbers = [0; N];
    shared.f_copy_data(&mut numbers, N)?;
    Ok(numbers)
}

/// Replaces a text on every rank by that of rank 0.
pub(crate) fn share_text(
    group: &ProcessGroup,
    device: Device,
    text: &str,
) -> Result<String, TrainError> {
    let [len] = share(group, device, [text.len() as i64])?;
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(len as usize, 0);
    let shared = broadcast(group, device, Tensor::f_from_slice(&bytes)?)?;
    Ok(String::from_utf8_lossy(&Vec::<u8>::try_from(&shared)?).into_owned())
}

/// Whether something holds on any rank. Every rank calls this.
pub(crate) fn any(group: &ProcessGroup, device: Device, holds: bool) -> Result<bool, TrainError> {
    let mut count = Tensor::f_from_slice(&[i64::from(holds)])?.f_to_device(device)?;
    group.all_reduce_sum(&mut count)?.wait()?;
    let count = fetch(&count)?.f_int64_value(&[0])?;
    group.check_health()?;
    Ok(count > 0)
}

/// Rank 0's tensor of this size and type, in main memory.
fn broadcast(group: &ProcessGroup, device: Device, mine: Tensor) -> Result<Tensor, TrainError> {
    let mut tensor = mine.f_to_device(device)?;
    group.broadcast(&mut tensor, 0)?.wait()?;
    let tensor = fetch(&tensor)?;
    group.check_health()?;
    Ok(tensor)
}
