//! Pass calls on to the daemon, as bytes, and say whose call it is.
//!
//! The daemon listens on a Unix socket in a directory that only its own user may enter. Over this socket alone it believes
//! the two headers that say whose address and whose certificate a call has. A client's own such headers are removed.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::http::request::Parts;
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::body::{refusal, GateBody};
use crate::peer::Peer;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const UNAVAILABLE: &str = "14";
/// Headers that the daemon believes: the address of the caller, and the DER of its certificate in base64.
const ADDRESS: &str = "consentd-gate-peer";
const CERTIFICATE: &str = "consentd-gate-certificate-bin";

/// How many connections there are. The calls of one caller have the same one: it may reach the daemon's limit of streams
/// of one connection, and then others still have theirs.
const CONNECTIONS: usize = 4;
/// Bytes of one answer that the daemon may send before the peer takes them. Then the daemon's own limit counts.
const STREAM_WINDOW: u32 = 64 << 10;
/// The same of all answers: so many that answers that nobody takes do not stop the others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// The connections to the daemon. Calls share them.
pub struct Daemon {
    socket: PathBuf,
    connections: [Mutex<Option<SendRequest<GateBody>>>; CONNECTIONS],
}

impl Daemon {
    /// The daemon listens on *socket*.
    pub fn new(socket: PathBuf) -> Self {
        Daemon { socket, connections: Default::default() }
    }

    /// Pass on a call of *peer* whose request is complete; return the answer as it comes.
    ///
    /// *caller*: a number of the caller, which is the same for all of its calls.
    pub async fn pass_on(&self, parts: Parts, content: Bytes, peer: &Peer, caller: u64) -> Response<GateBody> {
        let Some(mut connection) = self.connected(caller).await else {
            return refusal(UNAVAILABLE, "daemon cannot be reached");
        };
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let Ok(uri) = Uri::builder().scheme("http").authority("localhost").path_and_query(path).build() else {
            return refusal("13", "path of the call is malformed");
        };
        let mut request = Request::new(GateBody::whole(content, None));
        (*request.method_mut(), *request.uri_mut()) = (parts.method, uri);
        *request.headers_mut() = parts.headers;
        let headers = request.headers_mut();
        headers.remove(hyper::header::HOST);
        headers.remove(CERTIFICATE);
        headers.insert(ADDRESS, peer.address.clone()); // in the place of all that the client has stated
        if let Some(shown) = &peer.certificate {
            headers.insert(CERTIFICATE, shown.header.clone());
        }
        match connection.send_request(request).await {
            Ok(response) => response.map(GateBody::passed),
            Err(_) => refusal(UNAVAILABLE, "connection to the daemon was lost"),
        }
    }

    /// Return a connection that takes requests; None: there is none.
    async fn connected(&self, caller: u64) -> Option<SendRequest<GateBody>> {
        let mut slot = self.connections[(caller % CONNECTIONS as u64) as usize].lock().await;
        if let Some(connection) = slot.as_ref() {
            if !connection.is_closed() {
                return Some(connection.clone());
            }
        }
        let stream = timeout(CONNECT_LIMIT, UnixStream::connect(&self.socket)).await.ok()?.ok()?;
        let (connection, driver) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .ok()?;
        tokio::spawn(driver);
        *slot = Some(connection.clone());
        Some(connection)
    }
}
