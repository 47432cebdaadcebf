//! F7, F8: the network is cut, wholly or in part.

use std::time::Duration;

use prospect_core::ExitCode;

use crate::chaos::Chaos;
use crate::journal;
use crate::network::{Network, in_namespaces};

/// Soon enough.
const BACK: Duration = Duration::from_secs(15);

/// A worker is cut off for less than the heartbeat's timeout.
fn check_short(time: Duration, test: &str) {
    in_namespaces(test, || {
        let mut run = Chaos::new().network(Network::build()).start();
        run.wait_for_step(5);
        run.note("cut a worker off for a moment");
        run.host(1).cut();
        run.wait(time);
        run.host(1).heal();
        run.finish().expect_equal().expect_undisturbed();
    });
}

/// A worker is cut off for longer; another one takes its place, and when the network is whole
/// again the old one goes away without a trace.
fn check_long(time: Duration, test: &str) {
    in_namespaces(test, || {
        // The run must not end before the network is whole again.
        let pace = 20 + time.as_millis() as u64 / 60;
        let mut run = Chaos::new().steps(100).pace(pace).network(Network::build()).start();
        run.wait_for_step(5);
        run.note("cut a worker off");
        let host = run.host(1).clone();
        host.cut();
        let before = journal::generation(&run.run_dir);
        run.wait_until("the end of its generation", |run| {
            let given_up = journal::records(&run.run_dir, "regroup");
            given_up.iter().any(|line| line.number("generation") > before)
        });
        let old = run.replace_worker(1);
        run.wait(time);
        run.wait_for_steps(2);
        let formed = journal::generation(&run.run_dir);
        host.heal();
        let (code, words) = old.wait();
        assert_eq!(code, Some(i32::from(ExitCode::PeerLost.code())), "{words}");
        assert_eq!(journal::generation(&run.run_dir), formed, "the old one disturbed the run");
        let ended = run.finish().expect_equal().expect_back_within(BACK);
        // The coordinator notices by heartbeats, before a collective's own timeout.
        let noticed = ended.times()[0].detect.expect("a generation ended");
        assert!(noticed < Duration::from_secs(5), "noticed after {noticed:?}");
    });
}

#[test]
fn f7_cut_off_for_a_moment() {
    check_short(Duration::from_millis(500), "partition::f7_cut_off_for_a_moment");
}

#[test]
fn f7_cut_off_for_long() {
    check_long(Duration::from_secs(1), "partition::f7_cut_off_for_long");
}

#[test]
#[ignore = "it takes long; scripts/chaos runs it"]
fn f7_cut_off_for_thirty_seconds() {
    check_long(Duration::from_secs(30), "partition::f7_cut_off_for_thirty_seconds");
}

#[test]
fn f8_peers_do_not_hear_each_other_but_the_coordinator_hears_all() {
    let test = "partition::f8_peers_do_not_hear_each_other_but_the_coordinator_hears_all";
    in_namespaces(test, || {
        let chaos = Chaos::new().set("coordinator.max_failures_without_progress=10");
        let mut run = chaos.network(Network::build()).start();
        run.wait_for_step(5);
        run.note("cut a worker off from its peers");
        let hosts: Vec<_> = (0..3).map(|slot| run.host(slot).clone()).collect();
        hosts[1].cut_from(&hosts[0]);
        hosts[1].cut_from(&hosts[2]);
        run.wait_for_records("regroup", 1);
        hosts[1].heal_from(&hosts[0]);
        hosts[1].heal_from(&hosts[2]);
        // Step timeout and ten seconds.
        run.finish().expect_equal().expect_back_within(Duration::from_secs(30));
    });
}

#[test]
fn f8_a_worker_hears_its_peers_but_not_the_coordinator() {
    let test = "partition::f8_a_worker_hears_its_peers_but_not_the_coordinator";
    in_namespaces(test, || {
        let mut run = Chaos::new().steps(60).network(Network::build()).start();
        run.wait_for_step(5);
        run.note("cut a worker off from the coordinator");
        let host = run.host(1).clone();
        host.cut_from_coordinator();
        run.wait_for_records("regroup", 1);
        let old = run.replace_worker(1);
        run.wait_for_steps(2);
        host.heal_from_coordinator();
        let (code, words) = old.wait();
        assert_eq!(code, Some(i32::from(ExitCode::PeerLost.code())), "{words}");
        run.finish().expect_equal().expect_back_within(BACK);
    });
}
