//! HTTP/2 (RFC 9113): many calls at a time on each connection.
//!
//! It reads no headers. A stream without a message is a call that failed. Header blocks refer to the dynamic table from
//! the second call on (RFC 7541, 6.1 and 6.2.1). With a fixed rate a second thread sends, so that no answer delays a call.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use crate::{Load, Measured};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const INITIAL_WINDOW_SETTING: u16 = 4;
const FIRST_WINDOW: i64 = 65_535;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
const LARGEST_FRAME: usize = 16_384;
const REPLENISH: u32 = 1 << 29;

/// A call under way.
struct Call {
    place: usize,
    due: Duration,
    answer: Vec<u8>,
}

/// The state of a connection that its two threads share.
struct Shared {
    socket: TcpStream,
    /// Frames that are not written yet.
    out: Vec<u8>,
    headers: Vec<u8>,
    short_headers: Vec<u8>,
    next_stream: u32,
    window: i64,
    stream_window: i64,
    open: HashMap<u32, Call>,
    /// Calls that wait for the connection's window.
    waiting: VecDeque<(usize, Duration)>,
    is_sent: bool,
}

/// Run a connection's part of the load.
pub fn run(load: &Load, connection: usize) -> Measured {
    let socket = TcpStream::connect(("127.0.0.1", load.port)).expect("the server listens");
    socket.set_nodelay(true).expect("a socket of TCP");
    let mut reader = socket.try_clone().expect("a second handle");
    let shared = Mutex::new(Shared::new(load, socket));
    let mut measured = Measured::new(load);
    std::thread::scope(|scope| {
        if !load.interval.is_zero() {
            scope.spawn(|| send_when_due(load, connection, &shared));
        }
        read(load, connection, &shared, &mut reader, &mut measured);
    });
    measured
}

fn send_when_due(load: &Load, connection: usize, shared: &Mutex<Shared>) {
    for number in 0.. {
        let due = load.due(connection, number);
        if due >= load.end() {
            break;
        }
        load.wait(due);
        let mut shared = shared.lock().expect("no thread panics");
        shared.begin(load, load.place(connection, number), due);
        shared.write();
    }
    let mut shared = shared.lock().expect("no thread panics");
    shared.is_sent = true;
    // The reader waits for an answer: this one tells it to look again.
    frame(&mut shared.out, PING, 0, 0, &[0; 8]);
    shared.write();
}

fn read(load: &Load, connection: usize, shared: &Mutex<Shared>, reader: &mut TcpStream, measured: &mut Measured) {
    let is_paced = !load.interval.is_zero();
    let mut number = 0;
    {
        let mut shared = shared.lock().expect("no thread panics");
        if !is_paced {
            for _ in 0..(load.in_flight / load.connections).max(1) {
                shared.begin(load, load.place(connection, number), load.started.elapsed());
                number += 1;
            }
        }
        shared.write();
    }
    let (mut buffer, mut part, mut received) = (Vec::new(), vec![0; 1 << 18], 0);
    loop {
        let length = reader.read(&mut part).expect("the server answers");
        assert!(length > 0, "server closed the connection");
        buffer.extend_from_slice(&part[..length]);
        let mut shared = shared.lock().expect("no thread panics");
        let mut at = 0;
        while let Some(head) = buffer.get(at..at + 9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags, stream) = (head[3], head[4], u32_of(&head[5..9]) & LARGEST_WINDOW);
            let Some(payload) = buffer.get(at + 9..at + 9 + length) else { break };
            at += 9 + length;
            if kind == DATA {
                assert_eq!(flags & PADDED, 0, "padded frames are not read");
                received += u32::try_from(length).expect("a frame");
                if let Some(call) = shared.open.get_mut(&stream) {
                    call.answer.extend_from_slice(payload);
                }
            } else if kind != HEADERS && kind != RESET {
                shared.control(kind, flags, stream, payload);
            }
            let is_end = kind == RESET || ((kind == DATA || kind == HEADERS) && flags & END_STREAM != 0);
            if !is_end {
                continue;
            }
            if let Some(call) = shared.open.remove(&stream) {
                let answer = (kind != RESET && !call.answer.is_empty()).then_some(call.answer);
                measured.ended(load, call.place, call.due, answer);
                if !is_paced && !measured.is_over(load) {
                    shared.begin(load, load.place(connection, number), load.started.elapsed());
                    number += 1;
                }
            }
        }
        buffer.drain(..at);
        if received > REPLENISH {
            frame(&mut shared.out, WINDOW, 0, 0, &received.to_be_bytes());
            received = 0;
        }
        shared.begin_waiting(load);
        shared.write();
        let is_done = shared.open.is_empty() && shared.waiting.is_empty();
        if is_done && (if is_paced { shared.is_sent } else { measured.is_over(load) }) {
            return;
        }
    }
}

impl Shared {
    fn new(load: &Load, socket: TcpStream) -> Self {
        let authority = format!("127.0.0.1:{}", load.port);
        let bearer = format!("Bearer {}", load.token);
        let mut entered =
            vec![(":path", load.path.as_str()), (":authority", &authority), ("content-type", &load.content_type)];
        entered.push(("te", "trailers"));
        if !load.token.is_empty() {
            entered.push(("authorization", &bearer));
        }
        // 0x83 and 0x86: method POST, scheme http.
        let (mut headers, mut short_headers) = (vec![0x83, 0x86], vec![0x83, 0x86]);
        for (number, (name, value)) in entered.iter().enumerate() {
            headers.push(0x40);
            string(&mut headers, name);
            string(&mut headers, value);
            // The field that was added last has index 62.
            short_headers.push(0x80 | u8::try_from(62 + entered.len() - 1 - number).expect("a few fields"));
        }
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let setting = [&INITIAL_WINDOW_SETTING.to_be_bytes()[..], &LARGEST_WINDOW.to_be_bytes()].concat();
        frame(&mut out, SETTINGS, 0, 0, &setting);
        frame(&mut out, WINDOW, 0, 0, &(LARGEST_WINDOW - 65_535).to_be_bytes());
        Self {
            socket,
            out,
            headers,
            short_headers,
            next_stream: 1,
            window: FIRST_WINDOW,
            stream_window: FIRST_WINDOW,
            open: HashMap::new(),
            waiting: VecDeque::new(),
            is_sent: false,
        }
    }

    /// Begin a call, or let it wait until the connection's window has room for its whole body.
    fn begin(&mut self, load: &Load, place: usize, due: Duration) {
        self.waiting.push_back((place, due));
        self.begin_waiting(load);
    }

    fn begin_waiting(&mut self, load: &Load) {
        while let Some((place, due)) = self.waiting.front().copied() {
            let body = &load.bodies[place];
            let length = i64::try_from(body.len()).expect("a short body");
            assert!(length <= self.stream_window, "a body is longer than the window of a stream");
            if length > self.window {
                return;
            }
            self.waiting.pop_front();
            self.window -= length;
            let stream = self.next_stream;
            self.next_stream += 2;
            frame(&mut self.out, HEADERS, END_HEADERS, stream, &self.headers);
            self.headers.clone_from(&self.short_headers);
            let parts = body.len().div_ceil(LARGEST_FRAME).max(1);
            for (number, part) in body.chunks(LARGEST_FRAME).enumerate() {
                let flags = if number + 1 == parts { END_STREAM } else { 0 };
                frame(&mut self.out, DATA, flags, stream, part);
            }
            self.open.insert(stream, Call { place, due, answer: Vec::new() });
        }
    }

    fn control(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        match kind {
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    if u16::from_be_bytes([setting[0], setting[1]]) == INITIAL_WINDOW_SETTING {
                        self.stream_window = i64::from(u32_of(&setting[2..6]));
                    }
                }
                frame(&mut self.out, SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
            WINDOW if stream == 0 => self.window += i64::from(u32_of(payload)),
            GO_AWAY => panic!("server will not go on"),
            _ => {}
        }
    }

    fn write(&mut self) {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out).expect("the server reads");
            self.out.clear();
        }
    }
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Append a string that is not compressed (RFC 7541, 5.2).
fn string(out: &mut Vec<u8>, text: &str) {
    let length = text.len();
    if let (Ok(short), true) = (u8::try_from(length), length < 127) {
        out.push(short);
    } else {
        out.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            out.push(u8::try_from(rest & 127).expect("seven bits") | 128);
            rest >>= 7;
        }
        out.push(u8::try_from(rest).expect("seven bits"));
    }
    out.extend_from_slice(text.as_bytes());
}
