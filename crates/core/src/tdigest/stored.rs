use super::centroid::Centroid;
use super::{MAX_COMPRESSION, MAX_COUNT, MIN_COMPRESSION, Summary, TDigestError};

/// No stored digest is longer: the worst is 1,000 centroids of 18 bytes.
pub const MAX_STORED_BYTES: usize = 65_536;

/// High nibble: a t-digest. Low nibble: version 1.
const MAGIC: u8 = 0xd0;
const VERSION: u8 = 1;
/// Every centroid is one value: no weights follow.
const FLAG_SINGLES: u8 = 1;
const HEADER: usize = 4;
const MEAN: usize = 8;

/// What a stored digest says of itself beyond its centroids.
pub(super) struct Header {
    pub(super) compression: u16,
    pub(super) count: u64,
    pub(super) sum: f64,
}

/// Takes what decoding reads, in ascending order.
pub(super) trait Sink {
    /// Prepares for a number of centroids, already checked.
    fn reserve(&mut self, centroids: usize, singles: bool);
    /// Takes a point of weight 1.
    fn single(&mut self, value: f64);
    /// Takes any centroid.
    fn centroid(&mut self, centroid: Centroid);
}

impl Sink for Vec<Centroid> {
    fn reserve(&mut self, centroids: usize, _singles: bool) {
        Vec::reserve(self, centroids);
    }

    fn single(&mut self, value: f64) {
        self.push(Centroid::point(value, 1));
    }

    fn centroid(&mut self, centroid: Centroid) {
        self.push(centroid);
    }
}

/// Validates stored bytes and hands their centroids to `out`. Every byte is distrusted.
///
/// On an error `out` may have got some; the caller cuts it back. Nothing is reserved before the number of
/// centroids is checked against the compression and the length.
pub(super) fn decode(bytes: &[u8], wanted: Option<u16>, out: &mut impl Sink) -> Result<Header, TDigestError> {
    if bytes.len() > MAX_STORED_BYTES {
        return Err(TDigestError::Malformed("longer than 64 KiB"));
    }
    let Some((&[magic, flags, low, high], rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(TDigestError::Malformed("header cut short"));
    };
    if magic & 0xf0 != MAGIC {
        return Err(TDigestError::Malformed("does not begin like a tdigest"));
    }
    if magic & 0x0f != VERSION {
        return Err(TDigestError::Version(magic & 0x0f));
    }
    if flags & !FLAG_SINGLES != 0 {
        return Err(TDigestError::Malformed("unknown flags"));
    }
    let compression = u16::from_le_bytes([low, high]);
    if !(MIN_COMPRESSION..=MAX_COMPRESSION).contains(&compression) {
        return Err(TDigestError::Malformed("compression out of range"));
    }
    if let Some(ours) = wanted.filter(|&ours| ours != compression) {
        return Err(TDigestError::CompressionMismatch { ours, theirs: compression });
    }
    if rest.is_empty() {
        return if flags == 0 {
            Ok(Header { compression, count: 0, sum: 0.0 })
        } else {
            Err(TDigestError::Malformed("flags on an empty digest"))
        };
    }
    let Some((&sum, rest)) = rest.split_first_chunk::<MEAN>() else {
        return Err(TDigestError::Malformed("sum cut short"));
    };
    let sum = f64::from_le_bytes(sum);
    let Some((&number, rest)) = rest.split_first_chunk::<2>() else {
        return Err(TDigestError::Malformed("number of centroids cut short"));
    };
    let number = usize::from(u16::from_le_bytes(number));
    if number == 0 || number > usize::from(compression) {
        return Err(TDigestError::Malformed("number of centroids out of range"));
    }
    let Some((means, weights)) = rest.split_at_checked(number * MEAN) else {
        return Err(TDigestError::Malformed("means cut short"));
    };
    if !sum.is_finite() {
        return Err(TDigestError::Malformed("sum is not finite"));
    }
    let means = means.as_chunks::<MEAN>().0;
    let singles = flags == FLAG_SINGLES;
    out.reserve(number, singles);
    let count = if singles {
        if !weights.is_empty() {
            return Err(TDigestError::Malformed("weights beside single values"));
        }
        decode_singles(means, out)?
    } else {
        decode_weighted(means, weights, out)?
    };
    Ok(Header { compression, count, sum })
}

/// A mean, if it is one: finite, and zero without a sign.
#[inline]
fn mean_of(bytes: [u8; MEAN]) -> Result<f64, TDigestError> {
    let mean = f64::from_le_bytes(bytes);
    if mean.is_finite() && (mean != 0.0 || mean.is_sign_positive()) {
        Ok(mean)
    } else {
        Err(TDigestError::Malformed("mean is not finite, or a negative zero"))
    }
}

fn decode_singles(means: &[[u8; MEAN]], out: &mut impl Sink) -> Result<u64, TDigestError> {
    let mut last = f64::NEG_INFINITY;
    for &mean in means {
        let mean = mean_of(mean)?;
        if mean <= last {
            return Err(TDigestError::Malformed("means not ascending"));
        }
        last = mean;
        out.single(mean);
    }
    Ok(means.len() as u64)
}

/// Pairs means with weights; gives back the sum of the weights.
fn decode_weighted(
    means: &[[u8; MEAN]],
    mut weights: &[u8],
    out: &mut impl Sink,
) -> Result<u64, TDigestError> {
    let mut count = 0_u64;
    // Stands for a point below all, so that the first must lie above it.
    let mut last = Centroid::point(f64::NEG_INFINITY, 1);
    for (at, &mean) in means.iter().enumerate() {
        let centroid = Centroid::from_tagged(mean_of(mean)?, take_varint(&mut weights)?);
        if centroid.weight() == 0 || (centroid.weight() == 1 && !centroid.is_point()) {
            return Err(TDigestError::Malformed("weight out of range"));
        }
        if centroid.mean < last.mean || (centroid.mean == last.mean && centroid.is_point() && last.is_point())
        {
            return Err(TDigestError::Malformed("means not ascending"));
        }
        if at == 0 && !centroid.is_point() {
            return Err(TDigestError::Malformed("an extreme is no point"));
        }
        // Both are below 2^63: no overflow before the check.
        count += centroid.weight();
        if count > MAX_COUNT {
            return Err(TDigestError::Malformed("weights out of range"));
        }
        last = centroid;
        out.centroid(centroid);
    }
    if !last.is_point() {
        return Err(TDigestError::Malformed("an extreme is no point"));
    }
    if count == means.len() as u64 {
        return Err(TDigestError::Malformed("single values with weights"));
    }
    if weights.is_empty() { Ok(count) } else { Err(TDigestError::Malformed("bytes left over")) }
}

/// Seven bits a byte, lowest first, the top bit saying that more follow; no longer than it must be.
#[inline]
fn take_varint(bytes: &mut &[u8]) -> Result<u64, TDigestError> {
    // Nearly all weights take four bytes at most: read those at once.
    if let Some(word) = bytes.first_chunk::<4>() {
        let word = u32::from_le_bytes(*word);
        let ends = !word & 0x8080_8080;
        if ends != 0 {
            let bits = ends.trailing_zeros();
            let kept = word & (u32::MAX >> (31 - bits));
            let length = (bits / 8 + 1) as usize;
            if length > 1 && kept >> (bits - 7) == 0 {
                return Err(TDigestError::Malformed("weight too long"));
            }
            *bytes = &bytes[length..];
            let value = kept & 0x7f | kept >> 1 & 0x3f80 | kept >> 2 & 0x1f_c000 | kept >> 3 & 0xfe0_0000;
            return Ok(u64::from(value));
        }
    }
    take_any_varint(bytes)
}

#[cold]
fn take_any_varint(bytes: &mut &[u8]) -> Result<u64, TDigestError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let Some((&byte, rest)) = bytes.split_first() else {
            return Err(TDigestError::Malformed("weights cut short"));
        };
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte < 0x80 {
            if byte == 0 && shift != 0 {
                return Err(TDigestError::Malformed("weight too long"));
            }
            return Ok(value);
        }
    }
    Err(TDigestError::Malformed("weight too long"))
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

impl Summary {
    /// Reads the stored form; see docs/formats.md. What parses stores as the same bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, TDigestError> {
        let mut centroids = Vec::new();
        let header = decode(bytes, None, &mut centroids)?;
        Ok(Self::new(header.compression, header.count, header.sum, centroids))
    }

    /// The stored form; see docs/formats.md.
    pub fn to_bytes(&self) -> Vec<u8> {
        let centroids = self.centroids();
        let singles = !centroids.is_empty() && centroids.iter().all(|centroid| centroid.weight() == 1);
        let mut out = Vec::with_capacity(HEADER + 10 + centroids.len() * (MEAN + 3));
        out.extend([MAGIC | VERSION, if singles { FLAG_SINGLES } else { 0 }]);
        out.extend(self.compression().to_le_bytes());
        if centroids.is_empty() {
            return out;
        }
        out.extend(self.sum().to_le_bytes());
        out.extend((centroids.len() as u16).to_le_bytes());
        out.extend(centroids.iter().flat_map(|centroid| centroid.mean.to_le_bytes()));
        if !singles {
            centroids.iter().for_each(|centroid| put_varint(&mut out, centroid.tagged()));
        }
        out
    }
}
