//! Whether two digests can be of the same values, added and merged in different orders.

use super::query::Summary;

/// How far, as a fraction of all values, a percentile of one may be from its place in the other.
const RANK_TOLERANCE: f64 = 0.03;
/// The percentiles that are compared.
const COMPARED: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];
/// How far sums may be apart, as a fraction of the largest that so many values could have: they are rounded in order of
/// arrival.
const SUM_TOLERANCE: f64 = 1e-9;

impl Summary {
    /// Whether both can be digests of the same values. Number, extremes and sum (but for rounding) must be equal; where both
    /// hold points alone all the values must; where not, percentiles must lie within 3 % of ranks of each other.
    pub fn agrees_with(&self, other: &Summary) -> bool {
        let same = self.num_vals() == other.num_vals()
            && self.min() == other.min()
            && self.max() == other.max()
            && self.sums_agree(other);
        if !same || self.num_vals() == 0 {
            return same;
        }
        if self.is_exact() && other.is_exact() {
            return self.centroids() == other.centroids();
        }
        COMPARED.iter().all(|&fraction| self.is_near(other, fraction) && other.is_near(self, fraction))
    }

    fn sums_agree(&self, other: &Summary) -> bool {
        let largest = self.min().unwrap_or(0.0).abs().max(self.max().unwrap_or(0.0).abs());
        // Of a sum that stopped at the largest double nothing is known.
        let overflowed = [self, other].iter().any(|digest| digest.sum().abs() == f64::MAX);
        overflowed || (self.sum() - other.sum()).abs() <= largest * self.num_vals() as f64 * SUM_TOLERANCE
    }

    /// Whether this digest's value at a fraction stands, among the other's values, about there. A value that many have takes
    /// up all the ranks from those below it to its own.
    fn is_near(&self, other: &Summary, fraction: f64) -> bool {
        let Ok(Some(value)) = self.quantile(fraction) else { return false };
        let (Ok(Some(below)), Ok(Some(upto))) = (other.rank(value.next_down()), other.rank(value)) else {
            return false;
        };
        below - RANK_TOLERANCE <= fraction && fraction <= upto + RANK_TOLERANCE
    }
}

#[cfg(test)]
mod tests {
    use super::super::TDigest;

    fn of(values: impl IntoIterator<Item = f64>) -> TDigest {
        let mut digest = TDigest::new(50).unwrap();
        values.into_iter().for_each(|value| digest.add(value).unwrap());
        digest
    }

    #[test]
    fn a_few_values_agree_with_themselves_alone() {
        let values = [1.5, 2.5, 2.5, 7.0, 7.25];
        let one = of(values).finish();
        assert!(one.agrees_with(&of(values.into_iter().rev()).finish()));
        for place in 0..values.len() {
            let mut others = values;
            others[place] += 1e-9;
            assert!(!one.agrees_with(&of(others).finish()), "{place}");
        }
        // The same extremes, number and sum.
        assert!(!one.agrees_with(&of([1.5, 2.25, 2.75, 7.0, 7.25]).finish()));
        assert!(!one.agrees_with(&of([]).finish()) && of([]).finish().agrees_with(&of([]).finish()));
    }

    #[test]
    fn many_values_agree_in_any_order_and_parts_and_not_with_others() {
        let values: Vec<f64> = (0..20_000).map(|n| f64::from(n * 7919 % 20_011)).collect();
        let whole = of(values.iter().copied()).finish();
        let mut parts = of([]);
        for part in values.chunks(300) {
            parts.merge(&of(part.iter().copied()).finish().to_bytes()).unwrap();
        }
        assert!(whole.agrees_with(&parts.finish()) && parts.finish().agrees_with(&whole));
        // Two values change places with their sum; a twentieth of the values move by as much as others, the other way.
        let moved = values.iter().map(|&v| {
            if v < 2_000.0 {
                v
            } else if v < 10_000.0 {
                v - 1_000.0
            } else {
                v
            }
        });
        let other = of(moved).finish();
        assert!(!whole.agrees_with(&other));
    }

    #[test]
    fn a_value_that_many_have_is_no_difference() {
        let heavy = |n: i32| if n % 3 == 0 { 40.0 } else { f64::from(n * 31 % 997) / 10.0 };
        let whole = of((0..9_000).map(heavy)).finish();
        let mut parts = of([]);
        for start in (0..9_000).step_by(90) {
            parts.merge(&of((start..start + 90).map(heavy)).finish().to_bytes()).unwrap();
        }
        assert!(whole.agrees_with(&parts.finish()));
    }
}
