//! Taking over weights when a world forms, and proof that all ranks hold the same.

use std::path::Path;

use prospect_core::{Mode, Restore, Step};
use prospect_model::ModelFiles;
use tch::{Kind, Tensor};

use crate::checkpoint::together;
use crate::parameters::Place;
use crate::readback::fetch;
use crate::{TrainError, Trainer};

/// Numbers that are equal on two trainers if their state is: step, updates, whether nothing has
/// moved yet, and one sum over the bits of each kind of buffer that every rank holds whole, of which
/// there are up to four.
const NUM_MARKS: usize = 7;

impl Trainer {
    /// Makes the buffers those of this rank in its world, where ranks share them. What was in buffers
    /// for another place is lost.
    pub(crate) fn take_place(&mut self, place: Place, restore: &Restore) -> Result<(), TrainError> {
        if self.parameters.mode == Mode::Replicated {
            return Ok(());
        }
        let placed = self.parameters.placed();
        if matches!(restore, Restore::Peer { .. })
            || (matches!(restore, Restore::Kept) && placed != Some(place))
        {
            let (place, placed) = (place.to_string(), placed.map(|placed| placed.to_string()));
            return Err(TrainError::Shared { place, placed });
        }
        if placed != Some(place) {
            self.lose_weights();
            self.parameters.place(&mut self.policy, place)?;
        }
        if self.parameters.mode == Mode::FullySharded {
            self.reference.share(place);
            if self.loads_reference_early {
                // As when the trainer is made.
                let group = self.group.as_ref().ok_or(TrainError::NoWorld)?;
                self.reference.ensure_all_loaded(group, self.device)?;
            }
        }
        Ok(())
    }

    /// Gives the other ranks this rank's shards of what they compute with, where they need them.
    pub(crate) fn spread(&mut self) -> Result<(), TrainError> {
        if self.parameters.mode == Mode::Replicated {
            return Ok(());
        }
        self.parameters.publish()?;
        self.parameters.weights.spread(self.world()?)?;
        self.parameters.weights.settle()
    }

    /// Makes the weights, the moments and the step those that `restore` names.
    pub(crate) fn take_over(
        &mut self,
        restore: &Restore,
        run_dir: &Path,
    ) -> Result<(), TrainError> {
        match restore {
            Restore::Initial => self.reload(),
            Restore::Checkpoint { path } => {
                self.lose_weights();
                self.done = self.load_checkpoint(&run_dir.join(path))?;
                Ok(())
            }
            Restore::Peer { rank } => self.receive(rank.0 as usize),
            Restore::Kept => Ok(()),
        }
    }

    /// Compares the state of all ranks by a few numbers: one pass over the buffers and one small
    /// collective.
    pub(crate) fn compare(&self) -> Result<(), TrainError> {
        let group = self.world()?;
        let mine = Tensor::f_from_slice(&self.marks()?)?.f_to_device(self.device)?;
        let size = group.world_size() * NUM_MARKS;
        let mut all = Tensor::f_zeros([size as i64], (Kind::Int64, self.device))?;
        group.all_gather(&mut all, &mine)?.wait()?;
        let all = Vec::<i64>::try_from(&fetch(&all)?)?;
        group.check_health()?;
        let mut ranks = all.chunks_exact(NUM_MARKS);
        let first = ranks.next().expect("a world has a rank");
        match ranks.position(|marks| marks != first) {
            None => Ok(()),
            Some(before) => {
                let other = &all[(before + 1) * NUM_MARKS..][..NUM_MARKS];
                let steps = [first[0], other[0]].map(|step| Step(step as u64));
                Err(TrainError::Unequal { rank: before + 1, steps })
            }
        }
    }

    /// The weights of the model directory, without moments. A rank that has them waits for those
    /// that read them.
    fn reload(&mut self) -> Result<(), TrainError> {
        let has_them = self.is_initial;
        if !has_them {
            self.lose_weights();
        }
        let group = self.group.as_ref().ok_or(TrainError::NoWorld)?;
        let (path, progress) = (&self.config.model.path, &*self.progress);
        let parameters = &mut self.parameters;
        together(group, self.device, "load the model", || {
            if has_them {
                return Ok(());
            }
            let files = ModelFiles::open(path)
                .map_err(|source| TrainError::Load { role: "policy", source })?;
            parameters.fill(&files, progress)?;
            parameters.publish()
        })?;
        (self.done, self.is_initial) = (Step(0), true);
        Ok(())
    }

    /// Weights, moments and step of the rank `root`. A rank that has them already keeps its own
    /// all the while, so that they are not lost with a root that is lost on the way.
    fn receive(&mut self, root: usize) -> Result<(), TrainError> {
        let mine = self.marks()?;
        let group = self.world()?;
        let mut marks = Tensor::f_from_slice(&mine)?.f_to_device(self.device)?;
        group.broadcast(&mut marks, root)?.wait()?;
        let marks = Vec::<i64>::try_from(&fetch(&marks)?)?;
        // What a failed collective left behind is not to be believed.
        group.check_health()?;
        let has_them = mine.as_slice() == marks;
        if !has_them {
            self.lose_weights();
        }
        let group = self.world()?;
        for segment in &self.parameters.segments {
            for flat in segment.bits()? {
                let is_root = group.rank() == root;
                let spare = has_them && !is_root;
                let flat = if spare { flat.f_empty_like()? } else { flat };
                self.broadcast_flat(&flat, root)?;
                self.progress.tick();
            }
        }
        group.settle()?;
        if !has_them {
            self.parameters.num_updates = marks[1] as u64;
            self.parameters.publish()?;
            (self.done, self.is_initial) = (Step(marks[0] as u64), marks[2] == 1);
        }
        Ok(())
    }

    /// Says that the buffers are about to be overwritten: until that is done they are the result
    /// of no step.
    pub(crate) fn lose_weights(&mut self) {
        (self.done, self.is_initial) = (Step(0), false);
    }

    /// Step, updates, whether nothing has moved yet, and the sums over bits.
    pub(crate) fn marks(&self) -> Result<[i64; NUM_MARKS], TrainError> {
        let _no_grad = tch::no_grad_guard();
        let mut sums = [0_i64; NUM_MARKS - 3];
        for (idx, segment) in self.parameters.segments.iter().enumerate() {
            let whole = &self.parameters.weights.segment(idx).whole;
            let flats = match self.parameters.mode {
                Mode::Replicated => segment.bits()?,
                Mode::ShardedOptimizer => vec![whole.f_view_dtype(Kind::Int)?],
                Mode::FullySharded => Vec::new(),
            };
            for (sum, flat) in sums.iter_mut().zip(flats) {
                *sum = sum.wrapping_add(flat.f_sum(Kind::Int64)?.f_int64_value(&[])?);
            }
        }
        let [first, second, third, fourth] = sums;
        let (done, num_updates) = (self.done.0 as i64, self.parameters.num_updates as i64);
        Ok([done, num_updates, i64::from(self.is_initial), first, second, third, fourth])
    }
}
