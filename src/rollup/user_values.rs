//! What expressions make of a user's id: values that are one user's, so that rows and values of it are found where the events that
//! they came from are gone.

use super::RollupError;
use super::definition::{self, Column, Definition, Kind};
use super::frozen;
use super::reads::reads;
use crate::backend::arena::Arena;
use crate::backend::expression::{Expression, Projector, type_name};
use crate::backend::expression_reads::Reads;
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::{memory, session, sql, value};
use crate::event::{EVENTS, EventRow};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

/// About how many ids like a user's an expression is tried on. Of ten thousand values that they may have, two have the same one more often
/// than not.
const TRIALS: usize = 128;
/// Fewer say nothing.
const LEAST_TRIALS: usize = 8;

/// Users whose values are made while what is declared is kept from being changed.
const MADE_AT_ONCE: usize = 500;

/// What a column's expression reads.
pub fn reads_of(column: &Column) -> Rc<Reads> {
    column.text.as_deref().map_or_else(Rc::default, reads)
}

/// Whether a dimension is the user, so that each group is one user's.
pub fn is_user(column: &Column) -> bool {
    reads_of(column).column.as_deref() == Some("user_id")
}

/// Whether a column is made from the user.
fn is_of_user(column: &Column) -> bool {
    reads_of(column).reads_column("user_id")
}

/// Whether a column has values as they were made.
pub fn is_value(column: &Column) -> bool {
    matches!(column.kind, Kind::Min | Kind::Max | Kind::First | Kind::Last)
}

/// Dimensions that are made from the user, and aren't it.
pub fn named_dimensions(definition: &Definition) -> impl Iterator<Item = &Column> {
    definition.dimensions().filter(|column| !is_user(column) && is_of_user(column))
}

/// Measures that are, or are made from, users.
pub fn named_measures(definition: &Definition) -> impl Iterator<Item = &Column> {
    definition.measures().filter(|column| is_value(column) && is_of_user(column))
}

/// The values of a column, as text, that it has of these users of a tenant and of nobody else: their ids, as the column's type and in other letters, and what the
/// expression makes of an id where it makes something else of others that are like it. `alike` are other users whose ids are these in another spelling.
pub fn of_users(
    definition: &Definition,
    column: &Column,
    tenant: &str,
    users: &[String],
    alike: &[String],
) -> Result<Vec<String>, RollupError> {
    let Some(expression) = &column.expression else { return Ok(Vec::new()) };
    let reads = reads_of(column);
    let reads_more = reads.is_unknown || reads.columns.len() > 1 || !reads.properties.is_empty();
    let maker = Maker { definition, expression, tenant };
    let mut found = BTreeSet::new();
    for (user, made) in users.iter().zip(maker.make(users)?) {
        session::check_for_interrupts();
        let own = maker.read(user);
        if let Some(made) = made
            && (own.as_ref() == Some(&made)
                || made.to_lowercase() == user.to_lowercase()
                || maker.is_of_one(user, &made)?)
        {
            found.insert(made);
        }
        // By what else it reads it may be the id itself.
        found.extend(own.filter(|_| reads_more));
    }
    if reads_more && reads.folds_case && matches!(expression.type_oid, pg_sys::TEXTOID | pg_sys::VARCHAROID) {
        // By every way of folding it: the expression may have had any collation.
        let folded = "SELECT v.text FROM unnest($1) AS s (id), \
            LATERAL (VALUES (lower(s.id)), (upper(s.id)), (lower(s.id COLLATE \"C\")), (upper(s.id COLLATE \"C\"))) AS v (text)";
        let values = [users.to_vec().into()];
        found.extend(session::as_owner(|| sql::rows(folded, &values, |row| row.need::<String>(1))));
        for other in alike {
            found.remove(&other.to_lowercase());
            found.remove(&other.to_uppercase());
        }
    }
    if !found.is_empty() && !alike.is_empty() {
        for (other, made) in alike.iter().zip(maker.make(alike)?) {
            let read = maker.read(other).filter(|_| reads_more);
            for shared in made.iter().chain(&read) {
                found.remove(shared);
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// The users of a tenant, as the rollup of users' activity knows them, that are none of some and whose ids are one of theirs in another spelling: in
/// other letters, the same number with other zeros, the same uuid with other signs, or with blanks around.
pub fn alike(tenant: &str, users: &[String]) -> Vec<String> {
    if users.is_empty() || session::find_relation(c"user_activity_pending").is_none() {
        return Vec::new();
    }
    let spelt: BTreeSet<String> = users.iter().flat_map(|user| spellings(user)).collect();
    let folded: BTreeSet<String> = users.iter().map(|user| user.to_lowercase()).collect();
    let query = "SELECT DISTINCT p.user_id FROM tally_internal.user_activity_part AS p \
                  WHERE p.tenant_id = $1 AND (p.user_id = ANY ($2) OR lower(p.user_id COLLATE \"default\") = ANY ($3))";
    let values = [
        tenant.into(),
        spelt.into_iter().collect::<Vec<_>>().into(),
        folded.into_iter().collect::<Vec<_>>().into(),
    ];
    let known = session::as_owner(|| sql::rows(query, &values, |row| row.need::<String>(1)));
    let users: HashSet<&String> = users.iter().collect();
    known.into_iter().filter(|known| !users.contains(known)).collect()
}

/// Zeros in front of a number, of an id that somebody has filled up to a width.
const ZEROS: usize = 20;

/// Other spellings of an id, as types other than text read them.
fn spellings(user: &str) -> Vec<String> {
    let bare = user.trim();
    let mut found = vec![bare.to_owned(), format!(" {bare}"), format!("{bare} ")];
    let (sign, digits) = match bare.strip_prefix(['-', '+']) {
        Some(digits) if bare.starts_with('-') => ("-", digits),
        Some(digits) => ("", digits),
        None => ("", bare),
    };
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = digits.trim_start_matches('0');
        for zeros in 0..=ZEROS {
            let spelt = format!("{}{number}", "0".repeat(zeros));
            found.push(format!("{sign}{spelt}"));
            if sign.is_empty() {
                found.push(format!("+{spelt}"));
            }
        }
    }
    let plain: String = bare.chars().filter(char::is_ascii_hexdigit).collect();
    if plain.len() == 32 {
        let plain = plain.to_lowercase();
        let parts = [&plain[..8], &plain[8..12], &plain[12..16], &plain[16..20], &plain[20..]].join("-");
        for spelt in [plain, parts] {
            let braced = format!("{{{spelt}}}");
            found.extend([spelt.to_uppercase(), braced.to_uppercase(), braced, spelt]);
        }
    }
    found
}

/// The values of some users of a tenant, made before they are asked for.
#[derive(Default)]
pub struct Made(Vec<MadeOf>);

/// Those of a column, by its rollup, its name and its expression.
struct MadeOf {
    rollup: String,
    column: String,
    expression: Option<String>,
    values: Vec<String>,
}

impl Made {
    /// Makes them of the columns that keep some where buckets aren't made anew, while nobody is locked out: each user is tried on many ids. `lost`
    /// are the months whose events are gone.
    pub fn of(tenant: &str, users: &[String], lost: &[i64]) -> Result<Self, RollupError> {
        let of_definition = |definition: &Definition| {
            let columns = named_dimensions(definition).chain(named_measures(definition));
            let of = |column: &Column| MadeOf {
                rollup: definition.name.clone(),
                column: column.name.clone(),
                expression: column.text.clone(),
                values: Vec::new(),
            };
            columns.map(of).collect::<Vec<_>>()
        };
        let has_frozen = |definition: &&Definition| !frozen::times(definition, tenant, lost).is_empty();
        let mut made: Vec<MadeOf> = without_locks(|definitions| {
            Ok(definitions.iter().filter(has_frozen).flat_map(of_definition).collect())
        })?;
        let alike = if made.is_empty() { Vec::new() } else { alike(tenant, users) };
        for of in &mut made {
            for some in users.chunks(MADE_AT_ONCE) {
                let values = without_locks(|definitions| match of.find_in(definitions) {
                    Some((definition, column)) => {
                        of_users(definition, column, tenant, some, &alike).map(Some)
                    }
                    None => Ok(None),
                })?;
                let Some(values) = values else {
                    // It is changed meanwhile: of what it is now, none are made.
                    of.expression = None;
                    break;
                };
                of.values.extend(values);
            }
        }
        Ok(Self(made))
    }

    /// Those of a column, where they were made.
    pub fn find(&self, definition: &Definition, column: &Column) -> Option<&Vec<String>> {
        self.0.iter().find(|of| of.is_of(definition, column)).map(|of| &of.values)
    }
}

impl MadeOf {
    fn is_of(&self, definition: &Definition, column: &Column) -> bool {
        self.rollup == definition.name && self.column == column.name && self.expression == column.text
    }

    fn find_in<'d>(&self, definitions: &'d [Definition]) -> Option<(&'d Definition, &'d Column)> {
        let columns =
            |definition: &'d Definition| definition.columns.iter().map(move |column| (definition, column));
        definitions.iter().flat_map(columns).find(|(definition, column)| self.is_of(definition, column))
    }
}

/// Reads what is declared, and gives back the locks that this takes: they would be in the way of whoever locks ingest out.
fn without_locks<T>(work: impl FnOnce(&[Definition]) -> Result<T, RollupError>) -> Result<T, RollupError> {
    let done = subtransaction::run(|| Verdict::Undo(definition::all().and_then(|all| work(&all))));
    done.unwrap_or_else(|caught| caught.rethrow())
}

/// Evaluates one of a rollup's expressions for events of which nothing is known but the user.
struct Maker<'a> {
    definition: &'a Definition,
    expression: &'a Expression,
    tenant: &'a str,
}

impl Maker<'_> {
    /// What it makes of each user; nothing where that is null or an error.
    fn make(&self, users: &[String]) -> Result<Vec<Option<String>>, RollupError> {
        let tried = subtransaction::run(|| {
            Verdict::Undo(self.definition.evaluate(|| -> Result<Vec<Option<String>>, RollupError> {
                memory::in_temporary(c"pg_tally values of users", || {
                    let events = session::relation(c"events");
                    let mut projector =
                        Projector::new(events, &EVENTS, None, core::slice::from_ref(self.expression))?;
                    let mut arena = Arena::default();
                    let mut made = Vec::with_capacity(users.len());
                    for user in users {
                        let row = EventRow::of_user(self.tenant, user, &mut arena);
                        let value = projector.evaluate(&row.values, &row.nulls);
                        made.push(value.and_then(|(values, nulls)| {
                            (!nulls[0]).then(|| value::print(values[0], self.expression.type_oid))
                        }));
                    }
                    Ok(made)
                })
            }))
        });
        match tried {
            Ok(made) => made,
            Err(caught) if !caught.may_be_of_an_expression() => caught.rethrow(),
            Err(_) if users.len() == 1 => Ok(vec![None]),
            Err(_) => {
                let (some, others) = users.split_at(users.len() / 2);
                let mut made = self.make(some)?;
                made.extend(self.make(others)?);
                Ok(made)
            }
        }
    }

    /// An id as a value of the expression's type, where it is one.
    fn read(&self, user: &str) -> Option<String> {
        let of = self.expression.type_oid;
        if matches!(of, pg_sys::TEXTOID | pg_sys::VARCHAROID) {
            return Some(user.to_owned());
        }
        let read = || Verdict::Undo(self.definition.evaluate(|| value::reprint(user, of)));
        match subtransaction::run(read) {
            Ok(read) => Some(read),
            Err(caught) if caught.may_be_of_an_expression() => None,
            Err(caught) => caught.rethrow(),
        }
    }

    /// Whether a value tells a user from others: ids that differ from its in one letter or digit have each another one.
    fn is_of_one(&self, user: &str, made: &str) -> Result<bool, RollupError> {
        let mut seen = HashSet::from([made.to_owned()]);
        let others = self.make(&like(user))?;
        Ok(others.iter().flatten().count() >= LEAST_TRIALS
            && others.into_iter().flatten().all(|other| seen.insert(other)))
    }
}

/// Ids that are like one: with another letter or digit in one place, in front or behind. No two of them are the same number, or the same in
/// small letters.
fn like(user: &str) -> Vec<String> {
    let each = (TRIALS / user.len().max(1)).max(1);
    let mut found = Vec::new();
    for (place, letter) in user.char_indices() {
        let class = match letter {
            '0'..='9' => '0'..='9',
            'a'..='z' => 'a'..='z',
            'A'..='Z' => 'A'..='Z',
            _ => continue,
        };
        let width = class.clone().count();
        let others = class.clone().chain(class).skip_while(|other| *other != letter).skip(1).take(width - 1);
        for other in others.take(each) {
            found.push(format!("{}{other}{}", &user[..place], &user[place + 1..]));
        }
    }
    // Not a zero, which in front of a number changes nothing.
    for more in ('1'..='9').chain('a'..='z') {
        found.push(format!("{more}{user}"));
        found.push(format!("{user}{more}"));
    }
    found.sort();
    found.dedup();
    found
}

/// `user_dimensions(tenant_id, ids)`: the dimensions of rollups that are the user or made from it, with the values that are these users' alone.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of a set-returning function")]
fn user_dimensions(
    tenant_id: &str,
    ids: Vec<Option<String>>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(rollup_name, String),
            name!(column_name, String),
            name!(type_name, String),
            name!(made, Vec<String>),
        ),
    >,
    ErrorReport,
> {
    let ids: Vec<String> = ids.into_iter().flatten().collect();
    let alike = alike(tenant_id, &ids);
    let mut found = Vec::new();
    for definition in definition::all()?.iter() {
        for column in definition.dimensions().filter(|column| is_of_user(column)) {
            let made = if is_user(column) {
                ids.clone()
            } else {
                of_users(definition, column, tenant_id, &ids, &alike)?
            };
            found.push((definition.name.clone(), column.name.clone(), type_name(column.stored_type()), made));
        }
    }
    Ok(TableIterator::new(found))
}
