//! Merging many ascending runs into one.

use super::centroid::Sortable;

/// Ascending runs side by side, waiting to be merged.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    items: Vec<Sortable>,
    /// Where each run ends.
    ends: Vec<u32>,
}

impl Runs {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.items.capacity() * size_of::<Sortable>() + self.ends.capacity() * size_of::<u32>()
    }

    pub(super) fn reserve(&mut self, items: usize) {
        self.items.reserve(items);
    }

    /// Adds to the run being written; it must not fall below what the run has.
    #[inline]
    pub(super) fn push(&mut self, item: Sortable) {
        self.items.push(item);
    }

    /// Ends the run being written.
    pub(super) fn end_run(&mut self) {
        let end = self.items.len() as u32;
        if self.ends.last() != Some(&end) && end != 0 {
            self.ends.push(end);
        }
    }

    /// Forgets the run being written.
    pub(super) fn drop_run(&mut self) {
        self.items.truncate(self.ends.last().map_or(0, |&end| end as usize));
    }

    /// Takes all runs, merged into one. Neighbours are merged in pairs, and the results again: runs of like
    /// length cost the fewest steps.
    pub(super) fn take_merged(&mut self) -> Vec<Sortable> {
        let (mut from, mut ends) = (std::mem::take(&mut self.items), std::mem::take(&mut self.ends));
        let mut into = if ends.len() > 1 { from.clone() } else { Vec::new() };
        while ends.len() > 1 {
            let mut start = 0;
            let mut merged_ends = Vec::with_capacity(ends.len().div_ceil(2));
            for pair in ends.chunks(2) {
                let (middle, end) = (pair[0] as usize, pair[pair.len() - 1] as usize);
                merge(&from[start..middle], &from[middle..end], &mut into[start..end]);
                merged_ends.push(end as u32);
                start = end;
            }
            std::mem::swap(&mut from, &mut into);
            ends = merged_ends;
        }
        from
    }
}

/// Merges two ascending runs; of equal items, those of `left` come first.
///
/// Works from both ends at once: each end waits for its own comparisons only, so that two are under way
/// at any time. Neither end can run out of a run in `steps` steps.
fn merge(mut left: &[Sortable], mut right: &[Sortable], mut out: &mut [Sortable]) {
    loop {
        let steps = left.len().min(right.len()) / 2;
        if steps == 0 {
            break;
        }
        let (mut l, mut r) = (0, 0);
        let (mut l_end, mut r_end) = (left.len(), right.len());
        let last = out.len() - 1;
        for step in 0..steps {
            let (a, b) = (left[l], right[r]);
            let take_right = b < a;
            out[step] = if take_right { b } else { a };
            r += usize::from(take_right);
            l += usize::from(!take_right);

            let (a, b) = (left[l_end - 1], right[r_end - 1]);
            let take_left = b < a;
            out[last - step] = if take_left { a } else { b };
            l_end -= usize::from(take_left);
            r_end -= usize::from(!take_left);
        }
        (left, right) = (&left[l..l_end], &right[r..r_end]);
        out = &mut out[steps..last + 1 - steps];
    }
    finish(left, right, out);
}

/// Merges runs of which one has a single item, or none.
fn finish(left: &[Sortable], right: &[Sortable], out: &mut [Sortable]) {
    let (mut l, mut r) = (0, 0);
    for slot in out {
        let take_right = match (left.get(l), right.get(r)) {
            (Some(a), Some(b)) => b < a,
            (None, _) => true,
            (_, None) => false,
        };
        *slot = if take_right { right[r] } else { left[l] };
        r += usize::from(take_right);
        l += usize::from(!take_right);
    }
}

#[cfg(test)]
mod tests {
    use super::super::centroid::{Centroid, Sortable};
    use super::Runs;

    #[test]
    fn merges_runs_of_every_length() {
        let mut state = 1_u64;
        for number in 0..9 {
            for longest in [1, 2, 3, 7, 100] {
                let (mut runs, mut all) = (Runs::default(), Vec::new());
                for _ in 0..number {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let length = (state >> 33) % (longest + 1);
                    let mut run: Vec<Sortable> = (0..length)
                        .map(|i| Centroid::point(((state >> (i % 50)) % 97) as f64 - 40.0, 1 + i % 3).into())
                        .collect();
                    run.sort();
                    run.iter().for_each(|&item| runs.push(item));
                    runs.end_run();
                    all.extend(run);
                }
                all.sort();
                assert_eq!(runs.take_merged(), all);
                assert_eq!(runs.len(), 0);
            }
        }
    }
}
