//! One call: answered here, or passed on.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, AUTHORIZATION};
use hyper::http::request::Parts;
use hyper::{Request, Response};
use tokio::sync::{oneshot, Semaphore};
use tokio::time::{sleep, timeout};

use crate::answers::{Answers, Credential, Method};
use crate::body::{answer, refusal, GateBody, PREFIX};
use crate::connections::Activity;
use crate::daemon::Daemon;
use crate::ext_authz::{self, MappingFile};
use crate::health;
use crate::limits::{Kind, Limits, Principal, Taken};
use crate::metrics::{Metrics, Outcome};
use crate::pace::Pace;
use crate::peer::Peer;

/// How long a peer may take to send its request.
const RECEIVE_LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of a request. The daemon has a limit of its own, which is not higher.
pub const MOST_BYTES: usize = PREFIX + (1 << 20);
/// Most bytes of a short request: of a question, and of all that a caller without a credential may ask for.
const SHORT: usize = PREFIX + (4 << 10);
/// Most bytes of the short requests of one connection that are held.
const MOST_SHORT_BYTES: usize = 256 << 10;
/// The beginning of the names of methods whose requests may be longer than MOST_BYTES_OF_OTHERS (the daemon's pools).
const LONG: &str = "/Batch";
const MOST_BYTES_OF_OTHERS: usize = PREFIX + (64 << 10);
/// How long the answer to a call over a limit is kept back, so that a peer that calls again at once does it slowly.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);
const BEARER: &[u8] = b"Bearer ";
const SIGNATURE: &str = "consentd-call-signature-bin";
/// The calls for which other calls leave room (the daemon's pool `revoke`).
const REVOCATIONS: [&str; 3] = ["/RevokeConsent", "/PauseConsent", "/EndAuthority"];
/// The methods that need no credential (the daemon's open routes). Their answers say nothing of who calls.
const OPEN: [&str; 8] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/consentd.v1.LedgerService/GetCheckpoint",
    "/consentd.v1.LedgerService/GetConsistencyProof",
    "/consentd.v1.LedgerService/GetInclusionProof",
    "/consentd.v1.LedgerService/GetReceipt",
    "/consentd.v1.LedgerService/GetHistory",
];

/// What all calls share.
pub struct Gate {
    /// The answers of this program.
    pub answers: Answers,
    /// The daemon.
    pub daemon: Daemon,
    /// What is counted and measured.
    pub metrics: Metrics,
    /// What each caller has in flight.
    pub limits: Limits,
    /// How many long batches may be worked on at a time.
    pub batches: Arc<Semaphore>,
    /// What question a request is about which Envoy asks; None: all are refused.
    pub mapping: Option<MappingFile>,
}

/// The request of a call.
pub enum Received {
    /// It came to its end.
    Whole(Bytes),
    /// It is longer than a caller without a credential may send.
    Unknown,
    /// It did not come to its end, or is over a limit.
    Refused(&'static str),
}

impl Gate {
    /// Answer a call of *peer*, or pass it on.
    pub async fn call(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: &Arc<Peer>,
        activity: &Arc<Activity>,
    ) -> Response<GateBody> {
        let open = activity.begin_call();
        let (parts, body) = request.into_parts();
        if parts.uri.path() == ext_authz::METHOD {
            return self.authorize(parts, body, peer, activity).await.map(|body| body.holding(open, None));
        }
        let (response, taken) = match self.run(parts, body, peer, activity).await {
            Ok(found) => found,
            Err(over) => {
                self.metrics.count(Outcome::Refused);
                sleep(REFUSAL_PAUSE).await;
                (refusal("8", over), None)
            }
        };
        response.map(|body| body.holding(open, taken))
    }

    /// An error names a limit that is reached.
    async fn run(
        self: &Arc<Self>,
        parts: Parts,
        body: Incoming,
        peer: &Arc<Peer>,
        activity: &Activity,
    ) -> Result<(Response<GateBody>, Option<Taken>), &'static str> {
        // A request is passed on only once it is complete, so that slow peers are held here.
        let mut held = Held::new(activity);
        let most = most_bytes(parts.uri.path());
        let principal = || self.principal(&parts.headers, peer);
        let received = timeout(RECEIVE_LIMIT, self.receive(body, most, &mut held, principal));
        let content = match received.await {
            Err(_) => return Ok((self.refuse("4", "request did not come in time"), None)),
            Ok(Received::Refused(what)) => return Ok((self.refuse("8", what), None)),
            // The daemon says who may call what. It needs no message to refuse a caller that it does not know.
            Ok(Received::Unknown) => Bytes::new(),
            Ok(Received::Whole(content)) => content,
        };
        if parts.uri.path() == health::CHECK && health::is_own(&content) && self.answers.state().is_ready {
            self.metrics.count(Outcome::Answered);
            return Ok((answer(&health::SERVING), None));
        }
        let method = match parts.uri.path() {
            "/consentd.v1.PolicyService/Check" => Some(Method::Check),
            "/consentd.v1.PolicyService/BatchCheck" => Some(Method::BatchCheck),
            _ => None,
        };
        let began = Instant::now();
        if let Some(method) = method {
            let found = if content.len() <= SHORT {
                self.answer(method, &parts.headers, peer, &content, &|| true)
            } else {
                let taken = self.limits.enter(self.principal(&parts.headers, peer), Kind::Batch);
                let _taken = taken.ok_or("too many batches of the caller are in flight")?;
                self.answer_long(method, &parts.headers, peer, &content).await
            };
            if let Some(found) = found {
                activity.know_caller();
                self.metrics.count(Outcome::Answered);
                self.metrics.note_answer(began.elapsed());
                return Ok((answer(&found), None));
            }
        }
        let is_revocation = REVOCATIONS.iter().any(|name| parts.uri.path().ends_with(name));
        let kind = if is_revocation { Kind::Revocation } else { Kind::Call };
        let principal = self.principal(&parts.headers, peer);
        if matches!(principal, Principal::Known(_)) {
            activity.know_caller();
        }
        let caller = principal.number();
        // The daemon answers only callers that it knows, if the method needs a credential.
        let is_examined = matches!(principal, Principal::Stated(_)) && !OPEN.contains(&parts.uri.path());
        let taken = self.limits.enter(principal, kind).ok_or("too many calls of the caller are in flight")?;
        self.metrics.count(Outcome::PassedOn);
        let response = self.daemon.pass_on(parts, content, peer, caller).await;
        if is_examined && !is_refused(&response) {
            activity.know_caller();
        }
        Ok((response, Some(taken)))
    }

    fn refuse(&self, status: &'static str, what: &'static str) -> Response<GateBody> {
        self.metrics.count(Outcome::Refused);
        refusal(status, what)
    }

    /// Return who calls, as far as limits need it. Who may do what is decided elsewhere.
    pub fn principal(&self, headers: &HeaderMap, peer: &Peer) -> Principal {
        let (nobody, stated) = (Principal::Nobody(peer.ip), Principal::Stated(peer.ip));
        let Some(shown) = credential(headers, peer) else {
            return if headers.contains_key(SIGNATURE) { stated } else { nobody };
        };
        match (self.answers.holder(shown), shown) {
            (Some(Some(name)), _) => Principal::Known(name),
            // A login has the form of a JWT (RFC 7519), and the table has none.
            (Some(None), Credential::Token(token)) if token.iter().filter(|byte| **byte == b'.').count() != 2 => nobody,
            _ => stated,
        }
    }

    /// *goes_on*: asked between two questions; after a false one no further question is answered.
    fn answer(
        &self,
        method: Method,
        headers: &HeaderMap,
        peer: &Peer,
        content: &Bytes,
        goes_on: &dyn Fn() -> bool,
    ) -> Option<Vec<u8>> {
        let credential = credential(headers, peer)?;
        let (prefix, message) = content.split_at_checked(PREFIX)?;
        // One message that is not compressed.
        if prefix[0] != 0 || u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize != message.len() {
            return None;
        }
        self.answers.answer(method, message, credential, goes_on)
    }

    /// Answer a long batch on a thread of its own, so that no check waits for it.
    async fn answer_long(
        self: &Arc<Self>,
        method: Method,
        headers: &HeaderMap,
        peer: &Arc<Peer>,
        content: &Bytes,
    ) -> Option<Vec<u8>> {
        let permit = Arc::clone(&self.batches).acquire_owned().await.ok()?;
        let (sender, receiver) = oneshot::channel();
        let (gate, headers, peer, content) = (Arc::clone(self), headers.clone(), Arc::clone(peer), content.clone());
        tokio::task::spawn_blocking(move || {
            let others = || gate.metrics.calls(Outcome::Answered) + gate.metrics.calls(Outcome::PassedOn);
            let pace = Pace::begin(Instant::now(), others());
            let goes_on = || {
                if let Some(rest) = pace.rest(Instant::now(), others) {
                    std::thread::sleep(rest);
                    pace.go_on(Instant::now());
                }
                !sender.is_closed() // else the call was cancelled
            };
            let found = gate.answer(method, &headers, &peer, &content, &goes_on);
            drop(permit);
            let _ = sender.send(found);
        });
        receiver.await.ok().flatten()
    }

    /// Receive the whole body of a request of at most *most* bytes.
    pub async fn receive(
        &self,
        mut body: Incoming,
        most: usize,
        held: &mut Held<'_>,
        principal: impl FnOnce() -> Principal,
    ) -> Received {
        let (mut content, mut principal) = (BytesMut::new(), Some(principal));
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Received::Refused("request was not sent to its end") };
            let Ok(part) = frame.into_data() else { continue };
            content.extend_from_slice(&part);
            // What is too long is refused by the length that it states, before it has come.
            let size = content.len().max(stated_size(&content));
            if size > most {
                return Received::Refused("request is too large");
            }
            if size > SHORT && held.long.is_none() {
                match principal.take().map(|find| find()) {
                    Some(found) if !matches!(found, Principal::Nobody(_)) => {
                        held.long = Some(self.limits.begin_bytes(found));
                    }
                    _ => return Received::Unknown,
                }
            }
            if !held.grow(content.len()) {
                return Received::Refused("requests in flight have too many bytes");
            }
        }
        Received::Whole(content.freeze())
    }
}

/// The bytes of a request that is not answered yet: of a short one, and all bytes of a long one.
pub struct Held<'a> {
    short: usize,
    long: Option<Taken>,
    long_bytes: usize,
    activity: &'a Activity,
}

impl<'a> Held<'a> {
    /// Begin with a request of which nothing is there yet.
    pub fn new(activity: &'a Activity) -> Self {
        Held { short: 0, long: None, long_bytes: 0, activity }
    }

    /// Count the bytes of a request that has now *size* bytes; return whether they may be held.
    fn grow(&mut self, size: usize) -> bool {
        if let Some(taken) = &mut self.long {
            let more = size - self.long_bytes;
            self.long_bytes = size;
            return taken.add_bytes(more);
        }
        let more = size - self.short;
        self.short = size;
        self.activity.held.fetch_add(more, Ordering::Relaxed) + more <= MOST_SHORT_BYTES
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.activity.held.fetch_sub(self.short, Ordering::Relaxed);
    }
}

/// Return whether the daemon has refused a call before it began: then its caller may be unknown.
fn is_refused(response: &Response<GateBody>) -> bool {
    response.headers().contains_key("grpc-status")
}

/// Return how many bytes a request has if it is the one message whose beginning this is; 0: not known yet.
fn stated_size(content: &[u8]) -> usize {
    let stated = content.get(1..PREFIX).and_then(|bytes| bytes.try_into().ok());
    stated.map_or(0, |length| PREFIX + u32::from_be_bytes(length) as usize)
}

/// Return how many bytes the request of a call may have. *path*: of the method.
fn most_bytes(path: &str) -> usize {
    let is_long = path.rfind('/').is_some_and(|at| path[at..].starts_with(LONG));
    if is_long {
        MOST_BYTES
    } else {
        MOST_BYTES_OF_OTHERS
    }
}

/// Return what a call shows of its caller; None: nothing, or what only the daemon reads.
pub fn credential<'a>(headers: &'a HeaderMap, peer: &'a Peer) -> Option<Credential<'a>> {
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
