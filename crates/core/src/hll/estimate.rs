//! Cardinality from registers, without tables: Ertl, "New cardinality estimation algorithms for
//! HyperLogLog sketches", arXiv 1702.01284, algorithm 6 (the improved raw estimator).

use super::{HllError, registers};

/// An estimate and the interval around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    pub lower: f64,
    pub estimate: f64,
    pub upper: f64,
}

/// Largest register value; 1 more than the bits of hash that feed one.
const TOP: usize = 63;

/// The limit of sigma-less registers: 1 / (2 ln 2).
const ALPHA_INF: f64 = 0.5 / std::f64::consts::LN_2;

/// Standard error of one register state: sqrt(3 ln 2 - 1) / sqrt(k).
pub(super) fn relative_error(lgk: u8) -> f64 {
    1.038_96 / f64::from(1_u32 << lgk).sqrt()
}

pub(super) fn from_registers(registers: &[u8]) -> f64 {
    let k = registers.len() as f64;
    let counts = registers::histogram(registers);
    let mut z = k * tau(1.0 - f64::from(counts[TOP]) / k);
    for &count in counts[1..TOP].iter().rev() {
        z = 0.5 * (z + f64::from(count));
    }
    z += k * sigma(f64::from(counts[0]) / k);
    ALPHA_INF * k * k / z
}

pub(super) fn exact_bounds(count: usize, std_devs: u8) -> Result<Bounds, HllError> {
    check_std_devs(std_devs)?;
    let estimate = count as f64;
    Ok(Bounds { lower: estimate, estimate, upper: estimate })
}

/// Interval of a dense sketch; the lower end is at least the number of registers that were hit.
pub(super) fn bounds(registers: &[u8], std_devs: u8) -> Result<Bounds, HllError> {
    check_std_devs(std_devs)?;
    let estimate = from_registers(registers);
    let error = f64::from(std_devs) * relative_error(registers.len().ilog2() as u8);
    let hit = registers.iter().filter(|&&value| value != 0).count() as f64;
    let upper = if error < 1.0 { estimate / (1.0 - error) } else { f64::MAX };
    Ok(Bounds { lower: (estimate / (1.0 + error)).max(hit).min(estimate), estimate, upper })
}

fn check_std_devs(std_devs: u8) -> Result<(), HllError> {
    if (1..=3).contains(&std_devs) { Ok(()) } else { Err(HllError::StdDevs(std_devs)) }
}

/// x + the sum over i >= 1 of x^(2^i) 2^(i-1): what the registers that were never hit stand for.
fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let next = z + x * y;
        if next == z {
            return z;
        }
        z = next;
        y += y;
    }
}

/// The same for registers that are full.
fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        y *= 0.5;
        let next = z - (1.0 - x) * (1.0 - x) * y;
        if next == z {
            return z / 3.0;
        }
        z = next;
    }
}
