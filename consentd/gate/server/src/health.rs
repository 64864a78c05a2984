//! gRPC's health service (`grpc.health.v1`), for what this program does by itself.
//!
//! Two names are its own: the empty one, and that of the service whose checks it answers. Both are SERVING while it
//! answers them, also while the daemon does not. All other names are the daemon's, and so is everything while the gate
//! leaves checks to the daemon: the call is passed on, and fails if the daemon cannot be reached. `Watch` is the
//! daemon's.

use consentd_core::wire::{Fields, Value};

use crate::body::PREFIX;

/// The method.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
/// A `HealthCheckResponse` with the status SERVING.
pub const SERVING: [u8; 2] = [0x08, 1];
const NAMES: [&[u8]; 2] = [b"", b"consentd.v1.PolicyService"];

/// Return whether a request of `Check` is about what this program does.
pub fn is_own(content: &[u8]) -> bool {
    let Some((&[0, ..], message)) = content.split_at_checked(PREFIX) else { return false };
    let mut fields = Fields::new(message);
    let name = match fields.read() {
        Ok(None) => return true,
        Ok(Some((1, Value::Bytes(name)))) => name,
        _ => return false,
    };
    NAMES.contains(&name) && fields.read() == Ok(None)
}

#[cfg(test)]
mod tests {
    use super::is_own;

    #[test]
    fn two_names_are_its_own() {
        let of = |name: &str| [&[0, 0, 0, 0, 2 + name.len() as u8, 10, name.len() as u8], name.as_bytes()].concat();
        assert!(is_own(&[0; 5]));
        assert!(is_own(&of("")));
        assert!(is_own(&of("consentd.v1.PolicyService")));
        assert!(!is_own(&of("consentd.v1.ConsentService")));
        assert!(!is_own(&[of(""), vec![16, 1]].concat()));
        assert!(!is_own(&[0; 4]));
        assert!(!is_own(&[1, 0, 0, 0, 0]));
    }
}
