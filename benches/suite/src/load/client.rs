//! One blocking HTTP/1.1 connection, for questions and for waiting.

use super::Request;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes read at a time.
const BUFFER: usize = 64 * 1024;

/// A connection that stays open.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Length of a head with its end, and of the body that it promises.
pub(super) fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let mut body = 0;
    for line in bytes[..head].split(|byte| *byte == b'\n') {
        let name = b"content-length:";
        if line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name) {
            body = std::str::from_utf8(&line[name.len()..]).ok()?.trim().parse().ok()?;
        }
    }
    Some((head, body))
}

/// Whether an answer begins as one of success does.
pub(super) fn succeeds(bytes: &[u8]) -> bool {
    bytes.get(9) == Some(&b'2')
}

impl Client {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Gives back what only asking needs.
    pub(crate) fn rest(&mut self) {
        self.buffer = Vec::new();
    }

    /// Sends a request and returns the body of a successful answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Vec<u8>> {
        self.send(&request.bytes())
    }

    /// The same for bytes made before.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.stream.write_all(request)?;
        let mut answer = Vec::new();
        self.buffer.resize(BUFFER, 0);
        loop {
            let n = self.stream.read(&mut self.buffer)?;
            ensure!(n > 0, "the connection ended");
            answer.extend_from_slice(&self.buffer[..n]);
            if let Some((head, body)) = lengths(&answer)
                && answer.len() >= head + body
            {
                ensure!(succeeds(&answer), "refused: {}", String::from_utf8_lossy(&answer[..head]));
                return Ok(answer.split_off(head));
            }
        }
    }
}

/// Asks on new connections until one is answered with success.
pub(crate) fn await_answer(request: &Request, check: impl FnMut() -> Result<()>) -> Result<()> {
    await_success(request.port, check, || Client::connect(request.port)?.ask(request).map(drop))
}

/// Connects until a connection is accepted.
pub(crate) fn await_connection(port: u16, check: impl FnMut() -> Result<()>) -> Result<()> {
    await_success(port, check, || Client::connect(port).map(drop))
}

fn await_success(
    port: u16,
    mut check: impl FnMut() -> Result<()>,
    mut attempt: impl FnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > 2 * PATIENCE => {
                return Err(error).with_context(|| format!("port {port} does not answer"));
            }
            Err(_) => {
                check()?;
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    }
}

/// Reads an answer to its connection's end: how long it took, and its bytes, head included.
pub(crate) fn fetch(port: u16, path: &str) -> Result<(Duration, usize)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let start = Instant::now();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let (mut buffer, mut first, mut all) = (vec![0; 256 * 1024], None, 0);
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        first.get_or_insert_with(|| succeeds(&buffer[..n]));
        all += n;
    }
    ensure!(first == Some(true), "{path} is refused");
    Ok((start.elapsed(), all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answers_length_is_its_heads_and_what_the_head_promises() {
        assert_eq!(lengths(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nab"), Some((39, 12)));
        assert_eq!(lengths(b"HTTP/1.1 204 No\r\n\r\n"), Some((19, 0)));
        assert_eq!(lengths(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n"), None, "no end of the head yet");
        assert!(succeeds(b"HTTP/1.1 200 OK\r\n") && !succeeds(b"HTTP/1.1 503 No\r\n") && !succeeds(b""));
    }
}
