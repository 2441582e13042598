//! What expressions make of a user's id: values that are one user's, so that rows and values of it are found where the events that
//! they came from are gone.

use super::RollupError;
use super::definition::{self, Column, Definition};
use super::reads::reads;
use crate::backend::arena::Arena;
use crate::backend::expression::{Expression, Projector, type_name};
use crate::backend::expression_reads::Reads;
use crate::backend::subtransaction::{self, Verdict};
use crate::backend::{memory, session, sql, value};
use crate::event::{EVENTS, EventRow};
use core::cell::RefCell;
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

/// What a column's expression reads.
pub fn reads_of(column: &Column) -> Rc<Reads> {
    column.text.as_deref().map_or_else(Rc::default, reads)
}

/// Whether a dimension is the user, so that each group is one user's.
pub fn is_user(column: &Column) -> bool {
    reads_of(column).column.as_deref() == Some("user_id")
}

/// Whether a column is made from the user.
pub fn is_of_user(column: &Column) -> bool {
    reads_of(column).reads_column("user_id")
}

/// The values of a column, as text, that it has of these users of a tenant and of nobody else: their ids, as the column's type and in other letters, and what the
/// expression makes of an id where it makes something else of others that are like it.
pub fn of_users(
    definition: &Definition,
    column: &Column,
    tenant: &str,
    users: &[String],
) -> Result<Vec<String>, RollupError> {
    let Some(expression) = &column.expression else { return Ok(Vec::new()) };
    if let Some(known) = prepared(definition, column, tenant, users) {
        return Ok(known);
    }
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
    }
    Ok(found.into_iter().collect())
}

/// Values that were made before, of a column of a rollup and users of a tenant.
struct Prepared {
    rollup: String,
    expression: Option<String>,
    tenant: String,
    users: Vec<String>,
    values: Vec<String>,
}

thread_local! {
    /// Those of a transaction, by when it began.
    static PREPARED: RefCell<(i64, Vec<Prepared>)> = const { RefCell::new((0, Vec::new())) };
}

/// Makes the values that `of_users` gives later in this transaction, while nobody is locked out: each is tried on many ids.
pub fn prepare(tenant: &str, users: &[String]) -> Result<(), RollupError> {
    let now = session::transaction_start();
    PREPARED.with_borrow_mut(|(began, known)| {
        if *began != now {
            (*began, *known) = (now, Vec::new());
        }
    });
    // With the locks that reading what is declared takes: they would be in the way of whoever locks ingest out.
    let made = subtransaction::run(|| Verdict::Undo(make_of_all(tenant, users)));
    let made = made.unwrap_or_else(|caught| caught.rethrow())?;
    PREPARED.with_borrow_mut(|(_, known)| known.extend(made));
    Ok(())
}

fn make_of_all(tenant: &str, users: &[String]) -> Result<Vec<Prepared>, RollupError> {
    let mut made = Vec::new();
    for definition in definition::all()?.iter() {
        for column in definition.columns.iter().filter(|column| is_of_user(column) && !is_user(column)) {
            made.push(Prepared {
                rollup: definition.name.clone(),
                expression: column.text.clone(),
                tenant: tenant.to_owned(),
                users: users.to_vec(),
                values: of_users(definition, column, tenant, users)?,
            });
        }
    }
    Ok(made)
}

fn prepared(definition: &Definition, column: &Column, tenant: &str, users: &[String]) -> Option<Vec<String>> {
    PREPARED.with_borrow(|(began, known)| {
        let is_it = |known: &&Prepared| {
            known.rollup == definition.name
                && known.expression == column.text
                && known.tenant == tenant
                && known.users == users
        };
        let is_of_now = *began == session::transaction_start();
        known.iter().filter(|_| is_of_now).find(is_it).map(|known| known.values.clone())
    })
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
    let mut found = Vec::new();
    for definition in definition::all()?.iter() {
        for column in definition.dimensions().filter(|column| is_of_user(column)) {
            let made =
                if is_user(column) { ids.clone() } else { of_users(definition, column, tenant_id, &ids)? };
            found.push((definition.name.clone(), column.name.clone(), type_name(column.stored_type()), made));
        }
    }
    Ok(TableIterator::new(found))
}
