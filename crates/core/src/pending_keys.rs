//! Which tenants, accounts and buckets something is pending of, as a filter: it says yes of each of its keys, and of one in a hundred
//! others, which costs a reader a little time.

use twox_hash::XxHash3_64;

/// Bits of the filter for each key.
const BITS: usize = 16;
/// Bits of a word that a key sets.
const SET: u32 = 4;
/// Keys that are collected at a time at most, however much memory there is: 128 MB, and a filter of 32.
const MOST_KEYS: usize = 1 << 24;
/// How many are made room for first.
const FIRST_KEYS: usize = 1 << 10;

/// The key of a bucket, which is in microseconds.
#[inline]
pub fn key(tenant: &[u8], account: &[u8], bucket: i64) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot_with_seed(bucket as u64, tenant), account)
}

/// Keys while they are collected; one that comes again may be kept again for a while.
#[derive(Clone)]
pub struct PendingKeys {
    keys: Vec<u64>,
    most: usize,
    /// There were more than may be collected: anything may be pending.
    is_full: bool,
}

impl PendingKeys {
    /// None yet, of at most so many bytes. Where there are more, the filter says yes of everything.
    pub fn within(bytes: usize) -> Self {
        let most = (bytes / size_of::<u64>()).clamp(FIRST_KEYS, MOST_KEYS);
        Self { keys: Vec::new(), most, is_full: false }
    }

    /// Adds a key where that allocates nothing; says whether it did.
    #[inline]
    pub fn add_in_place(&mut self, key: u64) -> bool {
        if self.is_full || self.keys.last() == Some(&key) {
            return true;
        }
        let has_room = self.keys.len() < self.keys.capacity();
        if has_room {
            self.keys.push(key);
        }
        has_room
    }

    pub fn add(&mut self, key: u64) {
        if self.add_in_place(key) {
            return;
        }
        self.keys.sort_unstable();
        self.keys.dedup();
        // Less room than this would be used up so soon that sorting again and again took all the time.
        let room = self.keys.len().max(FIRST_KEYS);
        if !self.keys.is_empty() && self.keys.len() + room > self.most {
            (self.keys, self.is_full) = (Vec::new(), true);
            return;
        }
        self.keys.reserve_exact(room);
        self.keys.push(key);
    }

    /// Bytes that they hold.
    pub fn memory(&self) -> usize {
        self.keys.capacity() * size_of::<u64>()
    }

    /// The filter: words of 64 bits, each key four bits of one word.
    pub fn filter(&self) -> Vec<u8> {
        if self.is_full {
            return vec![u8::MAX; size_of::<u64>()];
        }
        let mut words = vec![0_u64; (self.keys.len() * BITS).div_ceil(64)];
        for &key in &self.keys {
            let word = place(key, words.len());
            words[word] |= bits(key);
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// Whether a key may be one of those that a filter was made of. Of other bytes than a filter's it says something, too.
#[inline]
pub fn may_have(filter: &[u8], key: u64) -> bool {
    let (words, _) = filter.as_chunks::<8>();
    match words.get(place(key, words.len())) {
        Some(word) => u64::from_le_bytes(*word) & bits(key) == bits(key),
        None => false,
    }
}

/// The word of a key: by its upper half.
#[inline]
fn place(key: u64, words: usize) -> usize {
    ((key >> 32).wrapping_mul(words as u64) >> 32) as usize
}

/// Its bits in that: by its lower half.
#[inline]
fn bits(key: u64) -> u64 {
    (0..SET).fold(0, |bits, n| bits | 1 << (key >> (6 * n) & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(numbers: std::ops::Range<i64>) -> impl Iterator<Item = u64> {
        numbers.map(|n| key(format!("t{}", n % 7).as_bytes(), format!("a{}", n % 1000).as_bytes(), n))
    }

    #[test]
    fn has_all_of_its_keys_and_few_others() {
        for count in [0, 1, 3, 100, 5_000, 100_000] {
            let mut keys = PendingKeys::within(1 << 24);
            // Each comes several times, not in a row.
            (0..3).for_each(|_| some(0..count).for_each(|key| keys.add(key)));
            let filter = keys.filter();
            assert!(some(0..count).all(|key| may_have(&filter, key)), "{count} keys");
            let others = some(count..count + 100_000).filter(|&key| may_have(&filter, key)).count();
            assert!(others < 3_000, "{others} of 100,000 others, of {count} keys");
            assert!(filter.len() <= 2 * BITS / 8 * count as usize + 8 * (1 << 10), "{} bytes", filter.len());
        }
    }

    #[test]
    fn few_keys_that_come_often_take_little() {
        let mut keys = PendingKeys::within(1 << 24);
        (0..1_000).for_each(|_| some(0..100).for_each(|key| keys.add(key)));
        assert!(keys.memory() <= 8 * 4 * (1 << 10), "{} bytes", keys.memory());
    }

    #[test]
    fn of_more_keys_than_there_is_memory_for_anything_may_be_pending() {
        for bytes in [0, 100, 8 << 10, 64 << 10, 1 << 20] {
            let most = (bytes / 8).max(FIRST_KEYS);
            for count in [most / 2, 3 * most, 20 * most] {
                let mut keys = PendingKeys::within(bytes);
                for key in some(0..count as i64) {
                    keys.add(key);
                    assert!(keys.memory() <= 8 * most, "{} bytes of {bytes}", keys.memory());
                }
                let filter = keys.filter();
                assert!(some(0..count as i64).all(|key| may_have(&filter, key)), "{count} keys");
                let others = some(1 << 40..(1 << 40) + 1_000).filter(|&key| may_have(&filter, key)).count();
                assert_eq!(
                    others == 1_000,
                    count > most,
                    "{others} of 1,000 others, of {count} keys in {bytes} bytes"
                );
            }
        }
    }

    #[test]
    fn tenant_account_and_bucket_are_told_apart() {
        let one = key(b"ab", b"c", 1);
        assert!(
            [key(b"a", b"bc", 1), key(b"ab", b"c", 2), key(b"c", b"ab", 1)].iter().all(|&other| other != one)
        );
    }

    #[test]
    fn any_bytes_are_read() {
        for length in 0..70 {
            let bytes = vec![0xff_u8; length];
            assert_eq!(may_have(&bytes, key(b"t", b"a", 1)), length >= 8);
        }
    }
}
