//! The gate: a server that answers Check, BatchCheck and Envoy's ext_authz from the policy table at the rate of the wire,
//! and passes every other call on to the daemon. `ops/decisions/0028-gate.md` says why, and what it leaves to the daemon.

mod answers;
mod body;
mod calls;
mod clock;
mod connections;
mod daemon;
mod envoy;
mod ext_authz;
mod health;
mod http;
mod limits;
mod log;
mod metrics;
mod node;
mod options;
mod pace;
mod peer;
mod quota;
mod tls;
mod verdict;

use std::fs::File;
use std::future::poll_fn;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use answers::Answers;
use calls::Gate;
use connections::{serve, Connections, Counted};
use consentd_table::check::IndexKey;
use consentd_table::lmdb::Table;
use daemon::Daemon;
use ext_authz::{read_mapping, MappingFile};
use limits::Limits;
use log::log;
use metrics::{Metrics, Outcome};
use options::{Options, USAGE};
use peer::Peer;
use tls::Tls;

const KEY_SIZE: usize = 32;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|one| one == "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if let [option, file] = arguments.as_slice() {
        if option == "--check-mapping" {
            return check_mapping(Path::new(file));
        }
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

/// Say whether a mapping file is in order.
fn check_mapping(path: &Path) -> ExitCode {
    match read_mapping(path) {
        Ok(mapping) => {
            println!("mapping file is in order: {} routes", mapping.routes.len());
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("consentd-gate: {what}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    let index_key = read_key(options.key_fd)?;
    let tls = options.tls.map(Tls::open).transpose()?.map(Arc::new);
    let mapping = options.mapping.map(MappingFile::open).transpose()?;
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
        limits: Limits::default(),
        batches: Arc::new(Semaphore::new(options.threads)),
        mapping,
    });
    runtime.block_on(async {
        watch_for_reload(tls.clone(), Arc::clone(&gate))?;
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
        let connections = Arc::new(Connections::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&gate), tls, Arc::clone(&connections)));
        poll_fn(|context| {
            let is_ending = end.poll_recv(context).is_ready() || interrupt.poll_recv(context).is_ready();
            if is_ending {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        accepting.abort();
        connections.end().await;
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

/// Read the files of TLS and the mapping file again at each SIGHUP.
fn watch_for_reload(tls: Option<Arc<Tls>>, gate: Arc<Gate>) -> Result<(), String> {
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            note_reload(tls.as_ref().map(|tls| tls.reload()), "TLS files of the gate reloaded");
            note_reload(gate.mapping.as_ref().map(MappingFile::reload), "mapping file of the gate reloaded");
        }
    });
    Ok(())
}

fn note_reload(reloaded: Option<Result<(), String>>, done: &str) {
    match reloaded {
        Some(Err(what)) => log("error", &what),
        Some(Ok(())) => log("info", done),
        None => {}
    }
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

async fn accept(listener: TcpListener, gate: Arc<Gate>, tls: Option<Arc<Tls>>, connections: Arc<Connections>) {
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await; // too many files are open
            continue;
        };
        // Without a count the connection is closed.
        if let Some(counted) = connections.begin(address.ip().to_canonical(), Instant::now()) {
            tokio::spawn(secure(stream, address, counted, Arc::clone(&gate), tls.clone()));
        }
    }
}

/// Make the handshake of TLS, if there is any, and serve the connection.
async fn secure(stream: TcpStream, address: SocketAddr, counted: Counted, gate: Arc<Gate>, tls: Option<Arc<Tls>>) {
    let _ = stream.set_nodelay(true);
    let shared = Arc::clone(&gate);
    let _open = shared.metrics.open_connection();
    let Some(tls) = tls else { return serve(stream, Peer::new(address, None), counted, gate).await };
    let handshake = timeout(HANDSHAKE_LIMIT, tls.acceptor().accept(stream));
    let Some(Ok(Ok(stream))) = counted.until_closed(handshake).await else {
        return shared.metrics.count_failed_handshake();
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = Peer::new(address, shown.map(AsRef::as_ref));
    serve(stream, peer, counted, gate).await;
}
