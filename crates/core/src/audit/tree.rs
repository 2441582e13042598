//! The Merkle tree of RFC 6962, section 2.1 (RFC 9162 has the same one): roots, proofs that a leaf is in a tree, and proofs that
//! one tree goes on from another.

use super::Hash;
use sha2::{Digest, Sha256};

/// Hash of a leaf's data.
pub fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

/// Hash of two nodes' parent.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Number of leaves in the left sub-tree of a tree of `size` leaves: the largest power of two below it.
fn split(size: usize) -> usize {
    1 << (usize::BITS - 1 - (size - 1).leading_zeros())
}

/// Root of the tree over leaves that are hashed already.
pub fn root(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier.root()
}

/// The roots of the full sub-trees that a tree consists of, from the largest to the smallest: all that is needed to add leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        // As many full sub-trees of equal size are joined as the size ends in ones.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.nodes.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.nodes.push(node);
        self.size += 1;
    }

    /// Root of the tree; that of an empty one is the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        match nodes.next() {
            None => Sha256::digest([]).into(),
            Some(last) => nodes.fold(*last, |right, left| node_hash(left, &right)),
        }
    }

    /// The size and the nodes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.size.to_be_bytes().to_vec();
        bytes.extend(self.nodes.iter().flatten());
        bytes
    }

    /// What such bytes stand for.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (size, nodes) = bytes.split_first_chunk::<8>()?;
        let size = u64::from_be_bytes(*size);
        let (nodes, rest) = nodes.as_chunks::<32>();
        (rest.is_empty() && nodes.len() as u32 == size.count_ones())
            .then(|| Self { size, nodes: nodes.to_vec() })
    }
}

/// The nodes that lead from a leaf to the root. `None` where there is no such leaf.
pub fn inclusion_proof(leaves: &[Hash], place: usize) -> Option<Vec<Hash>> {
    if place >= leaves.len() {
        return None;
    }
    let (mut part, mut place, mut proof) = (leaves, place, Vec::new());
    while part.len() > 1 {
        let (left, right) = part.split_at(split(part.len()));
        if place < left.len() {
            proof.push(root(right));
            part = left;
        } else {
            proof.push(root(left));
            place -= left.len();
            part = right;
        }
    }
    proof.reverse();
    Some(proof)
}

/// Whether a proof leads from a leaf at a place to the root of a tree of so many leaves.
pub fn verify_inclusion(leaf: &Hash, place: u64, size: u64, proof: &[Hash], expected: &Hash) -> bool {
    if place >= size {
        return false;
    }
    // RFC 9162, section 2.1.3.2.
    let (mut node, mut last, mut hash) = (place, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            if node & 1 == 0 {
                while node & 1 == 0 && node != 0 {
                    node >>= 1;
                    last >>= 1;
                }
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *expected
}

/// The nodes that show that the tree over all leaves goes on from the one over the first `size`. `None` where that has no leaves,
/// or more than there are.
pub fn consistency_proof(leaves: &[Hash], size: usize) -> Option<Vec<Hash>> {
    fn subproof(size: usize, leaves: &[Hash], is_whole: bool, proof: &mut Vec<Hash>) {
        if size == leaves.len() {
            if !is_whole {
                proof.push(root(leaves));
            }
            return;
        }
        let (left, right) = leaves.split_at(split(leaves.len()));
        if size <= left.len() {
            subproof(size, left, is_whole, proof);
            proof.push(root(right));
        } else {
            subproof(size - left.len(), right, false, proof);
            proof.push(root(left));
        }
    }
    let mut proof = Vec::new();
    (size > 0 && size <= leaves.len()).then(|| {
        subproof(size, leaves, true, &mut proof);
        proof
    })
}

/// Whether a proof shows that a tree of `new_size` leaves goes on from one of `old_size`.
pub fn verify_consistency(old_size: u64, old: &Hash, new_size: u64, new: &Hash, proof: &[Hash]) -> bool {
    if old_size == 0 || old_size > new_size {
        return false;
    }
    if old_size == new_size {
        return proof.is_empty() && old == new;
    }
    // RFC 9162, section 2.1.4.2.
    let mut nodes = proof.iter();
    let first = if old_size.is_power_of_two() { Some(old) } else { nodes.next() };
    let Some(first) = first else { return false };
    let (mut node, mut last) = (old_size - 1, new_size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in nodes {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old && new_hash == *new
}
