//! Random numbers.

use pgrx::pg_sys;

/// Random bytes fit for a secret.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0_u8; N];
    // SAFETY: the buffer has the length that is passed.
    let filled = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), N) };
    assert!(filled, "the server has no source of random numbers");
    bytes
}

/// Random bits that need be no secret: those would be asked of the operating system.
pub fn random_bits() -> u32 {
    // SAFETY: the backend's own generator, seeded when it started.
    unsafe { pg_sys::pg_prng_uint32(&raw mut pg_sys::pg_global_prng_state) }
}

/// A random number from 0 to 1, for what is done by chance.
pub fn draw() -> f64 {
    f64::from(random_bits()) / f64::from(u32::MAX)
}
