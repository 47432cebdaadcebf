use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use prospect_model::NamedParameter;
use tch::{Device, Kind, Tensor};

use super::files::{Shards, file_name, named_parts, num_files, read_parts};
use super::manifest::{FileRecord, Records};
use super::model::part_of;
use super::parts::{collect, tell_failed, tell_written};
use super::tensors::{TensorsFile, write_tensors};
use crate::TrainError;
use crate::parameters::{Layout, Place};
use crate::progress::Progress;

fn tensor(values: &[f32], shape: &[i64]) -> Tensor {
    Tensor::f_from_slice(values).unwrap().f_view(shape).unwrap()
}

/// Writes two tensors and takes one of them, by this name, into zeros of this shape.
fn check(name: &str, shape: &[i64]) -> Result<Vec<f32>, TrainError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let tensors = vec![
        ("b".to_owned(), tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, f32::MIN_POSITIVE], &[2, 3])),
        ("a".to_owned(), tensor(&[7.0], &[1])),
    ];
    write_tensors(&path, &tensors, &Progress::default())?;
    let mut file = TensorsFile::open(&path)?;
    let destination = Tensor::f_zeros(shape, (Kind::Float, Device::Cpu))?.f_reshape([-1])?;
    let entry = file.take(name, shape)?;
    file.read(&entry, 0..destination.numel() as i64, &destination.shallow_clone().into())?;
    assert!(file.finish().is_err(), "a tensor that nobody took is an error");
    Ok(Vec::try_from(&destination)?)
}

#[test]
fn tensors_come_back_bit_for_bit_and_others_are_refused() {
    assert_eq!(check("b", &[2, 3]).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, f32::MIN_POSITIVE]);
    assert_eq!(check("a", &[1]).unwrap(), [7.0]);
    assert!(matches!(check("c", &[1]), Err(TrainError::Damaged { .. })));
    assert!(matches!(check("b", &[3, 2]), Err(TrainError::Incompatible { .. })));
}

#[test]
fn files_that_end_early_or_lie_about_their_header_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    assert!(matches!(TensorsFile::open(&path), Err(TrainError::Damaged { .. })), "missing");
    let length = |length: u64| length.to_le_bytes();
    for content in [
        vec![1, 2, 3],
        length(u64::MAX).to_vec(),
        length(5).to_vec(),
        [&length(2)[..], b"[]"].concat(),
        [&length(2)[..], b"{"].concat(),
    ] {
        fs::write(&path, &content).unwrap();
        let opened = TensorsFile::open(&path).map(|_| ());
        assert!(matches!(opened, Err(TrainError::Damaged { .. })), "{content:?}: {opened:?}");
    }
}

/// Two segments with parameters of odd sizes, the second smaller than a shard may be.
fn layouts(place: Place) -> Vec<Layout> {
    let parameter = |name: &str, shape: &[i64], decay| NamedParameter {
        name: name.to_owned(),
        tensor: Tensor::f_zeros(shape, (Kind::Float, Device::Cpu)).unwrap(),
        decay,
    };
    let first = [
        parameter("norm", &[7], false),
        parameter("wide", &[13, 31], true),
        parameter("long", &[300], true),
    ];
    let segments = [&first[..], &[parameter("end", &[5], false)]];
    segments.iter().map(|parameters| Layout::new(parameters, place)).collect()
}

/// A rank's shards of buffers in which each element is its own number, from `first` on; zeros where
/// no parameter lies.
fn shards(layouts: &[Layout], prefix: &'static str, first: i64) -> Shards {
    let flat = |layout: &Layout| {
        let whole = Tensor::f_arange_start(first, first + layout.len(), (Kind::Float, Device::Cpu));
        let (whole, shard) = (whole.unwrap(), zeros(layout));
        layout.fill(&shard, |slot| slot.view(&whole)).unwrap();
        shard
    };
    Shards { prefix, flats: layouts.iter().map(|layout| flat(layout).into()).collect() }
}

fn zeros(layout: &Layout) -> Tensor {
    Tensor::f_zeros([layout.shard_len()], (Kind::Float, Device::Cpu)).unwrap()
}

fn write_all(dir: &Path, num_files: usize) {
    for rank in 0..num_files {
        let place = Place { rank, world_size: num_files };
        let layouts = layouts(place);
        let state = [shards(&layouts, "a.", 1), shards(&layouts, "b.", 5000)];
        let named = named_parts(&layouts, &state).unwrap();
        write_tensors(&dir.join(file_name(place)), &named, &Progress::default()).unwrap();
    }
}

#[test]
fn files_of_any_number_are_read_by_worlds_of_any_size() {
    for num_files in [1, 2, 3, 5, 16] {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path(), num_files);
        for world_size in [1, 2, 4, 7] {
            for rank in 0..world_size {
                let layouts = layouts(Place { rank, world_size });
                let empty = |prefix| Shards {
                    prefix,
                    flats: layouts.iter().map(|layout| zeros(layout).into()).collect(),
                };
                let found = [empty("a."), empty("b.")];
                read_parts(dir.path(), num_files, &layouts, &found).unwrap();
                let expected = [shards(&layouts, "a.", 1), shards(&layouts, "b.", 5000)];
                for (found, expected) in found.iter().zip(&expected) {
                    let values = |shards: &Shards| -> Vec<Tensor> {
                        shards.flats.iter().map(|flat| flat.values().unwrap()).collect()
                    };
                    assert_eq!(values(found), values(expected), "{num_files} files, rank {rank}");
                }
            }
        }
    }
}

#[test]
fn a_file_holds_whole_parameters_in_their_shape_and_parts_in_one_dimension() {
    let layouts = layouts(Place { rank: 0, world_size: 2 });
    let named = named_parts(&layouts, &[shards(&layouts, "a.", 0)]).unwrap();
    let found: Vec<(&str, Vec<i64>)> =
        named.iter().map(|(name, tensor)| (name.as_str(), tensor.size())).collect();
    // 448 elements of "wide" with its gap, 320 of "long" and 64 of "norm" are 832, half is 416.
    assert_eq!(found, [("a.wide", vec![13, 31]), ("a.end", vec![5])]);
    let layouts = layouts.iter().map(|layout| layout.at(Place { rank: 1, world_size: 3 }));
    let layouts: Vec<Layout> = layouts.collect();
    let named = named_parts(&layouts, &[shards(&layouts, "a.", 0)]).unwrap();
    let found: Vec<(&str, Vec<i64>)> =
        named.iter().map(|(name, tensor)| (name.as_str(), tensor.size())).collect();
    assert_eq!(found, [("a.wide", vec![83]), ("a.long", vec![192])]);
}

#[test]
fn a_set_of_files_that_is_not_whole_is_refused() {
    let dir = Path::new("step");
    let number = |names: &[&str]| num_files(dir, names.iter().copied());
    let [first, second] = [0, 1].map(|rank| file_name(Place { rank, world_size: 2 }));
    assert_eq!(number(&["state.json", &second, &first]).unwrap(), 2);
    for names in [&["state.json"][..], &[&first], &[&second], &[&first, "optimizer-x"]] {
        let error = number(names).unwrap_err();
        assert!(matches!(error, TrainError::Damaged { .. }), "{names:?}: {error}");
    }
}

#[test]
fn segments_are_shared_out_in_turn() {
    let files = |world_size: usize, num_segments: usize| -> Vec<Option<String>> {
        let part = |rank| part_of(Place { rank, world_size }, num_segments).0;
        (0..world_size).map(|rank| part(rank).map(|part| part.file_name())).collect()
    };
    let name = |text: &str| Some(format!("model-{text}.safetensors"));
    assert_eq!(files(1, 4), [Some("model.safetensors".to_owned())]);
    assert_eq!(files(2, 4), [name("00001-of-00002"), name("00002-of-00002")]);
    let all = [1, 2, 3].map(|idx| name(&format!("0000{idx}-of-00003")));
    assert_eq!(files(5, 3), [&all[..], &[None, None]].concat(), "more ranks than segments");
}

/// What rank 0 of 3 hears when the others do this in the directory, with this patience.
fn check_parts(
    others: impl FnOnce(&Path) + Send,
    patience: Duration,
) -> Result<Vec<String>, TrainError> {
    let dir = tempfile::tempdir().unwrap();
    let found = thread::scope(|scope| {
        scope.spawn(|| others(dir.path()));
        collect(dir.path(), 3, patience, &Progress::default())
    });
    if found.is_ok() {
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(left.is_empty(), "what they said is removed: {left:?}");
    }
    found.map(|records| records.into_keys().collect())
}

#[test]
fn rank_0_waits_for_what_every_other_has_to_say() {
    const LONG: Duration = Duration::from_secs(20);
    let write = |dir: &Path, rank: usize, told: u64| {
        let name = file_name(Place { rank, world_size: 3 });
        fs::write(dir.join(&name), "two").unwrap();
        let records = Records::from([(name, FileRecord::new(told, &[0xab]))]);
        tell_written(dir, rank, &records).unwrap();
    };
    let all = check_parts(|dir| [2, 1].iter().for_each(|rank| write(dir, *rank, 3)), LONG);
    assert_eq!(
        all.unwrap(),
        ["optimizer-00001-of-00003.safetensors", "optimizer-00002-of-00003.safetensors"]
    );
    let check_failed = |found: Result<Vec<String>, TrainError>, end: &str| {
        let error = found.unwrap_err();
        assert!(matches!(error, TrainError::Part { rank: 2, .. }), "{error}");
        assert!(error.to_string().ends_with(end), "{error}");
    };
    let one_failed = check_parts(
        |dir| {
            tell_failed(dir, 2, "no space left").unwrap();
            write(dir, 1, 3);
        },
        LONG,
    );
    check_failed(one_failed, "no space left");
    let one_cut = check_parts(
        |dir| {
            write(dir, 1, 3);
            write(dir, 2, 4);
        },
        LONG,
    );
    check_failed(one_cut, "has 3 bytes, but was written with 4; resume from another checkpoint");
    let one_silent = check_parts(|dir| write(dir, 1, 3), Duration::from_millis(200));
    check_failed(one_silent, "nothing was written for 0.2 s");
}
