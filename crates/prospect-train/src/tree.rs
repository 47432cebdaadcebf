//! Adds up numbered parts in one fixed order, whoever has which: a binary tree over the parts'
//! numbers. Neighbours are added in pairs, then pairs of neighbouring sums, and so on; a sum
//! without a right neighbour goes up as it is. Sums of whole subtrees can be formed where their
//! parts are, so that only subtrees travel.

#[cfg(test)]
mod tests;

use std::ops::Range;

/// Sums that wait for their neighbours. Parts come in ascending order.
pub(crate) struct Tree<T> {
    num_parts: u64,
    nodes: Vec<Node<T>>,
}

/// The sum over the parts `idx · 2^level` to `(idx + 1) · 2^level`, as far as there are any.
struct Node<T> {
    level: u32,
    idx: u64,
    value: T,
}

// === impl Tree ===

impl<T> Tree<T> {
    /// A tree over so many parts; nothing added yet.
    pub(crate) fn new(num_parts: u32) -> Self {
        Self { num_parts: u64::from(num_parts), nodes: Vec::new() }
    }

    /// Adds a part and forms all sums that it completes: `add` adds its second argument to its
    /// first.
    pub(crate) fn push<E>(
        &mut self,
        part: u32,
        value: T,
        add: impl FnMut(&mut T, T) -> Result<(), E>,
    ) -> Result<(), E> {
        self.push_node(Node { level: 0, idx: u64::from(part), value }, add)
    }

    /// The sums that wait, in the order of their parts.
    pub(crate) fn into_values(self) -> Vec<T> {
        self.nodes.into_iter().map(|node| node.value).collect()
    }

    /// Adds sums of subtrees that were formed elsewhere: `values` are those of
    /// [`into_values`](Self::into_values) after pushing the parts `range`.
    pub(crate) fn push_subtrees<E>(
        &mut self,
        range: Range<u32>,
        values: impl IntoIterator<Item = T>,
        mut add: impl FnMut(&mut T, T) -> Result<(), E>,
    ) -> Result<(), E> {
        // The range names them; nothing of them is added here.
        let shape = Tree::shape(self.num_parts as u32, range);
        for (Node { level, idx, .. }, value) in shape.nodes.into_iter().zip(values) {
            self.push_node(Node { level, idx, value }, &mut add)?;
        }
        Ok(())
    }

    fn push_node<E>(
        &mut self,
        mut node: Node<T>,
        mut add: impl FnMut(&mut T, T) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let is_root = node.idx == 0 && (1 << node.level) >= self.num_parts;
            let has_right = (node.idx + 1) << node.level < self.num_parts;
            if is_root || (node.idx.is_multiple_of(2) && has_right) {
                break;
            }
            if !node.idx.is_multiple_of(2) {
                let is_left =
                    |other: &mut Node<T>| (other.level, other.idx + 1) == (node.level, node.idx);
                let Some(mut left) = self.nodes.pop_if(is_left) else { break };
                add(&mut left.value, node.value)?;
                node.value = left.value;
            }
            (node.level, node.idx) = (node.level + 1, node.idx / 2);
        }
        self.nodes.push(node);
        Ok(())
    }
}

impl Tree<()> {
    /// Which sums wait after pushing the parts of a range.
    fn shape(num_parts: u32, range: Range<u32>) -> Self {
        let mut tree = Self::new(num_parts);
        for part in range {
            let Ok(()) = tree.push(part, (), |(), ()| Ok::<_, std::convert::Infallible>(()));
        }
        tree
    }
}
