//! The gate's own HTTP listener: `/metrics` and `/healthz`, for programs of this machine.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::calls::Gate;

const MOST_CONNECTIONS: usize = 32;
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
const HEADER_LIMIT: Duration = Duration::from_secs(5);
const METRICS_FORM: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answer on *listener* until the program ends.
pub async fn answer(listener: TcpListener, gate: Arc<Gate>) {
    let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await; // too many files are open
            continue;
        };
        let Ok(permit) = Arc::clone(&free).try_acquire_owned() else { continue };
        let gate = Arc::clone(&gate);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let found = page(&gate, &request);
                async move { Ok::<_, Infallible>(found) }
            });
            let serve = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_LIMIT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = timeout(CONNECTION_LIMIT, serve).await;
            drop(permit);
        });
    }
}

fn page(gate: &Gate, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let state = gate.answers.state();
    let (status, form, text) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, METRICS_FORM, gate.metrics.render(state)),
        "/healthz" if state.is_ready => (StatusCode::OK, "application/json", "{\"status\": \"ok\"}\n".to_owned()),
        "/healthz" => {
            (StatusCode::SERVICE_UNAVAILABLE, "application/json", "{\"status\": \"unavailable\"}\n".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "no such page\n".to_owned()),
    };
    let mut found = Response::new(Full::new(Bytes::from(text)));
    *found.status_mut() = status;
    let headers = found.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(form));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    found
}
