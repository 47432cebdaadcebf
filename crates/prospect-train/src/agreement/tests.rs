use super::{Agreement, UNKNOWN};
use crate::align::Passes;

#[track_caller]
fn check(words: &[[f64; 5]], grad_norm: f64, saves: bool, next: Option<[usize; 3]>) {
    let next = next.map(Passes::from_counts);
    assert_eq!(Agreement::of(&words.concat()), Agreement { grad_norm, saves, next });
}

#[test]
fn all_have_to_know_their_passes_and_one_is_enough_to_save() {
    let unknown = [UNKNOWN; 3];
    let word = |square: f64, saves: f64, [a, b, c]: [f64; 3]| [square, saves, a, b, c];
    check(&[word(4.0, 0.0, unknown)], 2.0, false, None);
    let (few, many) = ([0.0, 3.0, 1.0], [2.0, 1.0, 0.0]);
    check(&[word(9.0, 0.0, few), word(16.0, 0.0, many)], 5.0, false, Some([2, 3, 1]));
    check(&[word(9.0, 0.0, few), word(16.0, 1.0, unknown)], 5.0, true, None);
    check(&[word(9.0, 1.0, [0.0; 3])], 3.0, true, Some([0; 3]));
}

#[test]
fn a_square_that_is_not_finite_makes_the_norm_so() {
    for square in [f64::NAN, f64::INFINITY] {
        let words = [[1.0, 0.0, 0.0, 0.0, 0.0], [square, 0.0, 0.0, 0.0, 0.0]].concat();
        assert!(!Agreement::of(&words).grad_norm.is_finite());
    }
}
