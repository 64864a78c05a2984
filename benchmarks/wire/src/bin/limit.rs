//! A trivial tonic server: it reads a message and answers with one that was made before. No server on tonic is faster.
//!
//! Arguments: the answer to Check and the answer to BatchCheck, in hexadecimal. It listens on a free port of 127.0.0.1
//! and writes the port on stdout.

use std::convert::Infallible;
use std::future::{ready, Future, Ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

/// A codec of messages that stay bytes.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Answers every message with the same one.
struct Fixed(Bytes);

impl UnaryService<Bytes> for Fixed {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;
    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(self.0.clone())))
    }
}

/// The service of checks.
#[derive(Clone)]
struct Policy {
    check: Bytes,
    batch: Bytes,
}

impl NamedService for Policy {
    const NAME: &'static str = "consentd.v1.PolicyService";
}

impl tower_service::Service<http::Request<Body>> for Policy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let is_batch = request.uri().path().ends_with("/BatchCheck");
        let answer = if is_batch { self.batch.clone() } else { self.check.clone() };
        Box::pin(async move { Ok(Grpc::new(Raw).unary(Fixed(answer), request).await) })
    }
}

fn from_hex(text: &str) -> Bytes {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("an argument in hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut answer = || from_hex(&arguments.next().expect("two answers in hexadecimal"));
    let policy = Policy { check: answer(), batch: answer() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("{}", listener.local_addr().expect("it is bound").port());
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(policy);
    server.serve_with_incoming(incoming).await.expect("it serves until it is ended");
}
