//! The composition root: sources, pipeline, xDS and API servers, wired and run until told to stop.

mod http;
mod ratelimit;
mod root;
mod stages;
mod tls;

use self::http::{Port, Routed};
use crate::ads;
use crate::api::rest::{MakeBootstrap, Metrics};
use crate::api::{Api, Guarded, Stores, grpc, rest};
use crate::fleet::Fleet;
use crate::keep::Keeper;
use crate::pipeline::{Options, Pipeline};
use crate::settings::{PortTls, Settings, SettingsError};
use crate::translate::bootstrap::{Api as Dialect, Bootstrap, Tls as BootstrapTls};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Longest interval of reports: three of them fit in the time for which one counts.
const MAX_REPORT_S: u32 = 20;

/// Calls under way on one connection to the API.
const MAX_CALLS: u32 = 256;
/// A call of the API must be sent whole, and answered, within this time.
const CALL: Duration = Duration::from_secs(60);

/// How long open calls may go on after the stop.
const GRACE: Duration = Duration::from_secs(2);

/// A control plane that runs.
#[derive(Debug)]
pub struct Running {
    /// Where proxies connect.
    pub xds: SocketAddr,
    /// Where people and tools connect.
    pub api: SocketAddr,
    /// Where proxies ask the rate-limit service.
    pub ratelimit: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    /// Tells everything to stop and waits for it, for a few seconds at most.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }

    /// Waits until a part ends by itself, which only a bug makes happen.
    pub async fn failed(&mut self) {
        match self.tasks.join_next().await {
            Some(Err(error)) => tracing::error!(%error, "a part of the control plane has failed"),
            _ => std::future::pending().await,
        }
    }
}

/// Opens the stores, binds both ports and starts everything.
///
/// # Errors
/// A store cannot be opened, a port not bound, a file not read or written.
pub async fn start(settings: &Settings, metrics: Metrics) -> Result<Running, SettingsError> {
    let trust = settings.trust()?;
    let (access, audit) = settings.access()?;
    settings.check_ports(&access)?;
    let xds_tls = settings.xds_tls().map(|flags| tls::Tls::load(flags, &[b"h2"])).transpose()?;
    let api_tls = settings.api_tls().map(|flags| tls::Tls::load(flags, &[b"h2", b"http/1.1"])).transpose()?;
    let sources = settings.open_sources(&trust.vault)?;
    let xds = bind("--xds-address", settings.xds_address, xds_tls.is_some()).await?;
    let api = bind("--api-address", settings.api_address, api_tls.is_some()).await?;
    let at = settings.ratelimit.ratelimit_address;
    let ratelimit = bind("--ratelimit-address", at, xds_tls.is_some()).await?;
    let identifier = settings.identifier.clone().unwrap_or_else(host_name);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();

    let (events, receiver) = crate::source::channel();
    let (quiet, longest) = settings.debounce();
    let ids = sources.all.iter().map(|s| s.id().clone()).collect();
    let keeper = Keeper::new(&settings.data_dir, sources.remote.clone());
    let (guard, holds) = (settings.guard(), keeper.holds());
    let options = Options { sources: ids, quiet, longest, trust, guard, holds, ..Options::default() };
    let (pipeline, handle) = Pipeline::new(options, receiver);
    tasks.spawn(pipeline.run(stop.clone()));
    keeper.restore(&events).await;
    tasks.spawn(keeper.run(handle.clone(), stop.clone()));
    for source in sources.all {
        let (events, stop) = (events.clone(), stop.clone());
        tasks.spawn(async move { source.watch(events, stop).await });
    }

    let limiter = ratelimit::start(&settings.ratelimit, &handle, &stop, &mut tasks)?;
    let limited = tls::accept(ratelimit.0, xds_tls.clone(), stop.clone());
    tasks.spawn(ratelimit::serve(limited, limiter.clone(), settings.xds_max_connections, stop.clone()));
    let nodes = Arc::new(ads::Registry::new());
    let options = ads::Options { identifier: identifier.clone(), ..ads::Options::default() };
    let streams = ads::Service::new(Arc::clone(handle.cache()), Arc::clone(&nodes), options);
    let stores = Stores { config: sources.config, services: sources.services };
    tasks.spawn(root::keep(handle.clone(), Arc::clone(&stores.config), stop.clone()));
    let fleet = Fleet::new();
    let all_calls =
        Api::new(handle.clone(), Arc::clone(&nodes), fleet.clone(), stores, &identifier, settings.history);
    tasks.spawn(stages::keep(handle, nodes, all_calls.clone(), stop.clone()));
    let calls = Guarded::new(all_calls, access, audit);
    let bootstrap = make_bootstrap(xds.1, settings.xds_tls());
    let router = rest::router(calls.clone(), metrics, bootstrap)
        .route_service(grpc::PATH, grpc::service(calls.clone()))
        .layer(axum::middleware::from_fn_with_state(calls, rest::door));
    for tls in [&xds_tls, &api_tls].into_iter().flatten() {
        tasks.spawn(Arc::clone(tls).follow(stop.clone()));
    }
    // Proxies reach the rate-limit and the metrics service over the cluster that they have for xDS.
    let routes = streams.routes().add_service(limiter.server());
    let routes = routes.into_axum_router().merge(fleet.router());
    // Streams of proxies never end by themselves: the stop cuts them, and they come back to another replica.
    let proxies = settings.xds_max_connections;
    let port = Port {
        connections: proxies,
        streams: ads::MAX_STREAMS,
        http1: false,
        call: None,
        age: settings.xds_max_age(),
    };
    let accepted = tls::accept(xds.0, xds_tls, stop.clone());
    let answers = move |peer: &_, leaving: &_| Routed::new(&routes, peer, leaving);
    tasks.spawn(http::serve(accepted, answers, port, stop.clone()));
    let callers = settings.api_max_connections;
    let port = Port { connections: callers, streams: MAX_CALLS, http1: true, call: Some(CALL), age: None };
    let accepted = tls::accept(api.0, api_tls, stop.clone());
    let answers = move |peer: &_, leaving: &_| Routed::new(&router, peer, leaving);
    tasks.spawn(http::serve(accepted, answers, port, stop.clone()));

    let running = Running { xds: xds.1, api: api.1, ratelimit: ratelimit.1, stop, tasks };
    if let Some(path) = &settings.address_path {
        let text =
            serde_json::json!({"xds": running.xds, "api": running.api, "ratelimit": running.ratelimit});
        let text = text.to_string();
        // Renamed into place, so that whoever waits for the file reads all of it.
        let new = path.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(|e| SettingsError::new(format!("--address-path {}", path.display()), e))?;
    }
    info!(xds = %running.xds, api = %running.api, %identifier, "portolan-control is up");
    Ok(running)
}

async fn bind(
    flag: &str,
    address: SocketAddr,
    tls: bool,
) -> Result<(TcpListener, SocketAddr), SettingsError> {
    if !address.ip().is_loopback() && !tls {
        warn!(%address, "{flag} is reachable from other machines and not encrypted (--insecure)");
    }
    let fail = |e: std::io::Error| SettingsError::new(format!("{flag} {address} cannot be bound"), e);
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

/// Bootstraps for `GET /api/v1/bootstrap`; the xDS address is ours unless another is given.
fn make_bootstrap(xds: SocketAddr, tls: Option<PortTls>) -> MakeBootstrap {
    Arc::new(move |options: &BTreeMap<String, String>| {
        let option = |name: &str| options.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let group = option("group").ok_or("group is required")?;
        let (host, port) = match option("xds") {
            Some(text) => {
                let (host, port) = text.rsplit_once(':').ok_or("xds is not HOST:PORT")?;
                let port = port.parse().map_err(|_| format!("xds port `{port}` is not a number"))?;
                (host.trim_matches(['[', ']']).to_owned(), port)
            }
            None => (xds.ip().to_string(), xds.port()),
        };
        let mut bootstrap = Bootstrap::new(option("node").unwrap_or(group), group, &host, port);
        bootstrap.api = match option("delta").unwrap_or("true") {
            "true" => Dialect::Delta,
            "false" => Dialect::Sotw,
            other => return Err(format!("delta is true or false, not `{other}`")),
        };
        bootstrap.tls = match (&tls, option("xds_ca")) {
            (None, None) => None,
            (Some(_), None) => {
                return Err("xDS speaks TLS: say where the proxy finds the authorities of its certificate \
                            (xds_ca, --xds-ca)"
                    .to_owned());
            }
            (_, Some(ca)) => {
                let identity = match (option("xds_cert"), option("xds_key")) {
                    (Some(certificate), Some(key)) => Some((certificate.to_owned(), key.to_owned())),
                    (None, None) if tls.as_ref().is_some_and(|t| t.client_ca.is_some()) => {
                        return Err("xDS asks for certificates: say where the proxy finds its own \
                                    (xds_cert and xds_key, --xds-cert and --xds-key)"
                            .to_owned());
                    }
                    (None, None) => None,
                    _ => return Err("xds_cert and xds_key go together".to_owned()),
                };
                let sni = option("xds_sni").unwrap_or(&bootstrap.host).to_owned();
                Some(BootstrapTls { ca: ca.to_owned(), identity, sni })
            }
        };
        if let Some(report) = option("report") {
            let seconds: u32 = report.parse().ok().filter(|s| *s <= MAX_REPORT_S).ok_or_else(|| {
                format!("report `{report}` is not a number of seconds, 0 to {MAX_REPORT_S}")
            })?;
            bootstrap.report_s = seconds;
        }
        if let Some(admin) = option("admin") {
            bootstrap.admin = Some(admin.parse().map_err(|_| format!("admin `{admin}` is not IP:PORT"))?);
        }
        Ok(bootstrap.to_yaml())
    })
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "portolan-control".to_owned(),
        name => name.to_owned(),
    }
}
