use super::*;
use crate::model::{Gone, Held, Instance, InstanceId, Object, ServiceName};
use crate::snapshot::{Audience, Published};
use crate::source;
use serde_json::json;
use tokio::task::JoinHandle;
use xds_types::ResourceType;

struct Running {
    events: source::Sender,
    handle: Handle,
    task: JoinHandle<()>,
}

fn first() -> SourceId {
    SourceId::new(0, "etcd")
}

fn second() -> SourceId {
    SourceId::new(1, "consul")
}

fn start(sources: &[SourceId]) -> Running {
    let (events, receiver) = source::channel();
    let options = Options { sources: sources.to_vec(), ..Options::default() };
    let (pipeline, handle) = Pipeline::new(options, receiver);
    let task = tokio::spawn(pipeline.run(CancellationToken::new()));
    Running { events, handle, task }
}

fn object(revision: u64, kind: &str, name: &str, spec: serde_json::Value) -> Object {
    let key = ObjectKey::new(kind.parse().unwrap(), name.parse().unwrap());
    Object::stored(key, revision, &json!({"kind": kind, "name": name, "spec": spec}).to_string())
}

fn gateway(revision: u64) -> Object {
    object(revision, "Gateway", "edge", json!({"listeners": [{"name": "http", "port": 8080}]}))
}

fn route(revision: u64, service: &str) -> Object {
    let rules = json!([{"backends": [{"service": service}]}]);
    object(revision, "Route", "shop", json!({"gateways": ["edge"], "rules": rules}))
}

fn instance(service: &str, port: u16) -> Instance {
    Instance::at(ServiceName::new(service).unwrap(), ([10, 0, 0, 1], port).into()).unwrap()
}

impl Running {
    async fn send(&self, event: Event) {
        self.events.send(event).await.unwrap();
    }

    async fn resync(&self, source: SourceId, objects: Vec<Object>, instances: Vec<Instance>) {
        self.send(Event::Resync { source, held: Held { instances, objects } }).await;
    }

    async fn settled(&self) -> Option<Arc<Published>> {
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.handle.cache().latest()
    }
}

fn endpoints(p: &Published, cluster: &str) -> usize {
    use xds_types::envoy::config::endpoint::v3::ClusterLoadAssignment;
    let s = p.snapshot(&Audience::Proxy { group: "any".into() });
    let cla: ClusterLoadAssignment =
        s.get(ResourceType::ClusterLoadAssignment, cluster).unwrap().decode().unwrap();
    cla.endpoints.iter().map(|l| l.lb_endpoints.len()).sum()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_every_source_has_synced() {
    let p = start(&[first(), second()]);
    p.resync(first(), vec![gateway(1), route(2, "cart")], vec![]).await;
    assert!(p.settled().await.is_none());
    assert_eq!(p.handle.view().objects.states().len(), 2, "the API sees what is there already");
    p.resync(second(), vec![], vec![instance("cart", 1)]).await;
    let published = p.settled().await.expect("every source has synced");
    assert_eq!(endpoints(&published, "cart"), 1);
}

#[tokio::test(start_paused = true)]
async fn kept_state_is_published_when_a_source_stays_away() {
    let p = start(&[first()]);
    let held = Held { instances: vec![instance("cart", 1)], objects: vec![gateway(1), route(2, "cart")] };
    p.send(Event::Restore { source: first(), held }).await;
    assert!(p.settled().await.is_none(), "the source has its grace");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let published = p.settled().await.expect("the grace is over");
    assert_eq!(endpoints(&published, "cart"), 1);
    p.resync(first(), vec![gateway(1), route(2, "cart")], vec![]).await;
    assert_eq!(endpoints(&p.settled().await.unwrap(), "cart"), 0, "the source is back, and knows better");
}

#[tokio::test(start_paused = true)]
async fn equal_content_is_not_published_again() {
    let p = start(&[first()]);
    p.resync(first(), vec![gateway(1), route(2, "cart")], vec![instance("cart", 1)]).await;
    let one = p.settled().await.unwrap();
    p.resync(first(), vec![gateway(1), route(2, "cart")], vec![instance("cart", 1)]).await;
    p.send(Event::UpsertInstance { source: first(), instance: instance("cart", 1) }).await;
    let again = p.settled().await.unwrap();
    assert!(Arc::ptr_eq(&one, &again), "nothing changed");
    // A service that no route names changes nothing for proxies.
    p.send(Event::UpsertInstance { source: first(), instance: instance("other", 1) }).await;
    let other = p.settled().await.unwrap();
    assert!(Arc::ptr_eq(&one.others, &other.others));
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_events_is_one_publication() {
    let p = start(&[first()]);
    p.resync(first(), vec![gateway(1), route(2, "cart")], vec![]).await;
    p.settled().await.unwrap();
    for port in 1..=50 {
        p.send(Event::UpsertInstance { source: first(), instance: instance("cart", port) }).await;
    }
    let published = p.settled().await.unwrap();
    assert_eq!((published.sequence, endpoints(&published, "cart")), (2, 50));
    let gone = (1..=50).map(|port| Event::RemoveInstance {
        source: first(),
        service: ServiceName::new("cart").unwrap(),
        id: InstanceId::new(&format!("10.0.0.1:{port}")).unwrap(),
        why: Gone::Asked,
    });
    for event in gone {
        p.send(event).await;
    }
    assert_eq!(endpoints(&p.settled().await.unwrap(), "cart"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_bad_object_is_set_aside_alone_and_its_last_good_revision_stays() {
    let p = start(&[first()]);
    p.resync(first(), vec![gateway(1), route(2, "cart")], vec![]).await;
    let one = p.settled().await.unwrap();
    let bad = object(
        3,
        "Route",
        "shop",
        json!({"gateways": ["edge"], "rules": [{"matches": [{"regex": "("}], "backends": [{"service": "x"}]}]}),
    );
    p.send(Event::UpsertObject { source: first(), object: bad }).await;
    let two = p.settled().await.unwrap();
    assert!(Arc::ptr_eq(&one, &two));
    let view = p.handle.view();
    let state = &view.objects.states()[&route(3, "").key];
    assert!(state.is_quarantined());
    assert_eq!(state.newest.revision, 3);
    assert_eq!(state.in_force.as_ref().unwrap().revision, 2);
    assert!(state.problems[0].path.contains("regex"), "{:?}", state.problems);

    let unreadable = Object::stored(gateway(1).key, 4, "kind: [");
    p.send(Event::UpsertObject { source: first(), object: unreadable }).await;
    p.send(Event::UpsertObject { source: first(), object: route(5, "pay") }).await;
    let three = p.settled().await.unwrap();
    let clusters = three.others.set(ResourceType::Cluster).resources().keys().cloned().collect::<Vec<_>>();
    assert_eq!(clusters, [std::sync::Arc::<str>::from("pay")], "a good object is not held up by a bad one");
    assert_eq!(three.others.set(ResourceType::Listener).resources().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_all_sources_are_gone_and_publishes_what_it_had() {
    let p = start(&[first()]);
    p.resync(first(), vec![gateway(1)], vec![]).await;
    drop(p.events);
    p.task.await.unwrap();
    assert!(p.handle.is_ready());
}

fn stage(revision: u64, objects: &[Object]) -> Object {
    let one = |o: &Object| {
        let text = xds_types::resource::to_json(o.resource().unwrap()).to_string();
        json!({"object": o.key.to_string(), "text": text})
    };
    let objects: Vec<_> = objects.iter().map(one).collect();
    object(revision, "Stage", "canary", json!({"release": 7, "objects": objects}))
}

fn clusters(p: &Published, group: &str) -> Vec<String> {
    let s = p.snapshot(&Audience::Proxy { group: group.into() });
    s.set(ResourceType::Cluster).resources().keys().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn a_staged_object_takes_the_place_of_the_one_in_force_for_its_group_alone() {
    let p = start(&[first()]);
    let instances = vec![instance("cart", 1), instance("pay", 1)];
    p.resync(first(), vec![gateway(1), route(2, "cart")], instances).await;
    let before = p.settled().await.unwrap();

    p.send(Event::UpsertObject { source: first(), object: stage(3, &[route(0, "pay")]) }).await;
    let staged = p.settled().await.unwrap();
    assert!(Arc::ptr_eq(&before.others, &staged.others), "nobody else notices");
    assert_eq!(
        (clusters(&staged, "edge"), clusters(&staged, "canary")),
        (vec!["cart".into()], vec!["pay".into()])
    );
    let view = p.handle.view();
    let own = &view.stages["canary"];
    assert_eq!((own.release(), own.group(), own.set_aside.len()), (7, "canary", 0));
    let differs: Vec<_> = own.differs.keys().copied().collect();
    let expected =
        [ResourceType::Cluster, ResourceType::ClusterLoadAssignment, ResourceType::RouteConfiguration];
    assert_eq!(differs.iter().collect::<std::collections::BTreeSet<_>>(), expected.iter().collect());

    // What is not staged changes for the group as for all.
    p.send(Event::UpsertInstance { source: first(), instance: instance("pay", 2) }).await;
    let more = p.settled().await.unwrap();
    let s = more.snapshot(&Audience::Proxy { group: "canary".into() });
    let pay = s.get(ResourceType::ClusterLoadAssignment, "pay").unwrap();
    let pay: xds_types::envoy::config::endpoint::v3::ClusterLoadAssignment = pay.decode().unwrap();
    assert_eq!(pay.endpoints.iter().map(|l| l.lb_endpoints.len()).sum::<usize>(), 2);
    let again = p.settled().await.unwrap();
    assert!(Arc::ptr_eq(&more, &again));

    p.send(Event::RemoveObject { source: first(), key: stage(3, &[]).key }).await;
    let ended = p.settled().await.unwrap();
    assert_eq!(clusters(&ended, "canary"), ["cart"]);
    assert!(Arc::ptr_eq(&before.others, &ended.others) && p.handle.view().stages.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_staged_object_that_is_bad_is_set_aside_and_told_of() {
    let p = start(&[first()]);
    p.resync(first(), vec![gateway(1), route(2, "cart")], vec![]).await;
    let before = p.settled().await.unwrap();
    // Written past the API: the port of the gateway that is there.
    let taken = object(0, "Gateway", "other", json!({"listeners": [{"port": 8080}]}));
    p.send(Event::UpsertObject { source: first(), object: stage(3, &[taken]) }).await;
    let staged = p.settled().await.unwrap();
    assert_eq!(clusters(&staged, "canary"), clusters(&before, "edge"));
    let view = p.handle.view();
    let fault = view.stages["canary"].fault(&[]).unwrap();
    assert!(fault.starts_with("Gateway/other is set aside: ") && fault.contains("8080 is taken"), "{fault}");
}

#[tokio::test(start_paused = true)]
async fn a_staged_deletion_takes_an_object_away_for_its_group_alone() {
    let p = start(&[first()]);
    p.resync(first(), vec![gateway(1), route(2, "cart")], vec![instance("cart", 1)]).await;
    let before = p.settled().await.unwrap();
    let spec = json!({"release": 7, "objects": [{"object": "Route/shop", "deleted": true}]});
    let stage = object(3, "Stage", "canary", spec);
    p.send(Event::UpsertObject { source: first(), object: stage.clone() }).await;
    let staged = p.settled().await.unwrap();
    assert!(Arc::ptr_eq(&before.others, &staged.others), "nobody else notices");
    assert_eq!(clusters(&staged, "canary"), Vec::<String>::new());
    let view = p.handle.view();
    let own = &view.stages["canary"];
    assert!(own.set_aside.is_empty() && own.fault(&[]).is_none());
    assert!(
        own.differs[&ResourceType::Cluster].contains("cart"),
        "what it takes away is a difference: {own:?}"
    );
    p.send(Event::RemoveObject { source: first(), key: stage.key }).await;
    let ended = p.settled().await.unwrap();
    assert_eq!(clusters(&ended, "canary"), ["cart"]);
}
