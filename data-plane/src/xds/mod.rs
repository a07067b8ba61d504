//! Dynamic configuration: subscriptions and applying what they bring.
//!
//! [`subscription`] are state machines without I/O; `stream` carries them over gRPC, `file` reads files; both hand
//! what they get to `apply`, which translates, builds and publishes it, resource by resource, and says what to
//! acknowledge. `warm` keeps the order: clusters before listeners, listeners with their routes. All of it runs on
//! the control thread; requests read only what was published.

mod apply;
mod backoff;
mod contexts;
mod file;
mod findings;
mod inventory;
mod kind;
mod node;
mod rotation;
mod secrets;
mod sources;
mod statics;
mod stats;
mod stream;
pub mod subscription;
mod update;
mod wanted;
mod warm;

pub use apply::Phase;
pub use contexts::{Context, Named, Owner};
pub use findings::UnknownFields;
pub use inventory::{Entry, Good, Refused};
pub use kind::Kind;
pub use node::{USER_AGENT, node};
pub use secrets::SecretEntry;
pub use statics::check;

use crate::http::RouteSlots;
use crate::listener;
use crate::stats::{Counter, Registry, TextReadout};
use crate::transport::tls::slot::SecretSlots;
use crate::upstream::{self, Clusters};
use apply::State;
use data_plane_core::config;
use data_plane_core::translate::{self, DataLoader};
use findings::Findings;
use rotation::Rotations;
use secrets::{Secrets, Tell};
use sources::Sources;
use stats::ControlPlane;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::info;
use update::{Update, Verdict};
use wanted::SourceKey;
use xds_types::envoy::config::core::v3::Node;

/// What dynamic configuration is applied to.
pub struct Deps {
    /// All stats.
    pub registry: Registry,
    /// Clusters.
    pub upstream: upstream::Manager,
    /// Listeners.
    pub listeners: listener::Manager,
    /// Routes by RDS name.
    pub routes: RouteSlots,
    /// Delivered secrets, where TLS contexts read them.
    pub secrets: SecretSlots,
    /// Reads files and environment variables that resources refer to.
    pub data: Arc<dyn DataLoader + Send + Sync>,
    /// What becomes of resources with fields that are not known here.
    pub unknown_fields: UnknownFields,
    /// `server.dynamic_unknown_fields`.
    pub unknown_fields_counter: Counter,
}

/// A static listener, cluster or secret that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticFailure {
    /// Which kind.
    pub kind: Kind,
    /// Its place in its list of the bootstrap.
    pub index: usize,
    /// Its name.
    pub name: Box<str>,
    /// Why, in words.
    pub reason: String,
}

impl std::fmt::Display for StaticFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, index, name, reason } = self;
        let (list, noun) = match kind {
            Kind::Cluster => ("clusters", "cluster"),
            Kind::Secret => ("secrets", "secret"),
            _ => ("listeners", "listener"),
        };
        write!(f, "static_resources.{list}[{index}]: {noun} {name:?}: {reason}")
    }
}

/// What a reload of the bootstrap changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Clusters added or changed.
    pub clusters: Vec<Box<str>>,
    /// Clusters removed.
    pub clusters_removed: Vec<Box<str>>,
    /// Listeners added or changed.
    pub listeners: Vec<Box<str>>,
    /// Listeners removed.
    pub listeners_removed: Vec<Box<str>>,
}

/// All configuration, static and dynamic. Clones share it; control thread only.
#[derive(Clone)]
pub struct Xds(Rc<Inner>);

struct Inner {
    state: RefCell<State>,
    sources: RefCell<Sources>,
    rotations: RefCell<Rotations>,
    /// What the sources were last told of [`State::interest`].
    followed: RefCell<u64>,
    node: Node,
    upstream: upstream::Manager,
    control_plane: ControlPlane,
    identifier: TextReadout,
    /// Counts changes of any kind.
    changes: watch::Sender<u64>,
    /// Resources were applied.
    applied: Notify,
    phase: watch::Sender<Phase>,
}

impl Xds {
    /// Takes the static clusters and binds the static listeners of `bootstrap`. Nothing is asked for and nothing
    /// accepts before [`Self::run`].
    ///
    /// # Errors
    /// Everything static that cannot be had.
    pub fn new(bootstrap: &config::Bootstrap, deps: Deps) -> Result<Self, Vec<StaticFailure>> {
        let Deps {
            registry,
            upstream,
            listeners,
            routes,
            secrets,
            data,
            unknown_fields,
            unknown_fields_counter,
        } = deps;
        let findings = Rc::new(Findings::new(unknown_fields, unknown_fields_counter));
        let scope = ControlPlane::scope(&registry);
        let identifier = scope.text("identifier");
        let control_plane = ControlPlane::new(&scope);
        let state = State {
            upstream: upstream.clone(),
            listeners,
            routes,
            secrets: Secrets::new(secrets, registry.clone(), Arc::clone(&data), Rc::clone(&findings)),
            findings,
            held: BTreeMap::new(),
            data,
            sources: translate::Sources::of(bootstrap),
            dynamic: bootstrap.dynamic.clone(),
            static_clusters: BTreeMap::new(),
            static_listeners: BTreeMap::new(),
            inventory: inventory::Inventory::default(),
            wanted: wanted::WantedSet::default(),
            interest: 0,
            waiting: BTreeMap::new(),
            fatal: Vec::new(),
            failed_listeners: Vec::new(),
            phase: Phase::Begin,
            cds: None,
            lds: None,
            rds: BTreeMap::new(),
            registry,
        };
        let xds = Self(Rc::new(Inner {
            state: RefCell::new(state),
            sources: RefCell::default(),
            rotations: RefCell::default(),
            followed: RefCell::new(0),
            node: node::node(&bootstrap.node),
            upstream,
            control_plane,
            identifier,
            changes: watch::Sender::new(0),
            applied: Notify::new(),
            phase: watch::Sender::new(Phase::Begin),
        }));
        xds.0.state.borrow_mut().set_static(bootstrap)?;
        Ok(xds)
    }

    /// Brings the proxy up and keeps it so. Ends only when static listeners cannot serve at the start, which bound their
    /// addresses: with their names, and why.
    pub async fn run(&self) -> Vec<(Box<str>, String)> {
        self.refresh();
        warm::run(self).await
    }

    /// Takes the static clusters and listeners of another bootstrap in the place of the present ones. What is the
    /// same is left alone.
    ///
    /// # Errors
    /// Everything static that cannot be had; nothing has changed then.
    pub fn reload(&self, bootstrap: &config::Bootstrap) -> Result<Reloaded, Vec<StaticFailure>> {
        let reloaded = self.0.state.borrow_mut().set_static(bootstrap)?;
        self.refresh();
        Ok(reloaded)
    }

    /// Ends all subscriptions.
    pub fn stop(&self) {
        self.0.sources.borrow_mut().clear();
        self.0.rotations.borrow_mut().clear();
    }

    /// How far the start has come.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// All dynamic resources of a kind, by name.
    pub fn resources(&self, kind: Kind) -> BTreeMap<Box<str>, Entry> {
        self.with(|state| state.inventory.of(kind).clone())
    }

    /// The version of the last response of a kind applied in full; empty until then.
    pub fn version(&self, kind: Kind) -> String {
        self.with(|state| match kind {
            Kind::Cluster => state.cds.as_ref().map(stats::SubscriptionStats::version),
            Kind::Listener => state.lds.as_ref().map(stats::SubscriptionStats::version),
            Kind::Endpoints | Kind::Route | Kind::Secret => None,
        })
        .unwrap_or_default()
    }

    /// All secrets that are wanted, by name.
    pub fn secrets(&self) -> Vec<SecretEntry> {
        self.with(|state| state.secrets.entries())
    }

    /// Fields of dynamic resources that were set and have no effect.
    pub fn ignored(&self) -> usize {
        self.with(|state| state.inventory.ignored() + state.secrets.ignored())
    }

    /// What TLS contexts hold now.
    pub fn tls_contexts(&self) -> Vec<Context> {
        self.with(contexts::all)
    }

    /// Whether a listener waits for its routes.
    pub fn is_listener_waiting(&self, name: &str) -> bool {
        self.with(|state| state.waiting.contains_key(name))
    }

    /// What is still waited for: kind and name, `*` for all of a kind.
    pub fn unready(&self) -> Vec<(Kind, Box<str>)> {
        self.with(State::unready)
    }

    /// What control planes are told of this proxy.
    pub fn node(&self) -> &Node {
        &self.0.node
    }

    /// Waits until resources were applied since the last wait; for one who waits.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn applied(&self) {
        self.0.applied.notified().await;
    }

    fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.state.borrow())
    }

    fn apply(&self, from: &SourceKey, kind: Kind, update: Update) -> Verdict {
        let verdict = self.0.state.borrow_mut().apply(from, kind, update);
        self.0.applied.notify_one();
        self.changed();
        verdict
    }

    /// A file holds all there is: names that it lacks need not be waited for.
    fn settle_absent(&self, from: &SourceKey, kind: Kind, names: &[Box<str>]) {
        self.0.state.borrow_mut().settle_absent(from, kind, names);
        self.changed();
    }

    fn failed(&self, from: &SourceKey, kind: Kind, names: &[Box<str>], settle: bool) {
        self.0.state.borrow_mut().failed(from, kind, names, settle);
        self.changed();
    }

    /// The files of a secret may have changed.
    fn reread(&self, from: &SourceKey, name: &str, tell: Tell) -> Result<(), String> {
        let done = self.0.state.borrow_mut().reread(from, name, tell);
        self.changed();
        done
    }

    fn expire(&self) {
        self.0.state.borrow_mut().expire(Instant::now());
        self.changed();
    }

    fn refresh(&self) {
        self.0.state.borrow_mut().refresh();
        self.changed();
    }

    /// Whether the start is over.
    fn is_live(&self) -> bool {
        *self.0.phase.borrow() == Phase::Live
    }

    fn enter(&self, phase: Phase) {
        info!(?phase, "start");
        self.0.state.borrow_mut().phase = phase;
        self.0.phase.send_replace(phase);
        self.refresh();
    }

    fn changed(&self) {
        self.follow();
        self.0.changes.send_modify(|n| *n += 1);
    }

    /// Brings the sources in line with what is wanted.
    fn follow(&self) {
        let state = self.0.state.borrow();
        if self.0.followed.replace(state.interest) != state.interest {
            let mut plan = state.wanted.by_source();
            for (key, interest) in state.secrets.by_source() {
                match plan.iter_mut().find(|(known, _)| known == key) {
                    Some((_, interests)) => _ = interests.insert(Kind::Secret, interest),
                    None => plan.push((key.clone(), [(Kind::Secret, interest)].into())),
                }
            }
            self.0.sources.borrow_mut().follow(self, state.dynamic.ads.as_ref(), plan);
        }
        let files = state.secrets.files().map(|(key, name, files)| (key.clone(), name.into(), files.clone()));
        self.0.rotations.borrow_mut().follow(self, files.collect());
    }

    fn findings(&self) -> Rc<Findings> {
        self.with(|state| Rc::clone(&state.findings))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn upstream(&self) -> &upstream::Manager {
        &self.0.upstream
    }

    fn clusters(&self) -> Clusters {
        self.0.upstream.clusters()
    }

    fn control_plane(&self) -> &ControlPlane {
        &self.0.control_plane
    }

    fn set_control_plane_identifier(&self, identifier: &str) {
        self.0.identifier.set(identifier);
    }
}
