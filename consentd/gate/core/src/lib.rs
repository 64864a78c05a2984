//! What a consent check means, and nothing else: no input, no output, no clock.
//!
//! This is a second reader of `proto/table-format.md` and `proto/policy.md`; the first one is `consentd/policy`, in
//! Python. Both give the same bytes for the same question (`tests/test_gate_cases.py`). Rules are cited by their
//! numbers in `policy.md`.
//!
//! Any bytes give a value or an error, and never a panic.

pub mod answer;
pub mod codebook;
pub mod evaluate;
pub mod identifier;
pub mod layers;
pub mod matching;
pub mod parties;
pub mod question;
pub mod residual;
pub mod rows;
pub mod rules;
pub mod sensitivity;
pub mod subject;
pub mod trees;
pub mod vocabulary;
pub mod wire;

/// An end that is open: 2⁶³-1, UTC milliseconds.
pub const OPEN_END_MS: u64 = (1 << 63) - 1;

/// Bytes that are not what the specification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// Why a question is not answered: the reason of the error that the daemon gives, as `errors.proto` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);
