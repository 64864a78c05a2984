//! The gate: a server that answers Check and BatchCheck from the policy table at the rate of the wire, and passes every
//! other call on to the daemon. `ops/decisions/0028-gate.md` says why, and what it leaves to the daemon.

mod answers;
mod body;
mod calls;
mod clock;
mod daemon;
mod http;
mod log;
mod metrics;
mod options;
mod peer;
mod quota;
mod tls;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::future::poll_fn;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{signal, SignalKind};
use tokio::time::timeout;

use answers::Answers;
use calls::Gate;
use consentd_table::check::IndexKey;
use consentd_table::lmdb::Table;
use daemon::Daemon;
use log::log;
use metrics::{Metrics, Outcome};
use options::{Options, USAGE};
use peer::Peer;
use tls::Tls;

const MOST_CONNECTIONS: usize = 1_024;
const MOST_OF_ADDRESS: usize = 256;
const MOST_STREAMS: u32 = 128;
const MOST_HEADER_BYTES: u32 = 16 << 10;
const KEY_SIZE: usize = 32;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|one| one == "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(arguments.into_iter()) {
        Ok(options) => options,
        Err(what) => {
            eprintln!("consentd-gate: {what}");
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            log("error", &what);
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    let index_key = read_key(options.key_fd)?;
    let tls = options.tls.map(Tls::open).transpose()?.map(Arc::new);
    let table = Table::open(&options.table).map_err(|fault| fault.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads)
        .enable_all()
        .build()
        .map_err(|error| format!("threads cannot be started: {error}"))?;
    let gate = Arc::new(Gate {
        answers: Answers::new(table, index_key, options.limits),
        daemon: Daemon::new(options.daemon),
        metrics: Metrics::default(),
        held: AtomicUsize::new(0),
    });
    runtime.block_on(async {
        watch_for_reload(tls.clone())?;
        let (listener, address) = listen(options.listen).await?;
        let mut listening = format!("listening on {address}");
        if let Some(http_address) = options.http {
            let (listener, address) = listen(http_address).await?;
            listening += &format!(", HTTP on {address}");
            tokio::spawn(http::answer(listener, Arc::clone(&gate)));
        }
        println!("{listening}");
        let mut end = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        tokio::spawn(accept(listener, Arc::clone(&gate), tls));
        poll_fn(|context| {
            let is_ending = end.poll_recv(context).is_ready() || interrupt.poll_recv(context).is_ready();
            if is_ending {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        let (answered, passed_on) = (gate.metrics.calls(Outcome::Answered), gate.metrics.calls(Outcome::PassedOn));
        log("info", &format!("gate ends: it answered {answered} calls, and passed {passed_on} on"));
        Ok(())
    })
}

/// Listen on *address*; return the address with its port.
async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let listener =
        TcpListener::bind(address).await.map_err(|error| format!("cannot listen on `{address}`: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    Ok((listener, address))
}

/// Read the files of TLS again at each SIGHUP.
fn watch_for_reload(tls: Option<Arc<Tls>>) -> Result<(), String> {
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match tls.as_ref().map(|tls| tls.reload()) {
                Some(Err(what)) => log("error", &what),
                Some(Ok(())) => log("info", "TLS files of the gate reloaded"),
                None => {}
            }
        }
    });
    Ok(())
}

/// Read the key of identifier hashes from a pipe that the daemon has opened. When the daemon ends, this program ends.
fn read_key(descriptor: u32) -> Result<IndexKey, String> {
    let mut key = [0; KEY_SIZE];
    let path = format!("/proc/self/fd/{descriptor}");
    let mut pipe = File::open(path).map_err(|error| format!("key cannot be read: {error}"))?;
    pipe.read_exact(&mut key).map_err(|error| format!("key cannot be read: {error}"))?;
    std::thread::spawn(move || {
        // The daemon writes nothing more, and the pipe ends with the daemon.
        while matches!(pipe.read(&mut [0]), Ok(1)) {}
        std::process::exit(0);
    });
    IndexKey::new(&key).ok_or_else(|| "key of identifier hashes is none".to_owned())
}

/// The connections of each address.
type Connections = Arc<Mutex<HashMap<IpAddr, usize>>>;

async fn accept(listener: TcpListener, gate: Arc<Gate>, tls: Option<Arc<Tls>>) {
    let connections = Connections::default();
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await; // too many files are open
            continue;
        };
        let ip = address.ip();
        if !begin(&connections, ip) {
            continue; // the connection is closed
        }
        let (gate, connections, tls) = (Arc::clone(&gate), Arc::clone(&connections), tls.clone());
        tokio::spawn(async move {
            secure(stream, address, gate, tls).await;
            end(&connections, ip);
        });
    }
}

/// Make the handshake of TLS, if there is any, and serve the connection.
async fn secure(stream: TcpStream, address: SocketAddr, gate: Arc<Gate>, tls: Option<Arc<Tls>>) {
    let _ = stream.set_nodelay(true);
    let counted = Arc::clone(&gate);
    let _open = counted.metrics.open_connection();
    let Some(tls) = tls else { return serve(stream, gate, Peer::new(address, None)).await };
    let Ok(Ok(stream)) = timeout(HANDSHAKE_LIMIT, tls.acceptor().accept(stream)).await else {
        return counted.metrics.count_failed_handshake();
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = Peer::new(address, shown.map(AsRef::as_ref));
    serve(stream, gate, peer).await;
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send, gate: Arc<Gate>, peer: Peer) {
    let peer = Arc::new(peer);
    let service = service_fn(move |request| {
        let (gate, peer) = (Arc::clone(&gate), Arc::clone(&peer));
        async move { Ok::<_, Infallible>(gate.call(request, &peer).await) }
    });
    // A connection that fails ends; its calls are over.
    let _ = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(MOST_HEADER_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn begin(connections: &Connections, ip: IpAddr) -> bool {
    let mut counts = connections.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let total: usize = counts.values().sum();
    let count = counts.entry(ip).or_default();
    let is_free = total < MOST_CONNECTIONS && *count < MOST_OF_ADDRESS;
    if is_free {
        *count += 1;
    }
    is_free
}

fn end(connections: &Connections, ip: IpAddr) {
    let mut counts = connections.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(count) = counts.get_mut(&ip) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&ip);
        }
    }
}
