use std::convert::Infallible;

use prospect_core::{Rank, parts_of_rank};
use prospect_shape::num_subtrees;

use super::Tree;

fn join(left: &mut String, right: String) -> Result<(), Infallible> {
    *left = format!("({left}{right})");
    Ok(())
}

/// The order of additions over `num_parts` parts, formed by the ranks of a world and put together.
fn check(num_parts: u32, world_size: u32) -> String {
    let mut all = Tree::new(num_parts);
    for rank in 0..world_size {
        let range = parts_of_rank(Rank(rank), world_size, num_parts);
        let mut own = Tree::new(num_parts);
        for part in range.clone() {
            let Ok(()) = own.push(part, format!("{part:x}"), join);
        }
        let values = own.into_values();
        assert_eq!(values.len(), num_subtrees(num_parts, range.clone()));
        assert!(values.len() <= 2 * 8, "{num_parts} parts, {world_size} ranks: {values:?}");
        let Ok(()) = all.push_subtrees(range, values, join);
    }
    let mut values = all.into_values();
    assert_eq!(values.len(), 1, "{num_parts} parts, {world_size} ranks: {values:?}");
    values.remove(0)
}

#[test]
fn the_order_of_additions_is_a_balanced_tree() {
    assert_eq!(check(1, 1), "0");
    assert_eq!(check(5, 1), "(((01)(23))4)");
    assert_eq!(check(6, 1), "(((01)(23))(45))");
    assert_eq!(check(8, 1), "(((01)(23))((45)(67)))");
}

#[test]
fn the_order_does_not_depend_on_who_has_which_part() {
    for num_parts in 1..=16 {
        let expected = check(num_parts, 1);
        for world_size in 2..=num_parts {
            assert_eq!(check(num_parts, world_size), expected);
        }
    }
}
