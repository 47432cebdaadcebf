use std::fs;

use tch::{Device, Kind, Tensor};

use super::tensors::{TensorsFile, write_tensors};
use crate::TrainError;
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
    let destination = Tensor::f_zeros(shape, (Kind::Float, Device::Cpu))?;
    file.take(name, &destination)?;
    assert!(file.finish().is_err(), "a tensor that nobody took is an error");
    Ok(Vec::try_from(&destination.f_reshape([-1])?)?)
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
