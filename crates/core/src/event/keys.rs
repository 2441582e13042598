//! Ids of events that come in a stream and have none of their own: made from each one's place there, however a batch is cut.

use super::event_id_from_key;

/// What the ids of a batch's events are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// What each key begins with. With a secret in it, nobody can tell the ids in advance.
    pub prefix: String,
    pub places: Places,
}

/// Where in their stream the events of a batch are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// All of them are one thing of the stream.
    One(i64),
    /// Each is one, from this position on.
    From(i64),
    /// The position of each event, in order.
    Listed(Vec<i64>),
}

impl Keys {
    /// The id of an event, by its place in the batch.
    pub fn id(&self, nth: usize) -> Option<[u8; 16]> {
        let (position, place) = match &self.places {
            Places::One(position) => (*position, nth),
            Places::From(first) => (first.checked_add(i64::try_from(nth).ok()?)?, 0),
            Places::Listed(positions) => {
                let position = *positions.get(nth)?;
                (position, nth - positions.partition_point(|other| *other < position))
            }
        };
        Some(event_id_from_key(&format!("{}{position}\n{place}", self.prefix)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_id_however_batches_are_cut() {
        let keys = |places| Keys { prefix: "stream\nk\nname\n".into(), places };
        let ids_of = |keys: &Keys, count| (0..count).map(|nth| keys.id(nth)).collect::<Vec<_>>();
        let whole = ids_of(&keys(Places::From(7)), 3);
        let pieces: Vec<_> = (7..10).flat_map(|at| ids_of(&keys(Places::One(at)), 1)).collect();
        assert_eq!(whole, pieces);
        assert_eq!(whole, ids_of(&keys(Places::Listed(vec![7, 8, 9])), 3));
        let several = ids_of(&keys(Places::Listed(vec![7, 7, 9])), 3);
        assert_eq!(several[..2], ids_of(&keys(Places::One(7)), 2)[..]);
        assert_eq!(several[2], whole[2]);
        assert_eq!(keys(Places::Listed(vec![7])).id(1), None);
        assert_eq!(keys(Places::From(i64::MAX)).id(1), None);
        let other = Keys { prefix: "stream\nl\nname\n".into(), places: Places::From(7) };
        assert_ne!(other.id(0), whole[0]);
    }
}
