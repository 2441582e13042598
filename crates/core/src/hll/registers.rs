//! Register arrays: one byte a register in memory, four bits above a common base when stored.
//!
//! The packed form is planar: byte `i` holds register `i` in its low nibble and register
//! `i + k/2` in its high one, so that both halves unpack without a shuffle.

use super::Coupon;

/// The nibble that says: look the value up among the exceptions.
pub(super) const EXCEPTION: u8 = 15;

#[inline]
pub(super) fn raise(registers: &mut [u8], coupon: Coupon) {
    let slot = coupon.slot() & (registers.len() - 1);
    let register = &mut registers[slot];
    *register = (*register).max(coupon.value());
}

/// Register-wise maximum of two arrays of one length.
pub(super) fn raise_all(registers: &mut [u8], other: &[u8]) {
    for (ours, theirs) in registers.iter_mut().zip(other) {
        *ours = (*ours).max(*theirs);
    }
}

/// Raises registers to the packed values. Exceptions count as `base` + 15 here, which they reach.
pub(super) fn raise_packed(registers: &mut [u8], packed: &[u8], base: u8) {
    let (low, high) = registers.split_at_mut(registers.len() / 2);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(packed) {
        *low = (*low).max((byte & 15).wrapping_add(base));
        *high = (*high).max((byte >> 4).wrapping_add(base));
    }
}

/// What a scan of packed registers finds.
#[derive(Debug, PartialEq)]
pub(super) struct Census {
    pub(super) least: u8,
    pub(super) most: u8,
    pub(super) exceptions: usize,
}

/// Scans nibbles in lanes, which compiles to vector instructions. The length is 8 or a multiple of 16,
/// as it is from lgk 4 on.
pub(super) fn census(packed: &[u8]) -> Census {
    if packed.len().is_multiple_of(16) { scan::<16>(packed) } else { scan::<8>(packed) }
}

fn scan<const LANES: usize>(packed: &[u8]) -> Census {
    let (mut least, mut most, mut exceptions) = ([EXCEPTION; LANES], [0_u8; LANES], 0);
    // 64 chunks a block: at most 128 hits a lane, which a byte can count.
    for block in packed.as_chunks::<LANES>().0.chunks(64) {
        let mut hits = [0_u8; LANES];
        for bytes in block {
            for lane in 0..LANES {
                let (low, high) = (bytes[lane] & 15, bytes[lane] >> 4);
                least[lane] = least[lane].min(low).min(high);
                most[lane] = most[lane].max(low).max(high);
                let full = u8::from(low == EXCEPTION).wrapping_add(u8::from(high == EXCEPTION));
                hits[lane] = hits[lane].wrapping_add(full);
            }
        }
        exceptions += hits.iter().map(|&hits| usize::from(hits)).sum::<usize>();
    }
    let least = least.into_iter().min().unwrap_or(0);
    Census { least, most: most.into_iter().max().unwrap_or(0), exceptions }
}

/// The smallest register.
pub(super) fn minimum(registers: &[u8]) -> u8 {
    registers.iter().fold(u8::MAX, |least, &value| least.min(value))
}

/// The registers that no nibble above `base` can hold: slot and value, by slot.
pub(super) fn each_exception(registers: &[u8], base: u8) -> impl Iterator<Item = (usize, u8)> + '_ {
    let first = base + EXCEPTION;
    let blocks = registers.chunks(64).enumerate();
    blocks
        .filter(move |(_, block)| block.iter().fold(0, |most, &value| value.max(most)) >= first)
        .flat_map(|(at, block)| block.iter().enumerate().map(move |(i, &value)| (64 * at + i, value)))
        .filter(move |&(_, value)| value >= first)
}

/// Appends the registers above their base as nibbles, exceptions as 15.
pub(super) fn pack(registers: &[u8], base: u8, out: &mut Vec<u8>) {
    let nibble = |value: u8| value.wrapping_sub(base).min(EXCEPTION);
    let (low, high) = registers.split_at(registers.len() / 2);
    out.extend(low.iter().zip(high).map(|(&low, &high)| nibble(low) | (nibble(high) << 4)));
}

/// The nibble of one register.
pub(super) fn packed_at(packed: &[u8], slot: usize) -> u8 {
    match packed.get(slot) {
        Some(byte) => byte & 15,
        None => packed[slot - packed.len()] >> 4,
    }
}

/// How many registers hold each value, 0 to 63.
pub(super) fn histogram(registers: &[u8]) -> [u32; 64] {
    let mut lanes = [[0_u32; 64]; 4];
    for four in registers.chunks_exact(4) {
        for (lane, &value) in lanes.iter_mut().zip(four) {
            lane[usize::from(value & 63)] += 1;
        }
    }
    std::array::from_fn(|value| lanes.iter().map(|lane| lane[value]).sum())
}
