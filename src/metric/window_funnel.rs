//! The aggregates over the steps of a funnel: `window_funnel` and `funnel_times`.

use super::conditions;
use crate::backend::aggregate::{Combines, Holds, State, combine};
use crate::backend::call::{self, Call, Outcome, sql_function};
use crate::backend::report::Report;
use tally_core::funnel::{EXCLUDED, MAX_STEPS, Order, Rule, chain};

/// The most events of one group: 800 MB, which serialized is still a varlena.
const MAX_EVENTS: usize = 50_000_000;
const MICROSECONDS_A_DAY: i64 = 86_400_000_000;
/// Serialized: version, order, strict_increase, steps; then the window, then time and mask of each event.
const VERSION: u8 = 1;
const HEADER: usize = 12;
const EVENT: usize = 12;

/// The events of one group that can matter.
#[derive(Clone)]
struct Events {
    rule: Rule,
    sorted: bool,
    events: Vec<(i64, u32)>,
}

impl Holds for Events {
    fn outside(&self) -> usize {
        self.events.capacity() * size_of::<(i64, u32)>()
    }
}

impl Events {
    fn new(rule: Rule) -> Self {
        Events { rule, sorted: true, events: Vec::new() }
    }

    fn add(&mut self, event: (i64, u32)) -> Result<(), Report> {
        self.fits(1)?;
        self.sorted &= self.events.last().is_none_or(|last| *last <= event);
        self.events.push(event);
        Ok(())
    }

    fn fits(&self, more: usize) -> Result<(), Report> {
        if self.events.len() + more <= MAX_EVENTS {
            return Ok(());
        }
        Err(Report::new("54000", format!("a funnel can't hold more than {MAX_EVENTS} events of one group"))
            .hint("group by the user or the account"))
    }

    fn chain(&mut self) -> Vec<i64> {
        if !self.sorted {
            self.events.sort_unstable();
            self.sorted = true;
        }
        chain(&self.rule, &self.events)
    }

    fn serialize(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.events.len() * EVENT);
        let order = match self.rule.order {
            Order::Steps => 0,
            Order::Strict => 1,
            Order::Any => 2,
        };
        bytes.extend([VERSION, order, u8::from(self.rule.strict_increase), self.rule.steps as u8]);
        bytes.extend(self.rule.window.to_le_bytes());
        for (time, mask) in &self.events {
            bytes.extend(time.to_le_bytes());
            bytes.extend(mask.to_le_bytes());
        }
        bytes
    }

    fn deserialize(bytes: &[u8]) -> Option<Self> {
        let (header, events) = bytes.split_at_checked(HEADER)?;
        let order = [Order::Steps, Order::Strict, Order::Any].into_iter().nth(header[1].into())?;
        let rule = Rule {
            order,
            strict_increase: header[2] == 1,
            steps: header[3].into(),
            window: i64::from_le_bytes(header[4..].try_into().ok()?),
        };
        let whole =
            header[0] == VERSION && (1..=MAX_STEPS).contains(&rule.steps) && events.len() % EVENT == 0;
        let events: Vec<_> = events
            .chunks_exact(EVENT)
            .map(|event| {
                let (time, mask) = event.split_at(8);
                (
                    i64::from_le_bytes(time.try_into().expect("8 of 12 bytes")),
                    u32::from_le_bytes(mask.try_into().expect("4 of 12 bytes")),
                )
            })
            .collect();
        whole.then(|| Events { rule, sorted: events.is_sorted(), events })
    }
}

impl Combines for Events {
    fn combine(&mut self, other: &Events) -> Result<(), Report> {
        if self.rule != other.rule {
            return Err(changed());
        }
        self.fits(other.events.len())?;
        self.sorted &= other.sorted && self.events.last() <= other.events.first();
        self.events.extend_from_slice(&other.events);
        Ok(())
    }
}

fn changed() -> Report {
    Report::new("22023", "window, mode and number of steps must be the same for all rows of a group")
        .hint("give constants, or group by what they depend on")
}

/// Reads window, mode and number of steps.
pub fn rule(call: &Call, window: usize, mode: Option<&str>, steps: usize) -> Result<Rule, Report> {
    let refused = |message: &str, hint| Report::new("22023", message.to_owned()).hint(hint);
    let Some(interval) = call.interval(window) else {
        return Err(refused(
            "the window must not be null",
            "give a length of time, such as interval '7 days'",
        ));
    };
    if interval.months != 0 {
        return Err(refused(
            "the window must not contain months or years, which differ in length",
            "give days, such as interval '30 days'; a day is 24 hours",
        ));
    }
    let days = i64::from(interval.days).checked_mul(MICROSECONDS_A_DAY);
    let window = days.and_then(|days| days.checked_add(interval.microseconds));
    let Some(window) = window.filter(|window| *window > 0) else {
        return Err(refused(
            "the window must be longer than 0",
            "give a length of time, such as interval '7 days'",
        ));
    };
    if !(1..=MAX_STEPS).contains(&steps) {
        return Err(refused("a funnel has 1 to 31 steps", "leave some out, or cut it in two"));
    }
    let given = mode.unwrap_or_default();
    let words =
        given.split_once(',').map_or((given.trim(), None), |(one, other)| (one.trim(), Some(other.trim())));
    let (order, strict_increase) = match words {
        ("", None) => (Order::Steps, false),
        ("strict_increase", None) => (Order::Steps, true),
        ("strict_order", None) => (Order::Strict, false),
        ("strict_order", Some("strict_increase")) | ("strict_increase", Some("strict_order")) => {
            (Order::Strict, true)
        }
        ("any_order", None) => (Order::Any, false),
        _ => {
            return Err(Report::new("22023", format!("unknown funnel mode \"{given}\""))
                .hint("modes are strict_increase, strict_order, both with a comma between, and any_order; the empty text is none of them"));
        }
    };
    Ok(Rule { steps, window, order, strict_increase })
}

fn add(call: &Call, rule: Rule, time: Option<i64>, mask: u32) -> Outcome {
    let state = State::<Events>::of(call, 0);
    let used = mask & (EXCLUDED | ((1 << rule.steps) - 1));
    // Where other events may stand between the steps, one that fits none of them makes no difference.
    let Some(time) = time.filter(|_| used != 0 || rule.order == Order::Strict) else {
        return Ok(state.map(State::datum));
    };
    let state = State::or_new(state, call, || Ok(Events::new(rule)))?;
    if state.value().rule != rule {
        return Err(changed());
    }
    state.change(|events| events.add((time, used)))?;
    Ok(Some(state.datum()))
}

sql_function! {
    /// `window_funnel(window, occurred_at, VARIADIC steps)`
    fn tally_window_funnel_trans / pg_finfo_tally_window_funnel_trans(call) {
        let Some((mask, steps)) = conditions::mask(call, 3, MAX_STEPS)? else { return Err(no_steps()) };
        add(call, rule(call, 1, None, steps)?, call.long(2), mask)
    }
}

sql_function! {
    /// `window_funnel(window, mode, occurred_at, VARIADIC steps)`
    fn tally_window_funnel_trans_mode / pg_finfo_tally_window_funnel_trans_mode(call) {
        let Some((mask, steps)) = conditions::mask(call, 4, MAX_STEPS)? else { return Err(no_steps()) };
        add(call, rule(call, 1, call.text(2), steps)?, call.long(3), mask)
    }
}

sql_function! {
    /// `funnel_times(window, mode, occurred_at, steps, mask)`
    fn tally_funnel_times_trans / pg_finfo_tally_funnel_times_trans(call) {
        let steps = call.int(4).and_then(|steps| usize::try_from(steps).ok()).unwrap_or(0);
        add(call, rule(call, 1, call.text(2), steps)?, call.long(3), call.int(5).unwrap_or(0) as u32)
    }
}

sql_function! { fn tally_funnel_combine / pg_finfo_tally_funnel_combine(call) { combine::<Events>(call) } }

sql_function! {
    fn tally_funnel_serialize / pg_finfo_tally_funnel_serialize(call) {
        Ok(State::<Events>::of(call, 0).map(|state| call::varlena(&state.value().serialize())))
    }
}

sql_function! {
    fn tally_funnel_deserialize / pg_finfo_tally_funnel_deserialize(call) {
        let Some(bytes) = call.bytes(0) else { return Ok(None) };
        let events = Events::deserialize(bytes).ok_or_else(|| Report::new("22P03", "these bytes are no state of a funnel"))?;
        State::begun(call, events)
    }
}

sql_function! {
    fn tally_window_funnel_final / pg_finfo_tally_window_funnel_final(call) {
        let depth = State::<Events>::of(call, 0).map_or(0, |state| state.change(|events| events.chain().len()));
        Ok(Some(pgrx::pg_sys::Datum::from(depth as i32)))
    }
}

sql_function! {
    fn tally_funnel_times_final / pg_finfo_tally_funnel_times_final(call) {
        let times = State::<Events>::of(call, 0).map_or(Vec::new(), |state| state.change(Events::chain));
        Ok(Some(conditions::times(&times)))
    }
}

fn no_steps() -> Report {
    Report::new("22023", "the steps must not be null")
        .hint("give one condition a step, such as name = 'signed up', name = 'paid'")
}
