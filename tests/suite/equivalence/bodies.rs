//! Bodies, both ways, in every framing, and how connections go on after them.

use super::simple;
use bytes::Bytes;
use e2e::client::Client;
use e2e::h2wire;
use e2e::pair::{Case, Pair, Side, difference};
use http::{HeaderMap, Request};

const NO_NEED: &str = "who has sent the body already is not told to go on (RFC 9110 10.1.1)";

#[tokio::test]
async fn http1_bodies_pass_the_same() {
    let pair = simple("", &[]).await;
    let get = |script: &str| Case::ask(script, "GET /", &[&format!("x-do: {script}")]);
    let mut cases: Vec<Case> = [
        "chunks",
        "trailers",
        "until-close",
        "half",
        "half-chunk",
        "bad-chunk",
        "close-header",
        "not-modified",
        "status:204",
        "status:304",
        "bytes:0",
        "bytes:1048576",
        "hints",
    ]
    .iter()
    .map(|s| get(s))
    .collect();
    cases.extend(
        ["bytes:5", "chunks", "status:204", "not-modified", "rich"]
            .map(|s| Case::ask(format!("HEAD {s}"), "HEAD /", &[&format!("x-do: {s}")])),
    );
    let chunked = |name: &str, script: &str, body: &str| {
        Case::new(
            name,
            format!(
                "POST / HTTP/1.1\r\nhost: test\r\nx-do: {script}\r\ntransfer-encoding: chunked\r\n\r\n{body}"
            ),
        )
    };
    let big = vec![b'x'; 1 << 20];
    cases.extend([
        Case::with_body("post", "POST /", &["x-do: echo"], b"hello"),
        Case::with_body("post 1 MiB", "POST /", &["x-do: echo"], &big),
        Case::ask("post nothing", "POST /", &["content-length: 0", "x-do: echo"]),
        Case::ask("post without length", "POST /", &["x-do: echo"]),
        chunked("post chunks", "echo", "3\r\none\r\n4;ext=1\r\ntwo2\r\n0\r\n\r\n"),
        chunked("post chunks in capitals", "echo", "A\r\n0123456789\r\n00\r\n\r\n"),
        chunked("post no chunks", "echo", "0\r\n\r\n"),
        chunked("post trailers", "echo", "3\r\none\r\n0\r\nx-sum: 1\r\n\r\n"),
        chunked("post bad chunk", "echo", "zz\r\none\r\n0\r\n\r\n"),
        chunked("post chunk too long", "echo", "3\r\nonetwo\r\n0\r\n\r\n").differs("a chunk ends where it says (RFC 9112 7.1)"),
        chunked("post huge chunk", "echo", "fffffffffffffffff\r\none\r\n0\r\n\r\n"),
        Case::with_body("get with body", "GET /", &["x-do: echo"], b"hello"),
        Case::with_body("delete with body", "DELETE /", &["x-do: echo"], b"hello"),
        Case::with_body("expect continue, body sent at once", "POST /", &["x-do: echo", "expect: 100-continue"], b"hello").differs(NO_NEED),
        Case::with_body("expect continue from origin", "POST /", &["x-do: continue", "expect: 100-continue"], b"hello").differs(NO_NEED),
        Case::with_body("expect something else", "POST /", &["x-do: echo", "expect: more"], b"hello"),
        Case::new("early answer", "POST / HTTP/1.1\r\nhost: test\r\nx-do: early\r\ncontent-length: 100\r\n\r\nfirst part"),
        Case::with_body("answer that closes", "POST /", &["x-do: close-header"], b"hello"),
        Case::new("pipelined", "GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\nx-do: bytes:3\r\n\r\nPOST /3 HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nx-do: echo\r\n\r\nabGET /4 HTTP/1.1\r\nhost: a\r\n\r\n").answers(4),
        Case::ask("stale connection", "GET /", &["x-do:  close"])
            .differs("what fails on a reused connection before any answer is tried again on a fresh one"),
        Case::new("pipelined, the first closes", "GET /1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n").answers(2),
        Case::new("blank lines before", "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n"),
        Case::new("bare line feeds", "GET / HTTP/1.1\nhost: a\n\n").differs("lines end with CRLF (RFC 9112 2.2 allows both)"),
    ]);
    pair.compare(&cases).await;
}

async fn h2_told(side: &Side, path: &str, script: &str, body: &[u8], trailers: bool) -> String {
    side.fresh("web").await.unwrap();
    side.h2.take();
    side.origin.take();
    let request = Request::builder()
        .method(if body.is_empty() { "GET" } else { "POST" })
        .uri(format!("http://test{path}"))
        .header("x-do", script)
        .body(())
        .unwrap();
    let trailers = trailers.then(|| HeaderMap::from_iter([("x-end".parse().unwrap(), "1".parse().unwrap())]));
    let mut out = match h2wire::exchange(side.at("web"), request, body, trailers).await {
        Ok(answer) => answer.describe("<"),
        Err(error) => format!("failed: {error:#}\n"),
    };
    for message in side.h2.take() {
        out += &message.describe(">");
    }
    for mut message in side.origin.take() {
        message.headers.sort();
        out += &message.describe(">");
    }
    side.normal(&out)
}

async fn compare_h2(pair: &Pair, cases: &[(&str, &str, usize, bool)]) {
    let mut wrong = String::new();
    for (path, script, length, trailers) in cases {
        let body = vec![b'x'; *length];
        let envoy = h2_told(&pair.envoy, path, script, &body, *trailers).await;
        let ours = h2_told(&pair.ours, path, script, &body, *trailers).await;
        if envoy != ours {
            wrong += &format!("=== {path} {script} {length} {trailers}\n{}\n", difference(&envoy, &ours));
        }
    }
    assert!(wrong.is_empty(), "ours must answer as Envoy does (- Envoy, + ours):\n{wrong}");
}

#[tokio::test]
async fn http2_bodies_and_trailers_pass_the_same() {
    let pair = simple("", &[]).await;
    compare_h2(
        &pair,
        &[
            ("/h2/a", "", 0, false),
            ("/h2/a?b=c", "", 5, false),
            ("/h2/a", "", 5, true),
            ("/h2/a", "trailers", 0, false),
            ("/h2/a", "trailers", 5, true),
            ("/h2/a", "trailers-only", 5, false),
            ("/h2/a", "", 1 << 20, false),
            ("/h2/a", "trailers", 1 << 20, true),
            ("/h2/a", "reset", 0, false),
            ("/h1", "", 0, false),
            ("/h1", "echo", 5, false),
            ("/h1", "echo", 5, true),
            ("/h1", "echo", 1 << 20, false),
            ("/h1", "chunks", 0, false),
            ("/h1", "trailers", 0, false),
            ("/h1", "rich", 0, false),
            ("/h1", "status:204", 0, false),
            ("/h1", "close", 0, false),
            ("/h1", "garbage", 0, false),
        ],
    )
    .await;
}

#[tokio::test]
async fn http1_clients_reach_http2_origins_the_same() {
    let pair = simple("", &[]).await;
    let cases = [
        Case::ask("get", "GET /h2/", &[]),
        Case::ask(
            "many headers",
            "GET /h2/",
            &[
                "X-Mixed: a",
                "cookie: a=1",
                "cookie: b=2",
                "connection: keep-alive, x-a",
                "x-a: 1",
                "te: trailers, gzip",
            ],
        ),
        Case::with_body("post", "POST /h2/", &[], b"hello"),
        Case::with_body("post 1 MiB", "POST /h2/", &[], &vec![b'x'; 1 << 20]),
        Case::ask("trailers", "GET /h2/", &["x-do: trailers"]),
        Case::ask("trailers only", "GET /h2/", &["x-do: trailers-only"]),
        Case::ask("reset", "GET /h2/", &["x-do: reset"]),
        Case::ask("head", "HEAD /h2/", &[]),
        Case::new(
            "chunks",
            "POST /h2/ HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        ),
    ];
    // HTTP/2 headers have no order that matters: sorted here.
    for side in [&pair.envoy, &pair.ours] {
        let answer = Client::h1()
            .send("POST", &format!("http://{}/h2/x", side.at("web")), &[], Bytes::from_static(b"abc"))
            .await
            .unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
    }
    pair.compare(&cases).await;
}
