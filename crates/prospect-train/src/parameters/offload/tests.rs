use prospect_libtorch::{ensure_cuda_loaded, set_threads};

use super::*;

const LEN: i64 = 1000;

/// The CPU, and a GPU where there is one.
fn devices() -> Vec<Device> {
    let cuda = ensure_cuda_loaded().then_some(Device::Cuda(0));
    set_threads(1);
    [Device::Cpu].into_iter().chain(cuda).collect()
}

fn numbers(seed: i64, device: Device) -> Tensor {
    let numbers = Tensor::f_arange(LEN, (Kind::Float, Device::Cpu)).unwrap();
    let numbers = numbers.f_mul_scalar(0.37).unwrap().f_add_scalar(seed as f64).unwrap();
    numbers.f_sin().unwrap().f_to_device(device).unwrap()
}

#[test]
fn gradients_come_in_turn() {
    for device in devices() {
        let offload = Offload::new(LEN, Kind::Float, device).unwrap();
        offload.begin().unwrap();
        let gradients: Vec<Tensor> = (0..5).map(|seed| numbers(seed, device)).collect();
        let mut coming = offload.fetch(0, &gradients[0]).unwrap();
        for turn in 0..5 {
            // The next one is under way while this one is used.
            let next = gradients.get(turn + 1);
            let next = next.map(|gradient| offload.fetch(turn + 1, gradient).unwrap());
            let found = coming.wait().unwrap();
            assert_eq!(found.device(), Device::Cpu);
            assert!(found == numbers(turn as i64, Device::Cpu));
            let Some(next) = next else { break };
            coming = next;
        }
        // A piece may be shorter than most.
        let short = gradients[1].f_narrow(0, 10, 7).unwrap();
        let expected = numbers(1, Device::Cpu).f_narrow(0, 10, 7).unwrap();
        assert!(offload.fetch(0, &short).unwrap().wait().unwrap() == expected);
    }
}

#[test]
fn weights_come_as_passes_compute_with_them() {
    for device in devices() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let offload = Offload::new(LEN, kind, device).unwrap();
            let master = host_zeros(LEN, device).unwrap();
            let own = Tensor::f_zeros([LEN], (kind, device)).unwrap();
            for seed in 0..3 {
                let expected = numbers(seed, Device::Cpu);
                master.shallow_clone().f_copy_(&expected).unwrap();
                offload.begin().unwrap();
                for range in [0..300, 300..LEN] {
                    let master = Numbers::Whole(narrowed(&master, &range).unwrap());
                    offload.send(&master, &narrowed(&own, &range).unwrap()).unwrap();
                }
                offload.settle().unwrap();
                let rounded = Tensor::f_zeros([LEN], (kind, Device::Cpu)).unwrap();
                match kind {
                    Kind::Float => rounded.shallow_clone().f_copy_(&expected).unwrap(),
                    _ => Numbers::beside(&rounded).unwrap().take(&expected).unwrap(),
                }
                assert!(own.f_to_device(Device::Cpu).unwrap() == rounded);
            }
            assert!(master == numbers(2, Device::Cpu), "what is sent is left as it is");
        }
    }
}
