//! Sums gradients in an order that does not depend on the number of ranks: in a fixed tree over
//! the parts of the global batch (see `tree`), so that the bits are the same in every world.
//!
//! Memory beyond the one gradient that every way needs, counted in gradients of the whole model,
//! for a rank with p parts: the sums that wait while the backward passes go on, at most
//! 2·log2(p) + 1 and where p is a power of two and divides the parts before it log2(p) + 1. Once
//! they are sent, and for two segments at a time, what all ranks send: world size × the most sums
//! that one rank is left with, 1 where the parts per rank are a power of two. Traffic is the
//! latter for the whole model. Nothing is sent before the last backward pass is done.

use prospect_core::{Rank, parts_of_rank};
use prospect_libtorch::{ProcessGroup, Work};
use prospect_shape::num_subtrees;
use tch::{Kind, Tensor};

use crate::TrainError;
use crate::parameters::Parameters;
use crate::progress::Progress;
use crate::tree::Tree;

/// The gradients of this rank's parts, one tensor a segment.
pub(crate) struct Canonical<'a> {
    group: &'a ProcessGroup,
    num_parts: u32,
    tree: Tree<Vec<Tensor>>,
}

/// The sums of all ranks for one segment, on their way.
struct Gathering {
    segment: usize,
    work: Work,
    /// f32 `[world size, most sums of a rank, elements]`.
    all: Tensor,
}

// === impl Canonical ===

impl<'a> Canonical<'a> {
    /// No part done yet.
    pub(crate) fn new(group: &'a ProcessGroup, num_parts: u32) -> Self {
        Self { group, num_parts, tree: Tree::new(num_parts) }
    }

    /// Takes the gradients of one part and leaves zeros for the next.
    pub(crate) fn end_part(
        &mut self,
        part: u32,
        parameters: &mut Parameters,
    ) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let gradients = parameters
            .segments
            .iter_mut()
            .map(|segment| {
                let zeros = segment.gradient.f_zeros_like()?;
                Ok(std::mem::replace(&mut segment.gradient, zeros))
            })
            .collect::<Result<Vec<_>, TrainError>>()?;
        self.tree.push(part, gradients, |left, right| {
            left.iter_mut().zip(right).try_for_each(|(left, right)| add(left, right))
        })
    }

    /// Gathers the sums of all ranks and puts the whole tree's into the gradients.
    pub(crate) fn finish(
        self,
        parameters: &mut Parameters,
        progress: &Progress,
    ) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let Self { group, num_parts, tree } = self;
        // World sizes are C integers.
        let world_size = group.world_size() as u32;
        let ranges =
            || (0..world_size).map(|rank| parts_of_rank(Rank(rank), world_size, num_parts));
        let num_slots = ranges().map(|range| num_subtrees(num_parts, range)).max();
        let num_slots = num_slots.unwrap_or_default() as i64;
        let mut own = tree.into_values();
        let combine = |gathering: Gathering, parameters: &mut Parameters| {
            gathering.work.wait()?;
            let mut tree = Tree::new(num_parts);
            for (rank, range) in ranges().enumerate() {
                let sums_sn = gathering.all.f_select(0, rank as i64)?;
                let sums = (0..num_slots)
                    .map(|slot| sums_sn.f_select(0, slot))
                    .collect::<Result<Vec<_>, _>>()?;
                tree.push_subtrees(range, sums, add)?;
            }
            let root = tree.into_values().pop().expect("every part belongs to a rank");
            parameters.segments[gathering.segment].gradient.f_copy_(&root)?;
            progress.tick();
            Ok::<_, TrainError>(())
        };
        let mut on_its_way: Option<Gathering> = None;
        for segment in (0..parameters.segments.len()).rev() {
            let gradient = &parameters.segments[segment].gradient;
            let (numel, device) = (gradient.size1()?, gradient.device());
            let zeros = |size: &[i64]| Tensor::f_zeros(size, (Kind::Float, device));
            let mine = zeros(&[num_slots, numel])?;
            for (slot, sums) in own.iter_mut().enumerate() {
                let sum = sums.pop().expect("a sum has every segment");
                mine.f_select(0, slot as i64)?.f_copy_(&sum)?;
            }
            let mut all = zeros(&[group.world_size() as i64, num_slots, numel])?;
            let work = group.all_gather(&mut all, &mine)?;
            if let Some(before) = on_its_way.replace(Gathering { segment, work, all }) {
                combine(before, parameters)?;
            }
        }
        on_its_way.map_or(Ok(()), |last| combine(last, parameters))
    }
}

fn add(left: &mut Tensor, right: Tensor) -> Result<(), TrainError> {
    let _ = left.f_add_(&right)?;
    Ok(())
}
