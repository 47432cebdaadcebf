use tch::{Device, Kind, Tensor};

use super::*;
use crate::testing::devices;

#[test]
fn the_peak_is_read_in_bytes() {
    let status = "Name:\tworker\nVmPeak:\t  999 kB\nVmHWM:\t  113828 kB\n";
    assert_eq!(peak_bytes(status), Some(113_828 * 1024));
    assert_eq!(peak_bytes("Name:\tworker\n"), None);
    assert_eq!(peak_bytes("VmHWM:\t many kB\n"), None);
}

#[test]
fn the_process_has_a_peak() {
    assert!(process_peak_memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
}

#[test]
fn counters_follow_the_tensors_of_a_gpu_and_are_unavailable_without() {
    const BYTES: u64 = 1 << 24;
    if devices().len() == 1 {
        for error in [cuda_memory_stats(0).unwrap_err(), reset_cuda_peak(0).unwrap_err()] {
            let missing = matches!(error, LibtorchError::BackendUnavailable { .. });
            assert!(missing, "{error}");
        }
        return;
    }
    let before = cuda_memory_stats(0).unwrap();
    let tensor = Tensor::f_zeros([BYTES as i64], (Kind::Uint8, Device::Cuda(0))).unwrap();
    let during = cuda_memory_stats(0).unwrap();
    drop(tensor);
    assert!(during.allocated_bytes >= before.allocated_bytes + BYTES);
    assert!(during.reserved_bytes >= during.allocated_bytes);
    assert!(during.peak_allocated_bytes >= during.allocated_bytes);
    reset_cuda_peak(0).unwrap();
    let after = cuda_memory_stats(0).unwrap();
    assert!(after.peak_allocated_bytes < during.peak_allocated_bytes);
    assert!(cuda_memory_stats(cuda_device_count().unwrap_or(0)).is_err());
}

/// In a process of its own, whose peak nothing else raises.
#[test]
fn products_of_ever_different_lengths_take_no_more_memory() {
    const CHILD: &str = "PROSPECT_TEST_PRODUCTS";
    const TEST: &str = "memory::tests::products_of_ever_different_lengths_take_no_more_memory";
    if std::env::var_os(CHILD).is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", TEST]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let weight = Tensor::f_ones([256, 256], (Kind::BFloat16, Device::Cpu)).unwrap();
    let products = |lengths: std::ops::Range<i64>| {
        for length in lengths {
            let rows = Tensor::f_ones([length, 256], (Kind::BFloat16, Device::Cpu)).unwrap();
            drop(rows.f_matmul(&weight).unwrap());
        }
        process_peak_memory_bytes().unwrap()
    };
    let (early, late) = (products(400..500), products(500..1000));
    assert!(late < early + (20 << 20), "{early} {late}");
}
