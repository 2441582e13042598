//! Questions to a finished digest.
//!
//! Value number `i` of `n`, from 0, is read off a line through knots: a point of weight `w` after `b`
//! values is level from `b` to `b + w - 1`, a cluster is one knot at its middle, `b + (w - 1) / 2`.
//! For points alone this is the exact, interpolated percentile of SQL's `percentile_cont`.

use super::TDigestError;
use super::centroid::Centroid;

/// A finished digest.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    compression: u16,
    count: u64,
    sum: f64,
    centroids: Vec<Centroid>,
}

/// A place on the line: a value number and the value there.
type Knot = (f64, f64);

impl Summary {
    pub(super) fn new(compression: u16, count: u64, sum: f64, centroids: Vec<Centroid>) -> Self {
        Self { compression, count, sum, centroids }
    }

    pub(super) fn centroids(&self) -> &[Centroid] {
        &self.centroids
    }

    /// The most centroids that the digest may hold.
    pub fn compression(&self) -> u16 {
        self.compression
    }

    /// The number of centroids held.
    pub fn num_centroids(&self) -> usize {
        self.centroids.len()
    }

    /// The number of values, exact.
    pub fn num_vals(&self) -> u64 {
        self.count
    }

    /// Says whether all answers are exact: no value was put into a cluster with an unequal one.
    pub fn is_exact(&self) -> bool {
        self.centroids.iter().all(|centroid| centroid.is_point())
    }

    /// The sum of the values in double precision, at most the largest finite double.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The smallest value, exact; none of an empty digest.
    pub fn min(&self) -> Option<f64> {
        self.centroids.first().map(|first| first.mean)
    }

    /// The largest value, exact; none of an empty digest.
    pub fn max(&self) -> Option<f64> {
        self.centroids.last().map(|last| last.mean)
    }

    /// The mean: the double-precision sum over the exact count; of the centroids if the sum overflowed.
    pub fn mean(&self) -> Option<f64> {
        let (min, max) = (self.min()?, self.max()?);
        let mean = if self.sum.abs() < f64::MAX {
            self.sum / self.count as f64
        } else {
            self.centroids.iter().map(|c| c.mean * (c.weight() as f64 / self.count as f64)).sum()
        };
        Some(mean.clamp(min, max))
    }

    /// The value at fraction `q` of the way from the first to the last; none of an empty digest.
    ///
    /// Never falls as `q` rises; lies between the minimum and the maximum. `q` outside 0 to 1 is an error.
    pub fn quantile(&self, q: f64) -> Result<Option<f64>, TDigestError> {
        check_fraction(q)?;
        let wanted = q * self.count.saturating_sub(1) as f64;
        let mut left: Option<Knot> = None;
        let mut before = 0_u64;
        for centroid in &self.centroids {
            let [first, last] = knots(*centroid, before);
            if wanted <= first.0 {
                return Ok(Some(left.map_or(first.1, |left| between(left, first, wanted))));
            }
            if wanted <= last.0 {
                return Ok(Some(last.1));
            }
            left = Some(last);
            before += centroid.weight();
        }
        Ok(self.max())
    }

    /// The values at several fractions, in the order of asking.
    pub fn quantiles(&self, qs: &[f64]) -> Result<Vec<Option<f64>>, TDigestError> {
        qs.iter().map(|&q| self.quantile(q)).collect()
    }

    /// The estimated fraction of values that are at most `value`; none of an empty digest.
    ///
    /// Exact for points; never falls as `value` rises. NaN is an error, infinities are not.
    pub fn rank(&self, value: f64) -> Result<Option<f64>, TDigestError> {
        if value.is_nan() {
            return Err(TDigestError::NotFinite(value));
        }
        let (Some(min), Some(max)) = (self.min(), self.max()) else { return Ok(None) };
        if value < min {
            return Ok(Some(0.0));
        }
        if value >= max {
            return Ok(Some(1.0));
        }
        let mut left = (0.0, min);
        let mut before = 0_u64;
        for centroid in &self.centroids {
            let [first, last] = knots(*centroid, before);
            if first.1 > value {
                // From here on the values are larger; the line says how many come before.
                let share = ratio(value, left.1, first.1);
                // A share so near to 1 that it is rounded to it reaches the next value no more than others do.
                let number = (left.0 + (first.0 - left.0) * share).floor().min(first.0.ceil() - 1.0);
                return Ok(Some(((number + 1.0) / self.count as f64).min(1.0)));
            }
            left = last;
            before += centroid.weight();
        }
        Ok(Some(1.0))
    }

    /// The mean of the values between fractions `low` and `high`; a centroid cut in two counts in part.
    ///
    /// None when nothing lies between. Fractions outside 0 to 1 or out of order are an error.
    pub fn trimmed_mean(&self, low: f64, high: f64) -> Result<Option<f64>, TDigestError> {
        check_fraction(low)?;
        check_fraction(high)?;
        if low > high {
            return Err(TDigestError::Fraction(low));
        }
        let (Some(min), Some(max)) = (self.min(), self.max()) else { return Ok(None) };
        let (from, to) = (low * self.count as f64, high * self.count as f64);
        let (mut mean, mut taken) = (0.0, 0.0);
        let mut before = 0.0;
        for centroid in &self.centroids {
            let after = before + centroid.weight() as f64;
            let part = after.min(to) - f64::max(before, from);
            if part > 0.0 {
                taken += part;
                // A running mean cannot overflow where a sum could.
                let share = part / taken;
                mean = mean * (1.0 - share) + centroid.mean * share;
            }
            before = after;
        }
        Ok((taken > 0.0).then(|| mean.clamp(min, max)))
    }
}

fn check_fraction(q: f64) -> Result<(), TDigestError> {
    if (0.0..=1.0).contains(&q) { Ok(()) } else { Err(TDigestError::Fraction(q)) }
}

/// The first and the last knot of a centroid that has `before` values in front of it.
fn knots(centroid: Centroid, before: u64) -> [Knot; 2] {
    let (start, span) = (before as f64, (centroid.weight() - 1) as f64);
    if centroid.is_point() {
        [(start, centroid.mean), (start + span, centroid.mean)]
    } else {
        [(start + span / 2.0, centroid.mean); 2]
    }
}

/// The value at a number between two knots.
fn between(left: Knot, right: Knot, number: f64) -> f64 {
    let gap = right.0 - left.0;
    let share = (number - left.0) / gap;
    if gap <= 0.0 || share >= 1.0 {
        return right.1;
    }
    let rise = right.1 - left.1;
    let value =
        if rise.is_finite() { left.1 + rise * share } else { left.1 * (1.0 - share) + right.1 * share };
    value.clamp(left.1, right.1)
}

/// How far a value is from `low` to `high`, 0 to 1.
fn ratio(value: f64, low: f64, high: f64) -> f64 {
    // Halves cannot overflow.
    let ratio = (value * 0.5 - low * 0.5) / (high * 0.5 - low * 0.5);
    if ratio.is_finite() { ratio.clamp(0.0, 1.0) } else { 0.0 }
}
