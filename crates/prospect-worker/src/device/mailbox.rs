//! What others leave for the device thread. It waits here for everything that it does not
//! compute itself, and a single interruption ends every such wait.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prospect_core::{Generation, ReferencePoint, Shard, ShardKind, Step, StepPhase, Weights};
use prospect_train::Progress;

use super::interrupt::{Abandoned, Interrupt, Interrupted};
use super::{Formed, Order, PassId, Rendezvous};
use crate::torch::{AbortHandle, LibtorchError};

/// The mailbox, shared between threads.
#[derive(Default)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    interrupt: Option<Interrupt>,
    orders: VecDeque<(Generation, Order)>,
    rendezvous: Option<(Generation, Rendezvous)>,
    points: Vec<(PassId, ReferencePoint)>,
    /// Last step of this generation that is committed.
    committed: Step,
    /// The generation whose world is being formed, and its outcome.
    forming: Option<(Generation, Option<Result<Formed, LibtorchError>>)>,
    /// Wakes the collectives of the world that this worker is in.
    abort: Option<AbortHandle>,
    /// Step whose checkpoint is being written.
    writing: Option<Step>,
    /// Step whose checkpoint was written last.
    written: Option<Step>,
    /// Step whose checkpoint was last said to be in its place.
    durable: Option<Step>,
    progress: Option<Arc<Progress>>,
    weights: Option<Weights>,
}

/// For the async side.
impl Mailbox {
    pub fn order(&self, generation: Generation, order: Order) {
        self.change(|state| state.orders.push_back((generation, order)));
    }

    pub fn rendezvous(&self, generation: Generation, rendezvous: Rendezvous) {
        self.change(|state| state.rendezvous = Some((generation, rendezvous)));
    }

    pub fn point(&self, pass: PassId, point: ReferencePoint) {
        self.change(|state| state.points.push((pass, point)));
    }

    pub fn commit(&self, step: Step) {
        self.change(|state| state.committed = state.committed.max(step));
    }

    pub fn durable(&self, step: Step) {
        self.change(|state| state.durable = state.durable.max(Some(step)));
    }

    /// Interrupts the thread. What belongs to the world that it leaves is dropped; what is
    /// returned has to be given up, which wakes the collectives the thread may be in. Good order
    /// leaves them alone.
    pub fn interrupt(&self, interrupt: Interrupt) -> Abandoned {
        self.change(|state| {
            match (state.interrupt, interrupt) {
                // An end is not taken back.
                (Some(Interrupt::Cut), _) | (Some(Interrupt::Close), Interrupt::Regroup { .. }) => {
                    return Abandoned::default();
                }
                _ => state.interrupt = Some(interrupt),
            }
            if interrupt == Interrupt::Close {
                return Abandoned::default();
            }
            state.orders.clear();
            state.points.clear();
            (state.rendezvous, state.committed) = (None, Step(0));
            let formed = state.forming.take().and_then(|(_, result)| result?.ok());
            Abandoned { abort: state.abort.take(), formed }
        })
    }

    pub fn weights(&self) -> Option<Weights> {
        self.lock().weights
    }

    /// Step, phase and count of the work, as in a heartbeat.
    pub fn progress(&self) -> (Step, StepPhase, u64) {
        match &self.lock().progress {
            Some(progress) => (progress.step(), progress.phase(), progress.count()),
            None => (Step(0), StepPhase::Loading, 0),
        }
    }
}

/// For the device thread.
impl Mailbox {
    pub fn set_progress(&self, progress: Arc<Progress>) {
        self.change(|state| state.progress = Some(progress));
    }

    pub fn set_weights(&self, weights: Weights) {
        self.change(|state| state.weights = Some(weights));
    }

    /// Says that the weights were taken from elsewhere, so that what was written before counts for
    /// nothing. `durable` is the step whose checkpoint they are known to be, step 0 for the model
    /// as it was loaded.
    pub fn set_taken_over(&self, durable: Option<Step>) {
        self.change(|state| (state.written, state.durable) = (None, durable));
    }

    /// The interruption that is there, if any; it stays.
    pub fn interruption(&self) -> Option<Interrupt> {
        self.lock().interrupt
    }

    /// Waits for an interruption and takes it. An end stays for ever.
    pub fn take_interrupt(&self) -> Interrupt {
        let mut state = self.lock();
        loop {
            match state.interrupt {
                Some(regroup @ Interrupt::Regroup { .. }) => {
                    state.interrupt = None;
                    return regroup;
                }
                Some(end) => return end,
                None => state = self.wait_for_change(state),
            }
        }
    }

    /// The next order. Whoever owes a checkpoint gets nothing as soon as none is being written.
    pub fn next_order(
        &self,
        owes_checkpoint: bool,
    ) -> Result<Option<(Generation, Order)>, Interrupted> {
        self.wait(|state| match owes_checkpoint && state.writing.is_none() {
            true => Some(None),
            false => state.orders.pop_front().map(Some),
        })
    }

    /// The shard of a training step among the orders that wait; it stays there.
    pub fn training_shard(&self, generation: Generation, step: Step) -> Option<Box<Shard>> {
        self.lock().orders.iter().find_map(|(of, order)| match order {
            Order::Shard(shard) => {
                let found = (*of, shard.kind, shard.step);
                (found == (generation, ShardKind::Train, step)).then(|| shard.clone())
            }
            Order::Place(_) | Order::Finish | Order::Stop { .. } => None,
        })
    }

    /// Where the peers of this generation meet.
    pub fn wait_rendezvous(&self, generation: Generation) -> Result<Rendezvous, Interrupted> {
        self.wait(|state| {
            state.rendezvous.take_if(|(of, _)| *of == generation).map(|(_, place)| place)
        })
    }

    /// The point of this pass. Repeats of earlier ones are dropped.
    pub fn wait_point(&self, pass: PassId) -> Result<ReferencePoint, Interrupted> {
        self.wait(|state| {
            let place = state.points.iter().position(|(of, _)| *of == pass)?;
            let (_, point) = state.points.remove(place);
            state.points.retain(|(of, _)| of.step >= pass.step);
            Some(point)
        })
    }

    pub fn wait_commit(&self, step: Step) -> Result<(), Interrupted> {
        self.wait(|state| (state.committed >= step).then_some(()))
    }

    /// Says that a world is being formed.
    pub fn begin_forming(&self, generation: Generation) -> Result<(), Interrupted> {
        // What was there is dropped without the lock: ending a group may take a while.
        self.change(|state| match state.interrupt {
            Some(_) => Err(Interrupted),
            None => Ok(state.forming.replace((generation, None))),
        })
        .map(drop)
    }

    pub fn wait_formed(&self) -> Result<Result<Formed, LibtorchError>, Interrupted> {
        self.wait(|state| state.forming.as_mut()?.1.take())
    }

    /// Waits until no checkpoint is being written.
    pub fn wait_written(&self) -> Result<(), Interrupted> {
        self.wait(|state| state.writing.is_none().then_some(()))
    }

    /// Waits until no checkpoint is being written, or a stop is among the orders that wait. Whether
    /// none is being written.
    pub fn wait_written_or_stop(&self) -> Result<bool, Interrupted> {
        self.wait(|state| {
            let is_at_rest = state.writing.is_none();
            let is_stop = |(_, order): &(Generation, Order)| matches!(order, Order::Stop { .. });
            (is_at_rest || state.orders.iter().any(is_stop)).then_some(is_at_rest)
        })
    }

    /// Waits until no checkpoint is being written, but no longer than this.
    pub fn wait_written_for(&self, limit: Duration) -> Result<(), Interrupted> {
        let state = self.lock();
        let waits = |state: &mut State| state.interrupt.is_none() && state.writing.is_some();
        let waited = self.changed.wait_timeout_while(state, limit, waits);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.interrupt.is_some() { Err(Interrupted) } else { Ok(()) }
    }

    /// Step whose checkpoint is being written, if any.
    pub fn writing(&self) -> Option<Step> {
        self.lock().writing
    }

    pub fn begin_writing(&self, step: Step) {
        self.change(|state| state.writing = Some(step));
    }

    /// Whether a checkpoint of this step lies on disk.
    pub fn is_saved(&self, step: Step) -> bool {
        let state = self.lock();
        state.written == Some(step) || state.durable == Some(step)
    }
}

/// For the threads at its side.
impl Mailbox {
    /// Says with what the first collective of a generation is given up. Whether its world is still
    /// wanted.
    pub fn meets(&self, generation: Generation, abort: AbortHandle) -> bool {
        self.change(|state| {
            let is_wanted = matches!(&state.forming, Some((of, None)) if *of == generation);
            if is_wanted {
                state.abort = Some(abort);
            }
            is_wanted
        })
    }

    /// Hands in the world of a generation. One that nobody waits for any more is given up.
    pub fn formed(&self, generation: Generation, result: Result<Formed, LibtorchError>) {
        let _unwanted = self.change(|state| match &mut state.forming {
            Some((wanted, place)) if *wanted == generation => {
                state.abort = result.as_ref().ok().map(|formed| formed.group.abort_handle());
                *place = Some(result);
                None
            }
            _ => Some(result),
        });
    }

    /// Says that nothing is being written: the step whose checkpoint lies on disk, or nothing when
    /// that failed.
    pub fn written(&self, step: Option<Step>) {
        self.change(|state| {
            state.writing = None;
            state.written = step.or(state.written);
        });
    }
}

impl Mailbox {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.lock());
        self.changed.notify_all();
        value
    }

    /// Waits until `look` finds what it looks for, or an interruption comes, which goes first.
    fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> Result<T, Interrupted> {
        let mut state = self.lock();
        loop {
            if state.interrupt.is_some() {
                return Err(Interrupted);
            }
            if let Some(found) = look(&mut state) {
                return Ok(found);
            }
            state = self.wait_for_change(state);
        }
    }

    /// No thread panics with the lock in its hands: what it guards is always whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_change<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}
