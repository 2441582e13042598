//! Percentiles: every value while few are distinct, a t-digest when many are.
//!
//! A digest is an ascending list of at most `compression` centroids. A *point* stands for equal
//! values and is exact; a *cluster* stands for the mean of unequal ones. Values enter as points, and
//! clusters form only when more than `compression` would be needed: so a digest of up to that many
//! distinct values answers exactly, however many values there are. Weights are integers and never
//! lost. The first and the last centroid are always points: the exact minimum and maximum.

mod centroid;
mod cluster;
mod compare;
mod error;
mod query;
mod runs;
mod stored;

pub use error::TDigestError;
pub use query::Summary;
pub use stored::{MAX_STORED_BYTES, compression, renew};

use centroid::Centroid;
use runs::Runs;

/// The smallest accepted compression.
pub const MIN_COMPRESSION: u16 = 10;
/// The largest accepted compression.
pub const MAX_COMPRESSION: u16 = 1000;
/// The compression that SQL uses unless told otherwise.
pub const DEFAULT_COMPRESSION: u16 = 100;

/// The most values that a digest counts: 2^63 - 1.
pub const MAX_COUNT: u64 = u64::MAX >> 1;

/// Centroids that an accumulator works with, in multiples of the compression: clustering over and over
/// blurs, and it blurs less the finer the clusters are. Only the finished digest goes down to one.
const WORKING: usize = 3;
/// Values held back, in multiples of the compression, before they are sorted in.
const VALUES_HELD: usize = 16;
/// Centroids of merged digests held back, in multiples of the compression.
const CENTROIDS_HELD: usize = 16;

/// An accumulator of values for percentiles.
///
/// Starts without an allocation. Values and merged digests are held back and sorted in many at once;
/// the result is the same whenever the input comes in the same order.
#[derive(Clone, Debug)]
pub struct TDigest {
    compression: u16,
    count: u64,
    sum: f64,
    /// Values not yet sorted in, as keys of [`centroid::key`].
    values: Vec<i64>,
    /// Centroids of merged digests, not yet sorted in.
    runs: Runs,
    settled: Vec<Centroid>,
}

impl TDigest {
    /// Makes an empty digest; a compression outside [`MIN_COMPRESSION`]..=[`MAX_COMPRESSION`] is an error.
    pub fn new(compression: u16) -> Result<Self, TDigestError> {
        if !(MIN_COMPRESSION..=MAX_COMPRESSION).contains(&compression) {
            return Err(TDigestError::Compression(compression));
        }
        Ok(Self {
            compression,
            count: 0,
            sum: 0.0,
            values: Vec::new(),
            runs: Runs::default(),
            settled: Vec::new(),
        })
    }

    /// The most centroids that the finished digest holds.
    pub fn compression(&self) -> u16 {
        self.compression
    }

    /// The number of values added, exact.
    pub fn num_vals(&self) -> u64 {
        self.count
    }

    /// Bytes held, allocations included.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.values.capacity() * size_of::<i64>()
            + self.runs.heap_bytes()
            + self.settled.capacity() * size_of::<Centroid>()
    }

    /// Adds a value. NaN and infinities are refused; -0 counts as 0.
    #[inline]
    pub fn add(&mut self, value: f64) -> Result<(), TDigestError> {
        if self.add_in_place(value) {
            return Ok(());
        }
        if !value.is_finite() {
            return Err(TDigestError::NotFinite(value));
        }
        if self.count == MAX_COUNT {
            return Err(TDigestError::Count);
        }
        self.make_room();
        self.add_in_place(value);
        Ok(())
    }

    /// Adds a value where that needs no allocation and can't fail; says whether it did.
    #[inline]
    pub fn add_in_place(&mut self, value: f64) -> bool {
        let room = self.values.len() < self.values.capacity();
        if !room || !value.is_finite() || self.count == MAX_COUNT {
            return false;
        }
        let value = value + 0.0;
        self.count += 1;
        self.sum = add_sums(self.sum, value);
        self.values.push(centroid::key(value));
        true
    }

    /// Adds all that a stored digest holds. Every byte is distrusted; on an error nothing is added.
    pub fn merge(&mut self, stored: &[u8]) -> Result<(), TDigestError> {
        let values = self.values.len();
        let header = stored::decode(stored, Some(self.compression), self);
        let total = header.and_then(|header| Ok((self.total_with(header.count)?, header.sum)));
        match total {
            Ok((count, sum)) => {
                self.runs.end_run();
                self.count = count;
                self.sum = add_sums(self.sum, sum);
                self.settle_if_full();
                Ok(())
            }
            Err(error) => {
                self.values.truncate(values);
                self.runs.drop_run();
                Err(error)
            }
        }
    }

    /// Adds all that another accumulator holds; another compression is an error.
    pub fn merge_state(&mut self, other: &TDigest) -> Result<(), TDigestError> {
        self.merge_summary(&other.finish())
    }

    /// Adds all that a finished digest holds; another compression is an error.
    pub fn merge_summary(&mut self, other: &Summary) -> Result<(), TDigestError> {
        if self.compression != other.compression() {
            let (ours, theirs) = (self.compression, other.compression());
            return Err(TDigestError::CompressionMismatch { ours, theirs });
        }
        self.count = self.total_with(other.num_vals())?;
        self.sum = add_sums(self.sum, other.sum());
        other.centroids().iter().for_each(|&centroid| self.runs.push(centroid.into()));
        self.runs.end_run();
        self.settle_if_full();
        Ok(())
    }

    /// The finished digest, ready for questions and for storing. The accumulator stays as it is.
    pub fn finish(&self) -> Summary {
        self.clone().into_summary()
    }

    /// The finished digest, without a copy.
    pub fn into_summary(mut self) -> Summary {
        let mut centroids = self.sort_all();
        cluster::cluster(&mut centroids, self.count, usize::from(self.compression));
        Summary::new(self.compression, self.count, self.sum, centroids)
    }

    fn total_with(&self, more: u64) -> Result<u64, TDigestError> {
        self.count.checked_add(more).filter(|&total| total <= MAX_COUNT).ok_or(TDigestError::Count)
    }

    /// Makes room for a value: doubles the buffer, or empties it when it has its full size.
    #[cold]
    fn make_room(&mut self) {
        let most = VALUES_HELD * usize::from(self.compression);
        if self.values.len() < most {
            let more = self.values.len().max(2).min(most - self.values.len());
            self.values.reserve_exact(more);
        } else {
            self.settle();
        }
    }

    fn settle_if_full(&mut self) {
        let compression = usize::from(self.compression);
        if self.runs.len() > CENTROIDS_HELD * compression || self.values.len() > VALUES_HELD * compression {
            self.settle();
        }
    }

    /// Sorts in all that is held back, and clusters if there are more centroids than worked with.
    fn settle(&mut self) {
        self.settled = self.sort_all();
        cluster::cluster(&mut self.settled, self.count, WORKING * usize::from(self.compression));
    }

    /// Takes all centroids in order, points of one mean united; the values held back are among them.
    fn sort_all(&mut self) -> Vec<Centroid> {
        if self.values.is_empty() && self.runs.len() == 0 {
            return std::mem::take(&mut self.settled);
        }
        self.values.sort_unstable();
        cluster::each_point(&self.values, |point| self.runs.push(point.into()));
        self.values.clear();
        self.runs.end_run();
        self.settled.drain(..).for_each(|centroid| self.runs.push(centroid.into()));
        self.runs.end_run();
        cluster::unite_equal_points(&self.runs.take_merged())
    }
}

/// Where decoding puts what it reads.
impl stored::Sink for TDigest {
    fn reserve(&mut self, centroids: usize) {
        self.runs.reserve(centroids);
    }

    #[inline]
    fn single(&mut self, value: f64) {
        self.values.push(centroid::key(value));
    }

    #[inline]
    fn centroid(&mut self, centroid: Centroid) {
        self.runs.push(centroid.into());
    }
}

/// Adds two sums; past the largest double the result is that, and stays it whatever is added: what was cut off can't be known.
#[inline]
fn add_sums(a: f64, b: f64) -> f64 {
    if a.abs() == f64::MAX {
        return a;
    }
    if b.abs() == f64::MAX { b } else { (a + b).clamp(-f64::MAX, f64::MAX) }
}
