//! One call: answered here, or passed on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, AUTHORIZATION};
use hyper::{Request, Response};
use tokio::time::timeout;

use crate::answers::{Answers, Credential, Method};
use crate::body::{answer, refusal, GateBody, PREFIX};
use crate::daemon::Daemon;
use crate::metrics::{Metrics, Outcome};
use crate::peer::Peer;

/// How long a peer may take to send its request.
const RECEIVE_LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of a request. The daemon has a limit of its own, which is not higher.
const MOST_BYTES: usize = (1 << 20) + 1024;
/// Most bytes of the requests of all calls that are not answered yet.
const MOST_HELD: usize = 64 << 20;
const BEARER: &[u8] = b"Bearer ";
const SIGNATURE: &str = "consentd-call-signature-bin";

/// What all calls share.
pub struct Gate {
    /// The answers of this program.
    pub answers: Answers,
    /// The daemon.
    pub daemon: Daemon,
    /// What is counted and measured.
    pub metrics: Metrics,
    /// How many bytes of requests are held.
    pub held: AtomicUsize,
}

impl Gate {
    /// Answer a call of *peer*, or pass it on.
    pub async fn call(&self, request: Request<Incoming>, peer: &Peer) -> Response<GateBody> {
        let (parts, body) = request.into_parts();
        // A request is passed on only once it is complete, so that slow peers are held here.
        let mut held = Held { bytes: 0, all: &self.held };
        let content = match timeout(RECEIVE_LIMIT, receive(body, &mut held)).await {
            Err(_) => {
                self.metrics.count(Outcome::Refused);
                return refusal("4", "request did not come in time");
            }
            Ok(None) => {
                self.metrics.count(Outcome::Refused);
                return refusal("8", "request is too large, or was not sent to its end, or too many come at once");
            }
            Ok(Some(content)) => content,
        };
        let method = match parts.uri.path() {
            "/consentd.v1.PolicyService/Check" => Some(Method::Check),
            "/consentd.v1.PolicyService/BatchCheck" => Some(Method::BatchCheck),
            _ => None,
        };
        let began = Instant::now();
        if let Some(found) = method.and_then(|method| self.answer(method, &parts.headers, peer, &content)) {
            self.metrics.count(Outcome::Answered);
            self.metrics.note_answer(began.elapsed());
            return answer(&found);
        }
        self.metrics.count(Outcome::PassedOn);
        self.daemon.pass_on(parts, content, peer).await
    }

    fn answer(&self, method: Method, headers: &HeaderMap, peer: &Peer, content: &Bytes) -> Option<Vec<u8>> {
        let credential = credential(headers, peer)?;
        let (prefix, message) = content.split_at_checked(PREFIX)?;
        // One message that is not compressed.
        if prefix[0] != 0 || u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize != message.len() {
            return None;
        }
        self.answers.answer(method, message, credential)
    }
}

/// The bytes of a request that is not answered yet.
struct Held<'a> {
    bytes: usize,
    all: &'a AtomicUsize,
}

impl Held<'_> {
    /// Count more bytes; return whether they may be held.
    fn add(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_HELD && self.bytes <= MOST_BYTES
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Return the whole body of a request; None: it is too large, or was not sent to its end.
async fn receive(mut body: Incoming, held: &mut Held<'_>) -> Option<Bytes> {
    let mut content = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.ok()?.into_data() else { continue };
        if !held.add(part.len()) {
            return None;
        }
        content.extend_from_slice(&part);
    }
    Some(content.freeze())
}

/// Return what a call shows of its caller; None: nothing, or what only the daemon reads.
fn credential<'a>(headers: &'a HeaderMap, peer: &'a Peer) -> Option<Credential<'a>> {
    if headers.contains_key(SIGNATURE) {
        return None;
    }
    let mut stated = headers.get_all(AUTHORIZATION).iter();
    match (stated.next(), stated.next()) {
        (None, _) => peer.certificate.as_ref().map(Credential::Certificate),
        (Some(one), None) => {
            one.as_bytes().strip_prefix(BEARER).filter(|token| !token.is_empty()).map(Credential::Token)
        }
        (Some(_), Some(_)) => None,
    }
}
