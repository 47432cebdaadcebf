use prospect_core::ExitCode;

use super::*;

fn broken() -> Result<usize, LibtorchError> {
    let reason = "the NVIDIA driver offers 2 device(s), but the library is cut off".to_owned();
    Err(LibtorchError::BackendUnavailable { backend: "cuda", reason })
}

fn resolved(
    choice: DeviceChoice,
    local_rank: Option<usize>,
    num_gpus: impl FnOnce() -> Result<usize, LibtorchError>,
) -> Result<Device, WorkerError> {
    resolve(choice, &Environment { local_rank, ..Environment::default() }, num_gpus)
}

#[test]
fn auto_takes_the_local_gpu_and_the_cpu_without_any() {
    let check = |num_gpus: usize, local_rank, expected| {
        let found = resolved(DeviceChoice::Auto, local_rank, || Ok(num_gpus)).unwrap();
        assert_eq!(found, expected);
    };
    check(0, Some(1), Device::Cpu);
    check(2, None, Device::Cuda(0));
    check(2, Some(3), Device::Cuda(1));
}

#[test]
fn gpus_that_cannot_be_used_are_an_error_unless_the_cpu_is_asked_for() {
    for choice in [DeviceChoice::Auto, DeviceChoice::Cuda(0)] {
        let error = resolved(choice, None, broken).unwrap_err();
        assert!(error.to_string().contains("the library is cut off"), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Usage);
    }
    assert_eq!(resolved(DeviceChoice::Cpu, None, broken).unwrap(), Device::Cpu);
}

#[test]
fn a_gpu_that_is_not_there_is_refused() {
    let error = resolved(DeviceChoice::Cuda(2), None, || Ok(2)).unwrap_err();
    assert!(matches!(error, WorkerError::Device { device_idx: 2, count: 2 }), "{error}");
    assert_eq!(resolved(DeviceChoice::Cuda(1), None, || Ok(2)).unwrap(), Device::Cuda(1));
}

#[test]
fn the_list_says_why_gpus_cannot_be_used() {
    let names = |num_gpus| -> Vec<String> {
        list(num_gpus).into_iter().map(|device| device.name).collect()
    };
    assert_eq!(names(Ok(0)), ["cpu"]);
    assert_eq!(names(Ok(2)), ["cuda:0", "cuda:1"]);
    let devices = list(broken());
    assert_eq!(devices[0].name, "cpu");
    let problem = devices[1].problem.as_deref().unwrap();
    assert!(devices[1].name == "cuda" && problem.contains("the library is cut off"), "{problem}");
}

#[test]
fn collectives_go_over_the_workers_own_gpu() {
    let check = |backend, device, expected| {
        let environment = Environment { backend, ..Environment::default() };
        assert_eq!(resolve_backend(device, &environment), expected);
    };
    check(None, Device::Cpu, Backend::Gloo);
    check(None, Device::Cuda(1), Backend::Nccl { device: 1 });
    check(Some(BackendChoice::Nccl), Device::Cuda(3), Backend::Nccl { device: 3 });
    check(Some(BackendChoice::Gloo), Device::Cuda(1), Backend::Gloo);
}

#[test]
fn the_rate_of_products_is_measured_when_it_is_asked_for() {
    assert!(list_devices().iter().all(|device| device.flops_per_second.is_none()));
    assert!(rate::matrix_rate(Device::Cpu).unwrap() > 1e8);
}
