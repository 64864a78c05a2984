//! HTTP/1.1: one call at a time on each connection.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::{Load, Measured};

/// Run a connection's part of the load.
pub fn run(load: &Load, connection: usize) -> Measured {
    let mut measured = Measured::new(load);
    let mut socket = TcpStream::connect(("127.0.0.1", load.port)).expect("the server listens");
    socket.set_nodelay(true).expect("a socket of TCP");
    let requests: Vec<Vec<u8>> = load.bodies.iter().map(|body| request(load, body)).collect();
    let mut buffer = Vec::new();
    for number in 0.. {
        let due = if load.interval.is_zero() { load.started.elapsed() } else { load.due(connection, number) };
        if measured.is_over(load) || (!load.interval.is_zero() && due >= load.end()) {
            break;
        }
        load.wait(due);
        let place = load.place(connection, number);
        socket.write_all(&requests[place]).expect("the server reads");
        let answer = read(&mut socket, &mut buffer);
        measured.ended(load, place, due, answer);
    }
    measured
}

fn request(load: &Load, body: &[u8]) -> Vec<u8> {
    let mut head = format!(
        "POST {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: {}\r\nContent-Length: {}\r\n",
        load.path,
        load.port,
        load.content_type,
        body.len()
    );
    if !load.token.is_empty() {
        head += &format!("Authorization: Bearer {}\r\n", load.token);
    }
    head += "\r\n";
    [head.as_bytes(), body].concat()
}

/// Read one answer; `None` if its status is not 200.
fn read(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some((used, answer)) = parse(buffer) {
            buffer.drain(..used);
            return answer;
        }
        let mut part = [0; 16_384];
        let length = socket.read(&mut part).expect("the server answers");
        assert!(length > 0, "server closed the connection");
        buffer.extend_from_slice(&part[..length]);
    }
}

/// Return the length of a whole answer at the start of *buffer*, and its body where the status is 200.
fn parse(buffer: &[u8]) -> Option<(usize, Option<Vec<u8>>)> {
    let head_ends = find(buffer, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&buffer[..head_ends]).expect("a head of ASCII").to_ascii_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let is_ok = head.split(' ').nth(1) == Some("200");
    let (length, body) = if let Some(length) = field("content-length:") {
        let length = length.parse().expect("a length");
        (length, buffer.get(head_ends..head_ends + length)?.to_vec())
    } else {
        assert_eq!(field("transfer-encoding:"), Some("chunked"), "an answer with a length, or in chunks");
        unchunk(&buffer[head_ends..])?
    };
    Some((head_ends + length, is_ok.then_some(body)))
}

fn unchunk(chunks: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let line = find(chunks.get(at..)?, b"\r\n")?;
        let size = std::str::from_utf8(&chunks[at..at + line]).expect("a length of ASCII");
        let length = usize::from_str_radix(size, 16).expect("a length in hexadecimal");
        at += line + 2;
        body.extend_from_slice(chunks.get(at..at + length)?);
        at += length + 2;
        if at > chunks.len() {
            return None;
        }
        if length == 0 {
            return Some((at, body));
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
