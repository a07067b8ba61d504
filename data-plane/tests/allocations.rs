//! That a request allocates nothing, in a whole proxy in this process: HTTP/1.1 keep-alive, a route, a pooled upstream.
//!
//! A test of its own with an allocator of its own: all of the process is counted, so nothing else may run here. The
//! client and the upstream are threads that allocate nothing once they run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use data_plane::server::{Boot, Options, Origin, Proxy};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Before any is counted: pools, buffers and maps grow to their size.
const WARM_UP: usize = 2_000;
const COUNTED: usize = 2_000;

/// A request allocates nothing; the rest of the process (timers, stats) has some work of its own meanwhile.
const ASIDE: f64 = 0.05;

const REQUEST: &[u8] =
    b"GET /shoes?size=42 HTTP/1.1\r\nhost: shop.example.com\r\nuser-agent: test\r\naccept: */*\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\nserver: up\r\n\r\nhello";

#[test]
fn a_request_over_http_1_allocates_nothing() {
    let upstream = upstream();
    let yaml = format!(
        r#"
static_resources:
  listeners:
  - name: web
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            name: routes
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: up }} }}]
  clusters:
  - name: up
    load_assignment:
      cluster_name: up
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}]
"#,
        upstream.port()
    );
    let boot = Boot::read(&Origin { yaml: Some(yaml), ..Origin::default() }).unwrap();
    let proxy = Proxy::start(boot, Options::default()).unwrap();
    assert!(proxy.ready(Duration::from_secs(60)));
    let mut client = TcpStream::connect(proxy.listener_addr("web").unwrap()).unwrap();
    client.set_nodelay(true).unwrap();
    ask(&mut client, WARM_UP);
    let region = Region::new(ALLOCATOR);
    ask(&mut client, COUNTED);
    let counted = region.change();
    let each = (counted.allocations + counted.reallocations) as f64 / COUNTED as f64;
    println!(
        "{each:.3} allocations, {:.0} bytes for a request",
        counted.bytes_allocated as f64 / COUNTED as f64
    );
    assert!(each <= ASIDE, "a request allocates {each:.2} times");
}

/// Sends requests one after the other, and allocates nothing.
fn ask(client: &mut TcpStream, requests: usize) {
    let mut buffer = [0; 4096];
    for _ in 0..requests {
        client.write_all(REQUEST).unwrap();
        let mut length = 0;
        while !buffer[..length].ends_with(b"hello") {
            let n = client.read(&mut buffer[length..]).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&buffer[..length]));
            length += n;
        }
    }
}

/// Answers what comes with one response for each read, which allocates nothing.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = [0; 4096];
        let mut length = 0;
        loop {
            match stream.read(&mut buffer[length..]) {
                Ok(n) if n > 0 => length += n,
                _ => return,
            }
            if buffer[..length].ends_with(b"\r\n\r\n") {
                length = 0;
                stream.write_all(RESPONSE).unwrap();
            }
        }
    });
    address
}
