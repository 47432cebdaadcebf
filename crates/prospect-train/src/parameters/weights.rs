//! What passes compute with: the parameters of a model in one flat buffer a segment, which the ranks
//! of a world hold as a whole or gather from each other's shards when a segment is visited.

use std::cell::{Cell, RefCell};

use prospect_core::Mode;
use prospect_libtorch::{ProcessGroup, Work, release_storage, restore_storage};
use prospect_model::CausalLm;
use tch::Tensor;

use super::layout::Layout;
use crate::TrainError;
use crate::clock::Moment;

/// The weights of all segments.
pub(crate) struct Weights {
    mode: Mode,
    segments: Vec<SegmentWeights>,
    /// Beginning and end of each wait for a gather that nobody has asked for yet.
    waits: RefCell<Vec<[Moment; 2]>>,
    /// Passes that have come to their end since the count was last set to 0.
    num_passes: Cell<usize>,
}

/// The weights of one segment.
pub(crate) struct SegmentWeights {
    /// `[padded_len]`; without memory while it is away. The model's parameters are views into it.
    pub(crate) whole: Tensor,
    /// `[shard_len]`: this rank's shard; a part of `whole` where that is always there.
    pub(crate) own: Tensor,
    presence: RefCell<Presence>,
}

enum Presence {
    Here,
    /// Being gathered.
    Coming(Work),
    Away,
}

// === impl Weights ===

impl Weights {
    /// Of no model yet.
    pub(crate) fn none(mode: Mode) -> Self {
        Self { mode, segments: Vec::new(), waits: RefCell::default(), num_passes: Cell::default() }
    }

    /// Makes buffers of zeros and puts views into them in place of the model's parameters.
    pub(crate) fn place(
        model: &mut CausalLm,
        layouts: &[Layout],
        mode: Mode,
        requires_grad: bool,
    ) -> Result<Self, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let options = (model.kind(), model.device());
        let mut segments = Vec::with_capacity(layouts.len());
        for (idx, layout) in layouts.iter().enumerate() {
            let (whole, own, presence) = if mode == Mode::FullySharded {
                let whole = Tensor::f_empty([layout.padded_len()], options)?;
                let own = Tensor::f_zeros([layout.shard_len()], options)?;
                (whole, own, Presence::Away)
            } else {
                let whole = Tensor::f_zeros([layout.padded_len()], options)?;
                let own = layout.shard_of(&whole)?;
                (whole, own, Presence::Here)
            };
            // Views that do not share the buffer's version: a graph may be walked after the buffer's
            // contents went and came back.
            let view = |slot: &super::Slot| {
                Ok(slot.view(&whole)?.f_data()?.f_set_requires_grad(requires_grad)?)
            };
            let views = layout.slots.iter().map(view).collect::<Result<_, TrainError>>()?;
            model.replace_parameters(idx, views)?;
            if mode == Mode::FullySharded {
                release_storage(&whole)?;
            }
            segments.push(SegmentWeights { whole, own, presence: RefCell::new(presence) });
        }
        Ok(Self { segments, ..Self::none(mode) })
    }

    /// The weights of one segment.
    pub(crate) fn segment(&self, idx: usize) -> &SegmentWeights {
        &self.segments[idx]
    }

    /// Waits until a segment is there, and has `next` gathered meanwhile.
    pub(crate) fn bring(
        &self,
        segment: usize,
        next: Option<usize>,
        group: &ProcessGroup,
    ) -> Result<(), TrainError> {
        let SegmentWeights { whole, presence, .. } = &self.segments[segment];
        if !matches!(*presence.borrow(), Presence::Here) {
            let begin = Moment::of(whole.device())?;
            self.start(segment, group)?;
            self.wait(segment)?;
            self.waits.borrow_mut().push([begin, Moment::of(whole.device())?]);
        }
        next.map_or(Ok(()), |next| self.start(next, group))
    }

    /// Takes note that the work on a segment is done. Embedding and end of the chain are needed
    /// again in the same pass.
    pub(crate) fn leave(&self, segment: usize) -> Result<(), TrainError> {
        let is_end = segment == 0 || segment + 1 == self.segments.len();
        if is_end { Ok(()) } else { self.segments[segment].release(self.mode) }
    }

    /// Takes note that a pass will visit nothing more.
    pub(crate) fn end_pass(&self) -> Result<(), TrainError> {
        self.num_passes.set(self.num_passes.get() + 1);
        let last = self.segments.len() - 1;
        self.segments[0].release(self.mode)?;
        self.segments[last].release(self.mode)
    }

    /// Passes that have come to their end since [`forget_passes`](Self::forget_passes).
    pub(crate) fn num_passes(&self) -> usize {
        self.num_passes.get()
    }

    /// Counts passes from 0 again, and gives up what one that failed has left.
    pub(crate) fn forget_passes(&self) -> Result<(), TrainError> {
        self.num_passes.set(0);
        self.forget_waits();
        self.segments.iter().try_for_each(|segment| segment.give_up(self.mode))
    }

    /// Starts to gather every segment, whose shards have changed on all ranks. Where segments are
    /// gathered on each visit there is nothing to do.
    pub(crate) fn spread(&self, group: &ProcessGroup) -> Result<(), TrainError> {
        if self.mode != Mode::ShardedOptimizer {
            return Ok(());
        }
        for (idx, segment) in self.segments.iter().enumerate() {
            segment.presence.replace(Presence::Away);
            self.start(idx, group)?;
        }
        Ok(())
    }

    /// Waits for every segment that is on its way.
    pub(crate) fn settle(&self) -> Result<(), TrainError> {
        (0..self.segments.len()).try_for_each(|idx| self.wait(idx))
    }

    /// Seconds that passes waited since this was last asked: those that the device stood still.
    /// Waits until the device has passed them.
    pub(crate) fn take_seconds(&self) -> Result<f64, TrainError> {
        let waits = self.waits.take();
        waits.iter().map(|[begin, end]| end.seconds_since(begin)).sum()
    }

    /// Drops what was waited so far: it belongs to no pass of a step.
    pub(crate) fn forget_waits(&self) {
        self.waits.take();
    }

    fn start(&self, segment: usize, group: &ProcessGroup) -> Result<(), TrainError> {
        let segment = &self.segments[segment];
        if matches!(*segment.presence.borrow(), Presence::Away) {
            restore_storage(&segment.whole)?;
            let work = group.all_gather(&mut segment.whole.shallow_clone(), &segment.own)?;
            segment.presence.replace(Presence::Coming(work));
        }
        Ok(())
    }

    fn wait(&self, segment: usize) -> Result<(), TrainError> {
        let presence = &self.segments[segment].presence;
        if !matches!(*presence.borrow(), Presence::Coming(_)) {
            return Ok(());
        }
        let Presence::Coming(work) = presence.replace(Presence::Away) else { return Ok(()) };
        work.wait()?;
        presence.replace(Presence::Here);
        Ok(())
    }
}

// === impl SegmentWeights ===

impl SegmentWeights {
    /// Gives the memory back, if the segment is here and every visit gathers it.
    fn release(&self, mode: Mode) -> Result<(), TrainError> {
        if mode == Mode::FullySharded && matches!(*self.presence.borrow(), Presence::Here) {
            release_storage(&self.whole)?;
            self.presence.replace(Presence::Away);
        }
        Ok(())
    }

    /// Waits for what is under way, whatever becomes of it, and releases.
    fn give_up(&self, mode: Mode) -> Result<(), TrainError> {
        let before = self.presence.replace(Presence::Away);
        let after = match before {
            // A gather that failed writes into the memory no more.
            Presence::Coming(work) => work.wait().map_or(Presence::Away, |()| Presence::Here),
            other => other,
        };
        self.presence.replace(after);
        if mode == Mode::FullySharded {
            release_storage(&self.whole)?;
            self.presence.replace(Presence::Away);
        }
        Ok(())
    }
}
