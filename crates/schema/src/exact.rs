//! Numbers by all of their digits: what schemas say of numbers, judged as decimals. The `jsonschema` crate by itself goes by doubles
//! beyond 64 bits.

use crate::counted::{Counted, Looked};
use crate::cut;
use crate::watch::{step, steps};
use jsonschema::paths::Location;
use jsonschema::{Keyword, ValidationError, ValidationOptions};
use serde_json::{Map, Number, Value};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt::Write;

/// A decimal number: its digits without zeros at either end, none of them for zero, times a power of ten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    is_negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    pub(crate) fn of(number: &Number) -> Self {
        let text = number.as_str();
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let written = format!("{whole}{fraction}");
        let kept = written.trim_end_matches('0');
        let digits = kept.trim_start_matches('0').to_owned();
        // Of an exponent beyond that, all that counts is how the number compares.
        let furthest = if exponent.starts_with('-') { i64::MIN / 4 } else { i64::MAX / 4 };
        let exponent: i64 =
            exponent.parse().map_or(furthest, |exponent: i64| exponent.clamp(i64::MIN / 4, i64::MAX / 4));
        let exponent = exponent - fraction.len() as i64 + (written.len() - kept.len()) as i64;
        let is_zero = digits.is_empty();
        Self {
            is_negative: !is_zero && text.starts_with('-'),
            digits,
            exponent: if is_zero { 0 } else { exponent },
        }
    }

    fn is_integer(&self) -> bool {
        self.exponent >= 0
    }

    /// Whether this divided by a divisor of so many digits that their remainders can be told is a whole number; `None` for another one.
    fn is_multiple_of(&self, divisor: &Self) -> Option<bool> {
        let by: u64 = divisor.digits.parse().ok().filter(|by| *by < u64::MAX / 10)?;
        if self.digits.is_empty() {
            return Some(true);
        }
        // The last digit isn't zero.
        let Ok(zeros) = u64::try_from(self.exponent - divisor.exponent) else { return Some(false) };
        let add =
            |rest: u64, digit: u8| ((u128::from(rest) * 10 + u128::from(digit)) % u128::from(by)) as u64;
        let mut rest = self.digits.bytes().fold(0, |rest, digit| add(rest, digit - b'0'));
        // More than the powers of two and five that a divisor has change nothing.
        for _ in 0..zeros.min(64) {
            rest = add(rest, 0);
        }
        Some(rest == 0)
    }

    fn number(&self) -> Number {
        let sign = if self.is_negative { "-" } else { "" };
        let digits = if self.digits.is_empty() { "0" } else { &self.digits };
        let text = match self.exponent {
            0 => format!("{sign}{digits}"),
            exponent => format!("{sign}{digits}e{exponent}"),
        };
        text.parse().expect("a number")
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let top = |number: &Self| number.digits.len() as i64 + number.exponent;
        let size = top(self).cmp(&top(other)).then_with(|| self.digits.cmp(&other.digits));
        sign(self).cmp(&sign(other)).then(if self.is_negative { size.reverse() } else { size })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A value in which numbers that are the same are written alike.
pub(crate) fn alike(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(Decimal::of(number).number()),
        Value::Array(elements) => elements.iter().map(alike).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(key, value)| (key.clone(), alike(value))).collect())
        }
        other => other.clone(),
    }
}

/// A text that values have in common which are the same.
fn spelling(value: &Value) -> String {
    let text = alike(value).to_string();
    steps(text.len() / 64);
    text
}

/// What a keyword says of a value: what is wrong, if anything.
struct Rule<F>(F);

impl<'i, F: Fn(&Value) -> Option<String> + Send + Sync> Keyword<'i, Counted> for Rule<F> {
    fn validate(&self, instance: Looked<&'i Value>) -> Result<(), ValidationError<'i>> {
        step();
        match (self.0)(instance.0) {
            None => Ok(()),
            Some(problem) => Err(ValidationError::custom(problem)),
        }
    }

    fn is_valid(&self, instance: Looked<&'i Value>) -> bool {
        step();
        (self.0)(instance.0).is_none()
    }
}

type Judge = Box<dyn for<'i> Keyword<'i, Counted>>;
type Built<'a> = Result<Judge, ValidationError<'a>>;

fn rule<'a>(judge: impl Fn(&Value) -> Option<String> + Send + Sync + 'static) -> Built<'a> {
    step();
    Ok(Box::new(Rule(judge)))
}

/// A rule for numbers alone.
fn of_numbers<'a>(judge: impl Fn(Decimal) -> Option<String> + Send + Sync + 'static) -> Built<'a> {
    rule(move |value| match value {
        Value::Number(number) => judge(Decimal::of(number)),
        _ => None,
    })
}

/// A bound, which numbers may reach unless the keyword `exclusive` says otherwise, as it does in draft 4.
fn bound<'a>(
    parent: &Map<String, Value>,
    limit: &Value,
    exclusive: &str,
    past: Ordering,
    told: &'static str,
) -> Built<'a> {
    let Value::Number(written) = limit else { return of_numbers(|_| None) };
    let (limit, written) = (Decimal::of(written), written.to_string());
    let is_exclusive = parent.get(exclusive) == Some(&Value::Bool(true));
    of_numbers(move |number| {
        let order = number.cmp(&limit);
        (order == past || is_exclusive && order == Ordering::Equal).then(|| {
            let reached = if is_exclusive { " or equal to" } else { "" };
            format!(
                "the value is {}{reached} the {} of {written}",
                if past == Ordering::Less { "less than" } else { "greater than" },
                told
            )
        })
    })
}

/// The same with a bound that numbers may not reach; of draft 4, a yes or no that the other keyword sees to.
fn exclusive<'a>(limit: &Value, past: Ordering, told: &'static str) -> Built<'a> {
    let Value::Number(written) = limit else { return of_numbers(|_| None) };
    let (limit, written) = (Decimal::of(written), written.to_string());
    of_numbers(move |number| {
        let order = number.cmp(&limit);
        (order == past || order == Ordering::Equal).then(|| format!("the value is {told} of {written}"))
    })
}

fn one_of<'a>(values: &[Value]) -> Built<'a> {
    let texts: HashSet<String> = values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let numbers: HashSet<String> = values.iter().filter(|value| value.is_number()).map(spelling).collect();
    let others: Vec<Value> =
        values.iter().filter(|value| !value.is_string() && !value.is_number()).cloned().collect();
    let told = cut(&cut_list(values));
    rule(move |value| {
        let is_one = match value {
            Value::String(text) => texts.contains(text),
            Value::Number(_) => numbers.contains(&spelling(value)),
            _ => others.iter().any(|other| is_same(value, other)),
        };
        (!is_one).then(|| format!("the value is not one of {told}"))
    })
}

/// Whether two values are the same however their numbers are written; found out as soon as they aren't.
fn is_same(left: &Value, right: &Value) -> bool {
    step();
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            left == right || Decimal::of(left).cmp(&Decimal::of(right)) == Ordering::Equal
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| is_same(value, other)))
        }
        _ => left == right,
    }
}

fn cut_list(values: &[Value]) -> String {
    let mut told = String::new();
    for (place, value) in values.iter().enumerate() {
        let between = match place {
            0 => "",
            _ if place + 1 == values.len() => " or ",
            _ => ", ",
        };
        let _ = write!(told, "{between}{value}");
    }
    told
}

fn multiple_of<'a>(divisor: &Value) -> Built<'a> {
    let Value::Number(written) = divisor else { return of_numbers(|_| None) };
    let (divisor, double, written) = (Decimal::of(written), written.as_f64(), written.to_string());
    rule(move |value| {
        let Value::Number(number) = value else { return None };
        let is_multiple = Decimal::of(number).is_multiple_of(&divisor).unwrap_or_else(|| {
            // Of a divisor of more than 18 digits.
            let parts = number.as_f64().zip(double);
            parts.is_some_and(|(number, divisor)| (number / divisor).fract() == 0.0)
        });
        (!is_multiple).then(|| format!("the value is not a multiple of {written}"))
    })
}

fn unique<'a>(is_wanted: bool) -> Built<'a> {
    rule(move |value| {
        let Value::Array(elements) = value else { return None };
        let mut seen = HashSet::new();
        let is_unique = !is_wanted
            || elements.iter().all(|element| {
                step();
                seen.insert(spelling(element))
            });
        (!is_unique).then(|| "the value has non-unique elements".to_owned())
    })
}

/// Types, of which an integer may have zeros behind a point but in draft 4.
fn types<'a>(kinds: &Value, is_draft_4: bool) -> Built<'a> {
    let kinds: Vec<String> = match kinds {
        Value::Array(kinds) => kinds.iter().filter_map(|kind| kind.as_str().map(str::to_owned)).collect(),
        kind => kind.as_str().map(str::to_owned).into_iter().collect(),
    };
    rule(move |value| {
        let is = |kind: &str| match (kind, value) {
            ("integer", Value::Number(number)) if is_draft_4 => !number.as_str().contains(['.', 'e', 'E']),
            ("integer", Value::Number(number)) => Decimal::of(number).is_integer(),
            ("number", Value::Number(_))
            | ("string", Value::String(_))
            | ("boolean", Value::Bool(_))
            | ("null", Value::Null)
            | ("array", Value::Array(_))
            | ("object", Value::Object(_)) => true,
            _ => false,
        };
        let told = || kinds.iter().map(|kind| format!("\"{kind}\"")).collect::<Vec<_>>().join(", ");
        let several = if kinds.len() == 1 { "" } else { "s" };
        (!kinds.iter().any(|kind| is(kind))).then(|| format!("the value is not of type{several} {}", told()))
    })
}

/// Options by which numbers are judged by their digits.
pub(crate) fn judging<'i, R>(
    options: ValidationOptions<'i, R, Counted>,
    is_draft_4: bool,
) -> ValidationOptions<'i, R, Counted> {
    type Parent = Map<String, Value>;
    // Draft 4 has no such keyword.
    let options = if is_draft_4 {
        options
    } else {
        options.with_keyword("const", |_: &Parent, only: &Value, _: Location| {
            let (wanted, told) = (only.clone(), cut(&only.to_string()));
            rule(move |value| (!is_same(value, &wanted)).then(|| format!("{told} was expected")))
        })
    };
    options
        .with_keyword("minimum", |parent: &Parent, limit: &Value, _: Location| {
            bound(parent, limit, "exclusiveMinimum", Ordering::Less, "minimum")
        })
        .with_keyword("maximum", |parent: &Parent, limit: &Value, _: Location| {
            bound(parent, limit, "exclusiveMaximum", Ordering::Greater, "maximum")
        })
        .with_keyword("exclusiveMinimum", |_: &Parent, limit: &Value, _: Location| {
            exclusive(limit, Ordering::Less, "less than or equal to the minimum")
        })
        .with_keyword("exclusiveMaximum", |_: &Parent, limit: &Value, _: Location| {
            exclusive(limit, Ordering::Greater, "greater than or equal to the maximum")
        })
        .with_keyword("multipleOf", |_: &Parent, divisor: &Value, _: Location| multiple_of(divisor))
        .with_keyword("enum", |_: &Parent, values: &Value, _: Location| {
            one_of(values.as_array().map_or(&[], |values| values))
        })
        .with_keyword("uniqueItems", |_: &Parent, is_wanted: &Value, _: Location| {
            unique(*is_wanted == Value::Bool(true))
        })
        .with_keyword("type", move |_: &Parent, kinds: &Value, _: Location| types(kinds, is_draft_4))
}
