//! Summing tensors over two Gloo ranks, two threads of one process that meet on loopback.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use divan::Bencher;
use divan::counter::BytesCount;
use prospect_libtorch::{Backend, ProcessGroup, Result, TcpStore, set_threads};
use tch::{Device, Kind, Tensor};

const TIMEOUT: Duration = Duration::from_secs(60);

fn main() {
    set_threads(1);
    divan::main();
}

/// From the call until the sum is there, on rank 0. Bytes are those of one rank's tensor.
#[divan::bench(args = [1, 16, 64], sample_size = 1, sample_count = 50, max_time = 3)]
fn all_reduce_f32(bencher: Bencher<'_, '_>, mebibytes: i64) {
    let store = TcpStore::host("127.0.0.1", 0, TIMEOUT).expect("the machine has a free port");
    let (begin, begun) = mpsc::channel();
    thread::scope(|scope| {
        let port = store.port();
        scope.spawn(move || {
            let (group, mut tensor) = join(port, 1, mebibytes).expect("rank 1 joins");
            while begun.recv().is_ok() {
                sum(&group, &mut tensor).expect("rank 1 sums");
            }
        });
        let (group, mut tensor) = join(port, 0, mebibytes).expect("rank 0 joins");
        bencher.counter(BytesCount::new((mebibytes as usize) << 20)).bench_local(|| {
            begin.send(()).expect("rank 1 waits for this");
            sum(&group, &mut tensor).expect("rank 0 sums");
        });
        drop(begin);
    });
}

/// Becomes one of two ranks, with zeros to add: they stay finite however often they are summed.
fn join(port: u16, rank: usize, mebibytes: i64) -> Result<(ProcessGroup, Tensor)> {
    let store = TcpStore::connect("127.0.0.1", port, TIMEOUT)?;
    let group = ProcessGroup::new(Backend::Gloo, &store, "bench", rank, 2, TIMEOUT)?;
    let tensor = Tensor::f_zeros([mebibytes << 18], (Kind::Float, Device::Cpu))?;
    Ok((group, tensor))
}

fn sum(group: &ProcessGroup, tensor: &mut Tensor) -> Result<()> {
    group.all_reduce_sum(tensor)?.wait()
}
