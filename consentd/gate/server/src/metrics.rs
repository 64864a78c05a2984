//! What the gate counts and measures, in Prometheus's text format. No label has an identifier.
//!
//! Nothing here depends on what consents say: a call that is answered counts the same whatever the answer is.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histogram, in microseconds.
const BOUNDS_US: [u64; 12] = [25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000];

const CALLS: &str = "consentd_gate_calls_total";
const ANSWER: &str = "consentd_gate_answer_seconds";
const CONNECTIONS: &str = "consentd_gate_connections";
const READY: &str = "consentd_gate_ready";
const HEARTBEAT: &str = "consentd_gate_heartbeat_time_seconds";
const HANDSHAKES: &str = "consentd_gate_handshakes_failed_total";

/// Name, kind, labels and meaning of each metric. `ops/grafana.py` reads these lines.
#[rustfmt::skip]
const METRICS: [(&str, &str, &str, &str); 6] = [
    (CALLS, "counter", "outcome", "Calls, by what the gate did with them."),
    (ANSWER, "histogram", "", "Time from the end of a request to its answer, of calls answered here."),
    (CONNECTIONS, "gauge", "", "Connections that are open."),
    (READY, "gauge", "", "1 while the gate answers questions itself, else 0."),
    (HEARTBEAT, "gauge", "", "When the daemon last wrote in the table that it runs, Unix time."),
    (HANDSHAKES, "counter", "", "Handshakes of TLS that failed."),
];

/// How a call ended, as far as the gate knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered here.
    Answered,
    /// It was passed on to the daemon.
    PassedOn,
    /// It was refused here: its request did not come to its end, a limit is reached, or Envoy's request has no answer.
    Refused,
}

/// The state of the table, and whether the gate answers from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// When the writer last said that it runs, UTC milliseconds; 0: unknown.
    pub heartbeat_ms: u64,
    /// Whether questions are answered here now.
    pub is_ready: bool,
}

/// All metrics. Threads share them.
#[derive(Default)]
pub struct Metrics {
    calls: [AtomicU64; 3],
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    answer_us: AtomicU64,
    connections: AtomicU64,
    handshakes_failed: AtomicU64,
}

impl Metrics {
    /// Count a call.
    pub fn count(&self, outcome: Outcome) {
        self.calls[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Note how long the answer to a call took, from the end of its request.
    pub fn note_answer(&self, took: Duration) {
        let took_us = took.as_micros() as u64;
        let at = BOUNDS_US.iter().position(|bound| took_us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.answer_us.fetch_add(took_us, Ordering::Relaxed);
    }

    /// Count a handshake of TLS that failed.
    pub fn count_failed_handshake(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Count a connection as open for as long as the result lives.
    pub fn open_connection(&self) -> Open<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Open(&self.connections)
    }

    /// Return how many calls had an outcome.
    pub fn calls(&self, outcome: Outcome) -> u64 {
        self.calls[outcome as usize].load(Ordering::Relaxed)
    }

    /// Return the text of all metrics.
    pub fn render(&self, state: State) -> String {
        let mut text = String::with_capacity(2_048);
        let connections = self.connections.load(Ordering::Relaxed) as f64;
        let failed = self.handshakes_failed.load(Ordering::Relaxed) as f64;
        for (name, kind, _, what) in METRICS {
            let _ = writeln!(text, "# HELP {name} {what}\n# TYPE {name} {kind}");
            match name {
                CALLS => self.add_calls(&mut text),
                ANSWER => self.add_answers(&mut text),
                CONNECTIONS => line(&mut text, name, connections),
                READY => line(&mut text, name, f64::from(state.is_ready)),
                HEARTBEAT => line(&mut text, name, state.heartbeat_ms as f64 / 1_000.0),
                _ => line(&mut text, name, failed),
            }
        }
        text
    }

    fn add_calls(&self, text: &mut String) {
        for (outcome, label) in
            [(Outcome::Answered, "answered"), (Outcome::PassedOn, "passed_on"), (Outcome::Refused, "refused")]
        {
            line(text, &format!("{CALLS}{{outcome=\"{label}\"}}"), self.calls(outcome));
        }
    }

    fn add_answers(&self, text: &mut String) {
        let mut total = 0;
        for (at, bucket) in self.buckets.iter().enumerate() {
            total += bucket.load(Ordering::Relaxed);
            let bound = BOUNDS_US.get(at).map_or("+Inf".to_owned(), |bound| seconds(*bound).to_string());
            line(text, &format!("{ANSWER}_bucket{{le=\"{bound}\"}}"), total);
        }
        line(text, &format!("{ANSWER}_sum"), seconds(self.answer_us.load(Ordering::Relaxed)));
        line(text, &format!("{ANSWER}_count"), total);
    }
}

/// A connection that is open.
pub struct Open<'a>(&'a AtomicU64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

fn line(text: &mut String, series: &str, found: impl std::fmt::Display) {
    let _ = writeln!(text, "{series} {found}");
}
