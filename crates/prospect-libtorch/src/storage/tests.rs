use tch::{Device, Kind};

use super::*;
use crate::testing::{devices, numbers, values};
use crate::{KeepGraph, vjp};

/// A graph through a view whose memory goes and comes back gives the gradients of one that stayed.
fn check_graph(kind: Kind, device: Device) {
    let content = numbers(&[12], 1, (kind, device));
    let flat = content.f_detach_copy().unwrap();
    let view = flat.f_narrow(0, 4, 8).unwrap().f_view([4, 2]).unwrap();
    let weight = view.f_data().unwrap().f_set_requires_grad(true).unwrap();
    let input = numbers(&[3, 2], 2, (kind, device)).f_set_requires_grad(true).unwrap();
    let output = input.f_linear(&weight, None::<&Tensor>).unwrap();
    let gradient = || {
        let seed = numbers(&[3, 4], 3, (kind, device));
        let inputs = [input.shallow_clone(), weight.shallow_clone()];
        vjp(&[output.shallow_clone()], &inputs, &[seed], KeepGraph::Yes).unwrap()
    };
    let expected: Vec<Vec<f64>> = gradient().iter().flatten().map(values).collect();
    assert_eq!(expected.len(), 2);

    let bytes = 12 * kind.elt_size_in_bytes() as u64;
    assert_eq!(storage_bytes(&weight).unwrap(), bytes);
    release_storage(&flat).unwrap();
    assert_eq!((storage_bytes(&weight).unwrap(), weight.size()), (0, vec![4, 2]));
    release_storage(&flat).unwrap();
    restore_storage(&flat).unwrap();
    {
        let _no_grad = tch::no_grad_guard();
        flat.shallow_clone().f_copy_(&content).unwrap();
    }
    assert_eq!(storage_bytes(&weight).unwrap(), bytes);
    let found: Vec<Vec<f64>> = gradient().iter().flatten().map(values).collect();
    assert_eq!(found, expected);
}

#[test]
fn views_and_graphs_outlive_their_memory() {
    for device in devices() {
        for kind in [Kind::Float, Kind::BFloat16] {
            check_graph(kind, device);
        }
    }
}

#[test]
fn memory_comes_back_for_a_whole_storage_only() {
    devices();
    let flat = numbers(&[8], 0, (Kind::Float, Device::Cpu));
    for (part, problem) in [
        (flat.f_narrow(0, 2, 4).unwrap(), "does not begin where its storage does"),
        (flat.f_view([4, 2]).unwrap().f_tr().unwrap(), "not contiguous"),
    ] {
        let error = restore_storage(&part).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    restore_storage(&flat).unwrap();
    assert_eq!(values(&flat), values(&numbers(&[8], 0, (Kind::Float, Device::Cpu))));
}
