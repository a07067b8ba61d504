//! Our reading of messages beside hyper's, on messages made of others by chance.
//!
//! Where both take a message they must see the same one: where it ends, above all. And what a proxy of ours would send
//! on must be, to hyper, what we took it for. Refusing what hyper takes is always right.
//!
//! A few hundred cases of one seed run as a test; `make fuzz` runs for as long as `FUZZ_SECONDS` says, each time
//! from another seed, which a failure names (`FUZZ_SEED` repeats it).

use super::smuggling::{HIDDEN, REFUSED};
use super::{ClientConn, Reuse};
use crate::codec::testing::{Fake, client_options, http1, ok, options, read, request, served};
use crate::codec::{Body, Reply, ServerOptions};
use crate::task::Phase;
use bytes::Bytes;
use data_plane_core::config::{CodecType, Http1Options};
use data_plane_core::headers::RequestHead;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{LocalOptions, LocalRuntime};

/// Cases of the short run.
const CASES: usize = 400;

/// A message as somebody read it, all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    path: String,
    host: String,
    body: Vec<u8>,
}

/// Messages to begin with, beside those that are refused.
const TAKEN: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n",
    "POST /a?b HTTP/1.1\r\nHost: h:1\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"1\"\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    "PUT http://h/x HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, x-a\r\nX-A: 1\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
    "HEAD /%41 HTTP/1.1\r\nhOsT:h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    "OPTIONS * HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n",
    "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
];

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
    "HTTP/1.0 200 OK\r\n\r\nuntil the end",
    "HTTP/1.1 200\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
];

/// What parsers of HTTP/1 stumble over.
const TOKENS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    " ",
    "\t",
    "\0",
    ":",
    ",",
    ";",
    "=",
    "\"",
    "0",
    "5",
    "-1",
    "+5",
    "0x5",
    "ffffffffffffffff",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "content-length:5\r\n",
    "Content-Length : 5\r\n",
    "Content-Length: 5, 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding: x, chunked\r\n",
    "Transfer-Encoding:\x0bchunked\r\n",
    "transfer-encoding: chunked \r\n",
    " Transfer-Encoding: chunked\r\n",
    "Host: other\r\n",
    "Connection: close\r\n",
    "Connection: transfer-encoding\r\n",
    "Upgrade: h2c\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "5\r\nhello",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "GET ",
    "POST ",
    "HEAD ",
    "\u{80}",
    "%0d%0a",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
];

/// A message that chance made of others.
fn message(rng: &mut fastrand::Rng, corpus: &[&str]) -> Vec<u8> {
    let mut out = pick(rng, corpus).as_bytes().to_vec();
    for _ in 0..rng.usize(0..6) {
        let at = rng.usize(0..=out.len());
        let end = (at + rng.usize(0..12)).min(out.len());
        match rng.u8(0..7) {
            0 => drop(out.drain(at..end)),
            1 => drop(out.splice(at..at, pick(rng, TOKENS).bytes())),
            2 => drop(out.splice(at..end, pick(rng, TOKENS).bytes())),
            3 => out.insert(at, rng.u8(..)),
            4 if at < out.len() => out[at] ^= 1 << rng.u8(0..8),
            5 => {
                let copy = out[at..end].to_vec();
                out.splice(at..at, copy);
            }
            _ => {
                let line = out[..at].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
                out.splice(line..line, pick(rng, TOKENS).bytes());
            }
        }
    }
    out
}

fn pick<'a>(rng: &mut fastrand::Rng, all: &[&'a str]) -> &'a str {
    all[rng.usize(0..all.len())]
}

/// Runs cases until the budget is spent. A failing one is told with the seed of its run.
fn run(mut case: impl FnMut(&mut fastrand::Rng)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let limit = number("FUZZ_SECONDS").map(Duration::from_secs);
    let random = limit.map(|_| SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64));
    let mut seed = number("FUZZ_SEED").or(random).unwrap_or(1);
    let start = Instant::now();
    let mut cases = 0_usize;
    while limit.map_or(cases < CASES, |limit| start.elapsed() < limit) {
        let told = Told(seed);
        case(&mut fastrand::Rng::with_seed(seed));
        std::mem::forget(told);
        seed = seed.wrapping_add(1);
        cases += 1;
    }
    println!("{cases} cases");
}

/// Names its seed when a case panics.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("repeat this case with FUZZ_SEED={}", self.0);
    }
}

fn runtime() -> LocalRuntime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build_local(LocalOptions::default()).unwrap()
}

/// Answers with 200, and notes what it is asked.
async fn hyper_server(io: DuplexStream, seen: Rc<RefCell<Vec<Seen>>>) {
    let service = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let host = head.headers.get("host").map(|host| host.as_bytes().to_vec()).unwrap_or_default();
                let host = head.uri.authority().map_or(host, |host| host.as_str().as_bytes().to_vec());
                seen.borrow_mut().push(Seen {
                    method: head.method.to_string(),
                    path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                    host: String::from_utf8_lossy(&host).into_owned(),
                    body: body.to_bytes().to_vec(),
                });
            }
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        }
    });
    // Its refusals are its own.
    let _ = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(io), service)
        .await;
}

/// What hyper reads in `bytes`.
async fn read_by_hyper(bytes: &[u8]) -> Vec<Seen> {
    let seen = Rc::new(RefCell::default());
    let (client, server) = duplex(1 << 20);
    tokio::join!(say(client, bytes), hyper_server(server, Rc::clone(&seen)));
    seen.take()
}

async fn say(mut io: DuplexStream, bytes: &[u8]) {
    // Whoever refuses does not listen to the end.
    let _ = io.write_all(bytes).await;
    let _ = io.shutdown().await;
    let _ = io.read_to_end(&mut Vec::new()).await;
}

struct Once;

impl Reuse<DuplexStream> for Once {
    fn put(&self, _: ClientConn<DuplexStream>) {}
}

/// What we read in `bytes`, and what hyper reads where we send it on.
async fn read_by_us(bytes: &[u8]) -> (Vec<Seen>, Vec<Seen>) {
    let (taken, sent) = (Rc::new(RefCell::<Vec<Seen>>::default()), Rc::new(RefCell::<Vec<Seen>>::default()));
    let handler = {
        let (taken, sent) = (Rc::clone(&taken), Rc::clone(&sent));
        Fake::new(move |request| {
            let (taken, sent) = (Rc::clone(&taken), Rc::clone(&sent));
            async move {
                let crate::codec::Request { head, body, upgrade, .. } = request;
                // Tunnels have no end to compare.
                if upgrade {
                    return Reply { reset: true, ..ok(Body::Empty) };
                }
                if let Ok((body, _)) = read(body).await {
                    taken.borrow_mut().push(Seen {
                        method: head.method.to_string(),
                        path: head.path.clone(),
                        host: head.authority.clone(),
                        body: body.clone(),
                    });
                    // Without a host the manager refuses it.
                    if !head.authority.is_empty() {
                        send_on(head, body, sent).await;
                    }
                }
                ok(Bytes::from_static(b"ok"))
            }
        })
    };
    let options = ServerOptions { http1: Http1Options { accept_http_10: true, ..http1() }, ..options() };
    let served = served(&options, CodecType::Http1, handler);
    let process = served.process;
    let talk = async {
        say(served.client, bytes).await;
        process.advance(Phase::Stopped);
    };
    tokio::join!(talk, served.server);
    (taken.take(), sent.take())
}

async fn send_on(mut head: RequestHead, body: Vec<u8>, sent: Rc<RefCell<Vec<Seen>>>) {
    data_plane_core::headers::hop_by_hop::strip_request(&mut head, false);
    let (client, server) = duplex(1 << 20);
    let conn = ClientConn::new(client, Arc::new(client_options()));
    let exchange = async {
        let body = if body.is_empty() { Body::Empty } else { Body::from(Bytes::from(body)) };
        let answer = conn.exchange(&head, body, Rc::new(Once)).await;
        assert!(answer.is_ok(), "hyper does not answer what we sent: {:?}", answer.err());
    };
    tokio::join!(exchange, hyper_server(server, sent));
}

#[test]
fn requests_are_read_as_hyper_reads_them_and_sent_on_as_they_were_read() {
    let runtime = runtime();
    let corpus: Vec<&str> = REFUSED.iter().map(|refused| refused.1).chain(TAKEN.iter().copied()).collect();
    run(|rng| {
        let mut bytes = message(rng, &corpus);
        // Another may hide behind it.
        let more = if rng.bool() { HIDDEN.as_bytes().to_vec() } else { message(rng, TAKEN) };
        bytes.extend_from_slice(&more);
        let ((ours, sent), theirs) =
            runtime.block_on(async { (read_by_us(&bytes).await, read_by_hyper(&bytes).await) });
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let same_path = ours.path == theirs.path || ours.path.contains('#') || theirs.path.is_empty();
            assert!(
                (&ours.method, &ours.body) == (&theirs.method, &theirs.body) && same_path,
                "{}\nwe read {ours:?}\nhyper   {theirs:?}",
                bytes.escape_ascii()
            );
        }
        let sendable: Vec<_> = ours.iter().filter(|seen| !seen.host.is_empty()).collect();
        assert_eq!(sendable.len(), sent.len(), "one sent on for each taken: {}", bytes.escape_ascii());
        for (ours, sent) in sendable.into_iter().zip(&sent) {
            assert_eq!(
                (&ours.method, &ours.host, &ours.body),
                (&sent.method, &sent.host, &sent.body),
                "{}",
                bytes.escape_ascii()
            );
        }
    });
}

/// Status and body of the answer to a GET; `None`: there is none, or it breaks off.
async fn answer_by_us(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let (client, server) = duplex(1 << 20);
    let conn = ClientConn::new(client, Arc::new(client_options()));
    let head = request("GET", "/");
    let exchange = async {
        let (head, body) = conn.exchange(&head, Body::Empty, Rc::new(Once)).await.ok()?;
        Some((head.status, read(body).await.ok()?.0))
    };
    tokio::join!(exchange, say(server, bytes)).0
}

async fn answer_by_hyper(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let (client, server) = duplex(1 << 20);
    let exchange = async {
        let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.ok()?;
        let request = hyper::Request::get("/").header("host", "h").body(Full::<Bytes>::default()).ok()?;
        let answer = async {
            let answer = sender.send_request(request).await.ok()?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.ok()?.to_bytes().to_vec();
            drop(sender);
            Some((status, body))
        };
        tokio::join!(answer, conn).0
    };
    tokio::join!(exchange, say(server, bytes)).0
}

#[test]
fn answers_are_read_as_hyper_reads_them() {
    let runtime = runtime();
    run(|rng| {
        let bytes = message(rng, ANSWERS);
        let (ours, theirs) =
            runtime.block_on(async { (answer_by_us(&bytes).await, answer_by_hyper(&bytes).await) });
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            assert_eq!(ours, theirs, "{}", bytes.escape_ascii());
        }
    });
}
