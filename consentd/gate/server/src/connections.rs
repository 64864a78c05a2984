//! Connections: how many there are, and when one is closed.
//!
//! A peer that connects and does nothing, or that does not take an answer, costs a connection for a limited time.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::calls::Gate;
use crate::peer::Peer;

const MOST_CONNECTIONS: usize = 1_024;
const MOST_OF_ADDRESS: usize = 256;
const MOST_STREAMS: u32 = 128;
const MOST_HEADER_BYTES: u32 = 16 << 10;
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How often it is seen whether a connection must be closed.
const LOOK: Duration = Duration::from_secs(1);
/// How long a connection may have no call: before its first one, and after one.
const FIRST_CALL: Duration = Duration::from_secs(20);
const NEXT_CALL: Duration = Duration::from_secs(300);
/// How long a peer may take nothing of an answer that is there (the daemon's `send_timeout_ms`).
const SEND_LIMIT: Duration = Duration::from_secs(20);
/// How long calls may take to end after the program was told to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The connections that are open, and whether they must end.
#[derive(Default)]
pub struct Connections {
    of_address: Mutex<HashMap<IpAddr, usize>>,
    is_ending: AtomicBool,
}

/// One connection that is counted; dropping it ends the count.
pub struct Counted {
    connections: Arc<Connections>,
    address: IpAddr,
}

impl Connections {
    /// Count a connection; None: there are too many, and it must be closed.
    pub fn begin(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let mut counts = self.of_address.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let total: usize = counts.values().sum();
        let count = counts.get(&address).copied().unwrap_or(0);
        if total >= MOST_CONNECTIONS || count >= MOST_OF_ADDRESS || self.is_ending.load(Ordering::Relaxed) {
            return None;
        }
        counts.insert(address, count + 1);
        Some(Counted { connections: Arc::clone(self), address })
    }

    /// Let the calls in flight end, take no others, and return when all connections are closed or time is over.
    pub async fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        let until = Instant::now() + END_LIMIT;
        while Instant::now() < until && !self.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_empty(&self) -> bool {
        self.of_address.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_empty()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.connections.of_address.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match counts.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.address)),
        }
    }
}

/// What the calls of one connection do. They share it with the task that serves the connection.
pub struct Activity {
    began: Instant,
    /// Calls that have not ended.
    calls: AtomicUsize,
    /// Milliseconds after *began* at which the last call began or ended; 0: there was none.
    last_ms: AtomicU64,
    /// Bytes of short requests that are held.
    pub held: AtomicUsize,
    next: AtomicU64,
    /// Since when the peer has been offered a part of an answer that it has not taken, by the number of the answer.
    offered: Mutex<HashMap<u64, Instant>>,
}

impl Activity {
    fn new() -> Self {
        let (calls, last_ms, held, next) = Default::default();
        Activity { began: Instant::now(), calls, last_ms, held, next, offered: Mutex::default() }
    }

    /// Note that a call begins; it ends when the value is dropped.
    pub fn begin_call(self: &Arc<Self>) -> OpenCall {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.note();
        OpenCall { activity: Arc::clone(self), number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    fn note(&self) {
        self.last_ms.store(self.began.elapsed().as_millis().max(1) as u64, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        let limit = if last.is_zero() { FIRST_CALL } else { NEXT_CALL };
        self.calls.load(Ordering::Relaxed) == 0 && self.began.elapsed() > last + limit
    }

    fn is_stalled(&self) -> bool {
        let offered = self.offered.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        offered.values().any(|since| since.elapsed() > SEND_LIMIT)
    }
}

/// A call of a connection.
pub struct OpenCall {
    activity: Arc<Activity>,
    number: u64,
}

impl OpenCall {
    /// Note that the peer is offered a part of the answer.
    pub fn offers(&self) {
        let mut offered = self.activity.offered.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        offered.insert(self.number, Instant::now());
    }

    /// Note that the peer has taken what it was offered.
    pub fn is_taken(&self) {
        let mut offered = self.activity.offered.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        offered.remove(&self.number);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.is_taken();
        self.activity.calls.fetch_sub(1, Ordering::Relaxed);
        self.activity.note();
    }
}

/// Serve the calls of a connection until it is closed.
pub async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    counted: Counted,
    gate: Arc<Gate>,
) {
    let activity = Arc::new(Activity::new());
    let peer = Arc::new(peer);
    let service = service_fn(|request| {
        let (gate, peer, activity) = (Arc::clone(&gate), Arc::clone(&peer), Arc::clone(&activity));
        async move { Ok::<_, Infallible>(gate.call(request, &peer, &activity).await) }
    });
    let mut connection = pin!(http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MOST_HEADER_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service));
    let mut is_told = false;
    // A connection that fails ends; its calls are over.
    while timeout(LOOK, connection.as_mut()).await.is_err() {
        let is_idle = activity.is_idle();
        if activity.is_stalled() || (is_told && is_idle) {
            return;
        }
        if !is_told && (is_idle || counted.connections.is_ending.load(Ordering::Relaxed)) {
            connection.as_mut().graceful_shutdown();
            is_told = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Connections, MOST_CONNECTIONS, MOST_OF_ADDRESS};

    #[test]
    fn connections_of_an_address_and_of_all_are_limited() {
        let connections = Arc::new(Connections::default());
        let of = |last: u8, count: usize| -> Vec<_> {
            (0..count).filter_map(|_| connections.begin([127, 0, 0, last].into())).collect()
        };
        let first = of(1, MOST_OF_ADDRESS + 1);
        assert_eq!(first.len(), MOST_OF_ADDRESS);
        let others: Vec<_> = (2..=9).flat_map(|last| of(last, MOST_OF_ADDRESS)).collect();
        assert_eq!(first.len() + others.len(), MOST_CONNECTIONS);
        drop((first, others));
        assert!(connections.is_empty());
    }
}
