//! What sources tell of real stores: changes, expiry, losses, compaction.

use control_plane::model::{
    Event, Health, Instance, InstanceId, Kind, ObjectKey, ObjectName, ServiceName, SourceId,
};
use control_plane::source::consul::client::{Client, Options as ConsulOptions};
use control_plane::source::consul::{Consul, Use};
use control_plane::source::embedded::Embedded;
use control_plane::source::etcd::{Etcd, Options};
use control_plane::source::store::{Store, StoreError, Write};
use e2e::eventually::PATIENCE;
use e2e::store;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A source being watched, and what it has told, folded together.
struct Watched {
    store: Arc<dyn Store>,
    events: control_plane::source::Receiver,
    instances: BTreeMap<String, Health>,
    objects: BTreeMap<String, u64>,
    resyncs: usize,
    _stop: DropGuard,
}

impl Watched {
    fn new(store: impl Store + 'static) -> Self {
        let store: Arc<dyn Store> = Arc::new(store);
        let (tx, events) = control_plane::source::channel();
        let stop = CancellationToken::new();
        tokio::spawn({
            let (store, stop) = (Arc::clone(&store), stop.clone());
            async move { store.watch(tx, stop).await }
        });
        let (instances, objects) = Default::default();
        Self { store, events, instances, objects, resyncs: 0, _stop: stop.drop_guard() }
    }

    fn fold(&mut self, event: Event) {
        match event {
            Event::Resync { held, .. } => {
                self.resyncs += 1;
                self.instances = held.instances.iter().map(|i| (i.id.to_string(), i.health)).collect();
                self.objects = held.objects.iter().map(|o| (o.key.to_string(), o.revision)).collect();
            }
            Event::UpsertInstance { instance, .. } => {
                self.instances.insert(instance.id.to_string(), instance.health);
            }
            Event::RemoveInstance { id, .. } => {
                self.instances.remove(id.as_str());
            }
            // These tests have one service only.
            Event::ReplaceService { instances, .. } => {
                self.instances = instances.iter().map(|i| (i.id.to_string(), i.health)).collect();
            }
            Event::UpsertObject { object, .. } => {
                self.objects.insert(object.key.to_string(), object.revision);
            }
            Event::RemoveObject { key, .. } => {
                self.objects.remove(&key.to_string());
            }
            Event::Restore { .. } => panic!("sources do not restore"),
        }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            match tokio::time::timeout(PATIENCE, self.events.recv()).await {
                Ok(Some(event)) => self.fold(event),
                _ => panic!("{what}: not told; instances {:?}, objects {:?}", self.instances, self.objects),
            }
        }
    }
}

fn service() -> ServiceName {
    ServiceName::new("web").unwrap()
}

fn instance(id: &str) -> Instance {
    let mut instance = Instance::at(service(), "127.0.0.1:80".parse().unwrap()).unwrap();
    instance.id = InstanceId::new(id).unwrap();
    instance
}

fn put(name: &str, expected: Option<u64>) -> Write {
    let key = ObjectKey::new(Kind::Service, ObjectName::new(name).unwrap());
    let key = key.into();
    Write { key, text: Some(format!(r#"{{"kind": "Service", "name": "{name}", "spec": {{}}}}"#)), expected }
}

fn etcd_source(etcd: &store::Etcd) -> Watched {
    etcd_sources(std::slice::from_ref(etcd))
}

fn etcd_sources(members: &[store::Etcd]) -> Watched {
    let endpoints = members.iter().map(|etcd| format!("http://{}", etcd.endpoint())).collect();
    Watched::new(
        Etcd::new(SourceId::new(0, "etcd"), Options { endpoints, user: None, ca_file: None, identity: None })
            .unwrap(),
    )
}

fn consul_source(consul: &store::Consul) -> Watched {
    let url = format!("http://{}", consul.endpoint()).parse().unwrap();
    let options = ConsulOptions { url, token: None, ca_file: None, identity: None, datacenter: None };
    let uses = Use { services: true, config: true };
    Watched::new(Consul::new(SourceId::new(0, "consul"), Client::new(options).unwrap(), uses))
}

/// What every writable store does alike.
async fn behaves_as_a_store(watched: &mut Watched) {
    watched.until("the first list", |w| w.resyncs == 1).await;
    let revision = watched.store.write(vec![put("a", Some(0)), put("b", None)]).await.unwrap()[0];
    watched.until("both objects", |w| w.objects.len() == 2).await;
    assert_eq!(
        watched.objects["Service/a"], revision,
        "the revision told is the one that compare-and-set takes"
    );
    let stale = watched.store.write(vec![put("c", None), put("a", Some(0))]).await.unwrap_err();
    assert!(matches!(&stale, StoreError::Conflict(key) if key.to_string() == "Service/a"), "{stale}");
    let delete = Write { text: None, ..put("a", Some(revision)) };
    assert_eq!(watched.store.write(vec![delete]).await.unwrap(), [0]);
    watched.until("the deletion", |w| !w.objects.contains_key("Service/a")).await;
    assert!(!watched.objects.contains_key("Service/c"), "a refused batch writes nothing");

    watched.store.register(instance("one"), None).await.unwrap();
    watched.store.register(instance("two"), Some(Duration::from_secs(3))).await.unwrap();
    watched.until("both instances", |w| w.instances.len() == 2).await;
    let id = |id: &str| InstanceId::new(id).unwrap();
    watched.store.renew(service(), id("two")).await.unwrap();
    watched
        .until("expiry of the one that is not renewed", |w| {
            w.instances.get("two").is_none_or(|health| *health == Health::Unhealthy)
        })
        .await;
    // Renewed for three times its life it stays, and goes when it is not any more.
    let ttl = Duration::from_secs(3);
    watched.store.register(instance("kept"), Some(ttl)).await.unwrap();
    let healthy = |w: &Watched| w.instances.get("kept") == Some(&Health::Healthy);
    watched.until("the one that is kept", healthy).await;
    let mut beat = tokio::time::interval(ttl / 3);
    for _ in 0..9 {
        beat.tick().await;
        watched.store.renew(service(), id("kept")).await.unwrap();
        while let Ok(event) = watched.events.try_recv() {
            watched.fold(event);
            assert!(healthy(watched), "it is renewed: {:?}", watched.instances);
        }
    }
    watched.until("its expiry", |w| w.instances.get("kept").is_none_or(|h| *h == Health::Unhealthy)).await;
    watched.store.deregister(service(), id("one")).await.unwrap();
    watched.until("deregistration", |w| !w.instances.contains_key("one")).await;
    for gone in [
        watched.store.renew(service(), id("one")).await.map(drop),
        watched.store.deregister(service(), id("one")).await,
    ] {
        assert!(matches!(gone, Err(StoreError::NoInstance { .. })), "{gone:?}");
    }
}

#[tokio::test]
async fn etcd_behaves_as_a_store() {
    let one = async |version| {
        let etcd = store::Etcd::start_version(version).await.unwrap();
        behaves_as_a_store(&mut etcd_source(&etcd)).await;
    };
    tokio::join!(one("etcd-3.4"), one("etcd"));
}

#[tokio::test]
async fn the_embedded_store_behaves_as_a_store() {
    let dir = tempfile::TempDir::new().unwrap();
    let store = Embedded::open(SourceId::new(0, "embedded"), &dir.path().join("store.redb")).unwrap();
    behaves_as_a_store(&mut Watched::new(store)).await;
}

#[tokio::test]
async fn consul_behaves_as_a_store() {
    let consul = store::Consul::start().await.unwrap();
    behaves_as_a_store(&mut consul_source(&consul)).await;
}

#[tokio::test]
async fn etcd_lost_and_compacted_meanwhile_is_listed_again_and_nothing_vanishes_before() {
    let mut etcd = store::Etcd::start().await.unwrap();
    let mut watched = etcd_source(&etcd);
    watched.until("the first list", |w| w.resyncs == 1).await;
    watched.store.write(vec![put("stays", None), put("goes", None)]).await.unwrap();
    watched.until("both objects", |w| w.objects.len() == 2).await;

    etcd.kill();
    let away = watched.store.write(vec![put("x", None)]).await.unwrap_err();
    assert!(matches!(away, StoreError::Unavailable { .. }), "{away}");
    etcd.restart().await.unwrap();
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    client.delete("/portolan/v1/config/service/goes", None).await.unwrap();
    let answer = client
        .put("/portolan/v1/config/service/new", r#"{"kind": "Service", "name": "new"}"#, None)
        .await
        .unwrap();
    client.compact(answer.header().unwrap().revision(), None).await.unwrap();
    watched
        .until("the state after the loss", |w| {
            w.objects.contains_key("Service/new") && !w.objects.contains_key("Service/goes")
        })
        .await;
    assert!(watched.objects.contains_key("Service/stays"));
}

#[tokio::test]
async fn more_keys_than_fit_one_answer_are_all_listed() {
    let etcd = store::Etcd::start().await.unwrap();
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    for i in 0..1201 {
        let key = format!("/portolan/v1/instances/web/i{i}");
        client.put(key, r#"{"address": "10.0.0.1", "port": 80}"#, None).await.unwrap();
    }
    let mut watched = etcd_source(&etcd);
    watched.until("the first list", |w| w.resyncs == 1).await;
    assert_eq!(watched.instances.len(), 1201);
}

#[tokio::test]
async fn more_bytes_than_one_answer_takes_are_all_listed() {
    let etcd = store::Etcd::start().await.unwrap();
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    let padded = |name: String, bytes: usize| {
        let filling = "x".repeat(bytes);
        format!(
            r#"{{"kind": "Service", "name": "{name}", "labels": {{"filling": "{filling}"}}, "spec": {{}}}}"#
        )
    };
    for i in 0..600 {
        let name = format!("s{i}");
        client
            .put(format!("/portolan/v1/config/service/{name}"), padded(name, 10 << 10), None)
            .await
            .unwrap();
    }
    for i in 0..4 {
        let name = format!("large{i}");
        client.put(format!("/portolan/v1/config/service/{name}"), padded(name, 1 << 20), None).await.unwrap();
    }
    for i in 1..=8 {
        let key = format!("/portolan/v1/releases/{i:010}");
        client.put(key, padded("release".to_owned(), 1 << 20), None).await.unwrap();
    }
    client
        .put("/portolan/v1/instances/web/one", r#"{"address": "10.0.0.1", "port": 80}"#, None)
        .await
        .unwrap();
    let mut watched = etcd_source(&etcd);
    watched.until("the first list", |w| w.resyncs == 1).await;
    assert_eq!((watched.objects.len(), watched.instances.len()), (604, 1));
    // A record of a release, and what it replaces, are nothing that the watch must carry.
    client
        .put("/portolan/v1/releases/0000000008", padded("release".to_owned(), 1 << 20), None)
        .await
        .unwrap();
    watched.store.write(vec![put("after", None)]).await.unwrap();
    watched.until("what came after", |w| w.objects.contains_key("Service/after")).await;
    assert_eq!(watched.resyncs, 1, "the watch went on");
}

#[tokio::test]
async fn a_member_of_etcd_that_is_cut_off_from_the_others_is_not_believed() {
    let mut members = store::Etcd::start_three().await.unwrap();
    let mut watched = etcd_sources(&members[..1]);
    watched.until("the first list", |w| w.resyncs == 1).await;
    let connect = etcd_client::ConnectOptions::new().with_require_leader(true);
    let mut client = etcd_client::Client::connect([members[0].endpoint()], Some(connect)).await.unwrap();
    let mut control = client.watch("elsewhere", None).await.unwrap();
    members[1].kill();
    members[2].kill();
    // etcd ends all watches that ask for it at one time.
    let ended = async { while let Ok(Some(_)) = control.message().await {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("etcd says that it has no leader");
    // Their data is there: they are started together, as neither is ready without the other.
    let [_, b, c] = &mut members;
    let (b, c) = tokio::join!(b.restart(), c.restart());
    b.and(c).unwrap();
    watched.until("a new list, once there is a leader", |w| w.resyncs == 2).await;
}

#[tokio::test]
async fn a_failed_consul_check_is_told_and_its_recovery_too() {
    let consul = store::Consul::start().await.unwrap();
    consul.register("web", "web-1", 80, Duration::from_secs(600)).await.unwrap();
    let mut watched = consul_source(&consul);
    watched.until("the instance", |w| w.instances.get("t/web-1") == Some(&Health::Healthy)).await;
    consul.check("web-1", "fail").await.unwrap();
    watched.until("the failure", |w| w.instances.get("t/web-1") == Some(&Health::Unhealthy)).await;
    consul.check("web-1", "pass").await.unwrap();
    watched.until("the recovery", |w| w.instances.get("t/web-1") == Some(&Health::Healthy)).await;
    consul.register("web", "web-2", 80, Duration::from_secs(600)).await.unwrap();
    watched.until("a second instance", |w| w.instances.len() == 2).await;
    consul.deregister("web-1").await.unwrap();
    consul.deregister("web-2").await.unwrap();
    watched.until("that the service is gone", |w| w.instances.is_empty()).await;
}

#[tokio::test]
async fn a_consul_that_comes_back_with_lower_indexes_is_followed_again() {
    let mut consul = store::Consul::start().await.unwrap();
    let mut watched = consul_source(&consul);
    watched.until("the first list", |w| w.resyncs == 1).await;
    for i in 0..20 {
        watched.store.write(vec![put(&format!("o{i}"), None)]).await.unwrap();
    }
    watched.until("the objects", |w| w.objects.len() == 20).await;
    consul.kill();
    consul.restart().await.unwrap();
    consul.register("web", "web-1", 80, Duration::from_secs(600)).await.unwrap();
    watched.until("the new state", |w| w.instances.len() == 1 && w.objects.is_empty()).await;
}
