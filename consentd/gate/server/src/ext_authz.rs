//! Envoy's external authorization: what Envoy asks about a request becomes a question, and the answer to it a verdict.
//!
//! Every fault is a refusal of the request, and none an error of the call: Envoy can be configured to let requests pass when
//! a call has an error. So the answer also comes before Envoy stops to wait for it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, CONTENT_LENGTH};
use hyper::http::request::Parts;
use hyper::{Response, Uri};

use consentd_core::wire::{put_item, Fields, Value};
use consentd_mapping::{file, Mapping, Refusal};

use crate::answers::{Credential, Method};
use crate::body::{answer, GateBody, PREFIX};
use crate::calls::{credential, Gate, Held, Received, MOST_BYTES};
use crate::connections::Activity;
use crate::envoy::read_request;
use crate::limits::Kind;
use crate::metrics::Outcome;
use crate::peer::Peer;
use crate::verdict::{refuse, respond};

/// The method of Envoy.
pub const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
const CHECK: &str = "/consentd.v1.PolicyService/Check";
/// How long an answer may take, where Envoy does not say how long it waits.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Most bytes of what Envoy says of a request: it takes headers of 60 KiB.
const MOST_REQUEST: usize = 256 << 10;
/// Most bytes of an answer of the daemon (`batch_answer_bytes` is for a thousand of them).
const MOST_ANSWER: usize = 1 << 20;
/// Most bytes of a mapping file.
const MOST_FILE: u64 = 4 << 20;

/// A mapping file, and what it says.
pub struct MappingFile {
    path: PathBuf,
    current: RwLock<Arc<Mapping>>,
}

impl MappingFile {
    /// Read the file; an error says in which line it is wrong.
    pub fn open(path: PathBuf) -> Result<Self, String> {
        let current = RwLock::new(Arc::new(read_mapping(&path)?));
        Ok(MappingFile { path, current })
    }

    /// Read the file again; if that fails, what is in use stays.
    pub fn reload(&self) -> Result<(), String> {
        let read = Arc::new(read_mapping(&self.path)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    fn current(&self) -> Arc<Mapping> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Read a mapping file.
pub fn read_mapping(path: &Path) -> Result<Mapping, String> {
    let shown = path.display();
    let unread = |what: &dyn std::fmt::Display| format!("mapping file cannot be read: `{shown}`: {what}");
    let size = std::fs::metadata(path).map_err(|error| unread(&error))?.len();
    if size > MOST_FILE {
        return Err(unread(&format!("it has more than {MOST_FILE} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unread(&error))?;
    file::parse(&text).map_err(|fault| format!("{shown}:{}: {}", fault.line, fault.what))
}

impl Gate {
    /// Answer what Envoy asks about a request.
    pub async fn authorize(
        self: &Arc<Self>,
        parts: Parts,
        body: Incoming,
        peer: &Arc<Peer>,
        activity: &Activity,
    ) -> Response<GateBody> {
        let limit = answer_limit(&parts.headers);
        let found = tokio::time::timeout(limit, self.verdict(parts, body, peer, activity)).await;
        let found = found.unwrap_or(Err(Refusal::of_request("UNAVAILABLE")));
        // Each call is counted once. That a consent denies the request is an answer.
        let (found, outcome) = found.unwrap_or_else(|refusal| (refuse(refusal), Outcome::Refused));
        self.metrics.count(outcome);
        answer(&found)
    }

    /// Return the answer to what Envoy asks, and who answered the question of it.
    async fn verdict(
        self: &Arc<Self>,
        parts: Parts,
        body: Incoming,
        peer: &Arc<Peer>,
        activity: &Activity,
    ) -> Result<(Vec<u8>, Outcome), Refusal> {
        let no = Refusal::of_request;
        let mut held = Held::new(activity);
        let principal = || self.principal(&parts.headers, peer);
        let content = match self.receive(body, MOST_BYTES, &mut held, principal).await {
            Received::Whole(content) => content,
            Received::Unknown => return Err(no("CALLER_NOT_ALLOWED")),
            Received::Refused(_) => return Err(no("UNAVAILABLE")),
        };
        let began = Instant::now();
        let mapping = self.mapping.as_ref().ok_or(no("ROUTE_UNMAPPED"))?.current();
        let shown = credential(&parts.headers, peer).ok_or(no("CALLER_NOT_ALLOWED"))?;
        let caller = self.answers.holder(shown).ok_or(no("UNAVAILABLE"))?.ok_or(no("CALLER_NOT_ALLOWED"))?;
        if !mapping.callers.contains(&caller) {
            return Err(no("CALLER_NOT_ALLOWED"));
        }
        activity.know_caller();
        let message = only_message(&content).filter(|message| message.len() <= MOST_REQUEST);
        let request = read_request(message.ok_or(no("MALFORMED_REQUEST"))?).map_err(|_| no("MALFORMED_REQUEST"))?;
        let (route, question) = mapping.question(&request)?;
        let (answered, outcome) = match self.check(&question, shown) {
            Some(answered) => {
                self.metrics.note_answer(began.elapsed());
                (answered, Outcome::Answered)
            }
            None => (self.ask_daemon(&parts, &question, peer).await?, Outcome::PassedOn),
        };
        let stated = request.headers.iter().map(|(name, _)| *name);
        let found = only_field(&answered).map(|decision| respond(decision, route, mapping.shows_reasons, stated));
        Ok((found.and_then(Result::ok).ok_or(no("UNAVAILABLE"))?, outcome))
    }

    /// Return the answer to a question (the bytes of a `CheckResponse` of our own); None: the daemon must answer.
    fn check(&self, question: &[u8], shown: Credential<'_>) -> Option<Vec<u8>> {
        self.answers.answer(Method::Check, &asked(question), shown, &|| true)
    }

    /// Ask the daemon, as the caller would.
    async fn ask_daemon(&self, parts: &Parts, question: &[u8], peer: &Peer) -> Result<Vec<u8>, Refusal> {
        let no = Refusal::of_request;
        let principal = self.principal(&parts.headers, peer);
        let caller = principal.number();
        let _taken = self.limits.enter(principal, Kind::Call).ok_or(no("UNAVAILABLE"))?;
        let mut parts = parts.clone();
        parts.uri = Uri::from_static(CHECK);
        for name in [CONTENT_LENGTH.as_str(), "grpc-encoding", "grpc-accept-encoding"] {
            parts.headers.remove(name);
        }
        let message = asked(question);
        let mut content = Vec::with_capacity(PREFIX + message.len());
        content.push(0);
        content.extend_from_slice(&(message.len() as u32).to_be_bytes());
        content.extend_from_slice(&message);
        let response = self.daemon.pass_on(parts, content.into(), peer, caller).await;
        let (head, mut body) = response.into_parts();
        let (mut received, mut status) = (Vec::new(), head.headers.get("grpc-status").cloned());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| no("UNAVAILABLE"))?;
            if let Some(part) = frame.data_ref() {
                received.extend_from_slice(part);
            }
            if let Some(trailers) = frame.trailers_ref() {
                status = trailers.get("grpc-status").cloned().or(status);
            }
            if received.len() > MOST_ANSWER {
                return Err(no("UNAVAILABLE"));
            }
        }
        match status.as_ref().map(|status| status.as_bytes()) {
            Some(b"0") => only_message(&received).map(<[u8]>::to_vec).ok_or(no("UNAVAILABLE")),
            // UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED: another time there may be an answer.
            Some(b"14" | b"4" | b"8") | None => Err(no("UNAVAILABLE")),
            Some(_) => Err(no("QUESTION_REFUSED")),
        }
    }
}

/// Return the message of Check with a question.
fn asked(question: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(question.len() + 4);
    put_item(&mut message, 1, question);
    message
}

/// Return the one message of a gRPC body, which is not compressed.
fn only_message(content: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = content.split_at_checked(PREFIX)?;
    let size = u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize;
    (prefix[0] == 0 && size == message.len()).then_some(message)
}

fn only_field(message: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields::new(message);
    let Ok(Some((1, Value::Bytes(found)))) = fields.read() else { return None };
    matches!(fields.read(), Ok(None)).then_some(found)
}

/// Return how long an answer may take: four fifths of the time that the caller waits.
fn answer_limit(headers: &HeaderMap) -> Duration {
    let stated = headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout_of);
    stated.map_or(ANSWER_LIMIT, |stated| stated.mul_f64(0.8).min(ANSWER_LIMIT))
}

/// Read gRPC's form of a timeout: digits and a unit.
fn timeout_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u32 = digits.parse().ok()?;
    let unit = match unit {
        "H" => Duration::from_secs(3_600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    unit.checked_mul(amount)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::timeout_of;

    #[test]
    fn timeouts_have_grpcs_form() {
        assert_eq!(timeout_of("200m"), Some(Duration::from_millis(200)));
        assert_eq!(timeout_of("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for odd in ["", "m", "5", "5x", "-5m", "é", "99999999999m"] {
            assert_eq!(timeout_of(odd), None, "{odd}");
        }
    }
}
