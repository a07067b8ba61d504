//! Calls to scripted HTTP/2 services over loopback sockets.

use super::*;
use crate::stats::Registry;
use crate::upstream::dns::SystemResolver;
use crate::upstream::testing::fixed;
use crate::upstream::{Manager, Origin};
use ::h2::RecvStream;
use ::h2::server::SendResponse;
use data_plane_core::config::UpstreamProtocol;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use xds_types::google::protobuf::StringValue;

fn run<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default()).unwrap();
    runtime.block_on(test)
}

/// What a scripted service does with a call.
#[derive(Clone, Debug)]
enum Act {
    /// Answers with these bytes and trailers.
    Answer(Vec<u8>, Vec<(&'static str, &'static str)>),
    /// Only a head, with these headers.
    Head(u16, Vec<(&'static str, &'static str)>),
    Reset(::h2::Reason),
    /// A head, then nothing.
    Stall,
    Silence,
}

async fn service(act: Act) -> (SocketAddr, std::rc::Rc<std::cell::RefCell<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = std::rc::Rc::<std::cell::RefCell<Vec<String>>>::default();
    let log = std::rc::Rc::clone(&seen);
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (act, log) = (act.clone(), std::rc::Rc::clone(&log));
            spawn_local(async move {
                let mut connection = ::h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, reply))) = connection.accept().await {
                    let headers = ["te", "content-type", "grpc-timeout", "x-token"].map(|name| {
                        let value = request.headers().get(name).map(|v| v.to_str().unwrap());
                        format!("{name}={}", value.unwrap_or("-"))
                    });
                    let line = format!("{} {} {}", request.method(), request.uri(), headers.join(" "));
                    log.borrow_mut().push(line);
                    spawn_local(answer(act.clone(), request.into_body(), reply));
                }
            });
        }
    });
    (address, seen)
}

async fn answer(act: Act, mut body: RecvStream, mut reply: SendResponse<Bytes>) {
    let head = |status: u16, headers: &[(&str, &str)]| {
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap()
    };
    match act {
        Act::Answer(bytes, trailers) => {
            let mut stream = reply.send_response(head(200, &[]), false).unwrap();
            stream.send_data(bytes.into(), false).unwrap();
            let trailers = trailers
                .into_iter()
                .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()));
            stream.send_trailers(trailers.collect()).unwrap();
        }
        Act::Head(status, headers) => {
            reply.send_response(head(status, &headers), true).unwrap();
        }
        Act::Reset(reason) => reply.send_reset(reason),
        Act::Stall => {
            let _stream = reply.send_response(head(200, &[]), false).unwrap();
            while body.data().await.is_some() {}
            std::future::pending::<()>().await;
        }
        Act::Silence => std::future::pending::<()>().await,
    }
}

fn target() -> GrpcTarget {
    GrpcTarget {
        cluster: "limits".into(),
        authority: None,
        timeout: None,
        max_receive_message_bytes: Some(64),
        metadata: vec![("x-token".into(), "t".into())],
    }
}

async fn ask(
    address: SocketAddr,
    protocol: UpstreamProtocol,
) -> (Result<StringValue, GrpcError>, (Registry, Manager)) {
    let stats = Registry::new(1);
    let manager = Manager::new(&stats, Arc::new(SystemResolver::default()));
    let mut config = fixed("limits", &[address]);
    config.protocol = protocol;
    manager.set_cluster(Arc::new(config), Origin::Static);
    let pools = Local::new(manager.clusters());
    let target = target();
    let call = GrpcCall {
        target: &target,
        path: "/a.Service/Ask",
        timeout: Some(Duration::from_millis(200)),
        metadata: &[],
    };
    let question = StringValue { value: "question".into() };
    let answer = unary(&manager.clusters(), &pools, 0, call, &question).await;
    (answer, (stats, manager))
}

async fn outcome(act: Act) -> Result<String, GrpcError> {
    let (address, _) = service(act).await;
    ask(address, UpstreamProtocol::Http2).await.0.map(|answer| answer.value)
}

fn message(text: &str) -> Vec<u8> {
    framed(&StringValue { value: text.into() }).to_vec()
}

const OK: (&str, &str) = ("grpc-status", "0");

#[test]
fn a_call_is_what_grpc_says_it_is() {
    run(async {
        let (address, seen) = service(Act::Answer(message("answer"), vec![OK])).await;
        let (answer, (stats, _manager)) = ask(address, UpstreamProtocol::Http2).await;
        assert_eq!(answer.unwrap().value, "answer");
        assert_eq!(
            *seen.borrow(),
            [
                "POST http://limits/a.Service/Ask te=trailers content-type=application/grpc grpc-timeout=200m x-token=t"
            ]
        );
        assert_eq!(stats.value("cluster.limits.upstream_rq_total"), Some(1));
        assert_eq!(stats.value("cluster.limits.internal.upstream_rq_200"), Some(1));
    });
}

#[test]
fn what_goes_wrong_has_grpcs_status() {
    run(async {
        let long = message(&"x".repeat(70));
        let two = [message("a"), message("b")].concat();
        let compressed = [&[1], &message("a")[1..]].concat();
        for (act, code, text) in [
            (Act::Head(200, vec![("grpc-status", "7"), ("grpc-message", "not%20you%21")]), 7, "not you!"),
            (Act::Answer(message("a"), vec![("grpc-status", "5")]), 5, ""),
            (Act::Answer(message("a"), vec![]), 2, "the answer has no grpc-status"),
            (Act::Answer(vec![], vec![OK]), 13, "the answer holds no message"),
            (Act::Answer(two, vec![OK]), 13, "the answer is not one message"),
            (Act::Answer(message("abc")[..6].to_vec(), vec![OK]), 13, "the answer is not one message"),
            (Act::Answer(compressed, vec![OK]), 12, "the answer is compressed"),
            (Act::Answer(long, vec![OK]), 8, "the answer is longer than 64 bytes"),
            (Act::Head(503, vec![]), 14, "HTTP status 503"),
            (Act::Head(404, vec![]), 12, "HTTP status 404"),
            (Act::Reset(::h2::Reason::INTERNAL_ERROR), 13, "stream reset with code 2"),
            (Act::Stall, 4, "deadline exceeded"),
            (Act::Silence, 4, "deadline exceeded"),
        ] {
            let error = GrpcError::new(code, text);
            assert_eq!(outcome(act.clone()).await, Err(error), "{act:?}");
        }
    });
}

#[test]
fn nobody_there_and_the_wrong_protocol_fail_at_once() {
    run(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, _) = ask(address, UpstreamProtocol::Http1).await;
        assert_eq!(answer, Err(GrpcError::new(14, "cluster \"limits\" does not speak HTTP/2")));
        drop(listener);
        let (answer, (stats, _manager)) = ask(address, UpstreamProtocol::Http2).await;
        assert_eq!(answer, Err(GrpcError::new(14, "connection failure")));
        assert_eq!(stats.value("cluster.limits.upstream_rq_503"), Some(1));
    });
}

#[test]
fn timeouts_are_stated_in_the_finest_unit_that_fits() {
    for (timeout, text) in [
        (Duration::from_micros(1500), "2m"),
        (Duration::from_millis(20), "20m"),
        (Duration::from_secs(99_999), "99999000m"),
        (Duration::from_secs(100_000), "100000S"),
        (Duration::from_secs(u64::MAX), "99999999H"),
    ] {
        assert_eq!(stated(timeout), text);
    }
}
