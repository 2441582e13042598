//! Which columns are personal, as the audit log asks of each statement: from tally.personal_column, which
//! tally_internal.note_personal_columns() keeps.

use crate::backend::arena::Arena;
use crate::backend::known::Known;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::reads::{self, Column};
use crate::backend::{schema, session, sql};
use pgrx::pg_sys::Oid;
use std::ffi::CString;
use std::rc::Rc;

thread_local! {
    /// By relation and who wrote last what Postgres' catalogue has of it.
    static PERSONAL: Known<(Oid, u32), Personal> = const { Known::new() };
}

/// What is personal of a relation.
#[derive(Clone, Default)]
struct Personal {
    columns: Rc<[Column]>,
    /// It is made of other columns, and was made or changed when the catalogue hadn't looked yet: all of it may be.
    is_unknown: bool,
}

/// The row that tells up to which transaction the catalogue has seen all.
const SEEN: &str = "-";

/// Whether a column of a table is personal; column 0 stands for the whole row.
pub fn is_personal(relation: Oid, column: Column) -> bool {
    if schema::is_of_postgres(relation) {
        return false;
    }
    let Some(table) = session::find_relation(c"personal_column") else { return false };
    let Some((kind, writer)) = reads::kind_and_writer(relation) else { return false };
    let of_relation = |_: &(Oid, u32)| look_up(table, relation, kind, writer);
    let Personal { columns, is_unknown } =
        PERSONAL.with(|known| known.get_or_look_up(table, (relation, writer), of_relation)).value;
    is_unknown || columns.contains(&column) || (column == 0 && !columns.is_empty())
}

/// Whether one of the relations has a personal column, as of now.
pub fn have_personal_now(relations: &[Oid]) -> bool {
    let asked = "SELECT tally_internal.has_personal_columns($1)";
    // With a snapshot of now, as what exports are bound to is read.
    let found = session::as_owner(|| {
        sql::changed_rows(asked, &[relations.to_vec().into()], |row| row.need::<bool>(1))
    });
    found.contains(&true)
}

fn look_up(table: Oid, relation: Oid, kind: u8, writer: u32) -> Personal {
    /// The column: names, a JSON array.
    const COLUMNS: i32 = 2;
    let Some(name) = reads::qualified_name(relation) else { return Personal::default() };
    let mut arena = Arena::default();
    let mut personal = Lookup::open(table, &[Key::Text], View::Now);
    let names = personal
        .find(&[arena.varlena(name.as_bytes())], [COLUMNS])
        .and_then(|row| serde_json::from_str::<Vec<String>>(row.text(0)?).ok());
    let seen = personal.find(&[arena.varlena(SEEN.as_bytes())], [COLUMNS]);
    let seen = seen.and_then(|row| row.text(0)?.parse::<u64>().ok());
    personal.close();
    let is_of_rollup = || {
        reads::own_name(relation).is_some_and(|name| name.ends_with("_base") || name.ends_with("_pending"))
    };
    // Numbers of transactions go round: their lower half is what rows have.
    let is_unseen = |seen: u64| !reads::is_before(writer, seen as u32);
    let is_unknown =
        seen.is_some_and(is_unseen) && (kind == b'm' || is_of_rollup() || reads::has_generated(relation));
    let number = |name: String| Some(reads::column_number(relation, &CString::new(name).ok()?));
    let columns = names.unwrap_or_default().into_iter().filter_map(number).collect();
    Personal { columns, is_unknown }
}
