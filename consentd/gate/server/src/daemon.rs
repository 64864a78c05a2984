//! Pass calls on to the daemon, as bytes.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http2::{handshake, SendRequest};
use hyper::http::request::Parts;
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::body::{refusal, GateBody};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const UNAVAILABLE: &str = "14";

/// The connection to the daemon. Calls share it.
pub struct Daemon {
    address: SocketAddr,
    connection: Mutex<Option<SendRequest<GateBody>>>,
}

impl Daemon {
    /// The daemon listens on *address*, without TLS.
    pub fn new(address: SocketAddr) -> Self {
        Daemon { address, connection: Mutex::new(None) }
    }

    /// Pass on a call whose request is complete; return the answer as it comes.
    pub async fn pass_on(&self, parts: Parts, content: Bytes) -> Response<GateBody> {
        let Some(mut connection) = self.connected().await else {
            return refusal(UNAVAILABLE, "daemon cannot be reached");
        };
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let Ok(uri) = Uri::builder().scheme("http").authority(self.address.to_string()).path_and_query(path).build()
        else {
            return refusal("13", "path of the call is malformed");
        };
        let mut request = Request::new(GateBody::request(content));
        (*request.method_mut(), *request.uri_mut()) = (parts.method, uri);
        *request.headers_mut() = parts.headers;
        request.headers_mut().remove(hyper::header::HOST);
        match connection.send_request(request).await {
            Ok(response) => response.map(GateBody::Passed),
            Err(_) => refusal(UNAVAILABLE, "connection to the daemon was lost"),
        }
    }

    /// Return a connection that takes requests; None: there is none.
    async fn connected(&self) -> Option<SendRequest<GateBody>> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref() {
            if !connection.is_closed() {
                return Some(connection.clone());
            }
        }
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(self.address)).await.ok()?.ok()?;
        stream.set_nodelay(true).ok()?;
        let (connection, driver) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
        tokio::spawn(driver);
        *slot = Some(connection.clone());
        Some(connection)
    }
}
