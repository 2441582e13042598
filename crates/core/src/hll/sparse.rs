use super::Coupon;

/// Coupons kept as a plain list, searched from end to end, up to here.
const LIST_CAPACITY: usize = 8;

/// A set of coupons: a short list, then an open-addressing table of a power of two slots.
///
/// An empty slot is 0, which no coupon is.
#[derive(Clone, Debug)]
pub(super) struct CouponSet {
    slots: Vec<u32>,
    len: u32,
}

impl CouponSet {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }

    /// The coupons, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Coupon> + '_ {
        self.slots.iter().filter_map(|&raw| Coupon::from_raw(raw))
    }

    /// Adds a coupon; says whether it is new.
    #[inline]
    pub(super) fn insert(&mut self, coupon: Coupon) -> bool {
        let raw = coupon.raw();
        if self.slots.len() <= LIST_CAPACITY {
            if self.slots.contains(&raw) {
                return false;
            }
            if self.slots.len() < LIST_CAPACITY {
                self.push(raw);
                return true;
            }
        }
        if (self.len() + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let added = place(&mut self.slots, raw);
        self.len += u32::from(added);
        added
    }

    /// Adds a coupon where there is room for one more; says whether it is in the set now.
    #[inline]
    pub(super) fn insert_in_place(&mut self, coupon: Coupon) -> bool {
        let raw = coupon.raw();
        if self.slots.len() <= LIST_CAPACITY {
            if self.slots.contains(&raw) {
                return true;
            }
            if self.slots.len() == self.slots.capacity() || self.slots.len() == LIST_CAPACITY {
                return false;
            }
            self.slots.push(raw);
            self.len += 1;
            return true;
        }
        if (self.len() + 1) * 4 > self.slots.len() * 3 {
            return false;
        }
        self.len += u32::from(place(&mut self.slots, raw));
        true
    }

    fn push(&mut self, raw: u32) {
        if self.slots.len() == self.slots.capacity() {
            // 1, 2, 4, 8: most groups of a wide GROUP BY hold a value or two.
            self.slots.reserve_exact(self.slots.len().max(1));
        }
        self.slots.push(raw);
        self.len += 1;
    }

    #[cold]
    fn grow(&mut self) {
        let mut bigger = vec![0_u32; (self.slots.len() * 2).max(4 * LIST_CAPACITY)];
        for &raw in self.slots.iter().filter(|&&raw| raw != 0) {
            place(&mut bigger, raw);
        }
        self.slots = bigger;
    }
}

/// Puts a coupon into a table that has a free slot; says whether it is new.
#[inline]
fn place(slots: &mut [u32], raw: u32) -> bool {
    let mask = slots.len() - 1;
    // Slot bits are already uniform for honest input; the multiplication spreads chosen ones.
    let mut at = (raw.wrapping_mul(0x9e37_79b1) >> 16) as usize & mask;
    loop {
        match slots[at] {
            0 => {
                slots[at] = raw;
                return true;
            }
            found if found == raw => return false,
            _ => at = (at + 1) & mask,
        }
    }
}
