//! Consul: its native catalog and health checks for services, its KV store for configuration.
//!
//! Blocking queries: one on the catalog's names, one a service on its health, one on our keys. Every answer is
//! the whole state of what was asked, so losses and restarts of Consul need no special care; an index that went
//! backwards starts over from 0.

pub mod client;

use self::client::{AgentService, Client, Indexed, Operation, Pair, ServiceEntry, next_index};
use super::keys::{self, Key};
use super::retry::Retry;
use super::store::{Store, StoreError, Write, causes};
use super::{Event, Gone, Held, Sender, SourceId};
use crate::model::{Health, Instance, InstanceId, MAX_WEIGHT, Object, ServiceName};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Least and longest time to live granted. Consul's TTL checks have no minimum of their own, but it needs a
/// moment to notice.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));
/// Consul forgets an instance this long after its check failed. Its own minimum is one minute.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Least time between two queries of one watch, so that a busy service does not make a busy control plane.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// Operations in a Consul transaction.
const MAX_OPERATIONS: usize = 64;
/// Largest value of a key.
const MAX_VALUE: usize = 512 << 10;
/// In an instance's Meta: the id it was registered by through our API.
const META_ID: &str = "portolan-id";
/// In an instance's Meta: its zone.
const META_ZONE: &str = "zone";

/// What of a Consul is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Its services.
    pub services: bool,
    /// The objects in its KV store.
    pub config: bool,
}

/// A Consul agent.
#[derive(Clone, Debug)]
pub struct Consul {
    id: SourceId,
    client: Client,
    uses: Use,
}

impl Consul {
    /// Connects when watched or written.
    pub fn new(id: SourceId, client: Client, uses: Use) -> Self {
        Self { id, client, uses }
    }

    fn store_error(&self, error: client::Error) -> StoreError {
        match error {
            client::Error::Refused { status, .. } if status.is_client_error() => {
                StoreError::Refused(error.to_string())
            }
            error => StoreError::Unavailable { store: self.id.clone(), source: error.into() },
        }
    }

    /// Everything, and the indexes to go on from.
    async fn list(&self) -> Result<(Held, Indexes), client::Error> {
        let mut held = Held::default();
        let mut indexes = Indexes::default();
        if self.uses.services {
            let catalog = self.client.services(0).await?;
            indexes.catalog = catalog.index;
            for name in catalog.value.keys().filter_map(|n| service_name(n)) {
                let health = self.client.instances(name.as_str(), 0).await?;
                indexes.services.insert(name.clone(), health.index);
                held.instances.extend(instances(&name, &health.value));
            }
        }
        if self.uses.config {
            let pairs = self.client.keys_below(&keys::CONFIG[1..], 0).await?;
            indexes.config = pairs.index;
            indexes.objects = objects(&pairs.value);
            held.objects.extend(indexes.objects.values().cloned());
        }
        Ok((held, indexes))
    }

    async fn follow_catalog(&self, mut index: u64, known: BTreeMap<ServiceName, u64>, events: &Sender) {
        let mut watches = JoinSet::new();
        let mut running: BTreeMap<ServiceName, tokio::task::AbortHandle> = BTreeMap::new();
        for (name, index) in known {
            let watch = self.clone().follow_service(name.clone(), index, events.clone());
            running.insert(name, watches.spawn(watch));
        }
        let mut retry = Retry::default();
        loop {
            let (answer, why) = self.ask(&mut index, &mut retry, |i| self.client.services(i)).await;
            let names: Vec<ServiceName> = answer.keys().filter_map(|n| service_name(n)).collect();
            let gone: Vec<_> = running.keys().filter(|name| !names.contains(name)).cloned().collect();
            for service in gone {
                debug!(%service, "gone from the catalog");
                running.remove(&service).inspect(tokio::task::AbortHandle::abort);
                // Its watch may have been ended before it told that the last instance left.
                let (source, instances) = (self.id.clone(), Vec::new());
                let _ = events.send(Event::ReplaceService { source, service, instances, why }).await;
            }
            for name in names {
                running.entry(name).or_insert_with_key(|name| {
                    watches.spawn(self.clone().follow_service(name.clone(), 0, events.clone()))
                });
            }
            while watches.try_join_next().is_some() {}
        }
    }

    async fn follow_service(self, name: ServiceName, mut index: u64, events: Sender) {
        let mut retry = Retry::default();
        loop {
            let ask = |i| self.client.instances(name.as_str(), i);
            let (answer, why) = self.ask(&mut index, &mut retry, ask).await;
            let event = Event::ReplaceService {
                source: self.id.clone(),
                service: name.clone(),
                instances: instances(&name, &answer),
                why,
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn follow_config(
        &self,
        mut index: u64,
        mut known: BTreeMap<crate::model::ObjectKey, Object>,
        events: &Sender,
    ) {
        let mut retry = Retry::default();
        loop {
            let ask = |i| self.client.keys_below(&keys::CONFIG[1..], i);
            let now = objects(&self.ask(&mut index, &mut retry, ask).await.0);
            for key in known.keys().filter(|key| !now.contains_key(*key)) {
                let _ = events.send(Event::RemoveObject { source: self.id.clone(), key: key.clone() }).await;
            }
            for (key, object) in &now {
                if known.get(key) != Some(object) {
                    let event = Event::UpsertObject { source: self.id.clone(), object: object.clone() };
                    let _ = events.send(event).await;
                }
            }
            known = now;
        }
    }

    /// Asks until there is an answer, and moves the index on by Consul's rules. Says too what it means when
    /// something is no longer there: in Consul an instance fails before it is forgotten, so that one which goes
    /// straight away was deregistered. Unless this Consul may not be the one that was asked before.
    async fn ask<T, F: Future<Output = Result<Indexed<T>, client::Error>>>(
        &self,
        index: &mut u64,
        retry: &mut Retry,
        query: impl Fn(u64) -> F,
    ) -> (T, Gone) {
        let mut why = Gone::Asked;
        let never = CancellationToken::new(); // the whole watch is dropped when it ends
        loop {
            match query(*index).await {
                Ok(answer) => {
                    retry.reset();
                    if answer.index < *index {
                        why = Gone::Lost;
                    }
                    *index = next_index(*index, answer.index);
                    tokio::time::sleep(MIN_INTERVAL.mul_f64(0.5 + fastrand::f64())).await;
                    return (answer.value, why);
                }
                Err(error) => {
                    let error = causes(&error);
                    warn!(source = %self.id, error, "query failed; the last known state serves on");
                    // Consul may have been replaced meanwhile: start over, the answer is the whole state.
                    *index = 0;
                    why = Gone::Lost;
                    retry.wait(&never).await;
                }
            }
        }
    }
}

/// Where to go on from after a list.
#[derive(Default)]
struct Indexes {
    catalog: u64,
    services: BTreeMap<ServiceName, u64>,
    config: u64,
    objects: BTreeMap<crate::model::ObjectKey, Object>,
}

impl Store for Consul {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn watch<'a>(&'a self, events: Sender, stop: CancellationToken) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut retry = Retry::default();
            let (held, indexes) = loop {
                let listed = tokio::select! {
                    listed = self.list() => listed,
                    () = stop.cancelled() => return,
                };
                match listed {
                    Ok(listed) => break listed,
                    Err(error) => warn!(source = %self.id, error = causes(&error), "cannot be listed"),
                }
                if !retry.wait(&stop).await {
                    return;
                }
            };
            info!(source = %self.id, objects = held.objects.len(), instances = held.instances.len(), "listed");
            if events.send(Event::Resync { source: self.id.clone(), held }).await.is_err() {
                return;
            }
            let services = async {
                if self.uses.services {
                    self.follow_catalog(next_index(0, indexes.catalog), indexes.services, &events).await;
                }
            };
            let config = async {
                if self.uses.config {
                    self.follow_config(next_index(0, indexes.config), indexes.objects, &events).await;
                }
            };
            tokio::select! {
                _ = async { tokio::join!(services, config) } => {}
                () = stop.cancelled() => {}
            }
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<u64>, StoreError>> {
        Box::pin(async move {
            if writes.len() > MAX_OPERATIONS {
                let told = format!(
                    "consul takes {MAX_OPERATIONS} writes at a time, the record of the release among them; these are {}",
                    writes.len()
                );
                return Err(StoreError::Refused(told));
            }
            let mut operations = Vec::with_capacity(writes.len());
            for write in &writes {
                if write.text.as_ref().is_some_and(|t| t.len() > MAX_VALUE) {
                    let told =
                        format!("{} is larger than the {MAX_VALUE} bytes that consul takes", write.key);
                    return Err(StoreError::Refused(told));
                }
                operations.push(Operation {
                    key: keys::path(&write.key)[1..].to_owned(),
                    value: write.text.clone().map(Bytes::from),
                    expected: write.expected,
                });
            }
            match self.client.transact(&operations).await.map_err(|e| self.store_error(e))? {
                Ok(revisions) => Ok(revisions),
                Err(stale) => Err(match writes.into_iter().nth(stale) {
                    Some(write) => StoreError::Conflict(write.key),
                    None => StoreError::Refused("consul refused the transaction".to_owned()),
                }),
            }
        })
    }

    fn release_numbers(&self) -> BoxFuture<'_, Result<Vec<u64>, StoreError>> {
        Box::pin(async move {
            let names = self.client.names_below(&keys::RELEASES[1..]).await;
            let names = names.map_err(|e| self.store_error(e))?;
            let mut found: Vec<u64> = names.iter().filter_map(|key| release_of(key)).collect();
            found.sort_unstable();
            Ok(found)
        })
    }

    fn releases(&self) -> BoxFuture<'_, Result<Vec<(u64, String)>, StoreError>> {
        Box::pin(async move {
            let pairs = self.client.keys_below(&keys::RELEASES[1..], 0).await;
            let pairs = pairs.map_err(|e| self.store_error(e))?.value;
            let text = |pair: &Pair| String::from_utf8_lossy(&pair.value).into_owned();
            let mut found: Vec<_> =
                pairs.iter().filter_map(|pair| Some((release_of(&pair.key)?, text(pair)))).collect();
            found.sort();
            Ok(found)
        })
    }

    fn register(
        &self,
        instance: Instance,
        ttl: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        Box::pin(async move {
            let ttl = ttl.map(|t| t.clamp(TTL.0, TTL.1));
            let id = agent_id(&instance.service, &instance.id);
            let mut meta: BTreeMap<String, String> =
                instance.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            meta.insert(META_ID.to_owned(), instance.id.to_string());
            if !instance.zone.is_empty() {
                meta.insert(META_ZONE.to_owned(), instance.zone.to_string());
            }
            let registration = client::Registration {
                name: instance.service.to_string(),
                address: instance.address.to_string(),
                port: instance.port,
                meta,
                weights: client::RegistrationWeights { passing: instance.weight, warning: 1 },
                check: ttl.map(|ttl| client::TtlCheck {
                    check_id: id.clone(),
                    ttl: format!("{}ms", ttl.as_millis()),
                    status: "passing",
                    deregister_critical_service_after: format!("{}s", FORGET_AFTER.as_secs()),
                }),
                id,
            };
            self.client.register(&registration).await.map_err(|e| self.store_error(e))?;
            Ok(ttl)
        })
    }

    fn renew(
        &self,
        service: ServiceName,
        id: InstanceId,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        Box::pin(async move {
            match self.client.renew(&agent_id(&service, &id)).await {
                // Consul does not tell the time granted; it is what was asked.
                Ok(()) => Ok(None),
                Err(error) if is_unknown(&error) => Err(StoreError::NoInstance { service, id }),
                Err(error) => Err(self.store_error(error)),
            }
        })
    }

    fn deregister(&self, service: ServiceName, id: InstanceId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            match self.client.deregister(&agent_id(&service, &id)).await {
                Ok(()) => Ok(()),
                Err(error) if is_unknown(&error) => Err(StoreError::NoInstance { service, id }),
                Err(error) => Err(self.store_error(error)),
            }
        })
    }
}

fn release_of(key: &str) -> Option<u64> {
    match Key::parse(key) {
        Ok(Key::Release(number)) => Some(number),
        _ => None,
    }
}

/// Service and check id on the agent: unique over services, as Consul wants it.
fn agent_id(service: &ServiceName, id: &InstanceId) -> String {
    format!("portolan:{service}:{id}")
}

fn is_unknown(error: &client::Error) -> bool {
    match error {
        client::Error::Refused { status: StatusCode::NOT_FOUND, .. } => true,
        // Consul before 1.11.
        client::Error::Refused { status: StatusCode::INTERNAL_SERVER_ERROR, body, .. } => {
            body.contains("Unknown") || body.contains("does not have associated")
        }
        _ => false,
    }
}

/// Services that can be routed to; Consul itself is not one.
fn service_name(name: &str) -> Option<ServiceName> {
    if name == "consul" {
        return None;
    }
    ServiceName::new(name).inspect_err(|reason| warn!(service = name, %reason, "consul service ignored")).ok()
}

fn instances(service: &ServiceName, entries: &[ServiceEntry]) -> Vec<Instance> {
    let read = |entry: &ServiceEntry| {
        instance(service, entry)
            .inspect_err(|reason| warn!(%service, id = entry.service.id, %reason, "consul instance ignored"))
            .ok()
    };
    entries.iter().filter_map(read).collect()
}

fn instance(service: &ServiceName, entry: &ServiceEntry) -> Result<Instance, String> {
    let AgentService { id, address, port, tags, meta, weights } = &entry.service;
    let address = if address.is_empty() { &entry.node.address } else { address };
    let id = match meta.get(META_ID) {
        Some(own) => InstanceId::new(own),
        // Ids are unique on their agent only.
        None => InstanceId::new(&format!("{}/{id}", entry.node.node)),
    };
    let state = |name: &str| entry.checks.iter().any(|c| c.status == name);
    let health = match () {
        () if state("critical") => Health::Unhealthy,
        () if state("maintenance") => Health::Draining,
        () => Health::Healthy,
    };
    let weight = weights.map_or(1, |w| if state("warning") { w.warning } else { w.passing });
    let mut labels: BTreeMap<Box<str>, Box<str>> = tags
        .iter()
        .map(|tag| tag.split_once('=').unwrap_or((tag, "")))
        .map(|(k, v)| (k.into(), v.into()))
        .collect();
    let own = [META_ID, META_ZONE];
    labels.extend(
        meta.iter()
            .filter(|(k, _)| !own.contains(&k.as_str()))
            .map(|(k, v)| (k.as_str().into(), v.as_str().into())),
    );
    Instance {
        service: service.clone(),
        id: id.map_err(|e| format!("id {e}"))?,
        address: address.parse().map_err(|_| format!("address `{address}` is not an IP address"))?,
        port: u16::try_from(*port).map_err(|_| format!("port {port} is too large"))?,
        weight: weight.clamp(1, MAX_WEIGHT),
        zone: meta.get(META_ZONE).map_or("", String::as_str).into(),
        labels,
        health,
    }
    .checked()
    .map_err(|e| e.to_string())
}

fn objects(pairs: &[Pair]) -> BTreeMap<crate::model::ObjectKey, Object> {
    let mut objects = BTreeMap::new();
    for pair in pairs.iter().filter(|p| !p.key.ends_with('/')) {
        match Key::parse(&pair.key) {
            Ok(Key::Object(key)) => {
                let text = String::from_utf8_lossy(&pair.value);
                objects.insert(key.clone(), Object::stored(key, pair.modify_index, &text));
            }
            Ok(Key::Instance(..) | Key::Release(_)) => {}
            Err(reason) => warn!(key = pair.key, %reason, "ignored in consul"),
        }
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Instance, String> {
        instance(&ServiceName::new("web").unwrap(), &serde_json::from_str(json).unwrap())
    }

    #[test]
    fn an_instance_has_the_address_labels_weight_and_health_that_consul_tells() {
        let told = |status: &str| {
            read(&format!(
                r#"{{"Node": {{"Node": "n1", "Address": "10.0.0.9"}},
                "Service": {{"ID": "web-1", "Address": "", "Port": 80, "Tags": ["v=2", "canary"],
                    "Meta": {{"zone": "z1", "team": "shop"}}, "Weights": {{"Passing": 10, "Warning": 2}}}},
                "Checks": [{{"Status": "passing"}}, {{"Status": "{status}"}}]}}"#
            ))
            .unwrap()
        };
        let instance = told("passing");
        assert_eq!(instance.id.as_str(), "n1/web-1", "ids are unique on their agent only");
        assert_eq!(instance.socket().to_string(), "10.0.0.9:80", "the node's address stands in");
        assert_eq!((&*instance.zone, instance.weight, instance.health), ("z1", 10, Health::Healthy));
        assert!(instance.has_labels([("v", "2"), ("canary", ""), ("team", "shop")]));
        assert_eq!((told("warning").weight, told("warning").health), (2, Health::Healthy));
        assert_eq!(told("critical").health, Health::Unhealthy);
        assert_eq!(told("maintenance").health, Health::Draining);
    }

    #[test]
    fn what_cannot_be_routed_to_is_left_out_with_a_reason() {
        let told = |address: &str, port: u32| {
            read(&format!(
                r#"{{"Node": {{"Node": "n1", "Address": "10.0.0.9"}},
                "Service": {{"ID": "web-1", "Address": "{address}", "Port": {port}}}, "Checks": []}}"#
            ))
            .unwrap_err()
        };
        assert!(told("web.internal", 80).contains("not an IP address"));
        assert!(told("10.0.0.1", 0).contains("port must be"));
        assert!(told("10.0.0.1", 70_000).contains("too large"));
    }
}
