use super::*;

#[test]
fn loading_answers_the_same_every_time() {
    let first = ensure_cuda_loaded();
    assert_eq!(first, ensure_cuda_loaded());
    assert_eq!(first, cuda_device_count().is_ok_and(|count| count > 0));
}

fn unavailable(reason: &str) -> LibtorchError {
    LibtorchError::BackendUnavailable { backend: "cuda", reason: reason.to_owned() }
}

#[test]
fn without_a_device_nothing_is_loaded() {
    let load = || panic!("loaded without a device");
    assert_eq!(usable_devices(Ok(0), load, || 0).unwrap(), 0);
}

#[test]
fn devices_that_libtorch_cannot_use_are_an_error_with_the_reason() {
    let check = |found: Result<usize>, expected: &str| {
        let error = found.unwrap_err();
        assert!(matches!(error, LibtorchError::BackendUnavailable { backend: "cuda", .. }));
        assert!(error.to_string().contains(expected), "{error}");
    };
    let loaded = || Ok(());
    check(usable_devices(Err(unavailable("CUDA error 802")), loaded, || 2), "CUDA error 802");
    let no_library = || Err(unavailable("no libtorch_cuda.so"));
    check(usable_devices(Ok(2), no_library, || 0), "offers 2 device(s), but no libtorch_cuda.so");
    check(usable_devices(Ok(2), loaded, || 0), "libtorch can use none of them");
    assert_eq!(usable_devices(Ok(2), loaded, || 2).unwrap(), 2);
}

#[test]
fn a_device_has_a_name_and_memory_exactly_if_it_is_there() {
    let count = cuda_device_count().unwrap_or(0);
    for device_idx in 0..count {
        assert_ne!(cuda_device_name(device_idx).unwrap(), "");
        assert!(cuda_device_memory_bytes(device_idx).unwrap() > 1 << 30);
        assert!((3..100).contains(&capability(device_idx)));
    }
    assert_eq!(capability(usize::MAX), 0);
    let absent = [cuda_device_name(usize::MAX).err(), cuda_device_memory_bytes(usize::MAX).err()];
    for error in absent {
        assert!(matches!(error, Some(LibtorchError::BackendUnavailable { .. })), "{error:?}");
    }
}

#[test]
fn a_thread_uses_the_device_that_it_is_told_to() {
    use_device(Device::Cpu).unwrap();
    let count = cuda_device_count().unwrap_or(0);
    for device_idx in 0..count {
        use_device(Device::Cuda(device_idx)).unwrap();
    }
    let error = use_device(Device::Cuda(count)).unwrap_err();
    let missing = matches!(error, LibtorchError::BackendUnavailable { .. });
    assert_eq!(missing, count == 0, "{error}");
}

#[test]
fn at_least_one_thread_is_used() {
    set_threads(0);
    assert_eq!(tch::get_num_threads(), 1);
    set_threads(2);
    assert_eq!(tch::get_num_threads(), 2);
    set_threads(1);
    assert_eq!(tch::get_num_threads(), 1);
}

#[test]
fn a_damaged_image_is_an_error() {
    let error = load_image(b"no shared object").unwrap_err();
    assert!(reason(error).contains("the CUDA half cannot be loaded"));
}
