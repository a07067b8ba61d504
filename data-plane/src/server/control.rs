//! The control thread: everything that is not a connection.

use super::certs::Certificates;
use super::dump::Taken;
use super::gauges::Gauges;
use super::handle::{Command, ListenerInfo, Started};
use super::sinks::Sinks;
use super::threads::{self, Parts};
use super::{Boot, Options, StartError, deps, signals};
use crate::admin::{self, Proxy, ServerState};
use crate::export::Exporters;
use crate::http::AccessLogs;
use crate::runtime::Runtime;
use crate::stats::Registry;
use crate::task::{self, Phase, Shutdown, ShutdownTrigger};
use crate::transport::tls::slot::SecretSlots;
use crate::upstream::dns::SystemResolver;
use crate::xds::{self, Xds};
use crate::{listener, upstream};
use data_plane_core::config;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};

/// The control thread's things.
pub(super) struct Control {
    pub(super) registry: Registry,
    pub(super) upstream: upstream::Manager,
    pub(super) listeners: listener::Manager,
    pub(super) runtime: Runtime,
    pub(super) xds: Xds,
    pub(super) gauges: Gauges,
    pub(super) certificates: Certificates,
    pub(super) options: Options,
    pub(super) taken: RefCell<Rc<Taken>>,
    pub(super) fails_health_checks: Arc<AtomicBool>,
    access_logs: AccessLogs,
    pub(super) exporters: Exporters,
    sinks: RefCell<Sinks>,
    trigger: ShutdownTrigger,
    shutdown: Shutdown,
    /// Why it ends, where nobody asked for it.
    failure: RefCell<Option<StartError>>,
    tasks: RefCell<JoinSet<()>>,
}

/// What the control thread is started with.
pub(super) struct Start {
    pub(super) boot: Boot,
    pub(super) options: Options,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) started: SyncSender<Result<Started, StartError>>,
}

/// Runs a proxy to its end.
///
/// # Errors
/// What was bound at the start cannot be listened on.
pub(super) async fn run(start: Start) -> Result<(), StartError> {
    let Start { boot, options, mut commands, started } = start;
    let began = Instant::now();
    let (control, workers, admin) = match build(boot, options).await {
        Ok(built) => built,
        Err(error) => {
            // The caller waits for this.
            let _ = started.send(Err(error));
            return Ok(());
        }
    };
    let address = admin.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
    let answer = Started { admin: address, stats: control.registry.clone() };
    if started.send(Ok(answer)).is_err() {
        control.end(workers).await;
        return Ok(());
    }
    if let Some((listener, logs)) = admin {
        let proxy: Rc<dyn Proxy> = Rc::clone(&control) as Rc<dyn Proxy>;
        control.own(async move { admin::serve(listener, proxy, logs).await });
    }
    control.own(bring_up(Rc::clone(&control)));
    control.own(announce(Rc::clone(&control), began));
    control.own(tick(Rc::clone(&control)));
    control.own(give_back(Rc::clone(&control)));
    if control.options.signals {
        control.own(signals::serve(Rc::clone(&control)));
    }
    let mut stopped = control.shutdown.clone();
    loop {
        tokio::select! {
            // Both cancel safe.
            () = stopped.reached(Phase::Stopped) => break,
            command = commands.recv() => match command {
                Some(command) => control.obey(command),
                // The handle is gone.
                None => control.stop(),
            }
        }
    }
    control.end(workers).await;
    control.failure.take().map_or(Ok(()), Err)
}

/// Keeps the configuration up to date. A static listener that cannot serve ends the start, as one that cannot be bound does.
async fn bring_up(control: Rc<Control>) {
    let failed = control.xds.clone().run().await;
    if failed.is_empty() {
        return;
    }
    let taken = Rc::clone(&control.taken.borrow());
    let failure = |(name, reason): (Box<str>, String)| {
        let index = taken.boot.config.listeners.iter().position(|l| l.name == name).unwrap_or_default();
        xds::StaticFailure { kind: xds::Kind::Listener, index, name, reason }
    };
    let failure = StartError::Static(failed.into_iter().map(failure).collect());
    *control.failure.borrow_mut() = Some(failure);
    control.stop();
}

type Built = (Rc<Control>, Vec<JoinHandle<()>>, Option<(TcpListener, admin::Logs)>);

async fn build(boot: Boot, options: Options) -> Result<Built, StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let concurrency = options.concurrency.max(1);
    let registry = Registry::new(concurrency);
    registry.set_fixed_tags(&boot.config.stats.fixed_tags);
    let runtime = Runtime::new(&boot.config.runtime, boot.config.runtime_admin_layer);
    let gauges = Gauges::new(&registry, concurrency, &runtime);
    gauges.server.static_unknown_fields.add(boot.unknown_fields as u64);
    let secrets = SecretSlots::default();
    let upstream =
        upstream::Manager::with_secrets(&registry, Arc::new(SystemResolver::new()), secrets.clone());
    upstream.set_outlier_log(boot.config.outlier_log.clone());
    let access_logs = AccessLogs::new(&registry, concurrency, options.access_log_flush);
    let admin = match &boot.config.admin {
        Some(config) => Some(open_admin(config, options.admin_address_path.as_deref(), &access_logs).await?),
        None => None,
    };
    let (trigger, shutdown) = task::shutdown();
    let exporters = Exporters::new(&registry, &runtime, upstream.clusters(), shutdown.clone(), concurrency);
    let deps = deps::of(&boot.config.node, &registry, &runtime, &secrets, &access_logs, &exporters);
    let sinks = Sinks::open(&boot.config.stats, &deps.node, &exporters)
        .map_err(system("cannot open a stats sink"))?;
    let (routes, fails_health_checks) = (deps.routes.clone(), Arc::clone(&deps.fails_health_checks));
    let (listeners, sides) = listener::Manager::new(listener::Options {
        workers: concurrency,
        registry: registry.clone(),
        drain_time: options.drain_time,
        pace: options.pace(),
        ports: listener::Ports::Bound,
        deps,
    });
    let xds = Xds::new(
        &boot.config,
        xds::Deps {
            registry: registry.clone(),
            upstream: upstream.clone(),
            listeners: listeners.clone(),
            routes,
            secrets,
            data: Arc::new(super::data::SystemData),
            unknown_fields: options.unknown_dynamic_fields,
            unknown_fields_counter: gauges.server.dynamic_unknown_fields.clone(),
        },
    )
    .map_err(StartError::Static)?;
    let mut workers = Vec::with_capacity(concurrency);
    for side in sides {
        let (clusters, shutdown) = (upstream.clusters(), shutdown.clone());
        let parts = Parts { side, clusters, shutdown, give_back: options.give_back };
        workers.push(threads::spawn(parts).map_err(system("cannot start a worker thread"))?);
    }
    let control = Rc::new(Control {
        registry,
        upstream,
        listeners,
        runtime,
        xds,
        gauges,
        certificates: Certificates::default(),
        options,
        taken: RefCell::new(Rc::new(Taken { boot, at: SystemTime::now() })),
        fails_health_checks,
        access_logs,
        exporters,
        sinks: RefCell::new(sinks),
        trigger,
        shutdown,
        failure: RefCell::default(),
        tasks: RefCell::default(),
    });
    control.warn_of_ignored();
    Ok((control, workers, admin))
}

async fn open_admin(
    config: &config::Admin,
    address_path: Option<&Path>,
    access_logs: &AccessLogs,
) -> Result<(TcpListener, admin::Logs), StartError> {
    let address = config.address;
    let fail = |source| StartError::Admin { address, source };
    if !address.ip().is_loopback() {
        warn!(%address, "the admin interface is not on loopback: anyone who reaches it can stop this proxy");
    }
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    info!(address = %bound, "admin address");
    for path in address_path.into_iter().chain(config.address_path.as_deref()) {
        std::fs::write(path, bound.to_string()).map_err(fail)?;
    }
    let logs = admin::Logs::open(&config.access_log, access_logs)
        .map_err(|source| StartError::System { what: "cannot open the admin access log", source })?;
    Ok((listener, logs))
}

/// Says when the proxy serves.
async fn announce(control: Rc<Control>, began: Instant) {
    let mut phase = control.xds.phase();
    if phase.wait_for(|phase| *phase == xds::Phase::Live).await.is_ok() {
        let took_ms = began.elapsed().as_millis() as u64;
        control.gauges.server.initialization_time_ms.record(took_ms);
        control.refresh();
        info!(took_ms, "serving");
    }
}

/// How long after resources were applied memory is given back: those that follow each other are one.
const SETTLED: Duration = Duration::from_secs(1);

/// Gives back what reading and replacing resources took beside what is kept: for large tables, several times as much.
async fn give_back(control: Rc<Control>) {
    loop {
        control.xds.applied().await;
        sleep(SETTLED).await;
        (control.options.give_back)();
    }
}

async fn tick(control: Rc<Control>) {
    // Histograms show this interval next to their totals.
    let every = control.taken.borrow().boot.config.stats.flush_interval;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        control.refresh();
        control.registry.flush();
        control.sinks.borrow_mut().flush(&control.registry);
    }
}

impl Control {
    /// A task that ends with the proxy.
    fn own(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().spawn_local(task);
    }

    /// Brings gauges up to date that are not kept so at all times.
    pub(super) fn refresh(&self) {
        self.upstream.refresh_stats();
        self.gauges.refresh(self.listeners.connections());
        let days = self.certificates.refresh(&self.xds, &self.listeners, &self.registry);
        self.gauges.certificates_end_in(days);
        let ignored = self.taken.borrow().boot.ignored.len() + self.xds.ignored();
        self.gauges.server.ignored_fields.set(ignored as u64);
        let state = self.state();
        self.gauges.server.state.set(state.number());
        self.gauges.server.live.set(u64::from(state == ServerState::Live));
    }

    fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::Listeners(answer) => {
                let active =
                    self.listeners.infos().into_iter().filter(|l| l.state == listener::State::Active);
                let infos = active.map(|l| ListenerInfo { name: l.name.into(), addresses: l.addresses });
                // The asker may have gone.
                let _ = answer.send(infos.collect());
            }
            Command::WhenReady(answer) => {
                let mut phase = self.xds.phase();
                self.own(async move {
                    if phase.wait_for(|phase| *phase == xds::Phase::Live).await.is_ok() {
                        let _ = answer.send(());
                    }
                });
            }
            Command::Reload(boot, answer) => {
                let _ = answer.send(self.reload(*boot));
            }
            Command::Drain => self.drain(),
            Command::Stop => self.stop(),
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.shutdown.phase() > Phase::Running
    }

    /// Not ready, no new connections; ends once no connection is left or the drain time is over.
    pub(super) fn drain(self: &Rc<Self>) {
        if self.is_ending() {
            return;
        }
        let connections = self.listeners.connections();
        info!(connections, drain_time_s = self.options.drain_time.as_secs(), "draining");
        self.fails_health_checks.store(true, Relaxed);
        self.trigger.advance(Phase::Draining);
        self.listeners.drain_all();
        let control = Rc::clone(self);
        self.own(async move {
            tokio::select! {
                () = control.listeners.drained() => info!("drained"),
                () = sleep(control.options.drain_time) => {
                    let left = control.listeners.connections();
                    warn!(left, "drain time is over; connections are closed");
                }
            }
            control.stop();
        });
    }

    /// Ends at once.
    pub(super) fn stop(&self) {
        self.fails_health_checks.store(true, Relaxed);
        self.trigger.advance(Phase::Stopped);
    }

    /// Takes another bootstrap's static resources in the place of the present ones.
    pub(super) fn reload(&self, boot: Boot) -> Result<(), StartError> {
        let before = Rc::clone(&self.taken.borrow());
        for part in needs_restart(&before.boot.config, &boot.config) {
            warn!("{part} of the bootstrap changed; takes effect at the next start");
        }
        let changed = self.xds.reload(&boot.config).map_err(StartError::Static)?;
        info!(?changed, "bootstrap taken again");
        self.runtime.set_base(&boot.config.runtime, boot.config.runtime_admin_layer);
        self.gauges.runtime_changed(&self.runtime);
        self.gauges.server.static_unknown_fields.add(boot.unknown_fields as u64);
        self.registry.set_fixed_tags(&boot.config.stats.fixed_tags);
        *self.taken.borrow_mut() = Rc::new(Taken { boot, at: SystemTime::now() });
        self.warn_of_ignored();
        Ok(())
    }

    /// SIGHUP: reads the bootstrap again. One that is wrong changes nothing.
    pub(super) fn reread(&self) {
        let Some(origin) = self.taken.borrow().boot.origin.clone() else {
            return warn!("there is no file to read the configuration from again");
        };
        let done = Boot::read(&origin).map_err(StartError::Boot).and_then(|boot| self.reload(boot));
        if let Err(failure) = done {
            error!("configuration kept as it was: {}", failure.describe());
        }
    }

    /// SIGUSR1: opens log files anew.
    pub(super) fn reopen_logs(&self) {
        self.access_logs.reopen();
        if let Some(Err(error)) = self.options.logging.as_ref().map(super::Logging::reopen) {
            error!(%error, "cannot reopen the log file");
        }
        info!("log files reopened");
    }

    fn warn_of_ignored(&self) {
        for finding in &self.taken.borrow().boot.ignored {
            warn!("ignored: {finding}");
        }
    }

    /// Waits for the workers, which end by themselves once stopped, and writes what is left to write.
    async fn end(&self, workers: Vec<JoinHandle<()>>) {
        self.trigger.advance(Phase::Stopped);
        self.xds.stop();
        self.tasks.borrow_mut().abort_all();
        let joined = spawn_local(async move {
            for worker in workers {
                // Joined on a thread that may block; a worker's panic was reported when it happened.
                let _ = tokio::task::spawn_blocking(move || worker.join()).await;
            }
        });
        let _ = joined.await;
        let exporters = self.exporters.clone();
        // It may block; a panic there was reported when it happened.
        let _ = tokio::task::spawn_blocking(move || exporters.join()).await;
        let lost = self.access_logs.flush();
        if lost > 0 {
            warn!(bytes = lost, "access logs take nothing: what was to be written is lost");
        }
        info!("exiting");
    }
}

/// Parts of the bootstrap that are only read at the start.
fn needs_restart(old: &config::Bootstrap, new: &config::Bootstrap) -> Vec<&'static str> {
    let changed = [
        ("node", old.node != new.node),
        ("dynamic_resources", old.dynamic != new.dynamic),
        ("admin", old.admin != new.admin),
        ("application_log_config", old.log_format != new.log_format),
        ("stats_sinks", old.stats.sinks != new.stats.sinks),
        ("stats_flush_interval", old.stats.flush_interval != new.stats.flush_interval),
        ("cluster_manager.outlier_detection", old.outlier_log != new.outlier_log),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(part, _)| part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_only_a_start_reads_are_named_when_they_change() {
        let read = |text: &str| Boot::from_yaml(text).unwrap().config;
        let admin = |fields: &str| {
            format!("admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}{fields}}}")
        };
        let log = "name: f, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}";
        let before = read(&admin(""));
        for (text, part) in [
            (admin(&format!(", access_log: [{{{log}}}]")), "admin"),
            (
                admin("") + "\napplication_log_config: {log_format: {text_format: '%v'}}",
                "application_log_config",
            ),
            (admin("") + "\nnode: {id: a}", "node"),
        ] {
            assert_eq!(needs_restart(&before, &read(&text)), [part], "{text}");
        }
        assert_eq!(needs_restart(&before, &read(&admin(""))), [""; 0]);
    }
}
