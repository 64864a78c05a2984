//! Bodies of HTTP/2 messages: a whole gRPC message, or what the daemon sends, as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderMap, HeaderValue, CONTENT_TYPE};
use hyper::Response;

/// Bytes before a gRPC message: whether it is compressed, and its length.
pub const PREFIX: usize = 5;

/// The body of a request or of a response.
pub enum GateBody {
    /// All of it is known.
    Whole {
        /// The bytes; None: they were sent.
        content: Option<Bytes>,
        /// What follows them.
        trailers: Option<HeaderMap>,
    },
    /// It comes from the daemon.
    Passed(Incoming),
}

impl GateBody {
    /// Return the body of a request.
    pub fn request(content: Bytes) -> Self {
        GateBody::Whole { content: Some(content), trailers: None }
    }
}

impl Body for GateBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            GateBody::Passed(incoming) => Pin::new(incoming).poll_frame(context),
            GateBody::Whole { content, trailers } => {
                let frame = content.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            GateBody::Passed(incoming) => incoming.is_end_stream(),
            GateBody::Whole { content, trailers } => content.is_none() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            GateBody::Passed(incoming) => incoming.size_hint(),
            GateBody::Whole { content, .. } => SizeHint::with_exact(content.as_ref().map_or(0, Bytes::len) as u64),
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
    response(GateBody::Whole { content: Some(content.into()), trailers: Some(trailers) })
}

/// Return the end of a call that has no answer.
pub fn refusal(status: &'static str, message: &'static str) -> Response<GateBody> {
    let mut found = response(GateBody::Whole { content: None, trailers: None });
    found.headers_mut().insert("grpc-status", HeaderValue::from_static(status));
    found.headers_mut().insert("grpc-message", HeaderValue::from_static(message));
    found
}

fn response(body: GateBody) -> Response<GateBody> {
    let mut found = Response::new(body);
    found.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    found
}
