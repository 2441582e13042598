//! A funnel over the events of many units at once: how many took each step, and how long each step took.
//!
//! Events lie one after the other in one list and are sorted by unit at the end, by counting: a list for each unit would be written
//! to all over memory.

use crate::funnel::{EXCLUDED, Order, Rule, chain};
use std::collections::HashMap;

/// The most events: 800 MB.
pub const MAX_EVENTS: usize = 50_000_000;

/// Of one step: how many units took it, and how long after the previous one (of the first step: nothing), ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub units: u64,
    pub waits: Vec<i64>,
}

impl Step {
    /// The smallest wait that at least this fraction, in thousandths, of the waits doesn't exceed.
    pub fn percentile(&self, thousandths: usize) -> Option<i64> {
        let rank = (self.waits.len() * thousandths).div_ceil(1_000).max(1);
        self.waits.get(rank - 1).copied()
    }
}

/// Events of units, to be counted.
pub struct UnitFunnel {
    rule: Rule,
    /// The number of each unit, in order of arrival.
    numbers: HashMap<Vec<u8>, u32>,
    key: Vec<u8>,
    /// Unit, mask and time.
    events: Vec<(u32, u32, i64)>,
}

impl UnitFunnel {
    pub fn new(rule: Rule) -> Self {
        UnitFunnel { rule, numbers: HashMap::new(), key: Vec::with_capacity(512), events: Vec::new() }
    }

    /// How many events there are.
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// Bytes allocated, about.
    pub fn memory(&self) -> usize {
        self.events.capacity() * 16 + self.numbers.capacity() * 80 + self.key.capacity()
    }

    /// The bits of a mask that mean something; `None` where the event makes no difference.
    #[inline]
    fn used(&self, mask: u32) -> Option<u32> {
        let used = mask & (EXCLUDED | ((1 << self.rule.steps) - 1));
        (used != 0 || self.rule.order == Order::Strict).then_some(used)
    }

    fn set_key(&mut self, tenant: &[u8], unit: &[u8]) {
        // Ids contain no NUL.
        self.key.clear();
        self.key.extend_from_slice(tenant);
        self.key.push(0);
        self.key.extend_from_slice(unit);
    }

    /// Adds an event where that allocates nothing; says whether it did.
    #[inline]
    pub fn add_in_place(&mut self, tenant: &[u8], unit: &[u8], time: i64, mask: u32) -> bool {
        let Some(mask) = self.used(mask) else { return true };
        if self.events.len() == self.events.capacity() || tenant.len() + unit.len() >= self.key.capacity() {
            return false;
        }
        self.set_key(tenant, unit);
        let Some(&number) = self.numbers.get(&self.key) else { return false };
        self.events.push((number, mask, time));
        true
    }

    /// Adds an event.
    pub fn add(&mut self, tenant: &[u8], unit: &[u8], time: i64, mask: u32) {
        let Some(mask) = self.used(mask) else { return };
        self.set_key(tenant, unit);
        let next = self.numbers.len() as u32;
        let number = match self.numbers.get(&self.key) {
            Some(&number) => number,
            None => *self.numbers.entry(self.key.clone()).or_insert(next),
        };
        self.events.push((number, mask, time));
    }

    /// Counts, one for each step.
    pub fn count(&self) -> Vec<Step> {
        let mut ends = vec![0_usize; self.numbers.len() + 1];
        self.events.iter().for_each(|(number, _, _)| ends[*number as usize + 1] += 1);
        for unit in 1..ends.len() {
            ends[unit] += ends[unit - 1];
        }
        // Where the next event of each unit goes; in the end, where the unit's events end.
        let mut places = ends.clone();
        let mut sorted = vec![(0_i64, 0_u32); self.events.len()];
        for (number, mask, time) in &self.events {
            let place = &mut places[*number as usize];
            sorted[*place] = (*time, *mask);
            *place += 1;
        }
        let mut steps = vec![Step::default(); self.rule.steps];
        for unit in ends.windows(2) {
            let own = &mut sorted[unit[0]..unit[1]];
            if !own.is_sorted() {
                own.sort_unstable();
            }
            let times = chain(&self.rule, own);
            for (step, time) in times.iter().enumerate() {
                steps[step].units += 1;
                if step > 0 {
                    steps[step].waits.push(time - times[step - 1]);
                }
            }
        }
        steps.iter_mut().for_each(|step| step.waits.sort_unstable());
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::funnel::Order;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn counts_are_those_of_each_unit_alone(
            events in prop::collection::vec((0_u8..3, 0_u8..4, 0_i64..40, 0_u32..16), 0..80), order in 0_usize..3,
        ) {
            let order = [Order::Steps, Order::Strict, Order::Any][order];
            let rule = Rule { steps: 3, window: 10, order, strict_increase: false };
            let mut funnel = UnitFunnel::new(rule);
            let mut units: BTreeMap<(u8, u8), Vec<(i64, u32)>> = BTreeMap::new();
            for &(tenant, unit, time, mask) in &events {
                if !funnel.add_in_place(&[b'a' + tenant], &[b'b' + unit], time, mask) {
                    funnel.add(&[b'a' + tenant], &[b'b' + unit], time, mask);
                }
                if mask & 7 != 0 || order == Order::Strict {
                    units.entry((tenant, unit)).or_default().push((time, mask & 7));
                }
            }
            let mut expected = vec![Step::default(); 3];
            for mut own in units.into_values() {
                own.sort();
                let times = chain(&rule, &own);
                for (step, time) in times.iter().enumerate() {
                    expected[step].units += 1;
                    if step > 0 {
                        expected[step].waits.push(time - times[step - 1]);
                    }
                }
            }
            expected.iter_mut().for_each(|step| step.waits.sort());
            prop_assert_eq!(funnel.count(), expected);
        }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let step = Step { units: 4, waits: vec![1, 2, 3, 4] };
        assert_eq!([0, 500, 501, 900, 1000].map(|p| step.percentile(p)), [1, 2, 3, 4, 4].map(Some));
        assert_eq!(Step::default().percentile(500), None);
    }
}
