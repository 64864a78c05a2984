//! Whether an identifier of a person may be looked up here (`table-format.md`, "Identifier hash").
//!
//! Identifiers that look like resident registration numbers are refused by the daemon. Which ones these are is decided
//! there alone. What might be one is not looked up here, so that the caller passes the question on to the daemon.

/// Most characters of a scheme (`identifier_scheme_characters`).
const MOST_OF_SCHEME: usize = 64;
/// Most characters of a value (`identifier_value_characters`).
const MOST_OF_VALUE: usize = 256;
const SUSPECT: [&str; 7] = ["rrn", "ssn", "nnkor", "jumin", "residentreg", "residentnum", "residentno"];

/// Return whether the identifier is well-formed, and looks like no resident registration number.
pub fn is_plain(scheme: &str, value: &str) -> bool {
    is_scheme(scheme) && is_value(value) && !is_suspect_scheme(scheme) && !is_suspect_value(value.as_bytes())
}

fn is_scheme(scheme: &str) -> bool {
    let is_alphanumeric = |one: u8| one.is_ascii_lowercase() || one.is_ascii_digit();
    scheme.bytes().next().is_some_and(is_alphanumeric)
        && scheme.len() <= MOST_OF_SCHEME
        && scheme.bytes().all(|one| is_alphanumeric(one) || b"._/-".contains(&one))
}

fn is_value(value: &str) -> bool {
    (1..=MOST_OF_VALUE).contains(&value.len()) && value.bytes().all(|one| one.is_ascii_graphic())
}

fn is_suspect_scheme(scheme: &str) -> bool {
    let joined: String = scheme.chars().filter(|one| !"._/-".contains(*one)).collect();
    SUSPECT.iter().any(|word| joined.contains(word))
}

/// Whether *value* has 6 digits and 7 digits, with at most one other sign between them.
fn is_suspect_value(value: &[u8]) -> bool {
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    value.windows(13).any(digits)
        || value.windows(14).any(|part| digits(&part[..6]) && !part[6].is_ascii_alphanumeric() && digits(&part[7..]))
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn what_may_be_a_resident_number_is_not_plain() {
        assert!(is_plain("mhid", "T-1") && is_plain("hospital/mrn", "123456-789012"));
        for value in ["", "8001011234567", "x800101-1234567", "800101-1234567y", "a b", "é"] {
            assert!(!is_plain("mhid", value), "{value}");
        }
        for scheme in ["", "A", "kr-rrn", "r.r.n", "kr/ssn", "jumin", ".a"] {
            assert!(!is_plain(scheme, "T-1"), "{scheme}");
        }
    }
}
