//! `tracer schema`: the JSON Schema of the records, made from the types that write them.

use super::{Failure, print};
use crate::record::Record;

/// The schema as text.
///
/// # Errors
///
/// None that the types can cause.
pub fn text() -> anyhow::Result<String> {
    let schema = schemars::schema_for!(Record);
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// Prints the schema.
///
/// # Errors
///
/// Those of standard output.
pub fn run() -> Result<(), Failure> {
    print(&text()?)
}
