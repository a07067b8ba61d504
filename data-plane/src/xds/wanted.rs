//! Which resources are wanted from which source, and which of them are still waited for.

use super::kind::Kind;
use super::subscription::Interest;
use data_plane_core::config::{self, ConfigSource, Discovery, GrpcSource, RouteSource};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Stands for all clusters, or all listeners.
pub(super) const ALL: &str = "*";

/// A kind and a name.
pub(super) type Key = (Kind, Box<str>);

/// A resource that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) source: ConfigSource,
    /// Who wants it: clusters of an EDS name, stat prefixes of a route configuration.
    pub(super) users: Vec<Box<str>>,
    /// It came, or is known not to exist, or was waited for long enough.
    pub(super) fetched: bool,
    /// When the wait for it ends.
    pub(super) deadline: Option<Instant>,
}

/// Everything that is wanted now.
#[derive(Debug, Default)]
pub(super) struct WantedSet(BTreeMap<Key, Wanted>);

/// A place that resources are read from: one stream, or one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SourceKey {
    Ads,
    /// All resources of a kind share the stream to a management server. (Envoy opens one for each cluster and
    /// route configuration.)
    Grpc(GrpcSource, Kind),
    File {
        path: PathBuf,
        watched_directory: Option<PathBuf>,
        kind: Kind,
    },
}

/// What is wanted of one source.
pub(super) type Interests = BTreeMap<Kind, Interest>;

impl SourceKey {
    pub(super) fn new(source: &ConfigSource, kind: Kind) -> Self {
        match source {
            ConfigSource::Ads { .. } => Self::Ads,
            ConfigSource::Grpc { source, .. } => Self::Grpc(source.clone(), kind),
            ConfigSource::Path { path, watched_directory } => {
                Self::File { path: path.clone(), watched_directory: watched_directory.clone(), kind }
            }
        }
    }
}

pub(super) fn patience(source: &ConfigSource) -> Option<Duration> {
    match source {
        ConfigSource::Ads { initial_fetch_timeout } | ConfigSource::Grpc { initial_fetch_timeout, .. } => {
            *initial_fetch_timeout
        }
        ConfigSource::Path { .. } => None,
    }
}

impl WantedSet {
    pub(super) fn get(&self, kind: Kind, name: &str) -> Option<&Wanted> {
        self.0.get(&(kind, name.into()))
    }

    /// Whether a resource of that name is to be applied.
    pub(super) fn covers(&self, kind: Kind, name: &str) -> bool {
        self.get(kind, name).is_some() || self.get(kind, ALL).is_some()
    }

    /// Whether nothing has to be waited for any more: it came, or it is not wanted.
    pub(super) fn is_settled(&self, kind: Kind, name: &str) -> bool {
        self.get(kind, name).is_none_or(|wanted| wanted.fetched)
    }

    /// Ends the wait for a resource; true if there was one.
    pub(super) fn settle(&mut self, kind: Kind, name: &str) -> bool {
        let Some(wanted) = self.0.get_mut(&(kind, name.into())) else { return false };
        wanted.deadline = None;
        !std::mem::replace(&mut wanted.fetched, true)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(|w| w.deadline).min()
    }

    /// What was waited for long enough.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Key> {
        let late = |w: &Wanted| w.deadline.is_some_and(|d| d <= now);
        self.0.iter().filter(|(_, w)| late(w)).map(|(key, _)| key.clone()).collect()
    }

    /// Takes a new set of needs. What stays keeps its state, what is new is waited for from now on. Returns what
    /// is new, and what is gone.
    pub(super) fn replace(&mut self, needs: Needs, now: Instant) -> (Vec<Key>, Vec<Key>) {
        let mut next = BTreeMap::new();
        let mut added = Vec::new();
        for (key, (source, users)) in needs.0 {
            let wanted = match self.0.remove(&key) {
                Some(old) if old.source == source => Wanted { users, ..old },
                _ => {
                    added.push(key.clone());
                    let deadline = patience(&source).map(|limit| now + limit);
                    Wanted { source, users, fetched: false, deadline }
                }
            };
            next.insert(key, wanted);
        }
        let gone = std::mem::replace(&mut self.0, next).into_keys();
        let gone = gone.filter(|key| !self.0.contains_key(key)).collect();
        (added, gone)
    }

    /// What is wanted, by source.
    pub(super) fn by_source(&self) -> Vec<(SourceKey, Interests)> {
        let mut out: Vec<(SourceKey, Interests)> = Vec::new();
        for ((kind, name), wanted) in &self.0 {
            let key = SourceKey::new(&wanted.source, *kind);
            let at = out.iter().position(|(k, _)| *k == key).unwrap_or_else(|| {
                out.push((key, Interests::new()));
                out.len() - 1
            });
            let interest = out[at].1.entry(*kind).or_default();
            if &**name == ALL {
                interest.wildcard = true;
            } else {
                interest.names.insert(name.clone());
            }
        }
        out
    }
}

/// Needs being gathered.
#[derive(Debug, Default)]
pub(super) struct Needs(BTreeMap<Key, (ConfigSource, Vec<Box<str>>)>);

impl Needs {
    pub(super) fn all(&mut self, kind: Kind, source: &ConfigSource) {
        self.add((kind, ALL.into()), source, "");
    }

    pub(super) fn cluster(&mut self, cluster: &config::Cluster) {
        if let Discovery::Eds { service_name, source } = &cluster.discovery {
            self.add((Kind::Endpoints, service_name.clone()), source, &cluster.name);
        }
    }

    pub(super) fn listener(&mut self, listener: &config::Listener) {
        for (name, prefix, source) in routes_of(listener) {
            self.add((Kind::Route, name.into()), source, prefix);
        }
    }

    fn add(&mut self, key: Key, source: &ConfigSource, user: &str) {
        let (_, users) = self.0.entry(key).or_insert_with(|| (source.clone(), Vec::new()));
        if !users.iter().any(|u| **u == *user) {
            users.push(user.into());
        }
    }
}

/// The route configurations that a listener asks for: name, stat prefix of the asking manager, source.
pub(super) fn routes_of(listener: &config::Listener) -> impl Iterator<Item = (&str, &str, &ConfigSource)> {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    chains.flat_map(|chain| &chain.filters).filter_map(|filter| {
        let hcm: &Arc<config::Hcm> = match filter {
            config::NetworkFilter::Http(hcm) => hcm,
            config::NetworkFilter::Tcp(_)
            | config::NetworkFilter::DirectResponse(_)
            | config::NetworkFilter::Echo
            | config::NetworkFilter::ConnectionLimit(_) => return None,
        };
        match &hcm.routes {
            RouteSource::Rds { name, source } => Some((&**name, &*hcm.stat_prefix, source)),
            RouteSource::Static(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ads() -> ConfigSource {
        ConfigSource::Ads { initial_fetch_timeout: Some(Duration::from_secs(15)) }
    }

    fn needs(names: &[&str]) -> Needs {
        let mut needs = Needs::default();
        for name in names {
            needs.add((Kind::Endpoints, (*name).into()), &ads(), "user");
        }
        needs
    }

    #[test]
    fn what_stays_wanted_keeps_its_state_and_what_is_new_gets_its_own_deadline() {
        let (mut set, now) = (WantedSet::default(), Instant::now());
        set.replace(needs(&["a", "b"]), now);
        set.settle(Kind::Endpoints, "a");
        let later = now + Duration::from_secs(5);
        let (added, gone) = set.replace(needs(&["a", "c"]), later);
        assert_eq!(added, [(Kind::Endpoints, "c".into())]);
        assert_eq!(gone, [(Kind::Endpoints, "b".into())]);
        assert!(set.is_settled(Kind::Endpoints, "a"));
        assert!(!set.is_settled(Kind::Endpoints, "c"));
        assert_eq!(set.next_deadline(), Some(later + Duration::from_secs(15)));
    }

    #[test]
    fn overdue_names_only_what_is_still_waited_for() {
        let (mut set, now) = (WantedSet::default(), Instant::now());
        set.replace(needs(&["a", "b"]), now);
        set.settle(Kind::Endpoints, "a");
        assert_eq!(set.overdue(now + Duration::from_secs(14)), []);
        assert_eq!(set.overdue(now + Duration::from_secs(15)), [(Kind::Endpoints, "b".into())]);
    }

    #[test]
    fn kinds_of_the_aggregated_stream_share_a_source_and_files_do_not() {
        let (mut set, mut needs) = (WantedSet::default(), needs(&["a"]));
        needs.all(Kind::Cluster, &ads());
        needs.all(Kind::Listener, &ConfigSource::Path { path: "lds.yaml".into(), watched_directory: None });
        set.replace(needs, Instant::now());
        let sources = set.by_source();
        assert_eq!(sources.len(), 2);
        let (_, ads) = sources.iter().find(|(key, _)| *key == SourceKey::Ads).unwrap();
        assert!(ads[&Kind::Cluster].wildcard);
        assert!(ads[&Kind::Endpoints].covers("a"));
    }
}
