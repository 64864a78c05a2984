//! A load generator that is faster than the servers it measures: requests are made before, and answers stay bytes.
//!
//! It speaks HTTP/2 (gRPC or JSON) and HTTP/1.1, on one thread for each connection. It runs the load that its options
//! name, writes what it measured into a file, and one line of JSON on stdout: calls that failed, seconds, and the share
//! of a core that it used itself. `benchmarks/peers/generator.py` starts it and reads the file.

mod http1;
mod http2;

use std::fs;
use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long after its end a load waits for a first call that counts.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to send, how and for how long.
struct Load {
    port: u16,
    path: String,
    content_type: String,
    token: String,
    bodies: Vec<Vec<u8>>,
    in_flight: usize,
    connections: usize,
    warm: Duration,
    seconds: Duration,
    /// How long after another a connection's calls are due; zero: the next call is sent when one is answered.
    interval: Duration,
    started: Instant,
}

/// What one connection measured.
#[derive(Default)]
struct Measured {
    /// Place of the request, when the call was due and when it ended, since the start.
    calls: Vec<(u32, Duration, Duration)>,
    /// The last answer to each request, by its place.
    answers: Vec<Option<Vec<u8>>>,
    failed: u64,
}

impl Measured {
    fn new(load: &Load) -> Self {
        Self { calls: Vec::with_capacity(1 << 16), answers: vec![None; load.bodies.len()], failed: 0 }
    }

    /// Whether the load has ended. On a slow machine the first call that counts may end late: one at least is measured.
    fn is_over(&self, load: &Load) -> bool {
        let now = load.started.elapsed();
        now >= load.end() && (!self.calls.is_empty() || self.failed > 0 || now >= load.end() + PATIENCE)
    }

    fn ended(&mut self, load: &Load, place: usize, due: Duration, answer: Option<Vec<u8>>) {
        let now = load.started.elapsed();
        match answer {
            None => self.failed += 1,
            Some(answer) => {
                self.answers[place] = Some(answer);
                if due >= load.warm && (now <= load.end() || self.calls.is_empty()) {
                    self.calls.push((u32::try_from(place).expect("fewer requests than 2^32"), due, now));
                }
            }
        }
    }
}

impl Load {
    fn read(arguments: &[String]) -> Self {
        let option = |name: &str| {
            let at = arguments.iter().position(|one| one == name).unwrap_or_else(|| panic!("option {name} is missing"));
            arguments.get(at + 1).unwrap_or_else(|| panic!("option {name} has no value")).clone()
        };
        let number = |name: &str| option(name).parse::<f64>().unwrap_or_else(|_| panic!("{name} is no number"));
        let count = |name: &str| option(name).parse::<usize>().unwrap_or_else(|_| panic!("{name} is no number"));
        let (rate, connections) = (number("--rate"), count("--connections"));
        #[allow(clippy::cast_precision_loss)] // a few connections
        let interval = if rate > 0.0 { Duration::from_secs_f64(connections as f64 / rate) } else { Duration::ZERO };
        Self {
            port: option("--port").parse().expect("a port"),
            path: option("--path"),
            content_type: option("--content-type"),
            token: option("--token"),
            bodies: split(&fs::read(option("--requests")).expect("the file of requests can be read")),
            in_flight: count("--in-flight"),
            connections,
            warm: Duration::from_secs_f64(number("--warm")),
            seconds: Duration::from_secs_f64(number("--seconds")),
            interval,
            started: Instant::now(),
        }
    }

    /// The place of a connection's call *number*: connections take the requests in turn.
    fn place(&self, connection: usize, number: usize) -> usize {
        (connection + number * self.connections) % self.bodies.len()
    }

    /// When a connection's call *number* is due, with a fixed rate.
    fn due(&self, connection: usize, number: usize) -> Duration {
        let count = |one: usize| u32::try_from(one).expect("fewer calls than 2^32");
        self.interval * count(connection) / count(self.connections) + self.interval * count(number)
    }

    fn end(&self) -> Duration {
        self.warm + self.seconds
    }

    /// Wait until a call is due.
    fn wait(&self, due: Duration) {
        let now = self.started.elapsed();
        if due > now {
            std::thread::sleep(due - now);
        }
    }
}

/// Read the requests: each is its length as u32 little-endian, then its bytes.
fn split(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while file.len() >= 4 {
        let (length, rest) = file.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        found.push(rest[..length].to_vec());
        file = &rest[length..];
    }
    assert!(!found.is_empty(), "there are no requests");
    found
}

/// Seconds of processor time of this process, all threads: fields 14 and 15 of its stat, in hundredths.
fn processor_s() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux has it");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    fields.split_whitespace().skip(11).take(2).map(|one| one.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}

fn write(file: &str, measured: &[Measured], places: usize) -> std::io::Result<()> {
    let mut out = BufWriter::new(fs::File::create(file)?);
    let calls: usize = measured.iter().map(|one| one.calls.len()).sum();
    out.write_all(&(calls as u64).to_le_bytes())?;
    for (place, due, ended) in measured.iter().flat_map(|one| &one.calls) {
        out.write_all(&place.to_le_bytes())?;
        out.write_all(&(ended.saturating_sub(*due)).as_secs_f64().to_le_bytes())?;
        out.write_all(&ended.as_secs_f64().to_le_bytes())?;
    }
    for place in 0..places {
        for answer in measured.iter().filter_map(|one| one.answers[place].as_ref()) {
            out.write_all(&u32::try_from(place).expect("fewer requests than 2^32").to_le_bytes())?;
            out.write_all(&u32::try_from(answer.len()).expect("a short answer").to_le_bytes())?;
            out.write_all(answer)?;
        }
    }
    out.flush()
}

extern "C" {
    fn prctl(option: i32, value: usize, ...) -> i32;
}
const PR_SET_TIMERSLACK: i32 = 29;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Threads that start later sleep no longer than they are told to; by default Linux adds up to 50 microseconds.
    unsafe { prctl(PR_SET_TIMERSLACK, 1) };
    let load = Arc::new(Load::read(&arguments));
    let is_http1 = arguments.iter().any(|one| one == "--http1");
    let before = processor_s();
    let results = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = (0..load.connections)
        .map(|connection| {
            let (load, results) = (load.clone(), results.clone());
            std::thread::spawn(move || {
                let run = if is_http1 { http1::run } else { http2::run };
                let measured = run(&load, connection);
                results.lock().expect("no thread panics").push(measured);
            })
        })
        .collect();
    let failed_threads = threads.into_iter().filter_map(|one| one.join().err()).count();
    assert_eq!(failed_threads, 0, "a connection failed");
    let measured = results.lock().expect("no thread panics");
    let seconds = load.started.elapsed().as_secs_f64();
    let file = arguments.iter().position(|one| one == "--out").map(|at| arguments[at + 1].clone());
    write(&file.expect("option --out is missing"), &measured, load.bodies.len()).expect("the file can be written");
    let failed: u64 = measured.iter().map(|one| one.failed).sum();
    let busy = (processor_s() - before) / seconds;
    let last = measured.iter().flat_map(|one| &one.calls).map(|(_, _, ended)| *ended).max().unwrap_or_default();
    let measured_s = load.seconds.max(last.saturating_sub(load.warm)).as_secs_f64();
    println!("{{\"failed\": {failed}, \"seconds\": {measured_s}, \"busy\": {busy:.3}}}");
}
