//! One stream, as a pure state machine: requests, snapshots and time in, responses out.
//!
//! Order between types (make before break): clusters and endpoints go out first, routes that name new clusters
//! when the client has accepted those (Envoy accepts a cluster when it is warm), and clusters are taken away
//! when the client has accepted routes that no longer name them. Each wait ends after [`HOLD`].
//!
//! Never sleeps, sends or reads the clock: `ads::stream` does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xds_types::ResourceType;

use super::subscription::{Answer, Subscription, Told};
use super::{Mode, delta, sotw};
use crate::snapshot::{Resource, Snapshot, Version};

/// Longest wait between types. Envoy holds back the acknowledgement of clusters until they are warm, for up to
/// 15 s (its `initial_fetch_timeout`).
pub const HOLD: Duration = Duration::from_secs(15);

/// A response that was not answered for this long is waited for no more.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(20);

/// Responses of one type that may wait for their answers. Further changes gather and go out together.
const IN_FLIGHT: usize = 1;

/// The same for clusters, whose acknowledgement Envoy holds back while it takes further responses.
const IN_FLIGHT_CLUSTERS: usize = 8;

/// Bytes of resources in one response, where they may be split over several; one resource may be larger. gRPC
/// clients refuse messages above 4 MiB by default (point 28).
const MAX_RESPONSE: usize = 2 << 20;

/// A resource type on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A type that we know, in the order in which types are sent (point 19).
    Served(ResourceType),
    /// A type URL that we do not know. Nothing of it exists; the stream goes on (point 22).
    Other(Arc<str>),
}

impl Kind {
    fn of(type_url: &str) -> Self {
        ResourceType::from_type_url(type_url).map_or_else(|| Self::Other(type_url.into()), Self::Served)
    }

    /// What status shows: a short name, or a type URL that we do not know.
    pub fn name(&self) -> &str {
        match self {
            Self::Served(kind) => kind.short_name(),
            Self::Other(url) => url,
        }
    }

    /// The type URL.
    pub fn type_url(&self) -> &str {
        match self {
            Self::Served(kind) => kind.type_url(),
            Self::Other(url) => url,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request in either dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// State of the world.
    Sotw(sotw::Request),
    /// Incremental.
    Delta(delta::Request),
}

/// A response, to be sent as it is.
#[derive(Clone, Debug)]
pub struct Response {
    /// Type of all resources in it (point 21).
    pub kind: Kind,
    /// SotW: hash of all that the client will know. Delta: for people.
    pub version: String,
    /// Unique on the stream.
    pub nonce: u64,
    /// Resources, no name twice (point 34).
    pub resources: Vec<Arc<Resource>>,
    /// Delta: names that do not exist, none of them in `resources`.
    pub removed: Vec<Arc<str>>,
}

/// What a request turned out to be, for status and metrics.
#[derive(Clone, Debug)]
pub enum Note {
    /// A response of this version was accepted.
    Acked {
        /// Its version.
        version: String,
    },
    /// A response was refused.
    Nacked {
        /// Its version.
        version: String,
        /// Names in it.
        names: Vec<Arc<str>>,
        /// What the client said.
        reason: String,
    },
    /// It answered nothing.
    Subscribed,
    /// Its nonce was old, and it was ignored.
    Stale,
}

/// A request that ends the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No type.
    #[error("type_url must not be empty")]
    NoType,
    /// Another type than that of the service.
    #[error("this service has {wanted}, not `{asked}`")]
    WrongType {
        /// What the service has.
        wanted: &'static str,
        /// What was asked for.
        asked: String,
    },
    /// More names than allowed.
    #[error("more than {max} names are subscribed on one stream")]
    TooManyNames {
        /// Names allowed.
        max: usize,
    },
    /// More types than allowed.
    #[error("more than {max} resource types are asked for on one stream")]
    TooManyTypes {
        /// Types allowed.
        max: usize,
    },
}

/// What a stream may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Names subscribed, over all types. Default 100,000.
    pub names: usize,
    /// Types. Default 32.
    pub types: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 100_000, types: 32 }
    }
}

/// What is known of the client's ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Real Envoy: told that a route configuration does not exist, it stops its timer and waits for ever, so
    /// that it must not be told (xds.md, "RDS missing").
    pub waits_for_missing_routes: bool,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    mode: Mode,
    only: Option<ResourceType>,
    limits: Limits,
    traits: Traits,
    snapshot: Option<Arc<Snapshot>>,
    types: BTreeMap<Kind, Box<Subscription>>,
    nonce: u64,
    /// Since when something is held back.
    held: BTreeMap<(ResourceType, Arc<str>), Instant>,
}

/// What is to become of a name.
enum Target {
    Is(Arc<Resource>),
    Absent,
    /// As it is for now.
    Hold,
}

impl Session {
    /// A stream that serves all types, or only one.
    pub fn new(mode: Mode, only: Option<ResourceType>, limits: Limits) -> Self {
        Self {
            mode,
            only,
            limits,
            traits: Traits::default(),
            snapshot: None,
            types: BTreeMap::new(),
            nonce: 0,
            held: BTreeMap::new(),
        }
    }

    /// Says what is known of the client, from the node in its first request (point 20).
    pub fn set_traits(&mut self, traits: Traits) {
        self.traits = traits;
    }

    /// Takes in a request.
    ///
    /// # Errors
    /// When the stream is to be ended because of it.
    pub fn request(&mut self, request: &Request) -> Result<(Kind, Note), Refusal> {
        let (url, error) = match request {
            Request::Sotw(r) => (&r.type_url, &r.error),
            Request::Delta(r) => (&r.type_url, &r.error),
        };
        let kind = match (self.only, url.as_str()) {
            (Some(only), "") => Kind::Served(only),
            (Some(only), url) if url != only.type_url() => {
                return Err(Refusal::WrongType { wanted: only.type_url(), asked: url.to_owned() });
            }
            (None, "") => return Err(Refusal::NoType),
            (_, url) => Kind::of(url),
        };
        let first = !self.types.contains_key(&kind);
        if first && self.types.len() >= self.limits.types {
            return Err(Refusal::TooManyTypes { max: self.limits.types });
        }
        let sub = self.types.entry(kind.clone()).or_insert_with(|| Box::new(Subscription::new(kind.clone())));
        let read = match request {
            Request::Sotw(r) => sotw::read(sub, r, self.snapshot.as_deref()),
            Request::Delta(r) => Some(delta::read(sub, r, first, self.snapshot.as_deref())),
        };
        if self.types.values().map(|s| s.names.len()).sum::<usize>() > self.limits.names {
            return Err(Refusal::TooManyNames { max: self.limits.names });
        }
        let note = match read {
            None => Note::Stale,
            Some(None) => Note::Subscribed,
            Some(Some(Answer::Ack(version))) => Note::Acked { version },
            Some(Some(Answer::Nack(version, names))) => {
                Note::Nacked { version, names, reason: error.clone().unwrap_or_default() }
            }
        };
        Ok((kind, note))
    }

    /// Takes in a newer snapshot.
    pub fn snapshot(&mut self, snapshot: Arc<Snapshot>) {
        let seen = self.snapshot.as_ref().map(|s| s.id());
        for sub in self.types.values_mut() {
            let Kind::Served(kind) = sub.kind else { continue };
            match seen.and_then(|seen| snapshot.changed_since(seen, kind)) {
                None => sub.mark_all(),
                Some(names) => {
                    for name in names {
                        if sub.subscribes(name) || sub.known.contains_key(name) {
                            sub.mark(name.clone());
                        }
                    }
                }
            }
        }
        self.snapshot = Some(snapshot);
    }

    /// The snapshot that it works towards.
    pub fn current(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// What is to be sent now.
    pub fn poll(&mut self, now: Instant) -> Vec<Response> {
        let Some(snapshot) = self.snapshot.clone() else { return Vec::new() };
        let mut out = Vec::new();
        let kinds: Vec<Kind> = self.types.keys().cloned().collect();
        for kind in kinds {
            while let Some(response) = self.next(&kind, &snapshot, now) {
                out.push(response);
            }
        }
        // Names that are looked at no more are held back no more.
        let types = &self.types;
        self.held
            .retain(|(kind, name), _| types.get(&Kind::Served(*kind)).is_some_and(|s| s.is_marked(name)));
        out
    }

    /// When [`Self::poll`] is to be called again though nothing came in.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let held = self.held.values().map(|since| *since + HOLD).filter(|at| *at > now);
        let waiting = self.types.values().filter(|s| s.is_dirty()).filter_map(|s| s.expiry(now));
        held.chain(waiting).min()
    }

    /// Names subscribed of a type, and whether all are.
    pub fn subscribed(&self, kind: &Kind) -> (usize, bool) {
        self.types.get(kind).map_or((0, false), |s| (s.names.len(), s.wildcard))
    }

    /// Whether a refusal stands of a type.
    pub fn stands_refused(&self, kind: &Kind) -> bool {
        self.types.get(kind).is_some_and(|sub| sub.stands_refused())
    }

    /// The next response of a type, if one is to be sent.
    fn next(&mut self, kind: &Kind, snapshot: &Snapshot, now: Instant) -> Option<Response> {
        let sub = self.types.get_mut(kind)?;
        let most = match kind {
            Kind::Served(ResourceType::Cluster) => IN_FLIGHT_CLUSTERS,
            _ => IN_FLIGHT,
        };
        if !sub.is_dirty() || sub.in_flight(now) >= most {
            return None;
        }
        let is_full = self.mode == Mode::Sotw && sotw::is_full_state(kind);
        let (resources, removed) = if is_full {
            (self.full_state(kind, snapshot, now)?, Vec::new())
        } else {
            self.difference(kind, snapshot, now)?
        };
        if *kind == Kind::Served(ResourceType::Cluster) {
            self.resend_endpoints(&resources);
        }
        let sub = self.types.get_mut(kind)?;
        let full = is_full.then(|| version_of(&resources));
        let version = match (full, self.mode, kind) {
            (Some(full), _, _) => full.to_string(),
            (None, Mode::Sotw, _) => sub.version_with(&resources).to_string(),
            (None, Mode::Delta, Kind::Served(kind)) => snapshot.set(*kind).version().to_string(),
            (None, Mode::Delta, Kind::Other(_)) => String::new(),
        };
        self.nonce += 1;
        let response = Response { kind: kind.clone(), version, nonce: self.nonce, resources, removed };
        sub.sent(&response, full, now);
        Some(response)
    }

    /// All resources of a type, if the client was not told just that, or has refused just that (point 2).
    fn full_state(&mut self, kind: &Kind, snapshot: &Snapshot, now: Instant) -> Option<Vec<Arc<Resource>>> {
        let sub = self.types.get_mut(kind)?;
        let (names, owed) = (sub.take_dirty(snapshot), sub.owed);
        let mut differs = owed;
        for name in names {
            let target = self.target(kind, &name, snapshot, now);
            let sub = self.types.get_mut(kind)?;
            let told = sub.known.get(&name).map(|k| &k.told);
            match target {
                Target::Is(r) => {
                    let same = matches!(told, Some(Told::Is(t)) if t.version == r.version);
                    differs |= !same || sub.forced.contains(&name);
                }
                Target::Absent => {
                    differs |= matches!(told, Some(Told::Is(_) | Told::Was(_) | Told::Unsure));
                    sub.forced.remove(&name);
                }
                Target::Hold => sub.mark(name),
            }
        }
        if !differs {
            return None;
        }
        let mut all = Vec::new();
        for name in self.types.get(kind)?.all(snapshot) {
            match self.target(kind, &name, snapshot, now) {
                Target::Is(r) => all.push(r),
                Target::Absent => {}
                Target::Hold => {
                    if let Some(Told::Is(r)) = self.types.get(kind)?.known.get(&name).map(|k| &k.told) {
                        all.push(r.clone());
                    }
                }
            }
        }
        let sub = self.types.get_mut(kind)?;
        if sub.refused_full == Some(version_of(&all)) {
            sub.forced.clear();
            return None;
        }
        Some(all)
    }

    /// Resources of a type that the client does not have, and names to remove; a part of them when they are
    /// many.
    fn difference(&mut self, kind: &Kind, snapshot: &Snapshot, now: Instant) -> Option<Part> {
        while let Some(batch) = self.types.get_mut(kind)?.retries.pop_front() {
            let part = self.part(kind, batch, snapshot, now, Again::Retry)?;
            if !part.0.is_empty() || !part.1.is_empty() {
                return Some(part);
            }
        }
        let sub = self.types.get_mut(kind)?;
        let (names, owed) = (sub.take_dirty(snapshot), sub.owed);
        let part = self.part(kind, names, snapshot, now, Again::Dirty)?;
        (owed || !part.0.is_empty() || !part.1.is_empty()).then_some(part)
    }

    /// What is to be said of these names. Those that must wait are marked to be looked at again.
    fn part(
        &mut self,
        kind: &Kind,
        names: impl IntoIterator<Item = Arc<str>>,
        snapshot: &Snapshot,
        now: Instant,
        again: Again,
    ) -> Option<Part> {
        let (mut resources, mut removed, mut bytes) = (Vec::new(), Vec::new(), 0);
        for name in names {
            let target = self.target(kind, &name, snapshot, now);
            let silent = self.is_silent(kind);
            let sub = self.types.get_mut(kind)?;
            if again == Again::Dirty && sub.is_retrying(&name) {
                continue; // it will come in its own response
            }
            match target {
                Target::Is(r) => {
                    let refused = sub.refused.get(&name) == Some(&Some(r.version));
                    let has = sub.known.get(&name).is_some_and(|k| k.is(r.version));
                    if refused || (has && !sub.forced.contains(&name)) {
                        sub.forced.remove(&name);
                    } else if bytes > 0 && bytes + r.any.len() > MAX_RESPONSE {
                        sub.mark(name);
                    } else {
                        bytes += r.any.len();
                        resources.push(r);
                    }
                }
                Target::Absent => {
                    sub.forced.remove(&name);
                    let told = match sub.known.get(&name).map(|k| &k.told) {
                        Some(Told::Is(_) | Told::Was(_) | Told::Unsure) => false,
                        Some(Told::Gone) => true,
                        None => !sub.names.contains(&name),
                    };
                    let refused = sub.refused.get(&name) == Some(&None);
                    if !told && !refused && !silent {
                        removed.push(name);
                    }
                }
                Target::Hold => sub.mark(name),
            }
        }
        Some((resources, removed))
    }

    /// Whether the absence of a resource is not told: SotW has no way to, and Envoy must not hear it of routes.
    fn is_silent(&self, kind: &Kind) -> bool {
        let routes = *kind == Kind::Served(ResourceType::RouteConfiguration);
        self.mode == Mode::Sotw || (routes && self.traits.waits_for_missing_routes)
    }

    /// What is to become of a name on this stream, now.
    fn target(&mut self, kind: &Kind, name: &Arc<str>, snapshot: &Snapshot, now: Instant) -> Target {
        let (Kind::Served(served), Some(sub)) = (kind, self.types.get(kind)) else { return Target::Absent };
        let served = *served;
        let resource = if sub.names.contains(name) {
            snapshot.get(served, name)
        } else if sub.wildcard {
            snapshot.set(served).get(name).cloned()
        } else {
            None
        };
        let wait = match &resource {
            Some(r) => self.waits_for_clusters(r, snapshot).then_some(Wait::Limited),
            None => self.use_of(served, name),
        };
        let key = (served, name.clone());
        let over = |since: &Instant| now >= *since + HOLD;
        match (wait, resource) {
            (Some(Wait::Unlimited), _) => Target::Hold,
            (Some(Wait::Limited), _) if !over(self.held.entry(key.clone()).or_insert(now)) => Target::Hold,
            (wait, resource) => {
                if wait.is_none() {
                    self.held.remove(&key); // a wait that is over is remembered until the name was dealt with
                }
                resource.map_or(Target::Absent, Target::Is)
            }
        }
    }

    /// Whether a resource names a cluster that the client is still to accept, or to get the endpoints of.
    fn waits_for_clusters(&self, resource: &Resource, snapshot: &Snapshot) -> bool {
        if !matches!(resource.kind, ResourceType::RouteConfiguration | ResourceType::Listener) {
            return false;
        }
        let clusters = self.types.get(&Kind::Served(ResourceType::Cluster));
        let endpoints = self.types.get(&Kind::Served(ResourceType::ClusterLoadAssignment));
        let Some(clusters) = clusters else { return false };
        let named = resource.references.iter().filter(|r| r.kind == ResourceType::Cluster).map(|r| &r.name);
        named.filter(|name| clusters.subscribes(name)).any(|name| match clusters.known.get(name) {
            None => snapshot.get(ResourceType::Cluster, name).is_some(),
            // It was taken away, and is to come again.
            Some(k) if matches!(k.told, Told::Gone) => snapshot.get(ResourceType::Cluster, name).is_some(),
            Some(k) if !k.has() => !k.is_settled(),
            Some(_) if endpoints.is_some_and(|e| e.names.contains(name)) => {
                let known = endpoints.and_then(|e| e.known.get(name));
                known.is_some_and(|k| !k.has() && !k.is_settled())
            }
            // A client that accepts clusters before they are warm (ours does) is about to ask for the endpoints.
            Some(k) => {
                let kind = ResourceType::ClusterLoadAssignment;
                let needs = |r: &Resource| {
                    let mut named = r.references.iter().filter(|to| to.kind == kind);
                    named.any(|to| snapshot.get(kind, &to.name).is_some())
                };
                endpoints.is_some() && matches!(&k.told, Told::Is(r) if needs(r))
            }
        })
    }

    /// Whether the client may still use a resource that is to be taken away.
    fn use_of(&self, kind: ResourceType, name: &str) -> Option<Wait> {
        let users: &[ResourceType] = match kind {
            ResourceType::Cluster => &[ResourceType::RouteConfiguration, ResourceType::Listener],
            ResourceType::ClusterLoadAssignment => &[ResourceType::Cluster],
            ResourceType::RouteConfiguration => &[ResourceType::Listener],
            ResourceType::Secret => &[ResourceType::Listener, ResourceType::Cluster],
            _ => return None,
        };
        let names_it = |r: &Arc<Resource>| r.references.iter().any(|to| to.kind == kind && *to.name == *name);
        let mut wait = None;
        for sub in users.iter().filter_map(|user| self.types.get(&Kind::Served(*user))) {
            for (user, known) in &sub.known {
                let told = matches!(&known.told, Told::Is(r) if names_it(r));
                if told || known.using().is_some_and(names_it) {
                    // A client that refused what would replace it stays with what it has.
                    if sub.refused.contains_key(user) || sub.refused_full.is_some() {
                        return Some(Wait::Unlimited);
                    }
                    wait = Some(Wait::Limited);
                }
            }
        }
        wait
    }

    /// (point 17) A cluster that changes is warmed again, and waits for its endpoints, though the client does not ask
    /// for them (delta), or seems to have them (SotW).
    fn resend_endpoints(&mut self, clusters: &[Arc<Resource>]) {
        let Some(sub) = self.types.get(&Kind::Served(ResourceType::Cluster)) else { return };
        let changed = |r: &&Arc<Resource>| !sub.known.get(&r.name).is_some_and(|k| k.is(r.version));
        let named: BTreeSet<Arc<str>> = clusters
            .iter()
            .filter(changed)
            .flat_map(|r| r.references.iter())
            .filter(|to| to.kind == ResourceType::ClusterLoadAssignment)
            .map(|to| to.name.clone())
            .collect();
        let Some(endpoints) = self.types.get_mut(&Kind::Served(ResourceType::ClusterLoadAssignment)) else {
            return;
        };
        for name in named.into_iter().filter(|name| endpoints.names.contains(name)).collect::<Vec<_>>() {
            endpoints.forced.insert(name.clone());
            endpoints.mark(name);
        }
    }
}

/// Resources, and names to remove.
type Part = (Vec<Arc<Resource>>, Vec<Arc<str>>);

/// Why names are looked at again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// They may differ from what the client was told.
    Dirty,
    /// They were in a refused response.
    Retry,
}

/// How long something is held back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// For [`HOLD`] at most.
    Limited,
    /// For as long as the refusal stands.
    Unlimited,
}

fn version_of(resources: &[Arc<Resource>]) -> Version {
    Version::of_all(resources.iter().map(|r| (&*r.name, r.version)))
}

#[cfg(test)]
mod tests;
