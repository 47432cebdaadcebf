//! Paces in whole seconds.

use super::*;

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn pace(total_steps: u64, eval_every: u64) -> Pace {
    let num_eval_shards = u32::from(eval_every > 0);
    let eval_every = Some(eval_every);
    Pace::new(&MachineOptions { total_steps, eval_every, num_eval_shards, ..Default::default() })
}

#[track_caller]
fn check(pace: &Pace, now: u64, step: u64, expected: Option<u64>) {
    assert_eq!(pace.eta(seconds(now), Step(step), false), expected.map(seconds));
}

#[test]
fn the_rest_takes_as_long_a_step_as_the_last_steps_did() {
    let mut pace = pace(200, 0);
    check(&pace, 100, 0, None);
    pace.begin(seconds(100));
    check(&pace, 100, 0, None);
    pace.step(seconds(103));
    pace.step(seconds(104));
    check(&pace, 104, 190, Some(20));
    for second in 1..=100 {
        pace.step(seconds(104 + second));
    }
    check(&pace, 204, 190, Some(10));
    check(&pace, 204, 200, Some(0));
}

#[test]
fn it_counts_down_between_commits_but_not_below_the_steps_that_follow() {
    let mut pace = pace(10, 0);
    pace.begin(seconds(0));
    pace.step(seconds(10));
    check(&pace, 10, 1, Some(90));
    check(&pace, 14, 1, Some(86));
    check(&pace, 20, 1, Some(80));
    check(&pace, 500, 1, Some(80));
}

#[test]
fn an_evaluation_keeps_the_pace_and_counts_with_its_own() {
    let mut pace = pace(6, 2);
    pace.begin(seconds(0));
    pace.step(seconds(10));
    pace.step(seconds(20));
    // Nothing is known of evaluations yet.
    assert_eq!(pace.eta(seconds(20), Step(2), true), Some(seconds(40)));
    pace.evaluation(seconds(120));
    // As the machine does when training goes on.
    pace.begin(seconds(120));
    // Four steps of 10 s and the evaluations after steps 4 and 6.
    check(&pace, 120, 2, Some(240));
    check(&pace, 125, 2, Some(235));
    pace.step(seconds(130));
    pace.step(seconds(140));
    assert_eq!(pace.eta(seconds(170), Step(4), true), Some(seconds(190)));
    assert_eq!(pace.eta(seconds(400), Step(6), true), Some(seconds(0)));
}

#[test]
fn evaluations_are_counted_as_the_machine_does_them() {
    for (total_steps, eval_every, num_eval_shards) in
        [(6, Some(2), 1), (7, Some(2), 3), (7, Some(9), 1), (7, None, 1), (7, Some(2), 0)]
    {
        let options =
            MachineOptions { total_steps, eval_every, num_eval_shards, ..Default::default() };
        let course = Pace::new(&options).course;
        for step in 0..=total_steps {
            let due = (step + 1..=total_steps).filter(|&later| options.evaluate_after(Step(later)));
            assert_eq!(course.evaluations_after(Step(step)), due.count() as u64, "{options:?}");
        }
    }
}
