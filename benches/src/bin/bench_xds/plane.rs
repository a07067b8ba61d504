//! The control plane under test, its store, and what lies in it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use control_plane::model::{InstanceId, ServiceName};
use control_plane::source::keys;
use e2e::control::Control;
use e2e::eventually;
use e2e::store::Etcd;
use etcd_client::{Txn, TxnOp};
use futures_util::{StreamExt, TryStreamExt, stream};
use tempfile::TempDir;

use crate::clients::Names;

/// Registrations in flight at a time while the store is filled.
const PARALLEL: usize = 32;
/// Registrations in one etcd transaction; etcd allows 128.
const BATCH: usize = 100;

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The embedded one, written through the REST API.
    Embedded,
    /// A real etcd, written directly, as registrars of others do.
    Etcd,
}

/// Services and instances of the benchmark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Services; each is a cluster with endpoints.
    pub services: usize,
    /// Instances of each.
    pub instances: usize,
}

impl Size {
    fn service(index: usize) -> String {
        format!("service-{index:04}")
    }

    /// What proxies ask for, named as `control_plane::translate` documents.
    pub(crate) fn names(self) -> Names {
        Names {
            group: "bench".to_owned(),
            clusters: (0..self.services).map(Self::service).collect(),
            routes: vec!["bench/web".to_owned()],
        }
    }

    /// A gateway, and one route to every service.
    fn objects(self) -> (String, String) {
        let rules: String = (0..self.services)
            .map(|i| {
                format!(
                    "  - {{matches: [{{prefix: /{i}/}}], backends: [{{service: {}}}]}}\n",
                    Self::service(i)
                )
            })
            .collect();
        let gateway = "kind: Gateway\nname: bench\nspec:\n  group: bench\n  \
                       listeners: [{name: web, address: 127.0.0.1, port: 10000}]\n";
        let route = format!("kind: Route\nname: bench\nspec:\n  gateways: [bench]\n  rules:\n{rules}");
        (gateway.to_owned(), route)
    }
}

/// A write of one instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub service: usize,
    pub instance: usize,
    pub port: u16,
}

impl Write {
    fn id(self) -> String {
        format!("i{}", self.instance)
    }

    fn body(self) -> String {
        let Self { service, instance, port } = self;
        format!(r#"{{"address":"10.{}.{}.{instance}","port":{port}}}"#, service / 250, service % 250)
    }

    fn key(self) -> Result<String> {
        Ok(keys::instance_key(
            &ServiceName::new(&Size::service(self.service))?,
            &InstanceId::new(&self.id())?,
        ))
    }
}

/// A store, filled.
pub(crate) struct Store {
    dir: TempDir,
    etcd: Option<(Etcd, etcd_client::Client)>,
}

impl Store {
    /// Starts it and fills it.
    pub(crate) async fn fill(kind: Kind, size: Size) -> Result<Self> {
        let etcd = match kind {
            Kind::Embedded => None,
            Kind::Etcd => {
                let server = Etcd::start().await?;
                let client = etcd_client::Client::connect([server.endpoint()], None).await?;
                Some((server, client))
            }
        };
        let store = Self { dir: TempDir::new()?, etcd };
        let mut plane = Plane::start(&store, None).await?;
        let writes: Vec<Write> = (0..size.services)
            .flat_map(|service| {
                (0..size.instances).map(move |instance| Write { service, instance, port: 80 })
            })
            .collect();
        match &store.etcd {
            Some((_, client)) => {
                for batch in writes.chunks(BATCH) {
                    let puts: Result<Vec<TxnOp>> =
                        batch.iter().map(|w| Ok(TxnOp::put(w.key()?, w.body(), None))).collect();
                    client.clone().txn(Txn::new().and_then(puts?)).await?;
                }
            }
            None => {
                let plane = &plane;
                stream::iter(writes.into_iter().map(|w| async move { plane.register(w).await }))
                    .buffer_unordered(PARALLEL)
                    .try_collect::<()>()
                    .await?;
            }
        }
        let (gateway, route) = size.objects();
        plane.control.apply(&format!("{gateway}---\n{route}")).await?;
        plane.control.process().signal("TERM")?;
        plane.control.process().wait(Duration::from_secs(10))?;
        Ok(store)
    }

    fn url(&self) -> String {
        match &self.etcd {
            Some((server, _)) => format!("etcd://{}", server.endpoint()),
            None => format!("embedded:{}", self.dir.path().join("store.redb").display()),
        }
    }
}

/// A fresh control plane over a store.
pub(crate) struct Plane {
    pub control: Control,
    etcd: Option<etcd_client::Client>,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory, bytes.
    pub resident: u64,
}

impl Plane {
    /// Starts it; `debounce` in milliseconds, if not the default. It has everything when this returns.
    pub(crate) async fn start(store: &Store, debounce: Option<u64>) -> Result<Self> {
        let mut args = vec![format!("--store={}", store.url()), "--log-level=warn".to_owned()];
        args.extend(debounce.map(|ms| format!("--debounce-quiet-ms={ms}")));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let control = Control::start(&args).await?;
        eventually("the control plane is ready", async || -> Result<()> {
            ensure!(control.call("GET", "/readyz", "").await?.status == 200);
            Ok(())
        })
        .await;
        Ok(Self { control, etcd: store.etcd.as_ref().map(|(_, client)| client.clone()) })
    }

    /// Writes one instance to the store.
    pub(crate) async fn write(&self, write: Write) -> Result<()> {
        match &self.etcd {
            Some(client) => {
                client.clone().put(write.key()?, write.body(), None).await?;
                Ok(())
            }
            None => self.register(write).await,
        }
    }

    async fn register(&self, write: Write) -> Result<()> {
        let path = format!("/api/v1/services/{}/instances/{}", Size::service(write.service), write.id());
        let answer = self.control.call("PUT", &path, write.body()).await?;
        ensure!(answer.status == 200, "register: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// Applies the gateway once more, unchanged.
    pub(crate) async fn write_objects_again(&self, size: Size) -> Result<()> {
        let (gateway, route) = size.objects();
        self.control.apply(&format!("{gateway}---\n{route}")).await
    }

    /// What it has used.
    pub(crate) fn usage(&mut self) -> Result<Usage> {
        let process = self.control.process();
        let cpu = process.cpu()?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
        let kib: u64 = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
            .context("status without VmRSS")?;
        Ok(Usage { cpu, resident: kib * 1024 })
    }
}
