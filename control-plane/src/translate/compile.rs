//! The compiler: from what is in force to a publication, making again only what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use xds_types::ResourceType;
use xds_types::envoy::config::route::v3::Route as EnvoyRoute;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use xds_types::portolan::config::v1::mutual_tls::Mode;

use super::bytes::{self, Carried};
use super::catalog::{Catalog, Ingredients};
use super::grpc::Resolver;
use super::listener::{Attached, listeners, route_configuration};
use super::policy::Policies;
use super::{Dialect, Objects, Trust, cluster, names, route, tls};
use crate::authority::{Authority, Identity};
use crate::model::{Kind, Object, ObjectKey, Problems, ServiceName, World, carries_bytes};
use crate::secret::AUTHORITY;
use crate::snapshot::{Dangling, Published, Resource, Set, Snapshot, withhold_dangling};

/// What a build came to.
#[derive(Debug)]
pub struct Compiled {
    /// The publication.
    pub published: Arc<Published>,
    /// References of it that lead nowhere: bugs of ours, or of a patch.
    pub dangling: Vec<Dangling>,
}

/// That sets were made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remade {
    same_objects: bool,
}

/// Resources by name, with what they were made of.
type Made<I> = BTreeMap<Arc<str>, (I, Arc<Resource>)>;

/// Makes publications, each from the one before and what changed.
#[derive(Debug, Default)]
pub struct Compiler {
    catalog: Arc<Catalog>,
    resolver: Option<Arc<Resolver>>,
    trust: Trust,
    authority: Authority,
    /// Resources of Secrets, by name.
    secrets: Made<Arc<Object>>,
    wants_root: bool,
    listeners: BTreeMap<ObjectKey, Listeners>,
    routes: BTreeMap<ObjectKey, RouteObject>,
    clusters: Made<Option<Arc<Object>>>,
    endpoints: Made<Ingredients>,
    sets: Sets,
    /// Whether anything was made yet.
    made: bool,
    /// What groups get in place of their own sets.
    staged: BTreeMap<Arc<str>, GroupSets>,
    restaged: bool,
    published: Option<Arc<Published>>,
    snapshots: u64,
}

/// What one group gets, by type.
pub type GroupSets = BTreeMap<ResourceType, Arc<Set>>;

/// The listeners of a Gateway, and what they were made of.
#[derive(Debug)]
struct Listeners {
    object: Arc<Object>,
    /// What its service says of mutual TLS.
    mtls: Mode,
    filters: Vec<HttpFilter>,
    carried: Vec<Carried>,
    made: Vec<Arc<Resource>>,
}

/// A Route, compiled.
#[derive(Debug)]
struct RouteObject {
    object: Arc<Object>,
    routes: Vec<EnvoyRoute>,
    /// The rule that each of them is of.
    rules: Vec<usize>,
    clusters: Vec<Arc<str>>,
}

/// Sets by group (`None`: gateways that name no group), and the endpoints that all groups share.
#[derive(Debug, Default)]
struct Sets {
    groups: BTreeMap<Option<Arc<str>>, GroupSets>,
    endpoints: Arc<Set>,
}

impl Compiler {
    /// A compiler that has made nothing yet.
    pub fn new(trust: Trust) -> Self {
        let authority = Authority::new(trust.authority.clone());
        Self { trust, authority, ..Self::default() }
    }

    /// Whether something is in force that needs the built-in authority, and there is none.
    pub fn wants_root(&self) -> bool {
        self.wants_root
    }

    /// When an issued certificate is to be renewed, by compiling again.
    pub fn next_renewal(&self) -> Option<SystemTime> {
        self.authority.next_renewal()
    }

    /// The publication after the instances of these services, or objects, changed. `None` when it would be the
    /// one that there is already.
    pub fn compile(
        &mut self,
        world: &World,
        objects: &Objects,
        services: &BTreeSet<ServiceName>,
        now: SystemTime,
    ) -> Option<Compiled> {
        let restaged = std::mem::take(&mut self.restaged);
        match self.make(world, objects, services, now) {
            None if !restaged => return None,
            None => {}
            Some(Remade { same_objects }) => {
                self.resolver = Some(Arc::new(match &self.resolver {
                    Some(before) if same_objects => {
                        before.follow(self.catalog.clone(), |name| services.contains(name))
                    }
                    _ => Resolver::new(self.catalog.clone()),
                }));
            }
        }
        Some(self.publish(now))
    }

    /// Makes the sets of every group, without publishing them; `None` when they are those that there are already.
    pub fn make(
        &mut self,
        world: &World,
        objects: &Objects,
        services: &BTreeSet<ServiceName>,
        now: SystemTime,
    ) -> Option<Remade> {
        let in_force: BTreeMap<ObjectKey, Arc<Object>> =
            objects.in_force().map(|o| (o.key.clone(), o.clone())).collect();
        let first = !std::mem::replace(&mut self.made, true);
        let renew = self.authority.next_renewal().is_some_and(|at| at <= now);
        let same_objects = !first && !renew && same(&in_force, self.catalog.objects());
        if same_objects && services.is_empty() {
            return None;
        }
        self.catalog = Arc::new(Catalog::new(in_force, world.services().clone()));
        if !same_objects {
            self.compile_objects(now);
        }
        self.compile_endpoints((same_objects).then_some(services));
        Some(Remade { same_objects })
    }

    /// What a group gets, had it no stage.
    pub fn sets_of(&self, group: &Arc<str>) -> GroupSets {
        let own = self.sets.groups.get(&Some(group.clone()));
        let mut sets = own.or_else(|| self.sets.groups.get(&None)).cloned().unwrap_or_default();
        sets.insert(ResourceType::ClusterLoadAssignment, self.sets.endpoints.clone());
        sets
    }

    /// Says what groups get in place of their own sets; the next [`Compiler::compile`] publishes it.
    pub fn stage(&mut self, staged: BTreeMap<Arc<str>, GroupSets>) {
        let same = |a: &GroupSets, b: &GroupSets| {
            ResourceType::ALL
                .iter()
                .all(|kind| a.get(kind).map(|s| s.version()) == b.get(kind).map(|s| s.version()))
        };
        self.restaged |= staged.len() != self.staged.len()
            || staged.iter().any(|(group, sets)| self.staged.get(group).is_none_or(|old| !same(old, sets)));
        self.staged = staged;
    }

    /// Listeners, routes and clusters of every group.
    fn compile_objects(&mut self, now: SystemTime) {
        let catalog = self.catalog.clone();
        let mut ignored = Problems::default(); // what is in force was found free of errors
        self.listeners.retain(|key, l| is(catalog.objects(), key, &l.object));
        self.routes.retain(|key, r| is(catalog.objects(), key, &r.object));

        for (key, object) in catalog.of_kind(Kind::Route) {
            let Some(spec) = object.route() else { continue };
            self.routes.entry(key.clone()).or_insert_with(|| RouteObject {
                object: object.clone(),
                routes: route::routes(key, spec, Dialect::Envoy, &mut Problems::default()),
                rules: route::rules(spec),
                clusters: route::clusters(spec).collect(),
            });
        }
        // Routes by the gateway that they are attached to, in order of their names.
        let mut attached: BTreeMap<&str, Vec<Attached<'_>>> = BTreeMap::new();
        for (key, r) in &self.routes {
            let Some(spec) = r.object.route() else { continue };
            for gateway in &spec.gateways {
                let (routes, rules) = (&r.routes, &r.rules);
                let one = Attached { key, spec, routes, rules, clusters: &r.clusters };
                attached.entry(gateway).or_default().push(one);
            }
        }

        let policies =
            Policies::new(catalog.of_kind(Kind::Policy).filter_map(|(key, o)| Some((key, o.policy()?))));
        let mut groups: BTreeMap<Option<Arc<str>>, Parts> = [(None, Parts::default())].into();
        for (_, gateway) in catalog.of_kind(Kind::Gateway) {
            let group = gateway.gateway().map_or("", |g| &g.group);
            if !group.is_empty() {
                groups.entry(Some(group.into())).or_default();
            }
        }
        for (key, gateway) in catalog.of_kind(Kind::Gateway) {
            let Some(spec) = gateway.gateway() else { continue };
            let mtls = catalog.mtls(&spec.service);
            let none = Vec::new();
            let on_it = attached.get(key.name.as_str()).unwrap_or(&none);
            let routes: Vec<_> = on_it.iter().map(|a| (a.key.name.as_str(), a.spec)).collect();
            let filters = policies.filters(key.name.as_str(), &routes);
            let carried = bytes::carried(spec, on_it.iter().map(|a| (a.key, a.spec)));
            let same = |l: &Listeners| l.mtls == mtls && l.filters == filters && l.carried == carried;
            if !self.listeners.get(key).is_some_and(same) {
                let made = listeners(key, spec, mtls, &filters, &carried, &mut ignored);
                let made = made.into_iter().map(Arc::new).collect();
                let object = gateway.clone();
                self.listeners.insert(key.clone(), Listeners { object, mtls, filters, carried, made });
            }
            let own = self.listeners.get(key).map_or(&[][..], |l| &l.made);
            let mut configurations: Vec<Arc<Resource>> = Vec::new();
            for l in spec.listeners.iter().filter(|l| !carries_bytes(l)) {
                configurations.push(Arc::new(route_configuration(
                    key,
                    spec,
                    l,
                    on_it,
                    &policies,
                    &mut ignored,
                )));
            }
            let serves = |group: &Option<Arc<str>>| {
                spec.group.is_empty() || group.as_deref() == Some(spec.group.as_str())
            };
            for (_, parts) in groups.iter_mut().filter(|(group, _)| serves(group)) {
                parts.listeners.extend(own.iter().cloned());
                parts.routes.extend(configurations.iter().cloned());
            }
        }
        drop(attached);
        self.compile_clusters(&groups);
        let mut sets: BTreeMap<_, _> =
            groups.into_iter().map(|(group, parts)| (group, parts.sets(&self.clusters))).collect();
        self.compile_secrets(&mut sets, now);
        self.sets.groups = sets;
    }

    /// The secrets that each group's listeners and clusters name, and no others: what is not in a group's set, its
    /// nodes cannot fetch.
    fn compile_secrets(&mut self, groups: &mut BTreeMap<Option<Arc<str>>, GroupSets>, now: SystemTime) {
        let catalog = self.catalog.clone();
        self.secrets.retain(|_, (object, _)| is(catalog.objects(), &object.key, object));
        for (key, object) in catalog.of_kind(Kind::Secret) {
            let name = key.name.as_str();
            let opened = object.sealed().map(|s| (s, self.trust.vault.open(name, s)));
            let Some((sealed, Ok(secret))) = opened else { continue }; // one that does not open is not in force
            if name == AUTHORITY {
                // Was found to be one before it came into force.
                let _ = self.authority.set_root(&secret);
            } else if !self.secrets.contains_key(name)
                && let Some(made) = tls::secret(name, &secret, &sealed.ciphertext, key)
            {
                self.secrets.insert(name.into(), (object.clone(), Arc::new(made)));
            }
        }
        let mut identities = BTreeSet::new();
        let mut lacking = false;
        for (group, sets) in groups {
            let users = [ResourceType::Listener, ResourceType::Cluster];
            let users = users.iter().filter_map(|kind| sets.get(kind)).flat_map(|s| s.resources().values());
            let mut named = tls::named(users);
            if let Some(group) = group {
                named.extend(catalog.secrets_for(group));
            }
            let mut found: Vec<Arc<Resource>> = Vec::new();
            for name in named {
                let identity = match &*name {
                    names::AUTHORITIES => {
                        lacking |= self.authority.bundle().is_none();
                        found.extend(self.authority.bundle().map(|b| Arc::new(tls::authorities(b))));
                        continue;
                    }
                    names::OWN_IDENTITY => catalog.identity(group.as_ref()),
                    other => match names::identity_service(other) {
                        Some(service) => Identity::Service(service.into()),
                        None => {
                            found.extend(self.secrets.get(&name).map(|(_, r)| r.clone()));
                            continue;
                        }
                    },
                };
                let jitter = jitter(&identity, now);
                let issued = self.authority.certificate(&identity, now, jitter);
                found.extend(issued.map(|issued| Arc::new(tls::issued(&name, issued))));
                identities.insert(identity);
            }
            sets.insert(ResourceType::Secret, Arc::new(found.into_iter().collect()));
        }
        self.authority.retain(&identities);
        self.wants_root = lacking;
    }

    /// Every cluster that some group's routes name.
    fn compile_clusters(&mut self, groups: &BTreeMap<Option<Arc<str>>, Parts>) {
        let named: BTreeSet<Arc<str>> = groups.values().flat_map(Parts::clusters).collect();
        self.clusters.retain(|name, _| named.contains(name));
        for name in named {
            let (service, _) = super::names::service_and_subset(&name);
            let object = self.catalog.service(service).cloned();
            let made = match self.clusters.get(&name) {
                Some((of, _)) if same_object(of.as_ref(), object.as_ref()) => continue,
                _ => cluster::cluster(
                    &name,
                    object.as_deref(),
                    Dialect::Envoy,
                    &self.trust.authority.trust_domain,
                    &mut Problems::default(),
                ),
            };
            self.clusters.insert(name, (object, Arc::new(made)));
        }
    }

    /// The endpoints of every cluster that takes them from us; of all of them, or where these services changed.
    fn compile_endpoints(&mut self, services: Option<&BTreeSet<ServiceName>>) {
        let mut changed = false;
        if services.is_none() {
            let wanted: BTreeSet<&Arc<str>> = self
                .clusters
                .values()
                .flat_map(|(_, c)| c.references.iter())
                .filter(|r| r.kind == ResourceType::ClusterLoadAssignment)
                .map(|r| &r.name)
                .collect();
            let before = self.endpoints.len();
            self.endpoints.retain(|name, _| wanted.contains(name));
            changed |= self.endpoints.len() != before;
            for name in wanted {
                changed |= endpoints_of(&mut self.endpoints, &self.catalog, name);
            }
        } else if let Some(services) = services {
            let touched = |name: &&Arc<str>| {
                let (service, _) = super::names::service_and_subset(name);
                services.contains(self.catalog.registered_as(service))
            };
            let names: Vec<Arc<str>> = self.endpoints.keys().filter(touched).cloned().collect();
            for name in names {
                changed |= endpoints_of(&mut self.endpoints, &self.catalog, &name);
            }
        }
        if changed {
            self.sets.endpoints = Arc::new(self.endpoints.values().map(|(_, r)| r.clone()).collect());
        }
    }

    fn publish(&mut self, now: SystemTime) -> Compiled {
        let before = self.published.take();
        let mut dangling = Vec::new();
        let mut groups = BTreeMap::new();
        let mut others = None;
        let staged = self.staged.keys().cloned().map(Some);
        let all: BTreeSet<Option<Arc<str>>> = self.sets.groups.keys().cloned().chain(staged).collect();
        for group in &all {
            let mut sets = match group.as_ref().and_then(|group| self.staged.get(group)) {
                Some(staged) => staged.clone(),
                None => self.sets.groups.get(group).cloned().unwrap_or_default(),
            };
            let endpoints = ResourceType::ClusterLoadAssignment;
            sets.entry(endpoints).or_insert_with(|| self.sets.endpoints.clone());
            let old = before.as_ref().and_then(|p| match group {
                Some(group) => p.groups.get(group),
                None => Some(&p.others),
            });
            self.snapshots += 1;
            let id = self.snapshots;
            let (checked, found) = withhold_dangling(Snapshot::new(id, sets, None, None));
            dangling.extend(found);
            // An equal snapshot stays the same one, so that its streams have nothing to look at.
            let snapshot = match old {
                Some(old) if old.same_sets(&checked) => old.clone(),
                old => Arc::new(checked.after(old.map(|o| &**o))),
            };
            match group {
                Some(group) => drop(groups.insert(group.clone(), snapshot)),
                None => others = Some(snapshot),
            }
        }
        self.snapshots += 1;
        let lazy = self.resolver.clone().map(|r| r as Arc<dyn crate::snapshot::Resolve>);
        let grpc = Arc::new(Snapshot::new(self.snapshots, BTreeMap::new(), lazy, None));
        let published = Arc::new(Published {
            sequence: before.map_or(1, |p| p.sequence + 1),
            at: now,
            groups,
            others: others.unwrap_or_else(|| Arc::new(Snapshot::new(0, BTreeMap::new(), None, None))),
            grpc,
        });
        self.published = Some(published.clone());
        Compiled { published, dangling }
    }
}

/// What one group gets, before it is made into sets.
#[derive(Debug, Default)]
struct Parts {
    listeners: Vec<Arc<Resource>>,
    routes: Vec<Arc<Resource>>,
}

impl Parts {
    fn clusters(&self) -> impl Iterator<Item = Arc<str>> + '_ {
        let named = self.routes.iter().chain(&self.listeners).flat_map(|r| r.references.iter());
        named.filter(|r| r.kind == ResourceType::Cluster).map(|r| r.name.clone())
    }

    fn sets(&self, clusters: &Made<Option<Arc<Object>>>) -> GroupSets {
        let named: BTreeSet<Arc<str>> = self.clusters().collect();
        let clusters = named.iter().filter_map(|name| clusters.get(name)).map(|(_, r)| r.clone());
        [
            (ResourceType::Cluster, Arc::new(clusters.collect())),
            (ResourceType::Listener, Arc::new(self.listeners.iter().cloned().collect())),
            (ResourceType::RouteConfiguration, Arc::new(self.routes.iter().cloned().collect())),
        ]
        .into()
    }
}

/// Makes one assignment again, if what it is made of changed; whether it is another one now.
fn endpoints_of(made: &mut Made<Ingredients>, catalog: &Catalog, name: &Arc<str>) -> bool {
    let ingredients = catalog.ingredients(name);
    let old = made.get(name);
    if old.is_some_and(|(of, _)| of.same(&ingredients)) {
        return false;
    }
    let Some(new) = catalog.assignment(name) else { return made.remove(name).is_some() };
    let differs = old.is_none_or(|(_, r)| r.version != new.version);
    made.insert(name.clone(), (ingredients, Arc::new(new)));
    differs
}

/// From 0 to 1, by what is renewed and when: identities of one moment are not renewed at one moment.
fn jitter(identity: &Identity, now: SystemTime) -> f64 {
    let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let hash = xxhash_rust::xxh64::xxh64(identity.to_string().as_bytes(), at);
    hash as f64 / u64::MAX as f64
}

fn same(a: &BTreeMap<ObjectKey, Arc<Object>>, b: &BTreeMap<ObjectKey, Arc<Object>>) -> bool {
    a.len() == b.len() && a.iter().all(|(key, object)| is(b, key, object))
}

fn is(objects: &BTreeMap<ObjectKey, Arc<Object>>, key: &ObjectKey, object: &Arc<Object>) -> bool {
    objects.get(key).is_some_and(|o| Arc::ptr_eq(o, object))
}

fn same_object(a: Option<&Arc<Object>>, b: Option<&Arc<Object>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
