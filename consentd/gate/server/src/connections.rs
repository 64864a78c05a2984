//! Connections: how many there are, and when one is closed.
//!
//! A peer that connects and does nothing, or that does not take an answer, costs a connection for a limited time. When
//! there is no room for another connection, one on which no known caller has called yields to it.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
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
/// How long a connection stays at least: so long its peer has to make its first call, and so seldom peers that connect again
/// and again can each take the place of another.
const LEAST_AGE: Duration = Duration::from_secs(2);
/// How long calls may take to end after the program was told to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The connections that are open, and whether they must end.
#[derive(Default)]
pub struct Connections {
    of_address: Mutex<HashMap<IpAddr, Share>>,
    is_ending: AtomicBool,
    next: AtomicU64,
}

/// The connections of one address.
#[derive(Default)]
struct Share {
    count: usize,
    /// Those on which no known caller has called, the oldest first: when each began, and what tells it to close.
    unknown: BTreeMap<u64, (Instant, Arc<AtomicBool>)>,
}

/// One connection that is counted; dropping it ends the count.
pub struct Counted {
    connections: Arc<Connections>,
    address: IpAddr,
    number: u64,
    is_known: AtomicBool,
    must_close: Arc<AtomicBool>,
}

impl Connections {
    /// Count a connection that begins *now*; None: there are too many, and it must be closed.
    pub fn begin(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Counted> {
        let mut shares = self.shares();
        let total: usize = shares.values().map(|share| share.count).sum();
        let count = shares.get(&address).map_or(0, |share| share.count);
        if self.is_ending.load(Ordering::Relaxed) {
            return None;
        }
        if count >= MOST_OF_ADDRESS {
            take_place(&mut shares, address, now)?;
        } else if total >= MOST_CONNECTIONS {
            // The address with the most connections of unknown callers gives one, if it has more than the new one has.
            let (most, share) = shares.iter().max_by_key(|(_, share)| share.unknown.len())?;
            let (most, is_more) = (*most, share.unknown.len() > count);
            is_more.then(|| take_place(&mut shares, most, now))??;
        }
        let (number, must_close) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::default());
        let share = shares.entry(address).or_default();
        share.count += 1;
        share.unknown.insert(number, (now, Arc::clone(&must_close)));
        Some(Counted { connections: Arc::clone(self), address, number, is_known: AtomicBool::new(false), must_close })
    }

    /// Let the calls in flight end, take no others, and return when all connections are closed or time is over.
    pub async fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        let until = Instant::now() + END_LIMIT;
        while Instant::now() < until && !self.shares().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<IpAddr, Share>> {
        self.of_address.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Tell the oldest connection of an address on which no known caller has called to close; None: there is none that is old
/// enough.
fn take_place(shares: &mut HashMap<IpAddr, Share>, address: IpAddr, now: Instant) -> Option<()> {
    let share = shares.get_mut(&address)?;
    let oldest = share.unknown.first_entry()?;
    if now.duration_since(oldest.get().0) < LEAST_AGE {
        return None;
    }
    oldest.remove().1.store(true, Ordering::Relaxed);
    share.count -= 1;
    if share.count == 0 {
        shares.remove(&address);
    }
    Some(())
}

impl Counted {
    /// Return what *doing* comes to; None: the connection must close before.
    pub async fn until_closed<T>(&self, doing: impl Future<Output = T>) -> Option<T> {
        let mut doing = pin!(doing);
        loop {
            match timeout(LOOK, doing.as_mut()).await {
                Ok(done) => return Some(done),
                Err(_) if self.must_close.load(Ordering::Relaxed) => return None,
                Err(_) => {}
            }
        }
    }

    /// Note that a known caller has called: this connection yields to none.
    fn know_caller(&self) {
        if !self.is_known.swap(true, Ordering::Relaxed) {
            if let Some(share) = self.connections.shares().get_mut(&self.address) {
                share.unknown.remove(&self.number);
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut shares = self.connections.shares();
        if self.must_close.load(Ordering::Relaxed) {
            return; // it is not counted any more
        }
        let Some(share) = shares.get_mut(&self.address) else { return };
        share.unknown.remove(&self.number);
        share.count -= 1;
        if share.count == 0 {
            shares.remove(&self.address);
        }
    }
}

/// What the calls of one connection do. They share it with the task that serves the connection.
pub struct Activity {
    counted: Counted,
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
    fn new(counted: Counted) -> Self {
        let (calls, last_ms, held, next) = Default::default();
        Activity { counted, began: Instant::now(), calls, last_ms, held, next, offered: Mutex::default() }
    }

    /// Note that a known caller has called: the connection yields to none.
    pub fn know_caller(&self) {
        self.counted.know_caller();
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
    let activity = Arc::new(Activity::new(counted));
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
        let must_close = activity.counted.must_close.load(Ordering::Relaxed);
        if must_close || activity.is_stalled() || (is_told && is_idle) {
            return;
        }
        if !is_told && (is_idle || activity.counted.connections.is_ending.load(Ordering::Relaxed)) {
            connection.as_mut().graceful_shutdown();
            is_told = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::Ordering;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::{Connections, Counted, LEAST_AGE, MOST_CONNECTIONS, MOST_OF_ADDRESS};

    fn address(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    fn begin(connections: &Arc<Connections>, last: u8, count: usize, now: Instant) -> Vec<Counted> {
        (0..count).filter_map(|_| connections.begin(address(last), now)).collect()
    }

    /// Return how many of some connections must close.
    fn closed(of: &[Counted]) -> usize {
        of.iter().filter(|one| one.must_close.load(Ordering::Relaxed)).count()
    }

    #[test]
    fn connections_of_an_address_and_of_all_are_limited() {
        let (connections, now) = (Arc::new(Connections::default()), Instant::now());
        let first = begin(&connections, 1, MOST_OF_ADDRESS + 1, now);
        assert_eq!(first.len(), MOST_OF_ADDRESS);
        let others: Vec<_> = (2..=9).flat_map(|last| begin(&connections, last, MOST_OF_ADDRESS, now)).collect();
        assert_eq!(first.len() + others.len(), MOST_CONNECTIONS);
        drop((first, others));
        assert!(connections.shares().is_empty());
    }

    #[test]
    fn the_oldest_connection_of_unknown_callers_yields_to_one_of_an_address_with_fewer() {
        let (connections, now) = (Arc::new(Connections::default()), Instant::now());
        let share = MOST_CONNECTIONS / 4;
        let all: Vec<_> = (1..=4).map(|last| begin(&connections, last, share, now)).collect();
        assert!(connections.begin(address(5), now).is_none(), "none is old enough");
        let later = now + LEAST_AGE;
        let new = connections.begin(address(5), later).unwrap();
        let yielded: Vec<_> = all.iter().map(|of| closed(of)).collect();
        assert_eq!(yielded.iter().sum::<usize>(), 1);
        let at = yielded.iter().position(|count| *count == 1).unwrap();
        assert!(all[at][0].must_close.load(Ordering::Relaxed), "it is the oldest of its address");
        // What yielded ends: its place is taken already.
        drop((all, new));
        assert!(connections.shares().is_empty());
    }

    #[test]
    fn what_a_connection_waits_for_ends_when_it_must_close() {
        let (connections, now) = (Arc::new(Connections::default()), Instant::now());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let counted = connections.begin(address(1), now).unwrap();
        counted.must_close.store(true, Ordering::Relaxed);
        assert_eq!(runtime.block_on(counted.until_closed(std::future::ready(7))), Some(7));
        assert_eq!(runtime.block_on(counted.until_closed(std::future::pending::<u8>())), None);
    }

    #[test]
    fn a_connection_of_a_known_caller_yields_to_none() {
        let (connections, now) = (Arc::new(Connections::default()), Instant::now());
        let share = MOST_CONNECTIONS / 4;
        let all: Vec<_> = (1..=4).flat_map(|last| begin(&connections, last, share, now)).collect();
        all.iter().for_each(Counted::know_caller);
        let later = now + Duration::from_secs(60);
        assert!(connections.begin(address(5), later).is_none());
        drop(all);
        assert!(connections.shares().is_empty());
    }

    #[test]
    fn at_its_own_limit_an_address_takes_the_place_of_its_own_oldest() {
        let (connections, now) = (Arc::new(Connections::default()), Instant::now());
        let (other, own) = (begin(&connections, 1, 9, now), begin(&connections, 2, MOST_OF_ADDRESS, now));
        let later = now + LEAST_AGE;
        let more = begin(&connections, 2, 2 * MOST_OF_ADDRESS, later);
        assert_eq!((closed(&other), closed(&own), more.len()), (0, MOST_OF_ADDRESS, MOST_OF_ADDRESS));
        drop((other, own, more));
        assert!(connections.shares().is_empty());
    }
}
