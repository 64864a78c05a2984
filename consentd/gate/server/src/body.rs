//! Bodies of HTTP/2 messages: a whole gRPC message, or what the daemon sends, as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderMap, HeaderValue, CONTENT_TYPE};
use hyper::Response;

use crate::connections::OpenCall;
use crate::limits::Taken;

/// Bytes before a gRPC message: whether it is compressed, and its length.
pub const PREFIX: usize = 5;
/// Most bytes that a peer is offered at once. The rest waits until it has taken them.
const MOST_OFFERED: usize = 16 << 10;

/// The body of a request to the daemon, or of a response.
pub struct GateBody {
    content: Content,
    trailers: Option<HeaderMap>,
    /// Of a response: its call, and what the call has taken of the limits. Both end with the body.
    call: Option<OpenCall>,
    taken: Option<Taken>,
}

enum Content {
    Whole(Bytes),
    Passed(Incoming),
}

impl GateBody {
    /// Return a body whose bytes are known.
    pub fn whole(content: Bytes, trailers: Option<HeaderMap>) -> Self {
        GateBody { content: Content::Whole(content), trailers, call: None, taken: None }
    }

    /// Return a body that comes from the daemon.
    pub fn passed(incoming: Incoming) -> Self {
        GateBody { content: Content::Passed(incoming), trailers: None, call: None, taken: None }
    }

    /// Return the same body, with what it holds until it ends.
    pub fn holding(self, call: OpenCall, taken: Option<Taken>) -> Self {
        GateBody { call: Some(call), taken, ..self }
    }
}

impl Body for GateBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.get_mut();
        // Whoever polls has passed on what was returned before.
        let call = body.call.as_ref();
        call.inspect(|call| call.is_taken());
        let found = match &mut body.content {
            Content::Passed(incoming) => std::task::ready!(Pin::new(incoming).poll_frame(context)),
            Content::Whole(content) if !content.is_empty() => {
                Some(Ok(Frame::data(content.split_to(content.len().min(MOST_OFFERED)))))
            }
            Content::Whole(_) => body.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
        };
        if matches!(&found, Some(Ok(frame)) if frame.is_data()) {
            call.inspect(|call| call.offers());
        }
        if found.is_none() {
            body.taken = None;
        }
        Poll::Ready(found)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Passed(incoming) => incoming.is_end_stream(),
            Content::Whole(content) => content.is_empty() && self.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Passed(incoming) => incoming.size_hint(),
            Content::Whole(content) => SizeHint::with_exact(content.len() as u64),
        }
    }
}

/// Return the answer of a call: one message.
pub fn answer(message: &[u8]) -> Response<GateBody> {
    let mut content = Vec::with_capacity(PREFIX + message.len());
    content.push(0);
    content.extend_from_slice(&(message.len() as u32).to_be_bytes());
    content.extend_from_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    response(GateBody::whole(content.into(), Some(trailers)))
}

/// Return the end of a call that has no answer.
pub fn refusal(status: &'static str, message: &'static str) -> Response<GateBody> {
    let mut found = response(GateBody::whole(Bytes::new(), None));
    found.headers_mut().insert("grpc-status", HeaderValue::from_static(status));
    found.headers_mut().insert("grpc-message", HeaderValue::from_static(message));
    found
}

fn response(body: GateBody) -> Response<GateBody> {
    let mut found = Response::new(body);
    found.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    found
}
