//! A token bucket whose takes are kept one by one: it is filled again from them, in order of time.

/// What is taken and how fast it comes back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// The most tokens that it holds; it is full at first.
    pub capacity: f64,
    /// Tokens that come back each second.
    pub rate: f64,
}

/// Tokens at a moment, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    pub tokens: f64,
    pub at: i64,
}

impl Bucket {
    /// Returns the level at `now`. `start` is what earlier takes came to, `None` where there were none; `takes` are moments
    /// and tokens, in order of time. A take from before the start was noted late: it is taken all the same. Below zero are
    /// takes that didn't know of each other; they have to be waited for.
    pub fn level(
        &self,
        start: Option<Level>,
        takes: impl IntoIterator<Item = (i64, f64)>,
        now: i64,
    ) -> Level {
        let mut level = start.unwrap_or(Level { tokens: self.capacity, at: i64::MIN });
        for (at, tokens) in takes {
            level = self.refill(level, at);
            level.tokens -= tokens;
        }
        self.refill(level, now)
    }

    fn refill(&self, level: Level, now: i64) -> Level {
        if now <= level.at {
            return level;
        }
        let seconds = now.saturating_sub(level.at) as f64 / 1e6;
        Level { tokens: (level.tokens + seconds * self.rate).min(self.capacity), at: now }
    }

    /// Returns the seconds until `tokens` are there; `None` where that never happens.
    pub fn wait(&self, level: Level, tokens: f64) -> Option<f64> {
        (tokens <= self.capacity).then(|| ((tokens - level.tokens) / self.rate).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUCKET: Bucket = Bucket { capacity: 10.0, rate: 2.0 };
    const SECOND: i64 = 1_000_000;

    #[test]
    fn empties_refills_and_overflows() {
        assert_eq!(BUCKET.level(None, [], 0).tokens, 10.0);
        assert_eq!(BUCKET.level(None, [(0, 10.0)], 0).tokens, 0.0);
        assert_eq!(BUCKET.level(None, [(0, 10.0)], 3 * SECOND).tokens, 6.0);
        assert_eq!(BUCKET.level(None, [(0, 10.0)], 3_600 * SECOND).tokens, 10.0);
        let empty = BUCKET.level(None, [(0, 10.0)], 0);
        assert_eq!(BUCKET.wait(empty, 4.0), Some(2.0));
        assert_eq!(BUCKET.wait(empty, 11.0), None);
        // Two takes that didn't know of each other.
        assert_eq!(BUCKET.level(None, [(0, 10.0), (0, 4.0)], SECOND).tokens, -2.0);
        // One from before the start.
        let start = Level { tokens: 5.0, at: 9 * SECOND };
        assert_eq!(BUCKET.level(Some(start), [(SECOND, 2.0)], 10 * SECOND).tokens, 5.0);
    }

    proptest! {
        /// Merging the first takes into a start changes nothing: that is what keeps the list short.
        #[test]
        fn merging_is_invisible(gaps in proptest::collection::vec((0i64..20 * SECOND, 0.0..8.0), 0..40), cut in 0usize..40) {
            let mut now = 0;
            let takes: Vec<(i64, f64)> = gaps.iter().map(|&(gap, tokens)| { now += gap; (now, tokens) }).collect();
            let cut = cut.min(takes.len());
            let at = if cut == 0 { 0 } else { takes[cut - 1].0 };
            let start = BUCKET.level(None, takes[..cut].iter().copied(), at);
            let (whole, parts) = (
                BUCKET.level(None, takes.iter().copied(), now),
                BUCKET.level(Some(start), takes[cut..].iter().copied(), now),
            );
            prop_assert!((whole.tokens - parts.tokens).abs() < 1e-6, "{:?} {:?}", whole, parts);
        }

        /// Takes that ask first never take more than the bucket held and got back.
        #[test]
        fn the_rate_holds(wishes in proptest::collection::vec((0i64..3 * SECOND, 0.1..6.0), 1..60)) {
            let (mut now, mut takes, mut taken) = (0, Vec::new(), 0.0);
            for (gap, wish) in wishes {
                now += gap;
                if BUCKET.level(None, takes.iter().copied(), now).tokens >= wish {
                    takes.push((now, wish));
                    taken += wish;
                }
            }
            prop_assert!(taken <= BUCKET.capacity + BUCKET.rate * now as f64 / 1e6 + 1e-6);
        }
    }
}
