//! The policy table as a second program reads it: `proto/table-format.md`, "Rows and keys".
//!
//! `rows` opens rows of any source, `registry` reads those that all checks share, and `check` answers questions from
//! one state of the table. `lmdb` (a feature) is the source that a daemon writes.

pub mod check;
#[cfg(feature = "lmdb")]
pub mod lmdb;
pub mod registry;
pub mod rows;
