//! As much of HTTP/2 (RFC 9113) as one gRPC stream of a simulated proxy needs. Thousands of them share a thread with each
//! other and the machine with what is measured: an idle one keeps no buffer, and everything due leaves in one write.

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Windows for what we receive: room for a whole first response, so that none waits for window updates.
const WINDOW: u32 = 1 << 20;
/// Windows and frames before anybody says otherwise (RFC 9113 6.5.2).
const DEFAULT_WINDOW: i64 = 65_535;
const MAX_FRAME: usize = 16_384;
/// Bytes read at a time.
const READ: usize = 16 << 10;
/// Our only stream.
const STREAM: u32 = 1;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
}

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// `:status: 200`, which answers begin with (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// A connection with one gRPC stream.
pub(crate) struct Connection {
    socket: TcpStream,
    /// Received, the beginning of a frame.
    input: BytesMut,
    /// Received data, the beginning of a message.
    body: BytesMut,
    out: BytesMut,
    /// Bytes received that the server was not told we have taken.
    taken: u32,
    /// What the stream and the connection may still send.
    windows: [i64; 2],
    /// What the server said that a stream may send at first.
    initial: i64,
    answered: bool,
}

impl Connection {
    /// Connects and begins the stream. Nothing leaves before [`Self::flush`].
    pub(crate) async fn open(to: SocketAddr, path: &str) -> Result<Self> {
        let socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        let mut out = BytesMut::from(PREFACE);
        put_head(&mut out, 6, kind::SETTINGS, 0, 0);
        out.put_u16(INITIAL_WINDOW_SIZE);
        out.put_u32(WINDOW);
        put_window_update(&mut out, 0, WINDOW - DEFAULT_WINDOW as u32);
        let headers = headers(path, &to.to_string());
        put_head(&mut out, headers.len(), kind::HEADERS, END_HEADERS, STREAM);
        out.put_slice(&headers);
        Ok(Self {
            socket,
            input: BytesMut::new(),
            body: BytesMut::new(),
            out,
            taken: 0,
            windows: [DEFAULT_WINDOW; 2],
            initial: DEFAULT_WINDOW,
            answered: false,
        })
    }

    /// Adds a message, gRPC header included, to what is to leave.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<()> {
        for piece in message.chunks(MAX_FRAME) {
            put_head(&mut self.out, piece.len(), kind::DATA, 0, STREAM);
            self.out.put_slice(piece);
        }
        let len = message.len() as i64;
        self.windows.iter_mut().for_each(|w| *w -= len);
        ensure!(self.windows.iter().all(|w| *w >= 0), "the control plane's window is used up");
        Ok(())
    }

    /// Writes what is to leave.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        let out = std::mem::take(&mut self.out);
        Ok(self.socket.write_all(&out).await?)
    }

    /// Waits for data. Messages are then there for [`Self::message`].
    pub(crate) async fn receive(&mut self) -> Result<()> {
        self.socket.readable().await?;
        self.input.reserve(READ);
        match self.socket.try_read_buf(&mut self.input) {
            Ok(0) => bail!("the control plane closed the connection"),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
        while let Some(frame) = take_frame(&mut self.input) {
            self.frame(frame)?;
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if self.taken >= WINDOW / 2 {
            let taken = std::mem::take(&mut self.taken);
            put_window_update(&mut self.out, 0, taken);
            put_window_update(&mut self.out, STREAM, taken);
        }
        Ok(())
    }

    /// The next whole gRPC message, without its header.
    pub(crate) fn message(&mut self) -> Result<Option<Bytes>> {
        if self.body.is_empty() {
            self.body = BytesMut::new();
            return Ok(None);
        }
        let Some((head, rest)) = self.body.split_first_chunk::<5>() else { return Ok(None) };
        ensure!(head[0] == 0, "a compressed message was not asked for");
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if rest.len() < len {
            return Ok(None);
        }
        self.body.advance(head.len());
        Ok(Some(self.body.split_to(len).freeze()))
    }

    fn frame(&mut self, frame: Frame) -> Result<()> {
        let Frame { kind, flags, stream, mut payload } = frame;
        match kind {
            kind::DATA => {
                ensure!(flags & PADDED == 0, "padding was not expected");
                self.taken += payload.len() as u32;
                self.body.extend_from_slice(&payload);
            }
            kind::HEADERS => {
                let refused = self.answered || payload.first() != Some(&STATUS_200);
                ensure!(!refused, "the stream was ended: {}", payload.escape_ascii());
                self.answered = true;
            }
            kind::SETTINGS if flags & ACK == 0 => {
                while payload.len() >= 6 {
                    let (id, value) = (payload.get_u16(), i64::from(payload.get_u32()));
                    if id == INITIAL_WINDOW_SIZE {
                        self.windows[1] += value - self.initial;
                        self.initial = value;
                    }
                }
                put_head(&mut self.out, 0, kind::SETTINGS, ACK, 0);
            }
            kind::PING if flags & ACK == 0 => {
                put_head(&mut self.out, payload.len(), kind::PING, ACK, 0);
                self.out.put_slice(&payload);
            }
            kind::WINDOW_UPDATE if payload.len() == 4 => {
                self.windows[usize::from(stream == STREAM)] += i64::from(payload.get_u32());
            }
            kind::RST_STREAM | kind::GOAWAY => bail!("the control plane ends: {}", payload.escape_ascii()),
            _ => {}
        }
        ensure!(kind > kind::HEADERS || flags & END_STREAM == 0, "the control plane ended the stream");
        Ok(())
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: BytesMut,
}

fn take_frame(input: &mut BytesMut) -> Option<Frame> {
    let head = input.first_chunk::<9>()?;
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    if input.len() < 9 + len {
        return None;
    }
    let mut frame = input.split_to(9 + len);
    frame.advance(3);
    let (kind, flags, stream) = (frame.get_u8(), frame.get_u8(), frame.get_u32());
    Some(Frame { kind, flags, stream, payload: frame })
}

fn put_head(out: &mut BytesMut, len: usize, kind: u8, flags: u8, stream: u32) {
    out.put_uint(len as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
}

fn put_window_update(out: &mut BytesMut, stream: u32, by: u32) {
    put_head(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.put_u32(by);
}

/// A gRPC call's headers, none of them to be remembered: static names, plain values (RFC 7541).
fn headers(path: &str, authority: &str) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_slice(&[0x83, 0x86]); // :method: POST, :scheme: http
    for (name, value) in [(4, path), (1, authority)] {
        out.put_u8(name);
        put_text(&mut out, value);
    }
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        out.put_u8(0);
        put_text(&mut out, name);
        put_text(&mut out, value);
    }
    out
}

/// Texts are shorter than 127 bytes: their length is one byte.
fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u8(u8::try_from(text.len()).expect("INVARIANT: paths and authorities are short"));
    out.put_slice(text.as_bytes());
}
