/// A mean and how many values it stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Centroid {
    pub(super) mean: f64,
    /// Twice the weight, plus 1 for a point: all its values equal the mean.
    tagged: u64,
}

impl Centroid {
    #[inline]
    pub(super) fn point(mean: f64, weight: u64) -> Self {
        Self { mean, tagged: weight << 1 | 1 }
    }

    #[inline]
    pub(super) fn cluster(mean: f64, weight: u64) -> Self {
        Self { mean, tagged: weight << 1 }
    }

    #[inline]
    pub(super) fn from_tagged(mean: f64, tagged: u64) -> Self {
        Self { mean, tagged }
    }

    #[inline]
    pub(super) fn tagged(self) -> u64 {
        self.tagged
    }

    #[inline]
    pub(super) fn weight(self) -> u64 {
        self.tagged >> 1
    }

    /// The weight as a double; below 2^63, so that one signed conversion does.
    #[inline]
    pub(super) fn mass(self) -> f64 {
        self.weight() as i64 as f64
    }

    #[inline]
    pub(super) fn is_point(self) -> bool {
        self.tagged & 1 == 1
    }
}

/// A centroid as one integer: by mean, then clusters before points, then light before heavy.
///
/// A total order, so that the order of merging does not matter; and integers sort several times
/// faster than pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sortable(u128);

impl From<Centroid> for Sortable {
    #[inline]
    fn from(centroid: Centroid) -> Self {
        let key = key(centroid.mean) as u64 ^ 1 << 63;
        Self(u128::from(key) << 64 | u128::from(centroid.tagged.rotate_right(1)))
    }
}

impl From<Sortable> for Centroid {
    #[inline]
    fn from(sortable: Sortable) -> Self {
        let key = ((sortable.0 >> 64) as u64 ^ 1 << 63) as i64;
        Self { mean: value_of(key), tagged: (sortable.0 as u64).rotate_left(1) }
    }
}

/// An integer that orders like the finite double it is made from.
#[inline]
pub(super) fn key(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

/// The double of which [`key`] made this integer.
#[inline]
pub(super) fn value_of(key: i64) -> f64 {
    f64::from_bits((key ^ ((key >> 63) as u64 >> 1) as i64) as u64)
}
