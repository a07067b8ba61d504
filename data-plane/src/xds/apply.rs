//! Applying what came: translate, build, publish, resource by resource.
//!
//! Good resources of a partly bad update apply; bad ones keep their last good version and are told. Everything here
//! is synchronous: once [`State::apply`] returns, what the verdict calls applied is in force (or warming, which
//! counts: Envoy's ACK does not mean "in use" either) and may be acknowledged.

use super::findings::Findings;
use super::inventory::{Good, Inventory, Refused};
use super::kind::Kind;
use super::secrets::{self, Secrets, Tell};
use super::stats::{SubscriptionStats, version_hash};
use super::update::{Item, Refusal, Update, Verdict, identify};
use super::wanted::{ALL, Key, Needs, SourceKey, WantedSet, routes_of};
use crate::http::RouteSlots;
use crate::stats::Registry;
use crate::{listener, upstream};
use data_plane_core::config::{self, Discovery};
use data_plane_core::path::{Diagnostics, Path};
use data_plane_core::route::RouteTable;
use data_plane_core::translate::{self, DataLoader, Resource};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use tracing::{debug, error, warn};
use xds_types::google::protobuf::Any;

/// How far the start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Static clusters warm up.
    Begin,
    /// Clusters are asked for and warm up.
    Clusters,
    /// Listeners are asked for and warm up.
    Listeners,
    /// Serving.
    Live,
}

/// What is configured, all of it, on the control thread.
pub(super) struct State {
    pub(super) registry: Registry,
    pub(super) upstream: upstream::Manager,
    pub(super) listeners: listener::Manager,
    pub(super) routes: RouteSlots,
    pub(super) data: Arc<dyn DataLoader + Send + Sync>,
    pub(super) sources: translate::Sources,
    pub(super) dynamic: config::Dynamic,
    pub(super) static_clusters: BTreeMap<Box<str>, Arc<config::Cluster>>,
    pub(super) static_listeners: BTreeMap<Box<str>, Arc<config::Listener>>,
    pub(super) inventory: Inventory,
    pub(super) findings: Rc<Findings>,
    pub(super) wanted: WantedSet,
    pub(super) secrets: Secrets,
    /// Clusters that wait for their secrets.
    pub(super) held: BTreeMap<Box<str>, Arc<config::Cluster>>,
    /// Counts changes of what is wanted.
    pub(super) interest: u64,
    /// Listeners that wait for their routes, or for the start to come to listeners.
    pub(super) waiting: BTreeMap<Box<str>, listener::Prepared>,
    /// Static listeners that could not be activated before the proxy was live, and why.
    pub(super) fatal: Vec<(Box<str>, String)>,
    /// Listeners that could not be activated when that was last tried, and why.
    pub(super) failed_listeners: Vec<(Box<str>, String)>,
    pub(super) phase: Phase,
    pub(super) cds: Option<SubscriptionStats>,
    pub(super) lds: Option<SubscriptionStats>,
    /// By route configuration and stat prefix.
    pub(super) rds: BTreeMap<(Box<str>, Box<str>), SubscriptionStats>,
}

impl State {
    /// Applies an update that came from `from`. See the module.
    pub(super) fn apply(&mut self, from: &SourceKey, kind: Kind, update: Update) -> Verdict {
        if kind == Kind::Secret {
            let verdict = self.secrets.apply(from, update, &self.sources);
            self.secrets_changed();
            return verdict;
        }
        let Update { version, resources, removed, whole } = update;
        let mut verdict = Verdict::default();
        let began = Instant::now();
        let items = identify(kind, resources, &removed, &mut verdict);
        let mut leaving = listener::Leaving::default();
        if kind.is_whole_world() {
            let departed = self.departed(kind, &items, &removed, whole, &verdict);
            if kind == Kind::Listener {
                // They go when the others have come, which may take their addresses over.
                leaving = self.listeners.leaving(departed.iter().map(|name| &**name));
            } else {
                departed.iter().for_each(|name| self.remove(kind, name));
            }
            verdict.removed.extend(departed);
        } else {
            for name in removed {
                self.absent(kind, &name);
                verdict.removed.push(name);
            }
        }
        let mut touched = Vec::with_capacity(items.len());
        for item in items {
            if !self.wanted.covers(kind, &item.name) {
                debug!(kind = %kind.resource_type(), name = &*item.name, "not asked for, ignored");
                verdict.applied.push((item.name, item.version));
                continue;
            }
            match self.take(kind, &item, &mut leaving) {
                Ok(()) => {
                    touched.push(item.name.clone());
                    verdict.applied.push((item.name, item.version));
                }
                Err(refusal) => {
                    warn!(kind = %kind.resource_type(), name = &*item.name, reason = refusal.reason(), "refused");
                    let raw = item.body.unwrap_or_default();
                    let (version, at, details) = (item.version, SystemTime::now(), refusal.reason());
                    self.inventory.refuse(kind, &item.name, Refused { raw, version, at, details });
                    verdict.refused.push(refusal);
                }
            }
        }
        if kind == Kind::Listener {
            verdict.removed.iter().for_each(|name| self.remove(kind, name));
        }
        drop(leaving);
        if kind.is_whole_world() {
            self.wanted.settle(kind, ALL);
            self.refresh();
        } else {
            // Endpoints and routes change no interest: a push of many of them stays linear.
            self.activate();
        }
        if kind == Kind::Listener {
            self.tell_failed(&mut verdict);
        }
        self.charge(kind, &version, &touched, &verdict, began);
        verdict
    }

    /// Listeners that came with an update, had to wait for nothing, and failed after all.
    fn tell_failed(&mut self, verdict: &mut Verdict) {
        for (name, reason) in std::mem::take(&mut self.failed_listeners) {
            let came = verdict.applied.iter().position(|(applied, _)| *applied == name);
            if let Some(at) = came {
                verdict.applied.remove(at);
                verdict.refused.push(Refusal::because(&name, None, reason));
            }
        }
    }

    /// Clusters or listeners that an update takes away.
    fn departed(
        &self,
        kind: Kind,
        items: &[Item],
        removed: &[Box<str>],
        whole: bool,
        verdict: &Verdict,
    ) -> Vec<Box<str>> {
        if !whole {
            return removed
                .iter()
                .filter(|name| self.inventory.of(kind).contains_key(*name))
                .cloned()
                .collect();
        }
        // A resource without a name may be any of those that seem to be missing.
        let nameless = |refusal: &Refusal| refusal.name.starts_with('#');
        if verdict.refused.iter().any(nameless) || items.iter().any(|item| item.name.starts_with('#')) {
            return Vec::new();
        }
        let named: hashbrown::HashSet<&str> = items
            .iter()
            .map(|item| &*item.name)
            .chain(verdict.refused.iter().map(|refusal| &*refusal.name))
            .collect();
        self.inventory.of(kind).keys().filter(|name| !named.contains(&***name)).cloned().collect()
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        let was_good = self.inventory.remove(kind, name);
        match kind {
            Kind::Cluster if was_good => {
                self.held.remove(name);
                self.upstream.remove_cluster(name);
            }
            Kind::Listener if !self.static_listeners.contains_key(name) => {
                self.waiting.remove(name);
                self.listeners.remove(name);
            }
            _ => {}
        }
    }

    /// A control plane says that endpoints or routes do not exist. What is in force stays; a wait for them ends.
    fn absent(&mut self, kind: Kind, name: &str) {
        if self.inventory.good(kind, name).is_none() && self.wanted.settle(kind, name) {
            if kind == Kind::Endpoints {
                self.upstream.set_assignment(name, None);
                self.each_cluster(name, |stats| stats.update_empty.inc());
            }
            for stats in self.route_stats(kind, name) {
                stats.metrics.update_empty.inc();
            }
        }
    }

    /// A file holds all there is: what it lacks is not waited for.
    pub(super) fn settle_absent(&mut self, from: &SourceKey, kind: Kind, names: &[Box<str>]) {
        if kind == Kind::Secret {
            self.secrets.settle_absent(from, names);
            return self.secrets_changed();
        }
        for name in names {
            self.absent(kind, name);
        }
        self.activate();
    }

    /// Applies one resource. `leaving`: listeners that go by the same update.
    fn take(&mut self, kind: Kind, item: &Item, leaving: &mut listener::Leaving) -> Result<(), Refusal> {
        let Some(raw) = &item.body else {
            // A sign of life; without the resource itself there is nothing to do.
            return Ok(());
        };
        if self.inventory.is_in_force(kind, &item.name, raw) {
            self.inventory.touch(kind, &item.name, &item.version);
            self.wanted.settle(kind, &item.name);
            return Ok(());
        }
        if self.is_static(kind, &item.name) {
            // Envoy does the same.
            warn!(kind = %kind.resource_type(), name = &*item.name, "a static one has that name and stays");
            return Ok(());
        }
        let (resource, ignored) = self.translate(kind, item, raw)?;
        self.findings.ignored(kind.noun(), &item.name, &ignored);
        self.publish(item, &resource, leaving)?;
        let (version, updated) = (item.version.clone(), SystemTime::now());
        let good = Good { raw: raw.clone(), version, updated, resource, ignored };
        self.inventory.accept(kind, &item.name, good);
        self.wanted.settle(kind, &item.name);
        Ok(())
    }

    fn is_static(&self, kind: Kind, name: &str) -> bool {
        match kind {
            Kind::Cluster => self.static_clusters.contains_key(name),
            Kind::Listener => self.static_listeners.contains_key(name),
            Kind::Endpoints | Kind::Route | Kind::Secret => false,
        }
    }

    fn translate(
        &self,
        kind: Kind,
        item: &Item,
        raw: &Any,
    ) -> Result<(Resource, Vec<data_plane_core::path::Finding>), Refusal> {
        let known = |name: &str| {
            self.static_clusters.contains_key(name) || self.inventory.good(Kind::Cluster, name).is_some()
        };
        let options = translate::Options {
            sources: Some(&self.sources),
            clusters: Some(&known),
            ..translate::Options::new(&*self.data)
        };
        let mut d = Diagnostics::default();
        let done = translate::resource(kind.resource_type(), raw, &Path::root(""), &mut d, &options);
        let Diagnostics { rejected, ignored, unknown, omitted, ignored_omitted: _ } = d;
        match done {
            Ok(resource) => match self.findings.unknown(kind.noun(), &item.name, &unknown) {
                Ok(()) => Ok((resource, ignored)),
                Err(refusal) => Err(Refusal { index: Some(item.index), ..refusal }),
            },
            Err(_) => {
                Err(Refusal { name: item.name.clone(), index: Some(item.index), findings: rejected, omitted })
            }
        }
    }

    fn publish(
        &mut self,
        item: &Item,
        resource: &Resource,
        leaving: &mut listener::Leaving,
    ) -> Result<(), Refusal> {
        match resource {
            Resource::Cluster(cluster) => {
                upstream::tls::check(cluster).map_err(|reason| {
                    Refusal::because(&item.name, Some(item.index), format!("TLS: {reason}"))
                })?;
                self.publish_cluster(cluster, &item.version);
            }
            Resource::Assignment(assignment) => {
                self.upstream.set_assignment(&item.name, Some(Arc::clone(assignment)));
            }
            Resource::Listener(listener) => {
                let prepared = self
                    .listeners
                    .prepare_among(Arc::clone(listener), leaving)
                    .map_err(|error| Refusal::because(&item.name, Some(item.index), chain_of(&error)))?;
                self.repeat_routes(listener);
                self.waiting.insert(item.name.clone(), prepared);
            }
            Resource::RouteConfig(routes) => {
                let table = Arc::new(RouteTable::build(Arc::clone(routes)));
                self.routes.slot(&item.name).publish(Some(table));
            }
            // Secrets are applied apart.
            Resource::Secret(_) => {}
        }
        Ok(())
    }

    fn publish_cluster(&mut self, cluster: &Arc<config::Cluster>, version: &str) {
        self.set_cluster(cluster, upstream::Origin::Dynamic { version: version.into() });
    }

    /// Takes a cluster, which warms up once its secrets are there. True if that changes anything.
    pub(super) fn set_cluster(&mut self, cluster: &Arc<config::Cluster>, origin: upstream::Origin) -> bool {
        let waits = secrets::of_cluster(cluster).any(|secret| !self.secrets.is_settled(secret));
        let change = if waits {
            self.held.insert(cluster.name.clone(), Arc::clone(cluster));
            self.upstream.hold_cluster(Arc::clone(cluster), origin)
        } else {
            self.held.remove(&cluster.name);
            self.upstream.set_cluster(Arc::clone(cluster), origin)
        };
        let changed = change != upstream::Change::Unchanged;
        if changed {
            self.repeat_assignment(cluster);
        }
        changed
    }

    /// Lets clusters and listeners go on whose secrets came.
    fn secrets_changed(&mut self) {
        let all = &self.secrets;
        let ready = |cluster: &config::Cluster| secrets::of_cluster(cluster).all(|s| all.is_settled(s));
        let names: Vec<_> =
            self.held.iter().filter(|(_, c)| ready(c)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.held.remove(&name);
            self.upstream.release(&name);
        }
        self.activate();
    }

    /// Reads the files of a secret again.
    pub(super) fn reread(&mut self, from: &SourceKey, name: &str, tell: Tell) -> Result<(), String> {
        self.secrets.reread(from, name, tell, &self.sources)
    }

    /// A cluster that comes back or changes takes the endpoints that are known, instead of waiting for them to be
    /// sent once more.
    pub(super) fn repeat_assignment(&self, cluster: &config::Cluster) {
        let Discovery::Eds { service_name, .. } = &cluster.discovery else { return };
        match self.inventory.good(Kind::Endpoints, service_name).map(|good| &good.resource) {
            Some(Resource::Assignment(known)) => {
                self.upstream.set_assignment(service_name, Some(Arc::clone(known)));
            }
            // Waited for in vain already.
            _ if self.wanted.get(Kind::Endpoints, service_name).is_some_and(|w| w.fetched) => {
                self.upstream.set_assignment(service_name, None);
            }
            _ => {}
        }
    }

    /// A listener that comes back takes the routes that are known, whose slots went with its predecessor.
    fn repeat_routes(&self, listener: &config::Listener) {
        for (name, _, _) in routes_of(listener) {
            let slot = self.routes.slot(name);
            if let Some(Resource::RouteConfig(routes)) =
                self.inventory.good(Kind::Route, name).map(|good| &good.resource)
                && !slot.is_ready()
            {
                slot.publish(Some(Arc::new(RouteTable::build(Arc::clone(routes)))));
            }
        }
    }

    /// Gathers anew what is wanted, and lets listeners serve that wait for nothing more.
    pub(super) fn refresh(&mut self) {
        let (added, gone) = self.wanted.replace(self.needs(), Instant::now());
        self.interest += u64::from(!added.is_empty() || !gone.is_empty());
        for (kind, name) in gone {
            self.inventory.remove(kind, &name);
            if kind == Kind::Route {
                self.rds.retain(|(route, _), _| *route != name);
            }
        }
        for (kind, name) in &added {
            self.asked(*kind, name);
        }
        self.follow_secrets();
        self.secrets_changed();
    }

    /// Gathers anew which secrets are wanted. Before clusters are asked for, only files are read: management
    /// servers may not be reached yet.
    fn follow_secrets(&mut self) {
        let serving = self.upstream.clusters();
        let serving = serving.load();
        let mut wanted: Vec<&config::SdsReference> = Vec::new();
        let of_kind = |kind: Kind| self.inventory.of(kind).values().filter_map(|entry| entry.good.as_ref());
        let dynamic = of_kind(Kind::Cluster).filter_map(|good| match &good.resource {
            Resource::Cluster(cluster) => Some(&**cluster),
            _ => None,
        });
        for cluster in self.static_clusters.values().map(|c| &**c).chain(dynamic) {
            wanted.extend(secrets::of_cluster(cluster));
            // A cluster being replaced serves on with its own until its successor is warm.
            if let Some(old) = serving.get(&cluster.name) {
                wanted.extend(secrets::of_cluster(&old.config));
            }
        }
        let dynamic = of_kind(Kind::Listener).filter_map(|good| match &good.resource {
            Resource::Listener(listener) => Some(&**listener),
            _ => None,
        });
        for listener in self.static_listeners.values().map(|l| &**l).chain(dynamic) {
            wanted.extend(secrets::of_listener(listener));
        }
        let begins = self.phase == Phase::Begin;
        let now = |secret: &&config::SdsReference| {
            !begins || matches!(secret.source, Some(config::ConfigSource::Path { .. }))
        };
        let changed = self.secrets.follow(wanted.into_iter().filter(now), Instant::now());
        self.interest += u64::from(changed);
    }

    fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        if self.phase == Phase::Begin {
            return needs;
        }
        let config::Dynamic { lds, cds, ads: _ } = &self.dynamic;
        if let Some(source) = cds.as_ref().filter(|_| self.phase >= Phase::Clusters) {
            needs.all(Kind::Cluster, source);
        }
        if let Some(source) = lds.as_ref().filter(|_| self.phase >= Phase::Listeners) {
            needs.all(Kind::Listener, source);
        }
        let serving = self.upstream.clusters();
        let serving = serving.load();
        let dynamic =
            self.inventory.of(Kind::Cluster).iter().filter_map(|(name, e)| Some((name, e.good.as_ref()?)));
        for (name, good) in dynamic {
            if let Resource::Cluster(cluster) = &good.resource {
                needs.cluster(cluster);
                // A cluster being replaced serves on, and wants its endpoints, until its successor is warm.
                if let Some(old) = serving.get(name).filter(|old| !Arc::ptr_eq(&old.config, cluster)) {
                    needs.cluster(&old.config);
                }
            }
        }
        self.static_clusters.values().for_each(|cluster| needs.cluster(cluster));
        self.static_listeners.values().for_each(|listener| needs.listener(listener));
        for entry in self.inventory.of(Kind::Listener).values() {
            if let Some(Resource::Listener(listener)) = entry.good.as_ref().map(|good| &good.resource) {
                needs.listener(listener);
            }
        }
        needs
    }

    fn activate(&mut self) {
        if self.phase < Phase::Listeners {
            return;
        }
        let (wanted, all) = (&self.wanted, &self.secrets);
        let ready = |prepared: &listener::Prepared| {
            let config = prepared.config();
            routes_of(config).all(|(name, _, _)| wanted.is_settled(Kind::Route, name))
                && secrets::of_listener(config).all(|secret| all.is_settled(secret))
        };
        let names: Vec<_> = self.waiting.iter().filter(|(_, p)| ready(p)).map(|(n, _)| n.clone()).collect();
        let any = !names.is_empty();
        self.failed_listeners.clear();
        for name in names {
            let Some(prepared) = self.waiting.remove(&name) else { continue };
            if let Err(error) = self.listeners.activate(prepared) {
                let reason = chain_of(&error);
                error!(listener = &*name, reason, "does not serve; what served before goes on");
                self.inventory.fail(Kind::Listener, &name, &reason);
                if self.phase < Phase::Live && self.static_listeners.contains_key(&name) {
                    self.fatal.push((name.clone(), reason.clone()));
                }
                self.failed_listeners.push((name, reason));
            }
        }
        if any {
            self.routes.prune();
        }
    }

    /// Ends waits that took too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let late = self.secrets.expire(now);
        let overdue = self.wanted.overdue(now);
        if overdue.is_empty() && !late {
            return;
        }
        for (kind, name) in &overdue {
            warn!(kind = %kind.resource_type(), name = &**name, "did not come in time; going on without");
            self.give_up(*kind, name);
        }
        self.refresh();
    }

    fn give_up(&mut self, kind: Kind, name: &str) {
        if !self.wanted.settle(kind, name) {
            return;
        }
        match kind {
            Kind::Endpoints => {
                self.upstream.set_assignment(name, None);
                self.each_cluster(name, |stats| stats.init_fetch_timeout.inc());
            }
            _ => {
                for stats in self.subscription_stats(kind, name) {
                    stats.metrics.init_fetch_timeout.inc();
                }
            }
        }
    }

    /// A source failed as a whole: unreadable file, lost stream. `settle`: nothing more will come by itself.
    pub(super) fn failed(&mut self, from: &SourceKey, kind: Kind, names: &[Box<str>], settle: bool) {
        if kind == Kind::Secret {
            self.secrets.failed(from, names, settle);
            return self.secrets_changed();
        }
        for name in names {
            match kind {
                Kind::Endpoints => self.each_cluster(name, |stats| {
                    stats.update_failure.inc();
                    stats.update_attempt.inc();
                }),
                _ => self.subscription_stats(kind, name).for_each(|stats| {
                    stats.metrics.update_failure.inc();
                    stats.metrics.update_attempt.inc();
                }),
            }
            if settle && self.wanted.settle(kind, name) && kind == Kind::Endpoints {
                self.upstream.set_assignment(name, None);
            }
        }
        if settle {
            self.refresh();
        }
    }

    fn asked(&mut self, kind: Kind, name: &str) {
        if kind == Kind::Route
            && let Some(wanted) = self.wanted.get(kind, name)
        {
            for prefix in &wanted.users {
                let key = (name.into(), prefix.clone());
                self.rds
                    .entry(key)
                    .or_insert_with(|| SubscriptionStats::routes(&self.registry, prefix, name));
            }
        }
        match kind {
            Kind::Cluster => self.cds = Some(SubscriptionStats::clusters(&self.registry)),
            Kind::Listener => self.lds = Some(SubscriptionStats::listeners(&self.registry)),
            Kind::Endpoints => self.each_cluster(name, |stats| stats.update_attempt.inc()),
            Kind::Route | Kind::Secret => {}
        }
        self.subscription_stats(kind, name).for_each(|stats| stats.metrics.update_attempt.inc());
    }

    fn charge(&self, kind: Kind, version: &str, touched: &[Box<str>], verdict: &Verdict, began: Instant) {
        let now_ms = now_ms();
        let took_ms = began.elapsed().as_millis() as u64;
        let charge = |stats: &SubscriptionStats, rejected: bool| {
            stats.metrics.update_attempt.inc();
            stats.metrics.update_duration.record(took_ms);
            if rejected { stats.metrics.update_rejected.inc() } else { stats.accepted(version, now_ms) }
        };
        match kind {
            Kind::Cluster | Kind::Listener => {
                self.subscription_stats(kind, ALL)
                    .for_each(|stats| charge(stats, !verdict.refused.is_empty()));
            }
            Kind::Endpoints => {
                for name in touched {
                    self.each_cluster(name, |stats| {
                        stats.update_attempt.inc();
                        stats.update_success.inc();
                        stats.version.set(version_hash(version));
                    });
                }
                for refusal in &verdict.refused {
                    self.each_cluster(&refusal.name, |stats| {
                        stats.update_attempt.inc();
                        stats.update_rejected.inc();
                    });
                }
            }
            Kind::Route => {
                let good = touched.iter().map(|name| (name, false));
                let bad = verdict.refused.iter().map(|refusal| (&refusal.name, true));
                for (name, rejected) in good.chain(bad) {
                    self.route_stats(kind, name).for_each(|stats| charge(stats, rejected));
                }
            }
            Kind::Secret => {}
        }
    }

    fn each_cluster(&self, service_name: &str, charge: impl Fn(&upstream::Membership)) {
        let Some(wanted) = self.wanted.get(Kind::Endpoints, service_name) else { return };
        let clusters = self.upstream.clusters();
        let clusters = clusters.load();
        wanted
            .users
            .iter()
            .filter_map(|name| clusters.get(name))
            .for_each(|cluster| charge(&cluster.stats.membership));
    }

    fn route_stats(&self, kind: Kind, name: &str) -> impl Iterator<Item = &SubscriptionStats> {
        let routes = self.rds.iter().filter(move |((route, _), _)| kind == Kind::Route && **route == *name);
        routes.map(|(_, stats)| stats)
    }

    fn subscription_stats(&self, kind: Kind, name: &str) -> impl Iterator<Item = &SubscriptionStats> {
        let one = match kind {
            Kind::Cluster => self.cds.as_ref(),
            Kind::Listener => self.lds.as_ref(),
            Kind::Endpoints | Kind::Route | Kind::Secret => None,
        };
        one.into_iter().chain(self.route_stats(kind, name))
    }

    /// What is still waited for, for `/init_dump`.
    pub(super) fn unready(&self) -> Vec<Key> {
        let keys = self.wanted.by_source().into_iter().flat_map(|(_, interests)| interests);
        let mut out = Vec::new();
        for (kind, interest) in keys {
            let names = interest.wildcard.then(|| ALL.into()).into_iter().chain(interest.names);
            let keys = names.map(|name: Box<str>| (kind, name));
            out.extend(keys.filter(|(kind, name)| !self.wanted.is_settled(*kind, name)));
        }
        out.extend(self.secrets.unready().map(|name| (Kind::Secret, name.into())));
        out
    }
}

/// Now, in milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// An error and its causes in one line.
pub(super) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        out.push_str(": ");
        out.push_str(&error.to_string());
        cause = error.source();
    }
    out
}
