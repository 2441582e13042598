//! MurmurHash3 x64 128 (Austin Appleby, public domain) with the seed that DataSketches uses.

const SEED: u64 = 9001;
const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// Hashes the raw bytes: nothing is appended to mark their end.
pub(super) fn hash_bytes(bytes: &[u8]) -> (u64, u64) {
    let (mut h1, mut h2) = (SEED, SEED);
    let mut blocks = bytes.chunks_exact(16);
    for block in &mut blocks {
        h1 = (h1 ^ mix_k1(word(&block[..8]))).rotate_left(27).wrapping_add(h2);
        h1 = h1.wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix_k2(word(&block[8..]))).rotate_left(31).wrapping_add(h1);
        h2 = h2.wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let tail = blocks.remainder();
    let (low, high) = tail.split_at(tail.len().min(8));
    h1 ^= mix_k1(word(low));
    h2 ^= mix_k2(word(high));
    finish(h1, h2, bytes.len() as u64)
}

/// Hashes an integer as its eight little-endian bytes.
#[inline]
pub(super) fn hash_i64(value: i64) -> (u64, u64) {
    finish(SEED ^ mix_k1(value as u64), SEED, 8)
}

/// Up to eight bytes as a little-endian number; none are 0, which mixes to 0.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    if let Ok(full) = bytes.try_into() {
        return u64::from_le_bytes(full);
    }
    bytes.iter().rev().fold(0, |word, &byte| (word << 8) | u64::from(byte))
}

#[inline]
fn mix_k1(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

#[inline]
fn mix_k2(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

#[inline]
fn finish(mut h1: u64, mut h2: u64, len: u64) -> (u64, u64) {
    h1 ^= len;
    h2 ^= len;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = avalanche(h1);
    h2 = avalanche(h2);
    h1 = h1.wrapping_add(h2);
    (h1, h2.wrapping_add(h1))
}

#[inline]
fn avalanche(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}
