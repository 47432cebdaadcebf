use std::sync::mpsc;
use std::thread;

use tch::{Kind, Tensor};

use super::*;
use crate::LibtorchError;
use crate::testing::{devices, values};

const LONG: Duration = Duration::from_secs(120);

/// Runs `body` as every rank of a world of `size` threads.
fn check_world(size: usize, timeout: Duration, body: impl Fn(ProcessGroup) + Sync) {
    let host = TcpStore::host("127.0.0.1", 0, LONG).unwrap();
    thread::scope(|scope| {
        for rank in 0..size {
            let (host, body) = (&host, &body);
            scope.spawn(move || {
                let store = TcpStore::connect("127.0.0.1", host.port(), LONG).unwrap();
                let group =
                    ProcessGroup::new(Backend::Gloo, &store, "test", rank, size, timeout).unwrap();
                body(group);
            });
        }
    });
}

/// [base, base+1, …] with `count` elements.
fn range(base: i64, count: i64, (kind, device): (Kind, Device)) -> Tensor {
    let range = Tensor::f_arange_start(base, base + count, (Kind::Int64, Device::Cpu)).unwrap();
    range.f_to_kind(kind).unwrap().f_to_device(device).unwrap()
}

/// Each collective once; rank r contributes r, r+1, …
fn check_collectives(group: &ProcessGroup, options: (Kind, Device)) {
    let (rank, size) = (group.rank() as i64, group.world_size() as i64);
    let rank_sum = size * (size - 1) / 2;

    let mut tensor = range(rank, 3, options);
    group.all_reduce_sum(&mut tensor).unwrap().wait().unwrap();
    let sums = [0, 1, 2].map(|i| (rank_sum + i * size) as f64);
    assert_eq!(values(&tensor), sums);

    let mut part = Tensor::f_zeros([2], options).unwrap();
    let whole = range(rank, 2 * size, options);
    group.reduce_scatter_sum(&mut part, &whole).unwrap().wait().unwrap();
    let sums = [2 * rank, 2 * rank + 1].map(|i| (rank_sum + i * size) as f64);
    assert_eq!(values(&part), sums);
    assert_eq!(values(&whole), values(&range(rank, 2 * size, options)));

    let mut whole = range(rank, 2 * size, options);
    group.reduce_scatter_sum_in_place(&mut whole).unwrap().wait().unwrap();
    assert_eq!(values(&whole.f_narrow(0, 2 * rank, 2).unwrap()), sums);

    let mut whole = Tensor::f_zeros([size, 2], options).unwrap();
    let part = range(10 * rank, 2, options);
    group.all_gather(&mut whole, &part).unwrap().wait().unwrap();
    let parts: Vec<f64> = (0..size).flat_map(|r| [10 * r, 10 * r + 1]).map(|x| x as f64).collect();
    assert_eq!(values(&whole), parts);

    let root = size - 1;
    let mut tensor = range(7 * rank, 2, options);
    group.broadcast(&mut tensor, root as usize).unwrap().wait().unwrap();
    assert_eq!(values(&tensor), [7 * root, 7 * root + 1].map(|x| x as f64));

    group.barrier().unwrap().wait().unwrap();
    group.check_health().unwrap();
}

#[test]
fn collectives_give_the_same_on_every_rank() {
    devices();
    for size in [1, 2, 4] {
        check_world(size, LONG, |group| {
            for kind in [Kind::Float, Kind::BFloat16] {
                check_collectives(&group, (kind, Device::Cpu));
            }
        });
    }
}

#[test]
fn nccl_works_with_a_gpu_and_is_unavailable_without() {
    let gpu = devices().len() > 1;
    let store = TcpStore::host("127.0.0.1", 0, LONG).unwrap();
    match ProcessGroup::new(Backend::Nccl { device: 0 }, &store, "test", 0, 1, LONG) {
        Ok(group) if gpu => {
            for kind in [Kind::Float, Kind::BFloat16] {
                check_collectives(&group, (kind, Device::Cuda(0)));
            }
            group.close().unwrap();
        }
        Err(LibtorchError::BackendUnavailable { backend, reason }) if !gpu => {
            assert_eq!(backend, "nccl");
            assert!(reason.contains("no GPUs found") || reason.contains("this build"), "{reason}");
        }
        other => panic!("with a GPU ({gpu}): {other:?}"),
    }
}

/// What c10d would do by default holds a worker up for minutes.
#[test]
fn c10d_gives_up_at_once_unless_it_is_told_otherwise() {
    const NAME: &str = "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC";
    const EXPECTED: &str = "PROSPECT_TEST_EXPECTED_WAIT";
    const TEST: &str = "process_group::tests::c10d_gives_up_at_once_unless_it_is_told_otherwise";
    let expected = std::env::var(EXPECTED);
    assert_eq!(std::env::var(NAME).as_deref(), Ok(expected.as_deref().unwrap_or("0")));
    if expected.is_ok() {
        return;
    }
    for name in
        ["TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_DUMP_ON_TIMEOUT", "TORCH_NCCL_ENABLE_MONITORING"]
    {
        assert_eq!(std::env::var(name).as_deref(), Ok("0"), "{name}");
    }
    let mut told = std::process::Command::new(std::env::current_exe().unwrap());
    told.args(["--exact", TEST]).env(NAME, "1500").env(EXPECTED, "1500");
    let told = told.output().unwrap();
    let output = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success() && output.contains("1 passed"), "{output}");
}

/// The collective waits behind a long row of products, for longer than it may take. The group is
/// given up while it does; c10d's own defaults would hold that up for a minute.
#[test]
fn a_collective_over_nccl_that_runs_out_of_time_is_told_and_given_up() {
    let devices = devices();
    let Some(&device) = devices.get(1) else {
        return;
    };
    let store = TcpStore::host("127.0.0.1", 0, LONG).unwrap();
    let (backend, short) = (Backend::Nccl { device: 0 }, Duration::from_secs(1));
    let group = ProcessGroup::new(backend, &store, "test", 0, 1, short).unwrap();
    group.barrier().unwrap().wait().unwrap();
    group.settle().unwrap();
    // Each product has to wait for the one before it; about 5 s on an H100.
    let ones = Tensor::f_ones([8192, 8192], (Kind::Float, device)).unwrap();
    let mut product = ones.f_zeros_like().unwrap();
    for _ in 0..250 {
        product = product.f_addmm(&ones, &ones).unwrap();
    }
    let mut sum = product.f_sum(Kind::Float).unwrap();
    let work = group.all_reduce_sum(&mut sum).unwrap();
    let failed = (0..200).find_map(|_| {
        thread::sleep(Duration::from_millis(50));
        group.check_health().err()
    });
    assert!(matches!(failed, Some(LibtorchError::Timeout { .. })), "{failed:?}");
    let (gone, wait_for_gone) = mpsc::channel();
    let dropping = thread::spawn(move || {
        drop((work, group));
        gone.send(()).unwrap();
    });
    wait_for_gone.recv_timeout(Duration::from_secs(40)).expect("c10d still waits");
    dropping.join().unwrap();
    crate::cuda_synchronize(0).unwrap();
}

#[test]
fn collectives_overlap_and_are_waited_for_in_any_order() {
    devices();
    check_world(2, LONG, |group| {
        let mut tensors: Vec<Tensor> =
            (0..8).map(|i| range(i, 50_000, (Kind::Float, Device::Cpu))).collect();
        let works: Vec<Work> =
            tensors.iter_mut().map(|tensor| group.all_reduce_sum(tensor).unwrap()).collect();
        for work in works.into_iter().rev() {
            work.wait().unwrap();
        }
        for (i, tensor) in tensors.iter().enumerate() {
            assert_eq!(values(tensor)[..2], [2.0 * i as f64, 2.0 * (i + 1) as f64]);
        }
    });
}

#[test]
fn a_group_is_closed_unless_it_was_aborted() {
    devices();
    check_world(2, LONG, |group| {
        group.barrier().unwrap().wait().unwrap();
        group.settle().unwrap();
        group.close().unwrap();
    });
    check_world(1, LONG, |group| {
        group.abort().unwrap();
        let error = group.close().unwrap_err();
        assert!(matches!(error, LibtorchError::Aborted { .. }), "{error}");
    });
}

#[test]
fn nccl_takes_tensors_of_its_device_only() {
    let check = |backend: Backend, expected: [bool; 3]| {
        let devices = [Device::Cpu, Device::Cuda(0), Device::Cuda(1)];
        assert_eq!(devices.map(|device| backend.takes(device)), expected, "{backend:?}");
    };
    check(Backend::Gloo, [true, true, true]);
    check(Backend::Nccl { device: 1 }, [false, false, true]);
}

#[test]
fn two_groups_on_one_store_do_not_mix() {
    devices();
    let host = TcpStore::host("127.0.0.1", 0, LONG).unwrap();
    thread::scope(|scope| {
        for rank in 0..2 {
            let host = &host;
            scope.spawn(move || {
                for generation in ["1", "2"] {
                    let group =
                        ProcessGroup::new(Backend::Gloo, host, generation, rank, 2, LONG).unwrap();
                    check_collectives(&group, (Kind::Float, Device::Cpu));
                }
            });
        }
    });
}

#[test]
fn abort_wakes_the_rank_that_waits_and_fails_the_other() {
    devices();
    let (aborted, wait_for_abort) = mpsc::channel();
    let wait_for_abort = std::sync::Mutex::new(wait_for_abort);
    check_world(2, LONG, |group| {
        let mut tensor = range(0, 4, (Kind::Float, Device::Cpu));
        if group.rank() == 1 {
            wait_for_abort.lock().unwrap().recv().unwrap();
            let error = group.all_reduce_sum(&mut tensor).and_then(Work::wait).unwrap_err();
            let lost = matches!(error, LibtorchError::ConnectionLost { .. });
            assert!(lost, "{error}");
            return;
        }
        let handle = group.abort_handle();
        let work = group.all_reduce_sum(&mut tensor).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                // Long enough for the wait below to have begun; either order must work.
                thread::sleep(Duration::from_millis(100));
                handle.abort().unwrap();
                handle.abort().unwrap();
                aborted.send(()).unwrap();
            });
            let error = work.wait().unwrap_err();
            assert!(matches!(error, LibtorchError::Aborted { .. }), "{error}");
        });
        let error = group.barrier().unwrap_err();
        assert!(matches!(error, LibtorchError::Aborted { .. }), "{error}");
        drop(group);
        handle.abort().unwrap();
    });
}

#[test]
fn a_rank_that_does_not_take_part_is_a_timeout() {
    devices();
    let (done, wait_for_done) = mpsc::channel();
    let wait_for_done = std::sync::Mutex::new(wait_for_done);
    check_world(2, Duration::from_secs(5), |group| {
        if group.rank() == 1 {
            wait_for_done.lock().unwrap().recv().unwrap();
            return;
        }
        let error = group.barrier().unwrap().wait().unwrap_err();
        done.send(()).unwrap();
        assert!(matches!(error, LibtorchError::Timeout { .. }), "{error}");
    });
}

#[test]
fn a_rank_that_does_not_come_is_a_timeout() {
    devices();
    let store = TcpStore::host("127.0.0.1", 0, LONG).unwrap();
    let short = Duration::from_millis(300);
    let error = ProcessGroup::new(Backend::Gloo, &store, "test", 0, 2, short).unwrap_err();
    assert!(matches!(error, LibtorchError::Timeout { .. }), "{error}");
}

#[test]
fn a_group_dropped_in_the_middle_neither_waits_nor_leaves_the_others_waiting() {
    devices();
    let (dropped, wait_for_drop) = mpsc::channel();
    let wait_for_drop = std::sync::Mutex::new(wait_for_drop);
    check_world(2, LONG, |group| {
        let mut tensor = range(0, 4, (Kind::Float, Device::Cpu));
        if group.rank() == 0 {
            drop(group.all_reduce_sum(&mut tensor).unwrap());
            drop(group);
            dropped.send(()).unwrap();
            return;
        }
        wait_for_drop.lock().unwrap().recv().unwrap();
        let error = group.all_reduce_sum(&mut tensor).and_then(Work::wait).unwrap_err();
        let lost = matches!(error, LibtorchError::ConnectionLost { .. });
        assert!(lost, "{error}");
    });
}

/// The refusal of a collective in a world of one that was given a wrong argument.
fn check_refused(call: impl Fn(&ProcessGroup) -> Result<Work> + Sync, expected: &str) {
    devices();
    check_world(1, LONG, |group| {
        let error = call(&group).unwrap_err();
        let refused = matches!(error, LibtorchError::InvalidArgument { .. });
        assert!(refused && error.to_string().contains(expected), "{error}");
    });
}

#[test]
fn a_transposed_tensor_is_refused() {
    let transposed = || {
        let tensor = range(0, 6, (Kind::Float, Device::Cpu));
        tensor.f_reshape([2, 3]).unwrap().f_tr().unwrap()
    };
    check_refused(
        |group| group.all_reduce_sum(&mut transposed()),
        "tensor: the tensor of shape [3, 2] is not contiguous",
    );
}

#[test]
fn an_undefined_tensor_is_refused() {
    check_refused(|group| group.broadcast(&mut Tensor::new(), 0), "tensor: the tensor has no data");
}

#[test]
fn parts_that_do_not_make_the_whole_are_refused() {
    let tensor = |count, kind| range(0, count, (kind, Device::Cpu));
    check_refused(
        |group| group.all_gather(&mut tensor(4, Kind::Float), &tensor(3, Kind::Float)),
        "output: it is Float [4] on Cpu, but has to be 1 times the input, which is Float [3]",
    );
    check_refused(
        |group| group.reduce_scatter_sum(&mut tensor(4, Kind::Float), &tensor(4, Kind::Double)),
        "input: it is Double [4] on Cpu",
    );
}

#[test]
fn a_root_outside_the_world_is_refused() {
    check_refused(
        |group| group.broadcast(&mut range(0, 1, (Kind::Float, Device::Cpu)), 1),
        "root: 1 is not below the world size 1",
    );
}

#[test]
fn a_rank_outside_the_world_is_refused() {
    let store = TcpStore::host("127.0.0.1", 0, LONG).unwrap();
    let error = ProcessGroup::new(Backend::Gloo, &store, "test", 2, 2, LONG).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ProcessGroup::new cannot take rank: 2 is not below the world size 2"
    );
}

#[test]
fn the_interface_has_to_be_one_of_this_machine() {
    let interface = |name: Option<&str>| gloo_interface(name.map(OsString::from));
    assert_eq!(interface(None).unwrap(), None);
    assert_eq!(interface(Some("")).unwrap(), None);
    assert_eq!(interface(Some("lo")).unwrap().as_deref(), Some(c"lo"));
    let error = interface(Some("none7")).unwrap_err().to_string();
    assert!(error.contains("GLOO_SOCKET_IFNAME: this machine has no network interface"));
}
