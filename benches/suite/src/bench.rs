//! What all stages share: programs, folders, ports, the running backend, and the results.

use crate::config::envoy::Target;
use crate::config::{self, ENDPOINTS, Extra, Listener, Proxy, Routes, backend};
use crate::load::{Load, Request, client};
use crate::machine::{self, Cores};
use crate::process::{Program, Running, free_port, place};
use crate::results::{Group, Peer, Results, Row};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) peers: Vec<Peer>,
    pub(crate) rounds: usize,
    /// Of one load.
    pub(crate) time: Duration,
    pub(crate) quick: bool,
    /// Whether our proxy is asked to end.
    pub(crate) gentle: bool,
}

/// A run.
pub(crate) struct Bench {
    pub(crate) plan: Plan,
    pub(crate) programs: Programs,
    pub(crate) results: Results,
    /// DER of the certificate that all TLS listeners show.
    pub(crate) certificate: Vec<u8>,
    pub(crate) backend: u16,
    /// Answers `changed`.
    pub(crate) other: u16,
    collector: u16,
    dir: TempDir,
    running: Running,
}

/// Where programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) portolan: PathBuf,
    pub(crate) envoy: PathBuf,
    /// Of nginx, HAProxy and the load generators.
    pub(crate) bin: PathBuf,
}

impl Programs {
    /// Those that `deploy/dev` installs into `dev`.
    pub(crate) fn find(portolan: &Path, dev: &Path) -> Result<Self> {
        // The program itself: the `envoy` on the path is Python, which starts it, and that takes time.
        let packages = dev.join("python/lib");
        let envoy = std::fs::read_dir(&packages)
            .with_context(|| format!("{}: deploy/dev/bench.sh installs it", packages.display()))?
            .filter_map(|python| Some(python.ok()?.path().join("site-packages/envoy/_bin/envoy")))
            .find(|path| path.exists())
            .context("no Envoy: deploy/dev/bench.sh installs it")?;
        let programs =
            Self { portolan: portolan.canonicalize()?, envoy, bin: dev.join("bin").canonicalize()? };
        for tool in ["nginx", "haproxy", "wrk", "h2load"] {
            ensure!(programs.bin.join(tool).exists(), "no {tool}: deploy/dev/bench.sh installs it");
        }
        Ok(programs)
    }

    pub(crate) fn of(&self, peer: Peer) -> PathBuf {
        match peer {
            Peer::Portolan => self.portolan.clone(),
            Peer::Envoy => self.envoy.clone(),
            Peer::Nginx => self.bin.join("nginx"),
            Peer::Haproxy => self.bin.join("haproxy"),
        }
    }
}

impl Plan {
    /// How many to make of what there are `full` of in a whole run.
    pub(crate) fn many(&self, full: usize) -> usize {
        if self.quick { full / 10 } else { full }
    }

    /// Of a load at a fixed rate, which takes less than a whole second where it should.
    pub(crate) fn paced(&self) -> Duration {
        if self.quick { self.time / 2 } else { self.time }
    }

    /// What a process is given to settle before its memory is read. Ours gives back what reading a table took a second
    /// after the last of it has come.
    pub(crate) fn rest(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 3_000 })
    }
}

/// A proxy under measurement.
pub(crate) struct Subject {
    pub(crate) peer: Peer,
    pub(crate) proxy: Proxy,
    pub(crate) running: Running,
    /// From its start to its first answer.
    pub(crate) ready: Duration,
}

impl Subject {
    /// The request that only the last rule of a listener takes.
    pub(crate) fn request(&self, listener: usize) -> Request {
        let last = self.proxy.listeners[listener].routes.count() - 1;
        self.request_of(listener, last)
    }

    /// The request that only such a rule takes.
    pub(crate) fn request_of(&self, listener: usize, rule: usize) -> Request {
        let Listener { port, routes, .. } = self.proxy.listeners[listener];
        Request { path: routes.path(rule), host: routes.host(rule), ..Request::plain(port) }
    }

    /// Where the listener with `extra` is.
    pub(crate) fn port(&self, extra: Extra) -> u16 {
        let found = self.proxy.listeners.iter().find(|listener| listener.extra == extra);
        found.unwrap_or(&self.proxy.listeners[0]).port
    }
}

impl Bench {
    pub(crate) fn start(plan: Plan, programs: Programs) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("portolan-bench").tempdir()?;
        let certificate = config::certificates(dir.path())?;
        let (backend, other, collector) = (free_port()?, free_port()?, free_port()?);
        let text = backend::write(dir.path(), backend, other, collector)?;
        let program = Program {
            name: "backend".into(),
            path: programs.bin.join("nginx"),
            args: vec!["-c".into(), text.display().to_string()],
            cores: Cores::Load,
            dir: dir.path().to_owned(),
            gentle: false,
        };
        let mut running = program.start()?;
        for port in [backend, other, collector] {
            client::await_answer(&Request::plain(port), || running.check())?;
        }
        let results = Results::default();
        Ok(Self { plan, programs, results, certificate, backend, other, collector, dir, running })
    }

    /// Where the collector is that takes all that it is sent.
    pub(crate) fn collector(&self) -> u16 {
        self.collector
    }

    /// What a proxy with such listeners is told; every port is its own.
    pub(crate) fn proxy(&self, listeners: &[(Routes, Extra)]) -> Result<Proxy> {
        let listener = |&(routes, extra)| Ok(Listener { port: free_port()?, routes, extra });
        Ok(Proxy {
            listeners: listeners.iter().map(listener).collect::<Result<_>>()?,
            admin: free_port()?,
            backend: self.backend,
            other: self.other,
            collector: self.collector,
            dir: self.dir.path().to_owned(),
            clusters: 0,
            endpoints: ENDPOINTS,
            routes_file: false,
            workers: 1,
            cores: Cores::Proxy,
        })
    }

    /// Starts a proxy on its core, alone or beside others that rest, and waits until its first listener answers.
    pub(crate) fn launch(&self, peer: Peer, proxy: Proxy) -> Result<Subject> {
        let program = self.prepare(peer, &proxy)?;
        self.begin(peer, proxy, &program)
    }

    /// Writes what the proxy is told.
    pub(crate) fn prepare(&self, peer: Peer, proxy: &Proxy) -> Result<Program> {
        let name = peer.file_name();
        let path = self.dir.path().join(match peer {
            Peer::Portolan | Peer::Envoy => format!("{name}.json"),
            Peer::Nginx | Peer::Haproxy => format!("{name}.conf"),
        });
        let text = match peer {
            Peer::Portolan | Peer::Envoy => {
                if proxy.clusters > 0 {
                    let clusters = config::envoy::clusters(proxy, 0, |_| proxy.backend).to_string();
                    place(&config::envoy::clusters_file(proxy, &name), clusters)?;
                }
                if proxy.routes_file {
                    let routes =
                        config::envoy::routes(proxy, 0, |rule| Target::usual(proxy, rule)).to_string();
                    place(&config::envoy::routes_file(proxy, &name), routes)?;
                }
                config::envoy::bootstrap(proxy, &name).to_string()
            }
            Peer::Nginx => config::nginx::text(proxy),
            Peer::Haproxy => config::haproxy::text(proxy)?,
        };
        std::fs::write(&path, text)?;
        let path = path.display().to_string();
        let workers = proxy.workers.to_string();
        let args: &[&str] = match peer {
            // Nothing to wait for when it ends: the load has gone by then.
            Peer::Portolan => &["-c", &path, "--concurrency", &workers, "-l", "error", "--drain-time-s", "1"],
            Peer::Envoy => &["-c", &path, "--concurrency", &workers, "-l", "error", "--disable-hot-restart"],
            Peer::Nginx => &["-c", &path],
            Peer::Haproxy => &["-db", "-f", &path],
        };
        Ok(Program {
            name,
            path: self.programs.of(peer),
            args: args.iter().map(ToString::to_string).collect(),
            cores: proxy.cores,
            dir: self.dir.path().to_owned(),
            gentle: match peer {
                Peer::Portolan => self.plan.gentle,
                Peer::Nginx => proxy.workers > 1,
                Peer::Envoy | Peer::Haproxy => false,
            },
        })
    }

    /// Starts what [`Self::prepare`] has prepared.
    pub(crate) fn begin(&self, peer: Peer, proxy: Proxy, program: &Program) -> Result<Subject> {
        let start = Instant::now();
        let running = program.start()?;
        let mut subject = Subject { peer, proxy, running, ready: Duration::ZERO };
        let request = subject.request(0);
        if subject.proxy.listeners[0].extra == Extra::Tls {
            client::await_connection(request.port, || subject.running.check())?;
        } else {
            client::await_answer(&request, || subject.running.check())?;
        }
        subject.ready = start.elapsed();
        Ok(subject)
    }

    /// Starts all peers with the same listeners.
    pub(crate) fn launch_all(&self, listeners: &[(Routes, Extra)]) -> Result<Vec<Subject>> {
        let launch = |&peer| self.launch(peer, self.proxy(listeners)?);
        self.plan.peers.iter().map(launch).collect()
    }

    /// Runs a load on a proxy and keeps its CPU time for each request as a figure. `None`, and a remark, when
    /// nothing was answered in time.
    pub(crate) fn measure(
        &mut self,
        row: Row<'_>,
        round: usize,
        subject: &Subject,
        load: impl FnOnce(&Subject) -> Result<Load>,
    ) -> Result<Option<(Load, f64)>> {
        let before = subject.running.cpu()?;
        let load = load(subject).with_context(|| format!("{}, {}", row.what, subject.peer.name()))?;
        let spent = subject.running.cpu()?.saturating_sub(before);
        self.remark_failures(row.what, round, subject, &load);
        if load.requests == 0 {
            let remark = format!("{}, {}: nothing was answered in time.", row.what, subject.peer.name());
            self.results.remarks.push(remark);
            return Ok(None);
        }
        let each = spent.as_secs_f64() * 1e6 / load.requests as f64;
        self.results.add(row, subject.peer, round, each);
        Ok(Some((load, each)))
    }

    /// Keeps that requests failed as a remark.
    pub(crate) fn remark_failures(&mut self, what: &str, round: usize, subject: &Subject, load: &Load) {
        if load.errors > 0 {
            let (peer, all) = (subject.peer.name(), load.requests + load.errors);
            let remark =
                format!("{what}, {peer}: {} of {all} requests failed in round {}.", load.errors, round + 1);
            eprintln!("  {remark}");
            self.results.remarks.push(remark);
        }
    }

    /// Lets backend, load and this program run on both cores, or on their own.
    pub(crate) fn spread(&self, cores: Cores) -> Result<()> {
        machine::pin(Some(self.running.pid()), cores)?;
        machine::pin(None, cores)
    }

    /// Tells how far the run is.
    pub(crate) fn say(&self, what: &str, round: usize) {
        eprintln!("{what}: round {} of {}", round + 1, self.plan.rounds);
    }
}

/// A row of CPU time.
pub(crate) fn cpu_row(group: Group, what: &str) -> Row<'_> {
    Row { group, what, unit: "us CPU/request" }
}
