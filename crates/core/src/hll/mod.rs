//! HyperLogLog distinct counts: exact while small, 4 bits a register when large.
//!
//! A value is hashed to a 32-bit [`Coupon`]; a sketch is the set of its coupons until
//! [`sparse_limit`] of them are known, and an array of `2^lgk` register maxima from then on.
//! That is the model of Apache DataSketches HLL, whose images [`Hll::to_datasketches`] writes and
//! [`Hll::from_datasketches`] reads. The state, and with it the stored bytes, depends only on the
//! set of coupons: never on the order of insertion or of merging.

mod coupon;
mod datasketches;
mod error;
mod estimate;
mod murmur;
mod registers;
mod sparse;
mod stored;

pub use coupon::{Coupon, HashKey, Keying, ValueHasher};
pub use error::HllError;
pub use estimate::Bounds;
pub use stored::{HllRef, MAX_STORED_BYTES, renew};

use sparse::CouponSet;

/// The smallest accepted lgk: 16 registers.
pub const MIN_LGK: u8 = 4;
/// The largest accepted lgk: 16,384 registers. Above it the worst stored form passes 64 KiB.
pub const MAX_LGK: u8 = 14;
/// The lgk that SQL uses unless told otherwise: 2,048 registers, relative error 2.3 %.
pub const DEFAULT_LGK: u8 = 11;

/// Number of coupons up to which a sketch of `lgk` is a plain set, and its count exact.
///
/// The limits are those of DataSketches, so that a sketch goes dense at the same value there and
/// here: 7 below lgk 8, else 3/4 of `2^(lgk-3)` (192 at lgk 11).
pub const fn sparse_limit(lgk: u8) -> usize {
    if lgk < 8 { 7 } else { (1 << (lgk - 3)) / 4 * 3 }
}

/// An accumulator of distinct values.
///
/// Starts without an allocation; grows with the number of distinct coupons up to `2^lgk` bytes.
#[derive(Clone, Debug)]
pub struct Hll {
    lgk: u8,
    keying: Keying,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Sparse(CouponSet),
    /// One register a byte.
    Dense(Box<[u8]>),
}

impl Hll {
    /// Makes an empty sketch of `2^lgk` registers; lgk outside [`MIN_LGK`]..=[`MAX_LGK`] is an error.
    pub fn new(lgk: u8, keying: Keying) -> Result<Self, HllError> {
        if !(MIN_LGK..=MAX_LGK).contains(&lgk) {
            return Err(HllError::Lgk(lgk));
        }
        Ok(Self { lgk, keying, state: State::Sparse(CouponSet::new()) })
    }

    /// Log2 of the number of registers.
    pub fn lgk(&self) -> u8 {
        self.lgk
    }

    /// Says how the values of this sketch were hashed.
    pub fn keying(&self) -> Keying {
        self.keying
    }

    /// Says whether no value was ever added.
    pub fn is_empty(&self) -> bool {
        matches!(&self.state, State::Sparse(set) if set.len() == 0)
    }

    /// Says whether the count is exact: no more than [`sparse_limit`] coupons are known.
    ///
    /// Two values share a coupon with probability 2^-27.6, so a set of 192 is one short once in
    /// ten thousand.
    pub fn is_exact(&self) -> bool {
        matches!(self.state, State::Sparse(_))
    }

    /// Bytes held, allocations included.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + match &self.state {
                State::Sparse(set) => set.heap_bytes(),
                State::Dense(registers) => registers.len(),
            }
    }

    /// Adds one hashed value. The coupon must come from a hasher of the same keying.
    #[inline]
    pub fn add(&mut self, coupon: Coupon) {
        match &mut self.state {
            State::Dense(registers) => registers::raise(registers, coupon),
            State::Sparse(set) => {
                if set.insert(coupon) && set.len() > sparse_limit(self.lgk) {
                    self.densify();
                }
            }
        }
    }

    /// Adds one hashed value where that needs no allocation; says whether it did.
    #[inline]
    pub fn add_in_place(&mut self, coupon: Coupon) -> bool {
        match &mut self.state {
            State::Dense(registers) => {
                registers::raise(registers, coupon);
                true
            }
            State::Sparse(set) => set.len() < sparse_limit(self.lgk) && set.insert_in_place(coupon),
        }
    }

    /// Adds a byte string; text is its UTF-8 bytes. See [`ValueHasher::bytes`] for the empty one.
    pub fn add_bytes(&mut self, hasher: &ValueHasher, bytes: &[u8]) {
        if let Some(coupon) = hasher.bytes(bytes) {
            self.add(coupon);
        }
    }

    /// Adds an integer; all widths hash alike.
    pub fn add_i64(&mut self, hasher: &ValueHasher, value: i64) {
        self.add(hasher.int(value));
    }

    /// Adds all that a stored sketch holds; another lgk, keying or key epoch is an error.
    pub fn merge(&mut self, other: &HllRef<'_>) -> Result<(), HllError> {
        self.check_mergeable(other.lgk(), other.keying())?;
        match other.coupons() {
            Some(coupons) => coupons.for_each(|coupon| self.add(coupon)),
            None => other.raise_into(self.densify()),
        }
        Ok(())
    }

    /// Adds all that another accumulator holds; another lgk, keying or key epoch is an error.
    pub fn merge_state(&mut self, other: &Hll) -> Result<(), HllError> {
        self.check_mergeable(other.lgk, other.keying)?;
        match &other.state {
            State::Sparse(set) => set.iter().for_each(|coupon| self.add(coupon)),
            State::Dense(theirs) => registers::raise_all(self.densify(), theirs),
        }
        Ok(())
    }

    /// The estimated number of distinct values; an exact integer while [`Hll::is_exact`].
    pub fn estimate(&self) -> f64 {
        match &self.state {
            State::Sparse(set) => set.len() as f64,
            State::Dense(registers) => estimate::from_registers(registers),
        }
    }

    /// The estimate with its error bars at 1, 2 or 3 standard deviations.
    pub fn bounds(&self, std_devs: u8) -> Result<Bounds, HllError> {
        match &self.state {
            State::Sparse(set) => estimate::exact_bounds(set.len(), std_devs),
            State::Dense(registers) => estimate::bounds(registers, std_devs),
        }
    }

    /// The relative standard error of a dense sketch's estimate; 0 while exact.
    pub fn stderror(&self) -> f64 {
        match &self.state {
            State::Sparse(_) => 0.0,
            State::Dense(_) => estimate::relative_error(self.lgk),
        }
    }

    /// The stored form; see docs/formats.md. The same set of coupons gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        stored::write(self)
    }

    fn check_mergeable(&self, lgk: u8, keying: Keying) -> Result<(), HllError> {
        if self.lgk != lgk {
            return Err(HllError::LgkMismatch { ours: self.lgk, theirs: lgk });
        }
        self.keying.check_same(keying)
    }

    /// Moves to registers, if not there yet.
    fn densify(&mut self) -> &mut [u8] {
        if let State::Sparse(set) = &self.state {
            let mut registers = vec![0_u8; 1 << self.lgk].into_boxed_slice();
            set.iter().for_each(|coupon| registers::raise(&mut registers, coupon));
            self.state = State::Dense(registers);
        }
        match &mut self.state {
            State::Dense(registers) => registers,
            State::Sparse(_) => unreachable!("densified just above"),
        }
    }
}

impl TryFrom<&HllRef<'_>> for Hll {
    type Error = HllError;

    fn try_from(stored: &HllRef<'_>) -> Result<Self, HllError> {
        let mut sketch = Hll::new(stored.lgk(), stored.keying())?;
        sketch.merge(stored)?;
        Ok(sketch)
    }
}
