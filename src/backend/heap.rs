//! A table of ours as code below the executor must find it: whether it may be written there, and where its columns lie.
//!
//! What the executor would see to is refused (`writable`), triggers, rules, foreign keys and tables that are no plain heap, or done
//! (`additions`): columns that an administrator added get their defaults, generated columns their values, and CHECK constraints are
//! enforced.

pub use super::failure::TableError;
pub use super::types::own_type;
use super::types::type_name;
use super::version::attribute;
use core::ffi::CStr;
use core::ptr;
use pgrx::pg_sys::{self, Datum, Oid};

/// A table's columns and its key, as the code that reads and writes it declares them. Tables may have more columns than these.
#[derive(Clone, Copy)]
pub struct Declared<'a> {
    pub table: &'a str,
    /// Names and types, in the order in which rows are handed over.
    pub columns: &'a [(&'a str, Oid)],
    /// Columns of the one key that a new row may clash with; empty where none can.
    pub key: &'a [&'a str],
}

impl Declared<'_> {
    /// The attribute number of a column, from 1, where the table is as it was made: what `Lookup::require` sees to.
    pub const fn at(&self, column: &str) -> i32 {
        let mut place = 0;
        while place < self.columns.len() {
            if is_same(self.columns[place].0.as_bytes(), column.as_bytes()) {
                return place as i32 + 1;
            }
            place += 1;
        }
        panic!("the column is not declared")
    }

    /// A row to be appended, its values named as declared, in that order.
    pub fn row<const N: usize>(&self, values: [(&str, Option<Datum>); N]) -> ([Datum; N], [bool; N]) {
        let names = values.iter().map(|(name, _)| *name);
        assert!(names.eq(self.columns.iter().map(|(name, _)| *name)), "a value for each declared column");
        (values.map(|(_, value)| value.unwrap_or(Datum::from(0))), values.map(|(_, value)| value.is_none()))
    }
}

const fn is_same(left: &[u8], right: &[u8]) -> bool {
    let mut place = 0;
    while place < left.len() && place < right.len() && left[place] == right[place] {
        place += 1;
    }
    place == left.len() && place == right.len()
}

/// Name of an open relation.
///
/// # Safety
/// The relation is open.
pub(super) unsafe fn name(relation: pg_sys::Relation) -> String {
    // SAFETY: the caller's promise.
    unsafe { pgrx::name_data_to_str(&(*(*relation).rd_rel).relname).to_owned() }
}

/// Opens one of our tables; an error where there is none of that name.
///
/// # Safety
/// The caller closes it, or the transaction aborts.
pub(super) unsafe fn open(table: Oid, name: &str, lock: u32) -> Result<pg_sys::Relation, TableError> {
    let relation = match table {
        Oid::INVALID => ptr::null_mut(),
        // SAFETY: waits for the lock, or raises an error.
        table => unsafe { pg_sys::try_relation_open(table, lock as pg_sys::LOCKMODE) },
    };
    if relation.is_null() { Err(TableError::Missing(name.to_owned())) } else { Ok(relation) }
}

/// Where the declared columns lie in an open table.
pub struct Layout {
    /// Of each declared column: its place among the table's, from 0.
    places: Vec<usize>,
    /// Whether the table has the declared columns and no others, in their order.
    is_plain: bool,
    attributes: usize,
}

impl Layout {
    /// Finds the declared columns by name.
    ///
    /// # Safety
    /// The relation is open.
    pub unsafe fn of(relation: pg_sys::Relation, declared: &Declared) -> Result<Self, TableError> {
        // SAFETY: the caller's promise; a tuple descriptor has `natts` attributes.
        unsafe {
            let descriptor = (*relation).rd_att;
            let attributes = (*descriptor).natts as usize;
            let attribute = |place: usize| attribute(descriptor, place);
            let mut places = Vec::with_capacity(declared.columns.len());
            for (expected, &(column, type_oid)) in declared.columns.iter().enumerate() {
                let is_it = |place: usize| {
                    let attribute = attribute(place);
                    !attribute.attisdropped && pgrx::name_data_to_str(&attribute.attname) == column
                };
                let problem = |problem: String| {
                    Err(TableError::Column {
                        table: name(relation),
                        problem: format!("column \"{column}\" {problem}"),
                    })
                };
                let place = if expected < attributes && is_it(expected) {
                    expected
                } else {
                    match (0..attributes).find(|&place| is_it(place)) {
                        Some(place) => place,
                        None => return problem("is missing".into()),
                    }
                };
                let found = attribute(place);
                if found.atttypid != type_oid {
                    let needed = type_name(type_oid);
                    return problem(format!("has type {}, not {needed}", type_name(found.atttypid)));
                }
                if found.attcollation != Oid::INVALID && found.attcollation != pg_sys::C_COLLATION_OID {
                    return problem("has another collation than \"C\"".into());
                }
                if found.attgenerated != 0 || found.attidentity != 0 {
                    return problem("is generated".into());
                }
                places.push(place);
            }
            let is_plain =
                attributes == places.len() && places.iter().enumerate().all(|(place, &found)| place == found);
            Ok(Self { places, is_plain, attributes })
        }
    }

    /// Whether the table has the declared columns and no others, in their order.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Places of the table's other columns, dropped ones among them.
    pub fn others(&self) -> impl Iterator<Item = usize> {
        let count = if self.is_plain { 0 } else { self.attributes };
        (0..count).filter(|&place| self.declared_at(place).is_none())
    }

    /// The declared column at a place of the table, both from 0.
    pub fn declared_at(&self, place: usize) -> Option<usize> {
        self.places.iter().position(|&found| found == place)
    }

    /// Puts a row's values to where they lie in the table; other columns stay as they are.
    pub fn scatter(
        &self,
        values: &[Datum],
        nulls: &[bool],
        into_values: &mut [Datum],
        into_nulls: &mut [bool],
    ) {
        assert!(
            values.len() == self.places.len() && nulls.len() == values.len(),
            "one value for each column"
        );
        assert!(into_values.len() == self.attributes && into_nulls.len() == self.attributes);
        for (declared, &place) in self.places.iter().enumerate() {
            into_values[place] = values[declared];
            into_nulls[place] = nulls[declared];
        }
    }

    /// Takes a row's declared values from where they lie in the table.
    pub fn gather(&self, values: &[Datum], nulls: &[bool], into: &mut Row) {
        for (declared, &place) in self.places.iter().enumerate() {
            into.values[declared] = values[place];
            into.nulls[declared] = nulls[place];
        }
    }

    /// Room for a row of the table, all null.
    pub fn row(&self) -> Row {
        Row::of_nulls(self.attributes)
    }

    /// Room for a row of the declared columns.
    pub fn declared_row(&self) -> Row {
        Row::of_nulls(self.places.len())
    }
}

/// Values and nulls of a row.
pub struct Row {
    pub values: Vec<Datum>,
    pub nulls: Vec<bool>,
}

impl Row {
    fn of_nulls(columns: usize) -> Self {
        Self { values: vec![Datum::from(0); columns], nulls: vec![true; columns] }
    }
}

/// Forms a row of an open relation in the current memory context; `values` and `nulls` have one entry for each column.
///
/// # Safety
/// The relation is open, and the values are of its columns' types.
pub(super) unsafe fn form_tuple(
    relation: pg_sys::Relation,
    values: &[Datum],
    nulls: &[bool],
) -> pg_sys::HeapTuple {
    // SAFETY: the slices have the descriptor's length, checked here, and are only read, whatever the declaration says.
    unsafe {
        let descriptor = (*relation).rd_att;
        assert_eq!(values.len(), (*descriptor).natts as usize, "one value for each column");
        assert_eq!(nulls.len(), values.len());
        let (values, nulls) = (values.as_ptr().cast_mut(), nulls.as_ptr().cast_mut());
        let tuple = pg_sys::heap_form_tuple(descriptor, values, nulls);
        (*tuple).t_tableOid = (*relation).rd_id;
        tuple
    }
}

/// Refuses unique keys and exclusion constraints that a row could violate though it is right by the declared key: whether it
/// clashes is asked of that one alone.
///
/// # Safety
/// The target's indexes are open.
pub(super) unsafe fn check_keys(
    target: *mut pg_sys::ResultRelInfo,
    declared: &Declared,
    layout: &Layout,
) -> Result<(), TableError> {
    // SAFETY: the arrays of an open target have an entry for each index.
    unsafe {
        for number in 0..(*target).ri_NumIndices as usize {
            let index = *(*target).ri_IndexRelationDescs.add(number);
            let form = (*index).rd_index;
            if !(*form).indisunique && !(*form).indisexclusion {
                continue;
            }
            let implied = (*form).indisunique && !declared.key.is_empty() && {
                let columns = key_columns(index, declared, layout);
                declared.key.iter().all(|key| columns.contains(&Some(key)))
            };
            if !implied {
                return Err(TableError::Kind {
                    table: name((*target).ri_RelationDesc),
                    problem: format!("has the unique or exclusion key \"{}\" beside its own", name(index)),
                    hint: "an event counts once by its event_id, and no other key may refuse it: make the index without UNIQUE",
                });
            }
        }
        Ok(())
    }
}

/// The declared columns that an index's key has, in its order; `None` for others and for expressions.
///
/// # Safety
/// The index is open and one of the table's whose layout it is.
pub(super) unsafe fn key_columns<'a>(
    index: pg_sys::Relation,
    declared: &Declared<'a>,
    layout: &Layout,
) -> Vec<Option<&'a str>> {
    // SAFETY: the index's own form has as many column numbers as columns.
    unsafe {
        let form = (*index).rd_index;
        let numbers = (*form).indkey.values.as_ptr();
        (0..(*form).indnkeyatts as usize)
            .map(|place| {
                let number = *numbers.add(place);
                let place = usize::try_from(number).ok().filter(|&number| number > 0)? - 1;
                layout.declared_at(place).map(|declared_at| declared.columns[declared_at].0)
            })
            .collect()
    }
}

/// The index of a table's declared key, among those that are open.
///
/// # Safety
/// The target's indexes are open, and it is the table whose layout it is.
pub(super) unsafe fn key_index(
    target: *mut pg_sys::ResultRelInfo,
    declared: &Declared,
    layout: &Layout,
) -> Result<pg_sys::Relation, TableError> {
    // SAFETY: the arrays of an open target have an entry for each index.
    unsafe {
        // With what was read of each where it was opened: reading a predicate anew could compute calls in it.
        let indexes = (0..(*target).ri_NumIndices as usize).map(|number| {
            (*(*target).ri_IndexRelationDescs.add(number), &**(*target).ri_IndexRelationInfo.add(number))
        });
        let mut keys = indexes.filter(|&(index, info)| {
            let form = (*index).rd_index;
            let columns = key_columns(index, declared, layout);
            (*form).indisunique
                && (*form).indisvalid
                && info.ii_Predicate.is_null()
                && columns.len() == declared.key.len()
                && declared.key.iter().all(|key| columns.contains(&Some(key)))
        });
        keys.next().map(|(index, _)| index).ok_or_else(|| TableError::Column {
            table: name((*target).ri_RelationDesc),
            problem: format!("the unique key ({}) is missing", declared.key.join(", ")),
        })
    }
}

/// Raises an error where the table has not the declared columns in their first places, of their types.
///
/// # Safety
/// The relation is open.
pub(super) unsafe fn require(relation: pg_sys::Relation, declared: &Declared) {
    // SAFETY: the caller's promise.
    unsafe {
        let layout = Layout::of(relation, declared).and_then(|layout| {
            match layout.places.iter().enumerate().find(|(declared_at, place)| declared_at != *place) {
                None => Ok(()),
                Some((moved, _)) => Err(TableError::Column {
                    table: name(relation),
                    problem: format!("column \"{}\" is not where it was made", declared.columns[moved].0),
                }),
            }
        });
        if let Err(error) = layout {
            super::report::Report::from(error).raise();
        }
    }
}

/// Whether a table has a column of that name.
pub fn has_column(table: Oid, name: &CStr) -> bool {
    // SAFETY: a cached look-up.
    unsafe { pg_sys::get_attnum(table, name.as_ptr()) > 0 }
}
