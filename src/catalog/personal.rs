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
    static PERSONAL: Known<Oid, Rc<[Column]>> = const { Known::new() };
}

/// Whether a column of a table is personal; column 0 stands for the whole row.
pub fn is_personal(relation: Oid, column: Column) -> bool {
    if schema::is_of_postgres(relation) {
        return false;
    }
    let Some(table) = session::find_relation(c"personal_column") else { return false };
    let of_relation = |relation: &Oid| look_up(table, *relation);
    let columns = PERSONAL.with(|known| known.get_or_look_up(table, relation, of_relation)).value;
    columns.contains(&column) || (column == 0 && !columns.is_empty())
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

fn look_up(table: Oid, relation: Oid) -> Rc<[Column]> {
    /// The column: names, a JSON array.
    const COLUMNS: i32 = 2;
    let Some(name) = reads::qualified_name(relation) else { return Rc::default() };
    let mut arena = Arena::default();
    let mut personal = Lookup::open(table, &[Key::Text], View::Now);
    let names = personal
        .find(&[arena.varlena(name.as_bytes())], [COLUMNS])
        .and_then(|row| serde_json::from_str::<Vec<String>>(row.text(0)?).ok());
    personal.close();
    let number = |name: String| Some(reads::column_number(relation, &CString::new(name).ok()?));
    names.unwrap_or_default().into_iter().filter_map(number).collect()
}
