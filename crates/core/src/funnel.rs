//! Window funnels: how far a unit got through a list of steps inside a window, and when it took each step.
//!
//! An event is a time and a mask of the steps that it fits, bit 0 for the first. A chain of depth k is k different
//! events, one for each of the first k steps, of which the last is no more than the window later than the first.
//! The answer doesn't depend on the order in which the events are given, not even where their times are equal:
//! equal times may be taken in any order.

/// The most steps that a funnel may have; the mask's last bit is `EXCLUDED`.
pub const MAX_STEPS: usize = 31;

/// The bit of an event that ends every chain that began before it and goes on after it.
pub const EXCLUDED: u32 = 1 << 31;

/// In which order the steps must come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// In their order, whatever comes between.
    #[default]
    Steps,
    /// In their order, with no event at a time between one step's and the next one's.
    Strict,
    /// In any order: a chain of depth k is k of the steps.
    Any,
}

/// What a chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Number of steps, 1 to `MAX_STEPS`.
    pub steps: usize,
    /// The most that the last step may come later than the first, in the unit of the times.
    pub window: i64,
    pub order: Order,
    /// Whether each step must come at a later time than the one before. Without effect in `Order::Any`.
    pub strict_increase: bool,
}

/// The times of the steps on the deepest chain, as many as the depth reached. Of several the one that ends first, of
/// those the one that begins last, of those the one with the earliest times, step by step. In `Order::Any` the k-th
/// time is the one at which k steps had been taken.
///
/// `events` are sorted by time and mask.
pub fn chain(rule: &Rule, events: &[(i64, u32)]) -> Vec<i64> {
    debug_assert!(events.is_sorted() && (1..=MAX_STEPS).contains(&rule.steps));
    match rule.order {
        Order::Any => in_any_order(rule, events),
        Order::Steps | Order::Strict => in_order(rule, events),
    }
}

/// Splits sorted events into those of equal time.
fn moments(events: &[(i64, u32)]) -> impl DoubleEndedIterator<Item = (i64, &[(i64, u32)])> {
    events.chunk_by(|a, b| a.0 == b.0).map(|moment| (moment[0].0, moment))
}

/// Keeps for each depth the chain that begins last: whatever an earlier one can still become, that one can too.
fn in_order(rule: &Rule, events: &[(i64, u32)]) -> Vec<i64> {
    let mut chains: Vec<Vec<i64>> = vec![Vec::new(); rule.steps + 1];
    let mut deepest = Vec::new();
    for (time, moment) in moments(events) {
        if let [(_, mask)] = moment
            && mask.is_power_of_two()
            && *mask != EXCLUDED
            && rule.order == Order::Steps
        {
            if lengthen(rule, &mut chains, time, mask.trailing_zeros() as usize) == Some(deepest.len() + 1) {
                deepest.clone_from(&chains[deepest.len() + 1]);
                if deepest.len() == rule.steps {
                    break;
                }
            }
            continue;
        }
        let runs = Runs::new(rule, moment);
        let mut found: Vec<Vec<i64>> = Vec::new();
        // From deep to shallow, so that what is found here is not taken up again at the same time.
        for depth in (0..rule.steps).rev() {
            let before = &chains[depth];
            let begins = before.first().copied();
            if (depth > 0 && begins.is_none())
                || begins.is_some_and(|begins| begins.saturating_add(rule.window) < time)
            {
                continue;
            }
            for taken in 1..=runs.length(depth) {
                let longer = before.iter().copied().chain(core::iter::repeat_n(time, taken));
                found.push(longer.collect());
            }
        }
        if rule.order == Order::Strict {
            chains.iter_mut().for_each(Vec::clear);
        }
        for longer in found {
            let kept = &mut chains[longer.len()];
            let better = match kept.first() {
                None => true,
                Some(first) => longer[0] > *first || (longer[0] == *first && longer < *kept),
            };
            if better {
                *kept = longer;
            }
        }
        while let Some(next) = chains.get(deepest.len() + 1).filter(|next| !next.is_empty()) {
            deepest = next.clone();
        }
        if deepest.len() == rule.steps {
            break;
        }
        if moment.iter().any(|event| event.1 & EXCLUDED != 0) {
            chains
                .iter_mut()
                .filter(|chain| chain.first().is_some_and(|first| *first < time))
                .for_each(Vec::clear);
        }
    }
    deepest
}

/// What most moments are, one event that fits one step, without allocating: the chain that ends with that step now,
/// where it is better than the one kept. Returns its depth.
fn lengthen(rule: &Rule, chains: &mut [Vec<i64>], time: i64, step: usize) -> Option<usize> {
    let (before, after) = chains.get_mut(step..step + 2)?.split_at_mut(1);
    let (before, kept) = (&before[0], &mut after[0]);
    let begins = match before.first() {
        Some(begins) if begins.saturating_add(rule.window) >= time => *begins,
        None if step == 0 => time,
        _ => return None,
    };
    // A chain with the same beginning that was there before has earlier times.
    if kept.first().is_some_and(|first| *first >= begins)
        || (rule.strict_increase && before.last() == Some(&time))
    {
        return None;
    }
    kept.clone_from(before);
    kept.push(time);
    Some(kept.len())
}

/// Of one moment: how many successive steps can be taken at once.
struct Runs<'a> {
    rule: &'a Rule,
    union: u32,
    /// Masks with how many events have them; empty where every event fits one step at most.
    supply: Vec<(u32, usize)>,
}

impl<'a> Runs<'a> {
    fn new(rule: &'a Rule, moment: &[(i64, u32)]) -> Self {
        let union = moment.iter().fold(0, |union, event| union | event.1) & !EXCLUDED;
        let plain = moment.iter().all(|event| (event.1 & !EXCLUDED).count_ones() <= 1);
        Runs { rule, union, supply: if plain { Vec::new() } else { supply(moment) } }
    }

    fn length(&self, from: usize) -> usize {
        let most = if self.rule.strict_increase { 1 } else { self.rule.steps - from };
        let possible = ((self.union >> from).trailing_ones() as usize).min(most);
        if possible <= 1 || self.supply.is_empty() {
            return possible;
        }
        let mut matching = Matching::new(&self.supply);
        (from..from + possible).take_while(|&step| matching.place(step)).count()
    }
}

fn in_any_order(rule: &Rule, events: &[(i64, u32)]) -> Vec<i64> {
    let reached = |supply: &[(u32, usize)]| {
        let mut matching = Matching::new(supply);
        (0..rule.steps).filter(|&step| matching.place(step)).count()
    };
    // The greatest depth and when it is first reached, by a window that slides.
    let (mut depth, mut ends, mut earliest) = (0, i64::MIN, i64::MIN);
    let mut window = Window::default();
    let (mut excluded, mut first) = (i64::MIN, 0);
    for (time, moment) in moments(events) {
        let news = moment.iter().fold(false, |news, event| window.add(event.1, rule.steps) | news);
        earliest = excluded.max(time.saturating_sub(rule.window));
        while events[first].0 < earliest {
            window.remove(events[first].1);
            first += 1;
        }
        if news {
            let now = reached(&window.supply);
            if now > depth {
                (depth, ends) = (now, time);
            }
        }
        if depth == rule.steps {
            break;
        }
        if moment.iter().any(|event| event.1 & EXCLUDED != 0) {
            excluded = time;
        }
    }
    if depth == 0 {
        return Vec::new();
    }
    // Its latest beginning, then the way from there.
    let upto = &events[..events.partition_point(|event| event.0 <= ends)];
    let mut window = Window::default();
    let begins = moments(upto)
        .rev()
        .find(|(_, moment)| {
            moment.iter().for_each(|event| _ = window.add(event.1, rule.steps));
            reached(&window.supply) == depth
        })
        .map_or(earliest, |(time, _)| time);
    let mut window = Window::default();
    let mut times = Vec::with_capacity(depth);
    for (time, moment) in moments(&upto[upto.partition_point(|event| event.0 < begins)..]) {
        moment.iter().for_each(|event| _ = window.add(event.1, rule.steps));
        times.resize(reached(&window.supply).max(times.len()), time);
    }
    times
}

/// The masks of the events between two times, with their numbers.
#[derive(Default)]
struct Window {
    supply: Vec<(u32, usize)>,
}

impl Window {
    /// Adds an event; says whether it can make a difference.
    fn add(&mut self, mask: u32, steps: usize) -> bool {
        let mask = mask & !EXCLUDED;
        if mask == 0 {
            return false;
        }
        match self.supply.iter_mut().find(|entry| entry.0 == mask) {
            Some(entry) => {
                entry.1 += 1;
                entry.1 <= steps
            }
            None => {
                self.supply.push((mask, 1));
                true
            }
        }
    }

    fn remove(&mut self, mask: u32) {
        let mask = mask & !EXCLUDED;
        if let Some(place) = self.supply.iter().position(|entry| entry.0 == mask) {
            self.supply[place].1 -= 1;
            if self.supply[place].1 == 0 {
                self.supply.swap_remove(place);
            }
        }
    }
}

fn supply(moment: &[(i64, u32)]) -> Vec<(u32, usize)> {
    moment.chunk_by(|a, b| a.1 == b.1).map(|same| (same[0].1 & !EXCLUDED, same.len())).collect()
}

/// An event for each step, no event for two: augmenting paths over the distinct masks, each as often as events have it.
struct Matching<'a> {
    supply: &'a [(u32, usize)],
    taken: Vec<Vec<usize>>,
}

impl<'a> Matching<'a> {
    fn new(supply: &'a [(u32, usize)]) -> Self {
        Matching { supply, taken: vec![Vec::new(); supply.len()] }
    }

    /// Finds an event for one more step, where need be by giving other steps other events.
    fn place(&mut self, step: usize) -> bool {
        let mut seen = vec![false; self.supply.len()];
        self.seek(step, &mut seen)
    }

    /// Recurses at most once for each step placed.
    fn seek(&mut self, step: usize, seen: &mut [bool]) -> bool {
        for at in 0..self.supply.len() {
            let (mask, number) = self.supply[at];
            if seen[at] || mask >> step & 1 == 0 {
                continue;
            }
            seen[at] = true;
            if self.taken[at].len() < number {
                self.taken[at].push(step);
                return true;
            }
            for place in 0..self.taken[at].len() {
                if self.seek(self.taken[at][place], seen) {
                    self.taken[at][place] = step;
                    return true;
                }
            }
        }
        false
    }
}
