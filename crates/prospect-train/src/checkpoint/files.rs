//! Which file of a checkpoint holds what of the optimizer's state. File r of N holds what rank r of
//! N owns of the flat buffers, whoever writes or reads it: of each kind of state and of each
//! parameter that reaches into its range the whole in its shape, or the part in one dimension. So a
//! reader finds any range of them, in files of any number.

use std::ops::Range;
use std::path::Path;

use super::Named;
use super::tensors::TensorsFile;
use crate::TrainError;
use crate::parameters::{Layout, Numbers, OwnPart, Place, narrowed};

const PREFIX: &str = "optimizer-";
const SUFFIX: &str = ".safetensors";

/// One kind of state over all segments: the prefix of its names, and by segment the shards of a
/// rank.
pub(super) struct Shards {
    pub(super) prefix: &'static str,
    pub(super) flats: Vec<Numbers>,
}

/// Name of the file that a rank writes.
pub(super) fn file_name(place: Place) -> String {
    format!("{PREFIX}{:05}-of-{:05}{SUFFIX}", place.rank, place.world_size)
}

/// How many files of optimizer state there are among these, which must be all of one set.
pub(super) fn num_files<'a>(
    dir: &Path,
    names: impl Iterator<Item = &'a str>,
) -> Result<usize, TrainError> {
    let found: Vec<&str> = names.filter(|name| name.starts_with(PREFIX)).collect();
    let world_size = found.len();
    for rank in 0..world_size {
        let expected = file_name(Place { rank, world_size });
        if !found.contains(&expected.as_str()) {
            let problem = format!("is not among the {world_size} files of optimizer state");
            return Err(TrainError::damaged(&dir.join(expected), problem));
        }
    }
    match world_size {
        0 => Err(TrainError::damaged(dir, "holds no optimizer state")),
        _ => Ok(world_size),
    }
}

/// What a rank's file holds, as views into its shards.
pub(super) fn named_parts(layouts: &[Layout], state: &[Shards]) -> Result<Named, TrainError> {
    let mut named = Vec::new();
    for Shards { prefix, flats } in state {
        for (layout, flat) in layouts.iter().zip(flats) {
            let flat = flat.values()?;
            for part in layout.own_parts() {
                let tensor =
                    narrowed(&flat, &part.of_shard)?.f_view(stored_shape(&part).as_slice())?;
                named.push((format!("{prefix}{}", part.slot.name), tensor));
            }
        }
    }
    Ok(named)
}

/// Copies what `num_files` files hold of a rank's shards into them. Rank 0 also looks into the files
/// that hold nothing of its own.
pub(super) fn read_parts(
    dir: &Path,
    num_files: usize,
    layouts: &[Layout],
    state: &[Shards],
) -> Result<(), TrainError> {
    for rank in 0..num_files {
        let place = Place { rank, world_size: num_files };
        let of_file: Vec<Layout> = layouts.iter().map(|layout| layout.at(place)).collect();
        let pairs = || layouts.iter().zip(&of_file);
        let is_mine = |(mine, theirs): (&Layout, &Layout)| {
            let (mine, theirs) = (mine.own(), theirs.own());
            !common(&mine, &theirs).is_empty()
        };
        let is_first = layouts.first().is_none_or(|layout| layout.place().rank == 0);
        if !is_first && !pairs().any(is_mine) {
            continue;
        }
        let mut file = TensorsFile::open(&dir.join(file_name(place)))?;
        for Shards { prefix, flats } in state {
            for ((mine, theirs), flat) in pairs().zip(flats) {
                let mine: Vec<OwnPart<'_>> = mine.own_parts().collect();
                for stored in theirs.own_parts() {
                    let name = format!("{prefix}{}", stored.slot.name);
                    let entry = file.take(&name, &stored_shape(&stored))?;
                    let Some(own) = mine.iter().find(|own| own.slot_idx == stored.slot_idx) else {
                        continue;
                    };
                    let wanted = common(&own.of_parameter, &stored.of_parameter);
                    if !wanted.is_empty() {
                        let skipped = own.of_shard.start - own.of_parameter.start;
                        let place = wanted.start + skipped..wanted.end + skipped;
                        let start = stored.of_parameter.start;
                        let wanted = wanted.start - start..wanted.end - start;
                        file.read(&entry, wanted, &flat.narrowed(&place)?)?;
                    }
                }
            }
        }
        file.finish()?;
    }
    Ok(())
}

/// Shape in which a part lies in its file.
fn stored_shape(part: &OwnPart<'_>) -> Vec<i64> {
    let len = part.of_parameter.end - part.of_parameter.start;
    if len == part.slot.numel { part.slot.shape.clone() } else { vec![len] }
}

fn common(left: &Range<i64>, right: &Range<i64>) -> Range<i64> {
    left.start.max(right.start)..left.end.min(right.end)
}
