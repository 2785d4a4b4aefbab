//! Finds the texts of a list that are prefixes of a text.
//!
//! The list is a trie in two arrays. The nodes are numbered level by level, so the children of a node are neighbours.
//! The arrays have nine bytes for each byte of the texts at most. A tree of hash maps takes hundreds.

use std::collections::VecDeque;

/// A list of texts.
pub(super) struct Prefixes {
    nodes: Vec<Node>,
    /// Node → the byte that leads to it.
    labels: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Node {
    /// The first child. The children end at the first child of the next node.
    first: u32,
    /// Index of the text that ends here, or [`NONE`].
    end: u32,
}

/// Marks a node where no text ends.
const NONE: u32 = u32::MAX;

impl Prefixes {
    /// Makes the list. `texts` are sorted, and none is empty or occurs twice.
    pub fn new(texts: &[String]) -> Self {
        let (mut nodes, mut labels) = (Vec::new(), vec![0]);
        // The texts below each node, as a range, and the depth of the node in bytes.
        let mut open = VecDeque::from([(0..texts.len(), 0)]);
        while let Some((mut range, depth)) = open.pop_front() {
            let ends_here = texts.get(range.start).is_some_and(|text| text.len() == depth) && depth > 0;
            let end = if ends_here { range.start as u32 } else { NONE };
            nodes.push(Node { first: labels.len() as u32, end });
            range.start += usize::from(ends_here);
            while range.start < range.end {
                let byte = texts[range.start].as_bytes()[depth];
                let below = &texts[range.clone()];
                let count = below.partition_point(|text| text.as_bytes()[depth] == byte);
                labels.push(byte);
                open.push_back((range.start..range.start + count, depth + 1));
                range.start += count;
            }
        }
        nodes.push(Node { first: labels.len() as u32, end: NONE });
        Self { nodes, labels }
    }

    /// The child of a node for a byte.
    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let (start, end) = (self.nodes[node].first as usize, self.nodes[node + 1].first as usize);
        let labels = &self.labels[start..end];
        let at = match labels.len() {
            0..=8 => labels.iter().position(|label| *label == byte)?,
            _ => labels.binary_search(&byte).ok()?,
        };
        Some(start + at)
    }

    /// Calls `found` with the length in bytes and the index of every text that is a prefix of `text`, the shortest text
    /// first.
    pub fn find(&self, text: &[u8], mut found: impl FnMut(usize, usize)) {
        let mut node = 0;
        for (length, byte) in (1..).zip(text) {
            let Some(child) = self.child(node, *byte) else { return };
            node = child;
            let end = self.nodes[node].end;
            if end != NONE {
                found(length, end as usize);
            }
        }
    }

    /// Length in bytes of the longest prefix of `text` that is also a prefix of a text in the list.
    pub fn common(&self, text: &[u8]) -> usize {
        let mut node = 0;
        let more = |byte: &&u8| self.child(node, **byte).inspect(|child| node = *child).is_some();
        text.iter().take_while(more).count()
    }
}
