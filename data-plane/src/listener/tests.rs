//! Listeners over real loopback sockets, with two workers on one thread and filters that say who they are.

use super::*;
use crate::http::{Connection, Worker};
use crate::listener::{Afterwards, Direction};
use crate::network::LocalBoxFuture;
use crate::task::{Phase, Shutdown, ShutdownTrigger, shutdown};
use crate::transport::Stream;
use crate::upstream::{Clusters, Local};
use config::{FilterChain, FilterChainMatch, ListenerFilter};
use std::future::Future;
use std::rc::Rc;
use std::time::Instant;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_util::task::TaskTracker;

const DRAIN_TIME: Duration = Duration::from_secs(600);
/// How long a condition may take to come true; ample for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers each line with its name, the drain phase and what was detected; closes after an answer when draining.
struct Teller(Box<str>);

impl NetworkFilter for Teller {
    fn serve(&self, connection: Connection<Stream>, _: Rc<Worker>) -> LocalBoxFuture<'static, ()> {
        let name = self.0.clone();
        Box::pin(async move {
            let Connection { io, mut shutdown, detected, .. } = connection;
            let mut stopped = shutdown.clone();
            let serve = async {
                let mut io = BufReader::new(io);
                let mut line = String::new();
                while io.read_line(&mut line).await.is_ok_and(|n| n > 0) {
                    let phase = shutdown.phase();
                    let answer = format!("{name} {phase:?} {detected:?}\n");
                    let sent = io.get_mut().write_all(answer.as_bytes()).await;
                    if sent.is_err() || phase != Phase::Running {
                        return;
                    }
                    line.clear();
                }
                shutdown.reached(Phase::Running).await;
            };
            tokio::select! {
                () = serve => {}
                () = stopped.reached(Phase::Stopped) => {}
            }
        })
    }
}

struct Bench {
    manager: Manager,
    registry: Registry,
    _process: ShutdownTrigger,
}

/// Runs `test` with a manager whose two workers run beside it.
fn with_workers<F: Future<Output = ()>>(drain_time: Duration, test: impl FnOnce(Bench) -> F) {
    with_pace(drain_time, Pace::AtOnce, test);
}

fn with_pace<F: Future<Output = ()>>(drain_time: Duration, pace: Pace, test: impl FnOnce(Bench) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let registry = Registry::new(2);
        let build: Build = Box::new(|chain, _| match &*chain.name {
            "broken" => Err(BuildError::EmptyChain),
            name => Ok(Arc::new(Teller(name.into()))),
        });
        let (manager, sides) = Manager::with_builder(How {
            workers: 2,
            registry: registry.clone(),
            drain_time,
            pace,
            ports: Ports::Bound,
            build,
            open_logs: Box::new(|_| Ok(None)),
            secrets: Default::default(),
        });
        let (process, watch): (_, Shutdown) = shutdown();
        for side in sides {
            let clusters = Clusters::default();
            let pools = Rc::new(Local::new(clusters.clone()));
            let worker = Worker::new(side.index() + 1, pools, clusters, watch.clone());
            tokio::task::spawn_local(side.run(worker, TaskTracker::new()));
        }
        let bench = Bench { manager, registry, _process: process };
        tokio::time::timeout(PATIENCE, test(bench)).await.expect("the test ends in time");
    });
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn chain(name: &str) -> Arc<FilterChain> {
    Arc::new(FilterChain {
        name: name.into(),
        matches: FilterChainMatch::default(),
        filters: Vec::new(),
        transport_socket: None,
        transport_socket_connect_timeout: None,
    })
}

fn chain_for(name: &str, protocol: &str) -> Arc<FilterChain> {
    let matches = FilterChainMatch { application_protocols: vec![protocol.into()], ..Default::default() };
    Arc::new(FilterChain {
        name: name.into(),
        matches,
        filters: Vec::new(),
        transport_socket: None,
        transport_socket_connect_timeout: None,
    })
}

fn listener(name: &str, addresses: &[SocketAddr], chains: Vec<Arc<FilterChain>>) -> config::Listener {
    config::Listener {
        name: name.into(),
        addresses: addresses.to_vec(),
        filter_chains: chains,
        default_filter_chain: None,
        listener_filters: Vec::new(),
        listener_filters_timeout: Some(Duration::from_secs(15)),
        continue_on_listener_filters_timeout: false,
        per_connection_buffer_limit_bytes: 1 << 20,
        tcp_backlog_size: None,
        reuse_port: true,
        exact_balance: false,
        tcp_keepalive: None,
        stat_prefix: Some(name.into()),
        access_log: config::ConnectionLogs::default(),
        inbound: false,
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Bench {
    /// Prepares and activates; the first bound address.
    fn set(&self, config: config::Listener) -> SocketAddr {
        let prepared = self.manager.prepare(Arc::new(config)).expect("the listener is fine");
        let address = prepared.addresses()[0];
        self.manager.activate(prepared).expect("it can be listened on");
        address
    }

    fn value(&self, name: &str) -> u64 {
        self.registry.value(name).unwrap_or(0)
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.expect("the address accepts")))
    }

    async fn ask(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).await.unwrap();
        answer.trim_end().to_owned()
    }

    async fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0; 1]).await.is_ok_and(|n| n == 0)
    }
}

#[test]
fn port_zero_is_bound_once_and_shared_by_all_workers() {
    with_workers(DRAIN_TIME, |bench| async move {
        let address = bench.set(listener("a", &[any_port()], vec![chain("one")]));
        let mut clients = Vec::new();
        for _ in 0..64 {
            let mut client = Client::connect(address).await;
            assert_eq!(client.ask("hi\n").await, "one Running None");
            clients.push(client);
        }
        let by_worker = [0, 1].map(|n| bench.value(&format!("listener.a.worker_{n}.downstream_cx_total")));
        assert!(by_worker.iter().all(|n| *n > 0), "both workers accept: {by_worker:?}");
        assert_eq!(bench.value("listener.a.downstream_cx_active"), 64);
        assert_eq!(bench.manager.infos()[0].addresses, [address]);
        assert_eq!(bench.value("listener_manager.workers_started"), 1);
        assert_eq!(bench.value("listener_manager.listener_create_success"), 2);

        drop(clients);
        bench.manager.drained().await;
        assert_eq!(bench.value("listener.a.downstream_cx_active"), 0);
        assert_eq!(bench.value("listener.a.downstream_cx_destroy"), 64);
    });
}

#[test]
fn an_exact_balance_gives_every_worker_as_many_connections() {
    with_workers(DRAIN_TIME, |bench| async move {
        let exact = |chain_name: &str| config::Listener {
            exact_balance: true,
            ..listener("a", &[any_port()], vec![chain(chain_name)])
        };
        let address = bench.set(exact("one"));
        let by_worker =
            || [0, 1].map(|n| bench.value(&format!("listener.a.worker_{n}.downstream_cx_active")));
        let mut clients = Vec::new();
        for n in 1..=32 {
            let mut client = Client::connect(address).await;
            assert_eq!(client.ask("hi\n").await, "one Running None");
            clients.push(client);
            let [a, b] = by_worker();
            assert!(a + b == n && a.abs_diff(b) <= 1, "{a} and {b}");
        }
        bench.set(exact("two"));
        for client in &mut clients {
            assert_eq!(client.ask("x\n").await, "one Draining None");
            assert!(client.is_closed().await);
        }
        eventually("those of the old chain have gone", || by_worker() == [0, 0]).await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut client = Client::connect(address).await;
            assert_eq!(client.ask("hi\n").await, "two Running None");
            clients.push(client);
        }
        assert_eq!(by_worker(), [4, 4], "an update keeps the balance");
    });
}

#[test]
fn one_socket_serves_all_workers_where_the_port_is_not_shared() {
    with_workers(DRAIN_TIME, |bench| async move {
        let config =
            config::Listener { reuse_port: false, ..listener("a", &[any_port()], vec![chain("one")]) };
        let address = bench.set(config);
        for _ in 0..8 {
            assert_eq!(Client::connect(address).await.ask("hi\n").await, "one Running None");
        }
    });
}

#[test]
fn an_update_keeps_the_socket_and_the_connections_of_equal_chains() {
    with_workers(DRAIN_TIME, |bench| async move {
        let chains = |b: &str| vec![chain_for("kept", "http/1.1"), chain_for(b, "h2c")];
        let inspecting = |b: &str| config::Listener {
            listener_filters: vec![ListenerFilter::HttpInspector],
            ..listener("a", &[any_port()], chains(b))
        };
        let address = bench.set(inspecting("old"));
        let mut kept = Client::connect(address).await;
        assert_eq!(kept.ask("GET / HTTP/1.1\r\n").await, "kept Running Some(Http1)");
        let mut old = Client::connect(address).await;
        assert_eq!(old.ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "old Running Some(Http2)");
        for _ in 0..3 {
            // The preface was four lines.
            old.0.read_line(&mut String::new()).await.unwrap();
        }

        assert_eq!(bench.set(inspecting("new")), address, "the port chosen before stays");
        assert_eq!(kept.ask("x\n").await, "kept Running Some(Http1)", "an untouched chain goes on");
        assert_eq!(old.ask("x\n").await, "old Draining Some(Http2)", "a changed chain drains");
        assert!(old.is_closed().await);
        let mut new = Client::connect(address).await;
        assert_eq!(new.ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "new Running Some(Http2)");
        assert_eq!(bench.value("listener_manager.listener_in_place_updated"), 1);
        assert_eq!(bench.value("listener_manager.listener_modified"), 1);
        assert_eq!(bench.value("http_inspector.http11_found"), 1);
        assert_eq!(bench.value("http_inspector.http2_found"), 2);
    });
}

#[test]
fn no_connection_is_lost_while_a_listener_is_updated_again_and_again() {
    with_workers(DRAIN_TIME, |bench| async move {
        let address = bench.set(listener("a", &[any_port()], vec![chain("c0")]));
        for n in 1..50 {
            let (before, during) = (TcpStream::connect(address), TcpStream::connect(address));
            let (before, during) = tokio::join!(before, async {
                bench.set(listener("a", &[any_port()], vec![chain(&format!("c{n}"))]));
                during.await
            });
            for stream in [before, during] {
                let mut client = Client(BufReader::new(stream.expect("connected")));
                assert!(client.ask("hi\n").await.starts_with('c'), "served by one version or the next");
            }
        }
    });
}

#[test]
fn a_changed_address_opens_the_new_socket_and_closes_the_old() {
    with_workers(DRAIN_TIME, |bench| async move {
        let old = bench.set(listener("a", &[any_port()], vec![chain("one")]));
        let free = std::net::TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        assert_eq!(bench.set(listener("a", &[free], vec![chain("one")])), free);
        assert_eq!(Client::connect(free).await.ask("hi\n").await, "one Running None");
        let mut refused = false;
        let end = Instant::now() + PATIENCE;
        while !refused && Instant::now() < end {
            refused = TcpStream::connect(old).await.is_err();
        }
        assert!(refused, "the old address is closed");
    });
}

#[test]
fn a_removed_listener_closes_its_port_and_drains_until_its_connections_end() {
    with_workers(DRAIN_TIME, |bench| async move {
        let address = bench.set(listener("a", &[any_port()], vec![chain("one")]));
        let mut client = Client::connect(address).await;
        assert_eq!(client.ask("hi\n").await, "one Running None");
        assert!(bench.manager.remove("a"));
        assert!(!bench.manager.remove("a"));
        assert_eq!(bench.manager.infos()[0].state, State::Draining);
        assert_eq!(bench.value("listener_manager.total_listeners_active"), 0);
        assert_eq!(bench.value("listener_manager.total_listeners_draining"), 1);
        assert_eq!(client.ask("hi\n").await, "one Draining None");
        assert!(client.is_closed().await);
        eventually("an empty listener need not drain on", || bench.manager.infos().is_empty()).await;
        assert_eq!(bench.value("listener_manager.total_listeners_draining"), 0);
        assert_eq!(bench.value("listener_manager.listener_removed"), 1);
    });
}

#[test]
fn connections_that_do_not_end_are_ended_at_the_drain_time() {
    with_workers(Duration::from_millis(20), |bench| async move {
        let address = bench.set(listener("a", &[any_port()], vec![chain("one")]));
        let mut client = Client::connect(address).await;
        assert_eq!(client.ask("hi\n").await, "one Running None");
        bench.manager.remove("a");
        assert!(client.is_closed().await, "though it asked nothing");
        bench.manager.drained().await;
    });
}

#[test]
fn draining_everything_stops_every_listener_for_good() {
    with_workers(DRAIN_TIME, |bench| async move {
        let address = bench.set(listener("a", &[any_port()], vec![chain("one")]));
        let mut client = Client::connect(address).await;
        assert_eq!(client.ask("hi\n").await, "one Running None");
        bench.manager.drain_all();
        assert_eq!(client.ask("hi\n").await, "one Draining None");
        bench.manager.drained().await;
        let prepared =
            bench.manager.prepare(Arc::new(listener("b", &[any_port()], vec![chain("b")]))).unwrap();
        bench.manager.activate(prepared).unwrap();
        assert_eq!(bench.value("listener_manager.total_listeners_active"), 0);
        assert_eq!(bench.value("listener_manager.listener_stopped"), 1);
    });
}

#[test]
fn a_connection_that_no_chain_matches_is_closed_and_counted() {
    with_workers(DRAIN_TIME, |bench| async move {
        let address = bench.set(listener("a", &[any_port()], vec![chain_for("one", "h2c")]));
        let mut client = Client::connect(address).await;
        // A chain that asks for a protocol has the first bytes looked at.
        client.0.write_all(b"hi\n").await.unwrap();
        // Reset, as what it sent was not read.
        assert!(
            client.0.read(&mut [0; 1]).await.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        );
        assert_eq!(bench.value("listener.a.no_filter_chain_match"), 1);
        assert_eq!(bench.value("listener.a.downstream_cx_total"), 0);
        let with_default = config::Listener {
            default_filter_chain: Some(chain("default")),
            ..listener("a", &[any_port()], vec![chain_for("one", "h2c")])
        };
        bench.set(with_default);
        assert_eq!(Client::connect(address).await.ask("hi\n").await, "default Running None");
    });
}

#[test]
fn a_client_that_stays_silent_in_listener_filters_is_closed_or_served_as_configured() {
    with_workers(DRAIN_TIME, |bench| async move {
        let config = |continue_on_listener_filters_timeout| config::Listener {
            listener_filters: vec![ListenerFilter::HttpInspector],
            listener_filters_timeout: Some(Duration::from_millis(5)),
            continue_on_listener_filters_timeout,
            ..listener("a", &[any_port()], vec![chain("one")])
        };
        let address = bench.set(config(false));
        assert!(Client::connect(address).await.is_closed().await);
        assert_eq!(bench.value("listener.a.downstream_pre_cx_timeout"), 1);
        assert_eq!(bench.value("listener.a.downstream_pre_cx_active"), 0);

        bench.set(config(true));
        let mut client = Client::connect(address).await;
        eventually("served after the timeout", || bench.value("listener.a.downstream_cx_active") == 1).await;
        assert_eq!(client.ask("hi\n").await, "one Running None");
    });
}

#[test]
fn a_client_that_leaves_in_listener_filters_is_counted() {
    with_workers(DRAIN_TIME, |bench| async move {
        let config = config::Listener {
            listener_filters: vec![ListenerFilter::HttpInspector],
            ..listener("a", &[any_port()], vec![chain("one")])
        };
        let address = bench.set(config);
        drop(Client::connect(address).await);
        let left = || bench.value("listener.a.downstream_listener_filter_remote_close") == 1;
        eventually("the close is seen", left).await;
        bench.manager.drained().await;
    });
}

#[test]
fn an_address_in_use_is_an_error_that_names_it_and_leaves_what_is_active() {
    with_workers(DRAIN_TIME, |bench| async move {
        let foreign = std::net::TcpListener::bind(any_port()).unwrap();
        let taken = foreign.local_addr().unwrap();
        let address = bench.set(listener("a", &[any_port()], vec![chain("one")]));
        let config = listener("a", &[any_port(), taken], vec![chain("two")]);
        let error = bench.manager.prepare(Arc::new(config)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&taken.to_string()) && text.contains("in use"), "{text}");
        assert_eq!(Client::connect(address).await.ask("hi\n").await, "one Running None");
        assert_eq!(bench.value("listener_manager.total_listeners_warming"), 0);
    });
}

#[test]
fn an_address_of_another_listener_is_refused_active_or_not() {
    with_workers(DRAIN_TIME, |bench| async move {
        let address = bench.set(listener("a", &[any_port()], vec![chain("one")]));
        let other = |name: &str, addresses: &[SocketAddr]| {
            bench.manager.prepare(Arc::new(listener(name, addresses, vec![chain("one")])))
        };
        let error = other("b", &[address]).unwrap_err();
        assert!(matches!(&error, Error::DuplicateAddress { other, .. } if **other == *"a"), "{error}");

        let waiting = other("b", &[any_port()]).unwrap();
        let error = other("c", &waiting.addresses()).unwrap_err();
        assert!(matches!(&error, Error::DuplicateAddress { other, .. } if **other == *"b"), "{error}");
        let twice = [waiting.addresses()[0], waiting.addresses()[0]];
        drop(waiting);
        assert!(matches!(other("c", &twice), Err(Error::DuplicateAddress { .. })));

        bench.manager.remove("a");
        let moved = other("b", &[address]).expect("a removed listener's address is free");
        bench.manager.activate(moved).unwrap();
        let served = Client::connect(address).await.ask("hi\n").await;
        assert_eq!(served, "one Running None");
    });
}

#[test]
fn chains_that_cannot_be_built_or_told_apart_are_refused_by_name() {
    with_workers(DRAIN_TIME, |bench| async move {
        let prepare = |chains| bench.manager.prepare(Arc::new(listener("a", &[any_port()], chains)));
        let error = prepare(vec![chain("broken")]).unwrap_err();
        assert!(error.to_string().contains("\"broken\""), "{error}");
        let error = prepare(vec![chain("one"), chain("")]).unwrap_err().to_string();
        assert_eq!(error, "filter chains \"one\" and #1 match the same connections");
        assert!(bench.manager.infos().is_empty());
    });
}

/// A listener whose port no other may share, so that only a handed-over socket can serve it.
fn alone(name: &str, address: SocketAddr, chain_name: &str) -> config::Listener {
    config::Listener { reuse_port: false, ..listener(name, &[address], vec![chain(chain_name)]) }
}

#[test]
fn a_listener_takes_the_socket_of_one_that_leaves_and_no_connection_is_lost() {
    with_workers(DRAIN_TIME, |bench| async move {
        let address = bench.set(alone("old", any_port(), "one"));
        // The plan of its socket names the port from here on.
        bench.manager.remove("old");
        let mut refused = false;
        while !refused {
            refused = TcpStream::connect(address).await.is_err();
        }
        bench.set(alone("old", address, "one"));
        let mut before = Client::connect(address).await;
        assert_eq!(before.ask("hi\n").await, "one Running None");

        let mut leaving = bench.manager.leaving(["old"]);
        let heir = bench.manager.prepare_among(Arc::new(alone("new", address, "two")), &mut leaving).unwrap();
        let other = bench.manager.prepare_among(Arc::new(alone("third", address, "3")), &mut leaving);
        assert!(matches!(other, Err(Error::DuplicateAddress { .. })), "an address is given once");
        assert!(bench.manager.remove("old"));
        assert_eq!(
            Client::connect(address).await.ask("hi\n").await,
            "one Running None",
            "until the heir is there"
        );
        bench.manager.activate(heir).unwrap();
        assert_eq!(Client::connect(address).await.ask("hi\n").await, "two Running None");
        assert_eq!(before.ask("hi\n").await, "one Draining None");
        let names: Vec<_> = bench.manager.infos().into_iter().map(|info| (info.name, info.state)).collect();
        assert_eq!(names[0], ("new".into(), State::Active));
    });
}

#[test]
fn a_listener_that_leaves_goes_when_its_heir_does_not_come() {
    with_workers(DRAIN_TIME, |bench| async move {
        let address = bench.set(listener("old", &[any_port()], vec![chain("one")]));
        bench.set(listener("old", &[address], vec![chain("one")]));
        let mut leaving = bench.manager.leaving(["old"]);
        let heir = listener("new", &[address], vec![chain("two")]);
        let heir = bench.manager.prepare_among(Arc::new(heir), &mut leaving).unwrap();
        bench.manager.remove("old");
        assert_eq!(bench.value("listener_manager.total_listeners_active"), 1);
        drop((heir, leaving));
        bench.manager.remove("new");
        assert_eq!(bench.value("listener_manager.total_listeners_active"), 0);
        bench.set(listener("another", &[address], vec![chain("three")]));
        assert_eq!(Client::connect(address).await.ask("hi\n").await, "three Running None");
    });
}

#[test]
fn listeners_that_swap_their_addresses_are_served_all_the_time() {
    with_workers(DRAIN_TIME, |bench| async move {
        let at = |name: &str, address| listener(name, &[address], vec![chain(name)]);
        let free = || std::net::TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        let (x, y) = (bench.set(at("a", free())), bench.set(at("b", free())));
        let mut leaving = bench.manager.leaving(["a", "b"]);
        let a = bench.manager.prepare_among(Arc::new(at("a", y)), &mut leaving).unwrap();
        let b = bench.manager.prepare_among(Arc::new(at("b", x)), &mut leaving).unwrap();
        bench.manager.activate(a).unwrap();
        bench.manager.activate(b).unwrap();
        assert_eq!(Client::connect(y).await.ask("hi\n").await, "a Running None");
        assert_eq!(Client::connect(x).await.ask("hi\n").await, "b Running None");
    });
}

/// Connections that the system lets wait on a listening port: the `Send-Q` that `ss -lt` shows, out of the kernel's table.
fn backlog(port: u16) -> Option<u32> {
    let table = std::process::Command::new("ss").args(["-Hltn"]).output().ok()?;
    let table = String::from_utf8(table.stdout).ok()?;
    let row = table
        .lines()
        .find(|row| row.split_whitespace().nth(3).is_some_and(|at| at.ends_with(&format!(":{port}"))))?;
    row.split_whitespace().nth(2)?.parse().ok()
}

#[test]
fn a_port_that_is_not_shared_takes_another_backlog_and_keeps_its_socket() {
    with_workers(DRAIN_TIME, |bench| async move {
        let free = std::net::TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        let with = |size| config::Listener { tcp_backlog_size: size, ..alone("a", free, "one") };
        let address = bench.set(with(Some(7)));
        let mut before = Client::connect(address).await;
        assert_eq!(before.ask("hi\n").await, "one Running None");
        assert_eq!(bench.set(with(Some(9))), address);
        assert_eq!(before.ask("hi\n").await, "one Running None", "its chain is the same");
        assert_eq!(bench.value("listener_manager.listener_in_place_updated"), 1);
        assert_eq!(Client::connect(address).await.ask("hi\n").await, "one Running None");
        if let Some(size) = backlog(address.port()) {
            assert_eq!(size, 9);
        }
    });
}

#[test]
fn how_a_port_is_shared_cannot_be_changed() {
    with_workers(DRAIN_TIME, |bench| async move {
        let free = std::net::TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        let address = bench.set(alone("a", free, "one"));
        let shared = || listener("a", &[address], vec![chain("two")]);
        let error = bench.manager.prepare(Arc::new(shared())).unwrap_err().to_string();
        assert!(error.starts_with("enable_reuse_port: cannot be changed"), "{error}");
        let other = config::Listener { name: "b".into(), ..shared() };
        let mut leaving = bench.manager.leaving(["a"]);
        let error = bench.manager.prepare_among(Arc::new(other), &mut leaving).unwrap_err().to_string();
        assert!(error.starts_with("enable_reuse_port: cannot be changed"), "{error}");
        assert_eq!(Client::connect(address).await.ask("hi\n").await, "one Running None");
        let second = std::net::TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        let moved = config::Listener { addresses: vec![second], ..shared() };
        assert_eq!(bench.set(moved), second, "another address may be shared otherwise");
    });
}

#[test]
fn an_address_that_cannot_be_listened_on_is_an_error_and_what_was_active_stays() {
    with_workers(DRAIN_TIME, |bench| async move {
        let address = bench.set(listener("a", &[any_port()], vec![chain("one")]));
        // Bound and not listening yet: binding beside it goes well.
        let foreign = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        foreign.set_reuse_address(true).unwrap();
        foreign.bind(&any_port().into()).unwrap();
        let taken = foreign.local_addr().unwrap().as_socket().unwrap();
        let next = config::Listener { addresses: vec![any_port(), taken], ..alone("a", taken, "two") };
        let prepared = bench.manager.prepare(Arc::new(next)).unwrap();
        foreign.listen(1).unwrap();
        let error = bench.manager.activate(prepared).unwrap_err().to_string();
        assert!(error.contains(&format!("cannot listen on {taken}")), "{error}");
        assert_eq!(Client::connect(address).await.ask("hi\n").await, "one Running None");
        assert_eq!(bench.value("listener_manager.listener_create_failure"), 1);
    });
}

#[test]
fn clients_are_told_to_leave_while_new_ones_are_accepted_until_the_drain_time() {
    with_workers(Duration::from_millis(300), |bench| async move {
        let inbound = |name: &str| config::Listener {
            inbound: true,
            ..listener(name, &[any_port()], vec![chain(name)])
        };
        let (inside, outside) =
            (bench.set(inbound("in")), bench.set(listener("out", &[any_port()], vec![chain("out")])));
        let mut client = Client::connect(inside).await;
        assert_eq!(client.ask("hi\n").await, "in Running None");
        bench.manager.discourage(Direction::Inbound, Afterwards::Stop);
        assert_eq!(client.ask("hi\n").await, "in Draining None");
        assert_eq!(Client::connect(inside).await.ask("hi\n").await, "in Draining None", "accepted and told");
        let later = bench.set(inbound("later"));
        assert_eq!(Client::connect(later).await.ask("hi\n").await, "later Draining None");
        assert_eq!(Client::connect(outside).await.ask("hi\n").await, "out Running None");
        eventually("inbound listeners stop", || {
            bench.manager.infos().iter().filter(|i| i.state == State::Active).count() == 1
        })
        .await;
        assert_eq!(Client::connect(outside).await.ask("hi\n").await, "out Running None");
        let refused = bench.manager.prepare(Arc::new(inbound("refused"))).unwrap();
        bench.manager.activate(refused).unwrap();
        assert!(bench.manager.infos().iter().all(|info| *info.name != *"refused"), "stopped is stopped");
    });
}

#[test]
fn listeners_may_go_on_after_their_clients_were_told_to_leave() {
    with_workers(Duration::from_millis(1), |bench| async move {
        let address = bench.set(listener("a", &[any_port()], vec![chain("one")]));
        bench.manager.discourage(Direction::All, Afterwards::GoOn);
        // A drain of a part of them is no news.
        bench.manager.discourage(Direction::Inbound, Afterwards::Stop);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(Client::connect(address).await.ask("hi\n").await, "one Draining None");
    });
}

#[test]
fn a_gradual_drain_is_hastened_when_everything_is_to_end() {
    with_pace(DRAIN_TIME, Pace::Within(DRAIN_TIME), |bench| async move {
        let address = bench.set(listener("a", &[any_port()], vec![chain("one")]));
        let mut client = Client::connect(address).await;
        assert_eq!(client.ask("hi\n").await, "one Running None");
        bench.manager.remove("a");
        assert_eq!(client.ask("hi\n").await, "one Running None", "its turn comes later");
        bench.manager.drain_all();
        assert_eq!(client.ask("hi\n").await, "one Draining None");
    });
}
