//! Which objects are in force: checks at admission, and quarantine for what was written past it.
//!
//! | what is wrong | at admission | written past it |
//! |---|---|---|
//! | the object itself, or what it compiles to | refused | set aside; the last good revision stays in force |
//! | a listener's port is taken by another gateway of the group | refused | the gateway that was in force, else the older one, keeps it; the other is set aside |
//! | a route names a gateway or a subset, a policy a gateway, a route or a rule, that does not exist | refused | in force, with a warning |
//! | a route carries bytes to a service that only requests could verify | refused, on either side | in force, with a warning |
//! | a gateway tells logs or spans to a service that does not speak HTTP2 | refused, on either side | in force, with a warning |
//! | an object that others name is deleted | refused | a warning on those |

mod policies;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use xds_types::portolan::config::v1::mutual_tls::Mode;
use xds_types::portolan::config::v1::service::Protocol;
use xds_types::portolan::config::v1::{
    Gateway, Policy, Resource, Route, Sealed, Service, resource::Spec, secret::From, target::Of,
};

use super::policy::{self, Policies};
use super::stage::Staged;
use super::{Dialect, Trust, bytes, cluster, listener, names, observe, route, tls};
use crate::authority::Authority;
use crate::model::{
    Content, Kind, Object, ObjectKey, ObjectName, Problem, Problems, Severity, SourceId, World,
    addresses_clash, carries_bytes, check, is_for, listener_address, listener_name,
};
use crate::secret::AUTHORITY;

/// One object: its newest revision, and the one in force.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectState {
    /// Source that holds it.
    pub source: SourceId,
    /// Newest revision.
    pub newest: Arc<Object>,
    /// Revision that proxies are given: the newest, or the last good one, or none.
    pub in_force: Option<Arc<Object>>,
    /// What is wrong with the newest revision: errors when it is not in force, warnings otherwise.
    pub problems: Vec<Problem>,
    /// Those of `problems` that do not depend on other objects.
    own: Problems,
    /// Revision to go back to when the newest is set aside.
    last_good: Option<Arc<Object>>,
}

impl ObjectState {
    fn new(source: &SourceId, newest: &Arc<Object>, last_good: Option<Arc<Object>>, trust: &Trust) -> Self {
        let own = match &newest.content {
            Content::Read(resource) => alone(&newest.key, resource, trust),
            Content::Unreadable(problems) => Problems { list: problems.to_vec() },
        };
        let good = if own.has_errors() { last_good } else { Some(newest.clone()) };
        Self {
            source: source.clone(),
            newest: newest.clone(),
            in_force: good.clone(),
            problems: Vec::new(),
            own,
            last_good: good,
        }
    }

    /// Whether the newest revision is set aside.
    pub fn is_quarantined(&self) -> bool {
        self.in_force.as_ref().is_none_or(|o| !Arc::ptr_eq(o, &self.newest))
    }
}

/// Every object and what is in force of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    states: BTreeMap<ObjectKey, ObjectState>,
}

impl Objects {
    /// Every object.
    pub fn states(&self) -> &BTreeMap<ObjectKey, ObjectState> {
        &self.states
    }

    /// Objects in force, in order of kind and name.
    pub fn in_force(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.states.values().filter_map(|s| s.in_force.as_ref())
    }

    fn newest(&self) -> BTreeMap<&ObjectKey, &Resource> {
        self.states.iter().filter_map(|(key, s)| Some((key, &**s.newest.resource()?))).collect()
    }
}

/// What admission says of a write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admission {
    /// Everything wrong. The write is refused when there are errors among them.
    pub problems: Problems,
}

impl Admission {
    /// Whether the write may go to the store.
    pub fn is_accepted(&self) -> bool {
        !self.problems.has_errors()
    }
}

/// Checks a write before it goes to the store: all of these objects, and the deletion of others, at once.
pub fn admit(current: &Objects, writes: &[Resource], deletes: &[ObjectKey], trust: &Trust) -> Admission {
    let mut found = Problems::default();
    let mut after = current.newest();
    for key in deletes {
        after.remove(key);
    }
    let mut keys: Vec<ObjectKey> = Vec::new();
    let mut written: BTreeMap<ObjectKey, &Resource> = BTreeMap::new();
    for (i, resource) in writes.iter().enumerate() {
        match Object::key_of(resource) {
            Err(p) => found.extend([Problem { path: format!("[{i}].{}", p.path), ..p }]),
            Ok(key) if written.insert(key.clone(), resource).is_some() => {
                found.error(&key, "", "is there twice");
            }
            Ok(key) => keys.push(key),
        }
    }
    after.extend(keys.iter().map(|key| (key, written[key])));

    for key in &keys {
        found.extend(alone(key, written[key], trust).list);
    }
    let view = References::new(after.iter().map(|(key, r)| (*key, *r)));
    for key in &keys {
        view.check(key, written[key], Severity::Error, &mut found);
        if let Some(Spec::Gateway(spec)) = &written[key].spec {
            for (other, taken) in view.gateways.iter().filter(|(other, _)| **other != key) {
                if let Some((path, message)) = clash(spec, taken, other) {
                    found.error(key, path, message);
                }
            }
        }
    }
    // Routes that were there and do not fit what becomes of their gateway.
    for (name, route) in view
        .routes
        .iter()
        .filter(|(name, _)| !keys.iter().any(|k| k.kind == Kind::Route && k.name.as_str() == **name))
    {
        for key in keys.iter().filter(|k| k.kind == Kind::Gateway) {
            if route.gateways.iter().any(|g| g == key.name.as_str()) {
                for (path, message) in view.misfits(name, route) {
                    found.error(key, "spec.listeners", format!("Route/{name}: {path}: {message}"));
                }
            }
        }
        for key in keys.iter().filter(|k| k.kind == Kind::Service) {
            for (service, path, message) in view.unverified(route) {
                if service == key.name.as_str() {
                    found.error(key, "spec.tls", format!("Route/{name}: {path}: {message}"));
                }
            }
        }
    }
    // Gateways that were there and speak by gRPC with what becomes of a service.
    let services = keys.iter().chain(deletes).filter(|k| k.kind == Kind::Service);
    for key in services {
        for (gateway, spec) in view.gateways.iter().filter(|(gateway, _)| !keys.contains(gateway)) {
            let named = observe::services(spec).find(|(_, name)| *name == key.name.as_str());
            if let Some((path, name)) = named.filter(|(_, name)| !view.speaks_http2(name)) {
                let message = format!("{gateway}: {path}: Service `{name}` must say `protocol: HTTP2`");
                found.error(key, "spec.protocol", message);
            }
        }
    }
    // What was there and named something that this write takes away.
    for (key, resource) in after.iter().filter(|(key, _)| !written.contains_key(**key)) {
        if let Some(Spec::Policy(spec)) = &resource.spec {
            let named = |gone: &&ObjectKey| {
                spec.targets.iter().any(|t| match &t.of {
                    Some(Of::Gateway(name)) => gone.kind == Kind::Gateway && gone.name.as_str() == name,
                    Some(Of::Route(name)) => gone.kind == Kind::Route && gone.name.as_str() == name,
                    Some(Of::Service(_)) | None => false,
                })
            };
            for gone in deletes.iter().filter(named) {
                found.error(gone, "", format!("is named by {key}"));
            }
        }
        for (_, name, _) in secrets_of(resource) {
            let is_it = |k: &&ObjectKey| k.kind == Kind::Secret && k.name.as_str() == name;
            if let Some(gone) = deletes.iter().find(is_it) {
                found.error(gone, "", format!("is named by {key}"));
            }
        }
        let Some(Spec::Route(spec)) = &resource.spec else { continue };
        for gateway in &spec.gateways {
            if let Some(gone) = deletes.iter().find(|d| d.kind == Kind::Gateway && d.name.as_str() == gateway)
            {
                found.error(gone, "", format!("is named by {key}"));
            }
        }
        let subsets = spec.rules.iter().flat_map(|r| {
            let backends = r.backends.iter().map(|b| (&b.service, &b.subset));
            backends.chain(r.mirrors.iter().map(|m| (&m.service, &m.subset)))
        });
        for (service, subset) in subsets.filter(|(_, subset)| !subset.is_empty()) {
            let is_it = |k: &&ObjectKey| k.kind == Kind::Service && k.name.as_str() == service;
            let touched = deletes.iter().chain(&keys).find(is_it);
            if let Some(touched) = touched
                && !view.has_subset(service, subset)
            {
                found.error(touched, "spec.subsets", format!("{key} names the subset `{subset}`"));
            }
        }
    }
    found.list.dedup();
    Admission { problems: found }
}

/// Decides what is in force after objects changed in the world.
pub fn settle(before: &Objects, world: &World, changed: &BTreeSet<ObjectKey>, trust: &Trust) -> Objects {
    if changed.is_empty() {
        return before.clone();
    }
    let mut states = before.states.clone();
    for key in changed {
        let Some((source, object)) = world.objects().get(key) else {
            states.remove(key);
            continue;
        };
        let last_good = states.remove(key).and_then(|s| s.last_good);
        states.insert(key.clone(), ObjectState::new(source, object, last_good, trust));
    }
    together(states, before)
}

/// What is in force for the node group of a stage: its objects take the place of those in force for all, and what it deletes is
/// gone. Its source is that of the stage. One that is bad is set aside, as anywhere.
pub fn overlay(base: &Objects, stage: &Staged, trust: &Trust) -> Objects {
    let Some(source) = base.states.get(stage.key()).map(|s| s.source.clone()) else { return base.clone() };
    let mut states = base.states.clone();
    for key in stage.deletes() {
        states.remove(key);
    }
    for object in stage.objects() {
        let last_good = states.remove(&object.key).and_then(|s| s.in_force);
        states.insert(object.key.clone(), ObjectState::new(&source, object, last_good, trust));
    }
    together(states, base)
}

/// What is in force of objects that were looked at one by one.
fn together(mut states: BTreeMap<ObjectKey, ObjectState>, before: &Objects) -> Objects {
    let was_in_force = |key: &ObjectKey| before.states.get(key).and_then(|s| s.in_force.clone());
    let clashes = share_ports(&mut states, was_in_force);
    warn_of_dangling(&mut states, &clashes);
    Objects { states }
}

/// Everything wrong with an object that shows without others: by itself, and in what it compiles to.
fn alone(key: &ObjectKey, resource: &Resource, trust: &Trust) -> Problems {
    let mut found = check::object(key, resource);
    if found.has_errors() {
        return found; // what is compiled of it would only repeat them
    }
    match &resource.spec {
        Some(Spec::Service(spec)) => {
            let object =
                Object { key: key.clone(), revision: 0, content: Content::Read(Arc::new(resource.clone())) };
            let mut subsets: Vec<&str> = spec.subsets.keys().map(String::as_str).collect();
            subsets.sort_unstable();
            let all = std::iter::once("").chain(subsets);
            for subset in all {
                let name = names::cluster(key.name.as_str(), subset);
                for dialect in [Dialect::Envoy, Dialect::Grpc] {
                    cluster::cluster(&name, Some(&object), dialect, "", &mut found);
                }
            }
            if check::speaks_mtls(spec.mtls) && !trust.vault.lasts() {
                found.error(key, "spec.mtls", NO_AUTHORITY);
            }
        }
        Some(Spec::Secret(spec)) => {
            if let Some(From::Sealed(sealed)) = &spec.from {
                open(key, sealed, trust, &mut found);
            }
        }
        Some(Spec::Token(_) | Spec::Stage(_)) => {}
        Some(Spec::Gateway(spec)) => {
            if tls::is_on(&spec.listeners) && !trust.vault.lasts() {
                found.error(key, "spec.listeners", NO_AUTHORITY);
            }
            listener::listeners(key, spec, Mode::Off, &[], &[], &mut found);
            for l in spec.listeners.iter().filter(|l| !carries_bytes(l)) {
                listener::route_configuration(key, spec, l, &[], &Policies::default(), &mut found);
            }
        }
        Some(Spec::Route(spec)) => {
            route::routes(key, spec, Dialect::Envoy, &mut found);
            if spec.mesh {
                route::routes(key, spec, Dialect::Grpc, &mut found);
            }
        }
        Some(Spec::Policy(spec)) => policy::check(key, spec, &mut found),
        None => {}
    }
    let mut seen = BTreeSet::new();
    found.list.retain(|p| seen.insert(p.clone()));
    found
}

/// Mutual TLS is asked for and nothing can be issued.
const NO_AUTHORITY: &str = "mutual TLS needs the built-in authority, whose key is stored encrypted: start every \
                            control plane with the same --secret-key-file";

/// Whether a Secret can be served: it opens, and the authority's is one.
fn open(key: &ObjectKey, sealed: &Sealed, trust: &Trust, found: &mut Problems) {
    match trust.vault.open(key.name.as_str(), sealed) {
        Err(error) => found.error(key, "spec.sealed", error.to_string()),
        Ok(secret) if key.name.as_str() == AUTHORITY => {
            if let Err(error) = Authority::new(trust.authority.clone()).set_root(&secret) {
                found.error(key, "spec.certificate", error.to_string());
            }
        }
        Ok(_) => {}
    }
}

/// Secrets that an object names: where, which, and what it must hold.
fn secrets_of(resource: &Resource) -> Vec<(String, &str, &'static str)> {
    match &resource.spec {
        Some(Spec::Gateway(spec)) => tls::secrets_of_gateway(spec),
        Some(Spec::Service(spec)) => tls::secrets_of_service(spec),
        _ => Vec::new(),
    }
}

/// What others may be named by.
struct References<'a> {
    gateways: BTreeMap<&'a ObjectKey, &'a Gateway>,
    routes: BTreeMap<&'a str, &'a Route>,
    policies: BTreeMap<&'a ObjectKey, &'a Policy>,
    services: BTreeMap<&'a str, &'a Service>,
    /// What each holds.
    secrets: BTreeMap<&'a str, &'a str>,
}

impl<'a> References<'a> {
    fn new(objects: impl Iterator<Item = (&'a ObjectKey, &'a Resource)>) -> Self {
        let (mut gateways, mut services, mut secrets) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut routes, mut policies) = (BTreeMap::new(), BTreeMap::new());
        for (key, resource) in objects {
            match &resource.spec {
                Some(Spec::Gateway(g)) => drop(gateways.insert(key, g)),
                Some(Spec::Service(s)) => drop(services.insert(key.name.as_str(), s)),
                Some(Spec::Secret(s)) => {
                    let holds = match &s.from {
                        Some(From::Sealed(sealed)) => sealed.holds.as_str(),
                        _ => "",
                    };
                    secrets.insert(key.name.as_str(), holds);
                }
                Some(Spec::Route(r)) => drop(routes.insert(key.name.as_str(), r)),
                Some(Spec::Policy(p)) => drop(policies.insert(key, p)),
                Some(Spec::Token(_) | Spec::Stage(_)) | None => {}
            }
        }
        Self { gateways, routes, policies, services, secrets }
    }

    fn has_subset(&self, service: &str, subset: &str) -> bool {
        self.services.get(service).is_some_and(|s| s.subsets.contains_key(subset))
    }

    fn speaks_http2(&self, service: &str) -> bool {
        self.services.get(service).is_some_and(|s| s.protocol == i32::from(Protocol::Http2))
    }

    fn has_gateway(&self, name: &str) -> bool {
        ObjectName::new(name)
            .is_ok_and(|name| self.gateways.contains_key(&ObjectKey::new(Kind::Gateway, name)))
    }

    fn check(&self, key: &ObjectKey, resource: &'a Resource, severity: Severity, found: &mut Problems) {
        if let Some(Spec::Route(spec)) = &resource.spec {
            self.check_route(key, spec, severity, found);
        }
        if let Some(Spec::Policy(spec)) = &resource.spec {
            self.check_policy(key, spec, severity, found);
        }
        if let Some(Spec::Gateway(spec)) = &resource.spec {
            for (path, name) in observe::services(spec).filter(|(_, name)| !self.speaks_http2(name)) {
                let message = format!("Service `{name}` must say `protocol: HTTP2`: it is spoken to by gRPC");
                found.extend([Problem {
                    object: Some(key.clone()),
                    path: path.to_owned(),
                    message,
                    severity,
                }]);
            }
        }
        for (path, name, wanted) in secrets_of(resource) {
            let message = match self.secrets.get(name) {
                _ if name == AUTHORITY => format!("`{name}` is for the control plane alone"),
                None => format!("there is no Secret `{name}`"),
                Some(holds) if *holds != wanted => format!("Secret `{name}` holds no {wanted}"),
                Some(_) => continue,
            };
            found.extend([Problem { object: Some(key.clone()), path, message, severity }]);
        }
    }

    /// Services that a route carries bytes to, whose certificates would be believed whatever name they have: there is no
    /// request whose host could be asked for.
    fn unverified(&self, spec: &'a Route) -> Vec<(&'a str, String, String)> {
        let mut found = Vec::new();
        let attached =
            self.gateways.iter().filter(|(key, _)| spec.gateways.iter().any(|g| g == key.name.as_str()));
        for l in attached.flat_map(|(_, g)| &g.listeners).filter(|l| carries_bytes(l) && is_for(spec, l)) {
            let backends = spec.rules.first().map_or(&[][..], |rule| &rule.backends);
            for (j, b) in backends.iter().enumerate() {
                if self.services.get(b.service.as_str()).is_some_and(|s| tls::names_nobody(s)) {
                    let message = format!(
                        "Service `{}` is verified by the host of each request, and listener `{}` carries bytes: \
                         its `tls` needs `sni` or `sans`",
                        b.service,
                        listener_name(l)
                    );
                    found.push((b.service.as_str(), format!("spec.rules[0].backends[{j}].service"), message));
                }
            }
        }
        found
    }

    /// Why a route cannot serve listeners that it is for.
    fn misfits(&self, name: &str, spec: &'a Route) -> Vec<(String, String)> {
        let mut found: Vec<_> =
            self.unverified(spec).into_iter().map(|(_, path, message)| (path, message)).collect();
        let attached =
            |gateway: &ObjectKey, route: &Route| route.gateways.iter().any(|g| g == gateway.name.as_str());
        let gateways = || self.gateways.iter().filter(|(key, _)| attached(key, spec));
        for (i, wanted) in spec.listeners.iter().enumerate() {
            let has = |g: &Gateway| g.listeners.iter().any(|l| listener_name(l) == *wanted);
            if gateways().next().is_some() && !gateways().any(|(_, g)| has(g)) {
                let message = format!("none of the gateways has a listener `{wanted}`");
                found.push((format!("spec.listeners[{i}]"), message));
            }
        }
        for (key, gateway) in gateways() {
            for l in gateway.listeners.iter().filter(|l| carries_bytes(l) && is_for(spec, l)) {
                found.extend(check::bytes(spec, l));
                let own = bytes::effective(spec, l);
                let at = listener_name(l);
                if own.is_empty() {
                    let message = format!("are not among the hostnames of listener `{at}` of {key}");
                    found.push(("spec.hosts".to_owned(), message));
                }
                let others = self.routes.iter().filter(|(other, _)| **other != name);
                for (other, route) in others.filter(|(_, r)| attached(key, r) && is_for(r, l)) {
                    let same = bytes::effective(route, l).into_iter().find(|host| own.contains(host));
                    match same.as_deref() {
                        Some("*") => found.push((
                            "spec.listeners".to_owned(),
                            format!("listener `{at}` of {key} is taken by Route/{other}"),
                        )),
                        Some(host) => found.push((
                            "spec.hosts".to_owned(),
                            format!("`{host}` at listener `{at}` of {key} is taken by Route/{other}"),
                        )),
                        None => {}
                    }
                }
            }
        }
        found
    }

    fn check_route(&self, key: &ObjectKey, spec: &'a Route, severity: Severity, found: &mut Problems) {
        let mut say = |path: String, message: String| {
            found.extend([Problem { object: Some(key.clone()), path, message, severity }]);
        };
        for (i, name) in spec.gateways.iter().enumerate() {
            if !self.has_gateway(name) {
                say(format!("spec.gateways[{i}]"), format!("there is no Gateway `{name}`"));
            }
        }
        for (path, message) in self.misfits(key.name.as_str(), spec) {
            say(path, message);
        }
        for (i, rule) in spec.rules.iter().enumerate() {
            for (j, b) in rule.backends.iter().enumerate() {
                if !b.subset.is_empty() && !self.has_subset(&b.service, &b.subset) {
                    let path = format!("spec.rules[{i}].backends[{j}].subset");
                    say(path, format!("Service `{}` has no subset `{}`", b.service, b.subset));
                }
            }
            for (j, m) in rule.mirrors.iter().enumerate() {
                if !m.subset.is_empty() && !self.has_subset(&m.service, &m.subset) {
                    let path = format!("spec.rules[{i}].mirrors[{j}].subset");
                    say(path, format!("Service `{}` has no subset `{}`", m.service, m.subset));
                }
            }
        }
    }
}

/// Where a gateway's listener cannot be bound because of another's, if both may be on one proxy.
fn clash(spec: &Gateway, other: &Gateway, other_key: &ObjectKey) -> Option<(String, String)> {
    let apart = !spec.group.is_empty() && !other.group.is_empty() && spec.group != other.group;
    if apart {
        return None;
    }
    let sockets = |g: &Gateway| -> Vec<(usize, String, IpAddr, u32)> {
        let one = |(i, l)| Some((i, listener_name(l), listener_address(l)?, l.port));
        g.listeners.iter().enumerate().filter_map(one).collect()
    };
    let taken = sockets(other);
    sockets(spec).into_iter().find_map(|(i, _, ip, port)| {
        let (_, name, ..) = taken.iter().find(|(_, _, a, p)| *p == port && addresses_clash(*a, ip))?;
        Some((
            format!("spec.listeners[{i}].port"),
            format!("{port} is taken by listener `{name}` of {other_key}"),
        ))
    })
}

/// Sets aside gateways whose ports are taken. Those that were in force keep theirs, then the older one wins.
fn share_ports(
    states: &mut BTreeMap<ObjectKey, ObjectState>,
    was_in_force: impl Fn(&ObjectKey) -> Option<Arc<Object>>,
) -> BTreeMap<ObjectKey, Problem> {
    let mut order: Vec<(bool, u64, ObjectKey)> = states
        .iter()
        .filter(|(key, _)| key.kind == Kind::Gateway)
        .map(|(key, s)| (was_in_force(key).is_none(), s.newest.revision, key.clone()))
        .collect();
    order.sort();
    let mut bound: Vec<Arc<Object>> = Vec::new();
    let mut refused = BTreeMap::new();
    for (_, _, key) in order {
        let Some(state) = states.get_mut(&key) else { continue };
        let newest = (!state.own.has_errors()).then(|| state.newest.clone());
        let before = was_in_force(&key).or_else(|| state.last_good.clone());
        state.in_force = None;
        for candidate in newest.into_iter().chain(before) {
            let Some(spec) = candidate.gateway() else { continue };
            let taken = bound.iter().find_map(|other| clash(spec, other.gateway()?, &other.key));
            match taken {
                None => {
                    bound.push(candidate.clone());
                    state.in_force = Some(candidate);
                    break;
                }
                Some((path, message)) => {
                    let problem =
                        Problem { object: Some(key.clone()), path, message, severity: Severity::Error };
                    refused.entry(key.clone()).or_insert(problem);
                }
            }
        }
        if let Some(good) = &state.in_force {
            state.last_good = Some(good.clone());
        }
    }
    refused
}

/// Writes down what is wrong with each object, references that lead nowhere included.
fn warn_of_dangling(states: &mut BTreeMap<ObjectKey, ObjectState>, clashes: &BTreeMap<ObjectKey, Problem>) {
    let in_force: Vec<(ObjectKey, Arc<Object>)> =
        states.iter().filter_map(|(key, s)| Some((key.clone(), s.in_force.clone()?))).collect();
    let view = References::new(in_force.iter().filter_map(|(key, o)| Some((key, &**o.resource()?))));
    for (key, state) in states.iter_mut() {
        let mut all = state.own.clone();
        all.extend(clashes.get(key).cloned());
        if let Some(resource) = state.newest.resource() {
            view.check(key, resource, Severity::Warning, &mut all);
        }
        state.problems = all.list;
    }
}

#[cfg(test)]
mod tests;
