//! Requesting an export, and the hash of what is requested.

use super::failure::ExportError;
use crate::audit;
use crate::backend::bound_query::{self, BoundQuery};
use crate::backend::json::Printed;
use crate::backend::report::Report;
use crate::backend::{session, sql};
use crate::scope::{self, Scope};
use pgrx::datum::Uuid;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Value, json};
use tally_core::audit::hex;
use tally_core::event::format_uuid;
use tally_core::export::{Fingerprint, hash, parameters};

/// Bytes of a query and of all its parameters.
const QUERY_BYTES: usize = 100_000;
/// Parameters.
const PARAMETERS: usize = 100;

/// What is requested.
pub struct Request {
    pub id: String,
    pub query: String,
    /// A JSON array.
    pub params: String,
    pub max_rows: i64,
    pub scope: Scope,
}

/// What it comes to.
pub struct Bound {
    pub columns: Value,
    pub classification: String,
    pub hash: [u8; 32],
    /// Those that somebody made or an extension brought.
    pub functions: Vec<Oid>,
    pub types: Vec<Oid>,
    /// Relations and composite types, whose columns count.
    pub shaped: Vec<Oid>,
}

impl Request {
    /// The parameters' values, each a text.
    pub fn values(&self) -> Result<Vec<Option<String>>, ExportError> {
        let problem = ExportError::Argument(
            "params is a JSON array of texts, numbers, booleans and nulls, at most 100",
        );
        parameters(&self.params).filter(|values| values.len() <= PARAMETERS).ok_or(problem)
    }

    /// Reads the query as it would run now, for who acts, in the present scope.
    pub fn bind(&self) -> Result<Bound, Report> {
        check_role()?;
        // What is read here and what Postgres goes by must be of the same time.
        if session::has_fixed_snapshot() {
            return Err(ExportError::FixedSnapshot.into());
        }
        let values = self.values()?;
        let read = || bound_query::analyse(&self.query, values.len());
        let query = session::with_settings_of_exports(read).map_err(ExportError::NoQuery)?;
        let mut names: Vec<&str> = query.columns.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ExportError::SameName(pair[0].to_owned()).into());
        }
        let basis = basis(&query);
        if let Some(what) = basis.unbound {
            return Err(ExportError::Unbound(what).into());
        }
        let classification =
            if basis.classification != "personal" && audit::have_personal_columns(&basis.read) {
                "personal".to_owned()
            } else {
                basis.classification
            };
        let columns: Vec<Value> =
            query.columns.iter().map(|(name, of_type)| json!({"name": name, "type": of_type})).collect();
        let columns = Value::from(columns);
        let (tenant, account) = parts(&self.scope);
        let mut hash = Fingerprint::new("pg_tally export 1")
            .text(&self.id)
            .text(&self.query)
            .number(values.len() as i64);
        for value in &values {
            hash = hash.optional(value.as_deref());
        }
        let hash = hash
            .number(self.max_rows)
            .text(tenant)
            .optional(account)
            .text(&session::session_role_name())
            .number(i64::from(session::session_role().to_u32()))
            .text(&columns.to_string())
            .text(&classification)
            .text(&query.tree)
            .text(&basis.text)
            .text(&bound_query::versions_of_mappings(&basis.mappings))
            .finish();
        Ok(Bound {
            columns,
            classification,
            hash,
            functions: basis.functions,
            types: basis.types,
            shaped: basis.shaped,
        })
    }
}

/// Tenant and account of a scope; the global one has neither.
pub fn parts(scope: &Scope) -> (&str, Option<&str>) {
    match scope {
        Scope::Global => ("", None),
        Scope::Tenant { tenant, account } => (tenant, account.as_deref()),
    }
}

/// The rows that may leave are those of the scope of the role that logged in.
pub fn check_role() -> Result<(), ExportError> {
    if session::acting_role() != session::session_role() {
        return Err(ExportError::OtherRole);
    }
    if session::bypasses_row_security() {
        return Err(ExportError::SeesEverything(session::session_role_name()));
    }
    Ok(())
}

struct Basis {
    functions: Vec<Oid>,
    types: Vec<Oid>,
    shaped: Vec<Oid>,
    /// Of the foreign servers that are read.
    mappings: Vec<Oid>,
    /// Tables, with their partitions.
    read: Vec<Oid>,
    text: String,
    classification: String,
    unbound: Option<String>,
}

fn basis(query: &BoundQuery) -> Basis {
    session::as_owner(|| {
        let read = "SELECT coalesce(b.basis, ''), b.classification, b.unbound, b.called, b.named, b.shaped, b.read, b.mappings \
             FROM tally_internal.export_basis($1, $2, $3, $4) AS b";
        let values = [&query.functions, &query.operators, &query.relations, &query.types]
            .map(|ids| ids.clone().into());
        // With a snapshot of now: a cursor's is that of its beginning.
        let found = sql::changed_rows(read, &values, |row| Basis {
            functions: row.get(4).unwrap_or_default(),
            types: row.get(5).unwrap_or_default(),
            shaped: row.get(6).unwrap_or_default(),
            read: row.get(7).unwrap_or_default(),
            mappings: row.get(8).unwrap_or_default(),
            text: row.need(1),
            classification: row.need(2),
            unbound: row.get(3),
        });
        found.into_iter().next().expect("the function returns one row")
    })
}

fn new_id() -> [u8; 16] {
    let mut id = session::random_bytes::<16>();
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    id
}

#[pg_extern(sql = false)]
fn request_export(
    query: Option<&str>,
    purpose: Option<&str>,
    max_rows: Option<i64>,
    params: Option<Printed>,
) -> Result<Uuid, ErrorReport> {
    session::require_writable(c"tally.request_export()");
    let (Some(query), Some(purpose), Some(max_rows), Some(params)) = (query, purpose, max_rows, params)
    else {
        return Err(ExportError::Argument("query, purpose, max_rows and params must not be null").into());
    };
    if max_rows < 1 {
        return Err(ExportError::Argument("max_rows must be 1 or more").into());
    }
    if !scope::says_something(purpose) {
        return Err(ExportError::Argument("purpose must say what the export is for").into());
    }
    scope::check_words("purpose", purpose)?;
    if query.len() + params.0.len() > QUERY_BYTES {
        return Err(
            ExportError::Argument("query and parameters must not be longer than 100,000 bytes").into()
        );
    }
    let scope = scope::current()?;
    let identities = scope::identities();
    if identities.is_empty() {
        return Err(ExportError::Nobody.into());
    }
    let id = new_id();
    let request =
        Request { id: format_uuid(&id), query: query.to_owned(), params: params.0, max_rows, scope };
    let bound = request.bind()?;
    let (tenant, account) = parts(&request.scope);
    let subject = scope::subject().or_else(scope::stepped_up_subject);
    let recorded = json!({
        "id": request.id, "tenant_id": tenant, "account_id": account, "identities": identities, "subject": subject, "purpose": purpose,
        "query": query, "params": request.params, "max_rows": max_rows, "columns": bound.columns, "classification": bound.classification,
        "query_hash": hex(&hash(query)), "request_hash": hex(&bound.hash),
    });
    session::as_owner(|| {
        sql::one::<String>("SELECT tally_internal.record_export($1::jsonb)", &[recorded.to_string().into()])
    });
    Ok(Uuid::from_bytes(id))
}
