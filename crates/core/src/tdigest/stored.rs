use super::centroid::Centroid;
use super::{MAX_COMPRESSION, MAX_COUNT, MIN_COMPRESSION, Summary, TDigestError};
use crate::stored::{self, CHECKSUM};
use std::borrow::Cow;

/// No stored digest is longer: the worst is 1,000 centroids of 18 bytes.
pub const MAX_STORED_BYTES: usize = 65_536;

/// High nibble: a t-digest. Low nibble: the version. Version 1 had no checksum.
const MAGIC: u8 = 0xd0;
const VERSION: u8 = 2;
const VERSION_WITHOUT_CHECKSUM: u8 = 1;
/// Bytes of each weight, in the upper half of the second byte; 0 when every centroid is one value.
const WIDTH_SHIFT: u8 = 4;
/// Digests of up to this many single values are handed on value by value, longer ones as a run: runs
/// are merged pair by pair, which many short ones would make long work.
const FEW: usize = 16;
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
    fn reserve(&mut self, centroids: usize);
    /// Takes a point of weight 1 that is one of a few.
    fn single(&mut self, value: f64);
    /// Takes any centroid.
    fn centroid(&mut self, centroid: Centroid);
}

impl Sink for Vec<Centroid> {
    fn reserve(&mut self, centroids: usize) {
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
    let Some(&magic) = bytes.first() else {
        return Err(TDigestError::Malformed("header cut short"));
    };
    if magic & 0xf0 != MAGIC {
        return Err(TDigestError::Malformed("does not begin like a tdigest"));
    }
    let bytes = match magic & 0x0f {
        VERSION => stored::open(bytes).ok_or(TDigestError::Checksum)?,
        VERSION_WITHOUT_CHECKSUM => bytes,
        version => return Err(TDigestError::Version(version)),
    };
    let Some((&[_, flags, low, high], rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(TDigestError::Malformed("header cut short"));
    };
    let width = usize::from(flags >> WIDTH_SHIFT);
    if flags & 0x0f != 0 || width > 8 {
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
    if weights.len() != number * width {
        return Err(TDigestError::Malformed("weights cut short or bytes left over"));
    }
    out.reserve(number);
    let count =
        if width == 0 { decode_singles(means, out)? } else { decode_weighted(means, weights, width, out)? };
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
        if means.len() <= FEW {
            out.single(mean);
        } else {
            out.centroid(Centroid::point(mean, 1));
        }
    }
    Ok(means.len() as u64)
}

/// Pairs means with weights of `width` bytes each; gives back the sum of the weights.
fn decode_weighted(
    means: &[[u8; MEAN]],
    weights: &[u8],
    width: usize,
    out: &mut impl Sink,
) -> Result<u64, TDigestError> {
    let mut count = 0_u64;
    let mut most = 0_u64;
    // Stands for a point below all, so that the first must lie above it.
    let mut last = Centroid::point(f64::NEG_INFINITY, 1);
    for (at, &mean) in means.iter().enumerate() {
        let tagged = weight_at(weights, at * width, width);
        let centroid = Centroid::from_tagged(mean_of(mean)?, tagged);
        // 1 would be a point of weight 0, 2 a cluster of one value.
        if tagged < 3 {
            return Err(TDigestError::Malformed("weight out of range"));
        }
        if centroid.mean <= last.mean
            && (centroid.mean < last.mean || (centroid.is_point() && last.is_point()))
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
        most |= tagged;
        last = centroid;
        out.centroid(centroid);
    }
    if !last.is_point() {
        return Err(TDigestError::Malformed("an extreme is no point"));
    }
    if count == means.len() as u64 || width_of(most) != width {
        return Err(TDigestError::Malformed("weights wider than they must be"));
    }
    Ok(count)
}

/// The weight of `width` bytes at an offset that lies within.
#[inline]
fn weight_at(weights: &[u8], at: usize, width: usize) -> u64 {
    let unused = 64 - 8 * width as u32;
    if let Some(word) = weights.get(at..at + 8).and_then(|bytes| bytes.first_chunk::<8>()) {
        u64::from_le_bytes(*word) << unused >> unused
    } else {
        let mut word = [0; 8];
        word[..width].copy_from_slice(&weights[at..at + width]);
        u64::from_le_bytes(word)
    }
}

/// Bytes needed for a weight.
fn width_of(tagged: u64) -> usize {
    (u64::BITS - tagged.leading_zeros()).div_ceil(8) as usize
}

/// Takes nothing: what is read is only checked.
struct Checked;

impl Sink for Checked {
    fn reserve(&mut self, _: usize) {}
    fn single(&mut self, _: f64) {}
    fn centroid(&mut self, _: Centroid) {}
}

/// Validates stored bytes and gives them in the newest form.
pub fn renew(bytes: &[u8]) -> Result<Cow<'_, [u8]>, TDigestError> {
    decode(bytes, None, &mut Checked)?;
    if bytes[0] == MAGIC | VERSION {
        return Ok(Cow::Borrowed(bytes));
    }
    Ok(Cow::Owned(Summary::parse(bytes)?.to_bytes()))
}

/// The compression of a stored digest, validated.
pub fn compression(bytes: &[u8]) -> Result<u16, TDigestError> {
    Ok(decode(bytes, None, &mut Checked)?.compression)
}

impl Summary {
    /// Reads the stored form; see docs/formats.md. What parses stores as the same bytes, in the newest version.
    pub fn parse(bytes: &[u8]) -> Result<Self, TDigestError> {
        let mut centroids = Vec::new();
        let header = decode(bytes, None, &mut centroids)?;
        Ok(Self::new(header.compression, header.count, header.sum, centroids))
    }

    /// The stored form; see docs/formats.md.
    pub fn to_bytes(&self) -> Vec<u8> {
        let centroids = self.centroids();
        let singles = centroids.iter().all(|centroid| centroid.weight() == 1);
        let most = centroids.iter().fold(0, |most, centroid| most | centroid.tagged());
        let width = if singles { 0 } else { width_of(most) };
        let mut out = Vec::with_capacity(HEADER + 10 + centroids.len() * (MEAN + width) + CHECKSUM);
        out.extend([MAGIC | VERSION, (width as u8) << WIDTH_SHIFT]);
        out.extend(self.compression().to_le_bytes());
        if centroids.is_empty() {
            stored::seal(&mut out);
            return out;
        }
        out.extend(self.sum().to_le_bytes());
        out.extend((centroids.len() as u16).to_le_bytes());
        out.extend(centroids.iter().flat_map(|centroid| centroid.mean.to_le_bytes()));
        for centroid in centroids.iter().filter(|_| width != 0) {
            out.extend(&centroid.tagged().to_le_bytes()[..width]);
        }
        stored::seal(&mut out);
        out
    }
}
