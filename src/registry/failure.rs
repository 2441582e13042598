//! Why a schema is refused.

use crate::backend::report::Report;
use tally_schema::SchemaError;

/// A document that is no schema that can be registered.
pub fn schema_report(error: SchemaError) -> Report {
    Report::new("22023", error.0).hint(
        "a schema is a JSON Schema of an event's properties, an object of at most 64 kB; docs/ingest.md says what references may do; patterns have neither look-around nor back-references",
    )
}
