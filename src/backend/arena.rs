//! Datums that live in Rust memory for as long as one batch.

use pgrx::pg_sys::Datum;

/// Bytes in the first chunk: a call with one event fills less. Each further one is twice as long, up to `LONGEST`; a value
/// longer than its chunk gets one of its own.
const SHORTEST: usize = 2 * 1024;
const LONGEST: usize = 64 * 1024;

/// Hands out varlena and by-reference datums that stay valid until the arena is dropped.
#[derive(Default)]
pub struct Arena {
    chunks: Vec<Vec<u64>>,
    /// Bytes used in the last chunk.
    used: usize,
}

impl Arena {
    /// Copies `bytes` in as a varlena: one-byte header where it fits, so that forming a tuple copies it as it is.
    pub fn varlena(&mut self, bytes: &[u8]) -> Datum {
        if bytes.len() < 127 {
            let room = self.reserve(bytes.len() + 1, 1);
            room[0] = ((bytes.len() as u8 + 1) << 1) | 1;
            room[1..].copy_from_slice(bytes);
            Datum::from(room.as_ptr())
        } else {
            let room = self.reserve(bytes.len() + 4, 8);
            let header = u32::try_from(bytes.len() + 4).expect("a varlena is below 1 GB") << 2;
            room[..4].copy_from_slice(&header.to_le_bytes());
            room[4..].copy_from_slice(bytes);
            Datum::from(room.as_ptr())
        }
    }

    /// Copies `bytes` in as a varlena with a four-byte header, aligned: the form that types read in place need.
    pub fn long_varlena(&mut self, bytes: &[u8]) -> Datum {
        let room = self.reserve(bytes.len() + 4, 8);
        let header = u32::try_from(bytes.len() + 4).expect("a varlena is below 1 GB") << 2;
        room[..4].copy_from_slice(&header.to_le_bytes());
        room[4..].copy_from_slice(bytes);
        Datum::from(room.as_ptr())
    }

    /// Copies a fixed-length by-reference value in.
    pub fn fixed<const N: usize>(&mut self, bytes: &[u8; N]) -> Datum {
        self.aligned(bytes)
    }

    /// Copies bytes in as they are, aligned.
    pub fn aligned(&mut self, bytes: &[u8]) -> Datum {
        let room = self.reserve(bytes.len(), 8);
        room.copy_from_slice(bytes);
        Datum::from(room.as_ptr())
    }

    /// Copies text in as a `name`: 64 bytes, padded with NULs, cut where it is longer.
    pub fn name(&mut self, text: &str) -> Datum {
        let mut name = [0_u8; 64];
        let length = text.len().min(63);
        name[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.fixed(&name)
    }

    fn reserve(&mut self, length: usize, align: usize) -> &mut [u8] {
        let start = self.used.next_multiple_of(align);
        let fits = self.chunks.last().is_some_and(|chunk| start + length <= chunk.len() * 8);
        let start = if fits {
            start
        } else {
            let next = self.chunks.last().map_or(SHORTEST, |chunk| (chunk.len() * 16).min(LONGEST));
            self.chunks.push(vec![0_u64; length.max(next).div_ceil(8)]);
            0
        };
        self.used = start + length;
        let chunk = self.chunks.last_mut().expect("a chunk was pushed above when there was none");
        // SAFETY: u64s are plain bytes without padding; the slice covers exactly the chunk's allocation.
        let bytes =
            unsafe { core::slice::from_raw_parts_mut(chunk.as_mut_ptr().cast::<u8>(), chunk.len() * 8) };
        &mut bytes[start..start + length]
    }
}

/// Reads the bytes of a short varlena of known length that is neither compressed nor out of line.
pub fn read_fixed<const N: usize>(datum: Datum) -> [u8; N] {
    // SAFETY: a datum of this type, as every one that this crate hands about (`backend`).
    let bytes = unsafe { pgrx::varlena::varlena_to_byte_slice(datum.cast_mut_ptr()) };
    bytes.try_into().expect("a value of the column's fixed length")
}

/// Reads a text that is neither compressed nor out of line; it lives as long as what the datum came from.
pub fn read_text<'a>(datum: Datum) -> &'a str {
    // SAFETY: a datum of this type, as every one that this crate hands about (`backend`); the database's encoding is UTF-8.
    unsafe { core::str::from_utf8_unchecked(pgrx::varlena::varlena_to_byte_slice(datum.cast_mut_ptr())) }
}

/// Reads a bytea that is neither compressed nor out of line; it lives as long as what the datum came from.
pub fn read_bytes<'a>(datum: Datum) -> &'a [u8] {
    // SAFETY: a datum of this type, as every one that this crate hands about (`backend`).
    unsafe { pgrx::varlena::varlena_to_byte_slice(datum.cast_mut_ptr()) }
}
