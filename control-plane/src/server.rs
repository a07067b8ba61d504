//! The composition root: sources, pipeline, xDS and API servers, wired and run until told to stop.

mod http;

use crate::ads;
use crate::api::rest::{MakeBootstrap, Metrics};
use crate::api::{Api, Stores, grpc, rest};
use crate::keep::Keeper;
use crate::pipeline::{Options, Pipeline};
use crate::settings::{Settings, SettingsError};
use crate::translate::bootstrap::{Api as Dialect, Bootstrap};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long open calls may go on after the stop.
const GRACE: Duration = Duration::from_secs(2);

/// A control plane that runs.
#[derive(Debug)]
pub struct Running {
    /// Where proxies connect.
    pub xds: SocketAddr,
    /// Where people and tools connect.
    pub api: SocketAddr,
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
    let sources = settings.open_sources()?;
    let xds = bind("--xds-address", settings.xds_address).await?;
    let api = bind("--api-address", settings.api_address).await?;
    let identifier = settings.identifier.clone().unwrap_or_else(host_name);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();

    let (events, receiver) = crate::source::channel();
    let (quiet, longest) = settings.debounce();
    let ids = sources.all.iter().map(|s| s.id().clone()).collect();
    let (pipeline, handle) =
        Pipeline::new(Options { sources: ids, quiet, longest, ..Options::default() }, receiver);
    let keeper = Keeper::new(settings.data_dir.join("last-good.json"), sources.remote.clone());
    tasks.spawn(pipeline.run(stop.clone()));
    keeper.restore(&events).await;
    if !sources.remote.is_empty() {
        tasks.spawn(keeper.run(handle.clone(), stop.clone()));
    }
    for source in sources.all {
        let (events, stop) = (events.clone(), stop.clone());
        tasks.spawn(async move { source.watch(events, stop).await });
    }

    let nodes = Arc::new(ads::Registry::new());
    let options = ads::Options { identifier: identifier.clone(), ..ads::Options::default() };
    let streams = ads::Service::new(Arc::clone(handle.cache()), Arc::clone(&nodes), options);
    let stores = Stores { config: sources.config, services: sources.services };
    let calls = Api::new(handle, nodes, stores, &identifier);
    let bootstrap = make_bootstrap(xds.1);
    let router =
        rest::router(calls.clone(), metrics, bootstrap).route_service(grpc::PATH, grpc::service(calls));
    tasks.spawn(serve_xds(xds.0, streams, stop.clone()));
    tasks.spawn(http::serve(api.0, router, stop.clone()));

    let running = Running { xds: xds.1, api: api.1, stop, tasks };
    if let Some(path) = &settings.address_path {
        let text = serde_json::json!({"xds": running.xds, "api": running.api}).to_string();
        // Renamed into place, so that whoever waits for the file reads all of it.
        let new = path.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(|e| SettingsError::new(format!("--address-path {}", path.display()), e))?;
    }
    info!(xds = %running.xds, api = %running.api, %identifier, "portolan-control is up");
    Ok(running)
}

async fn bind(flag: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), SettingsError> {
    if !address.ip().is_loopback() {
        warn!(%address, "{flag} is reachable from other machines and not authenticated");
    }
    let fail = |e: std::io::Error| SettingsError::new(format!("{flag} {address} cannot be bound"), e);
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

async fn serve_xds(listener: TcpListener, streams: ads::Service, stop: CancellationToken) {
    let incoming = tokio_stream::StreamExt::map(TcpListenerStream::new(listener), |stream| {
        stream.inspect(|s| {
            let _ = s.set_nodelay(true);
        })
    });
    let served = ads::Service::server().add_routes(streams.routes()).serve_with_incoming(incoming);
    tokio::select! {
        // Streams of proxies never end by themselves: they are cut, and come back to another replica.
        () = stop.cancelled() => {}
        ended = served => if let Err(error) = ended {
            tracing::error!(error = &error as &dyn std::error::Error, "xDS server ended");
        },
    }
}

/// Bootstraps for `GET /api/v1/bootstrap`; the xDS address is ours unless another is given.
fn make_bootstrap(xds: SocketAddr) -> MakeBootstrap {
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
