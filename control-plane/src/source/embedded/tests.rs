use super::*;
use crate::model::{Kind, ObjectKey, ObjectName};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::Route, ObjectName::new(name).unwrap())
}

fn put(name: &str, expected: Option<u64>) -> Write {
    Write { key: key(name).into(), text: Some(format!(r#"{{"kind": "Route", "name": "{name}"}}"#)), expected }
}

fn instance(id: &str) -> Instance {
    let mut instance = Instance::at(service(), "127.0.0.1:80".parse().unwrap()).unwrap();
    instance.id = InstanceId::new(id).unwrap();
    instance
}

fn service() -> ServiceName {
    ServiceName::new("web").unwrap()
}

struct Running {
    store: Arc<Embedded>,
    events: Receiver<Event>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(dir: &TempDir) -> Self {
        let store = Arc::new(Embedded::open(SourceId::new(0, "embedded"), &dir.path().join("db")).unwrap());
        let (tx, events) = super::super::channel();
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (store, stop) = (Arc::clone(&store), stop.clone());
            async move { store.watch(tx, stop).await }
        });
        Self { store, events, stop, task }
    }

    async fn resync(&mut self) -> Held {
        match self.events.recv().await.unwrap() {
            Event::Resync { held, .. } => held,
            other => panic!("the first event must be a resync: {other:?}"),
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn objects_and_instances_are_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let mut running = Running::start(&dir);
    assert_eq!(running.resync().await, Held::default());
    assert_eq!(running.store.write(vec![put("a", None), put("b", None)]).await.unwrap(), [1, 1]);
    assert_eq!(running.store.register(instance("i"), None).await.unwrap(), None);
    running.end().await;

    let mut running = Running::start(&dir);
    let held = running.resync().await;
    assert_eq!(
        held.objects.iter().map(|o| (o.key.clone(), o.revision)).collect::<Vec<_>>(),
        [(key("a"), 1), (key("b"), 1)]
    );
    assert_eq!(held.instances, [instance("i")]);
    assert_eq!(running.store.write(vec![put("c", None)]).await.unwrap(), [2], "revisions go on");
}

#[tokio::test]
async fn a_batch_with_one_stale_revision_writes_nothing() {
    let dir = TempDir::new().unwrap();
    let mut running = Running::start(&dir);
    running.resync().await;
    running.store.write(vec![put("a", Some(0))]).await.unwrap();
    let error = running.store.write(vec![put("b", None), put("a", Some(0))]).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict(k) if k == key("a").into()));
    let delete = Write { key: key("a").into(), text: None, expected: Some(1) };
    assert_eq!(running.store.write(vec![delete]).await.unwrap(), [0]);
    running.end().await;
    let mut running = Running::start(&dir);
    assert_eq!(running.resync().await, Held::default(), "neither b nor a is left");
}

#[tokio::test]
async fn changes_are_told_in_the_order_they_were_made() {
    let dir = TempDir::new().unwrap();
    let mut running = Running::start(&dir);
    running.resync().await;
    running.store.write(vec![put("a", None)]).await.unwrap();
    running.store.register(instance("i"), None).await.unwrap();
    running.store.deregister(service(), InstanceId::new("i").unwrap()).await.unwrap();
    running.store.write(vec![Write { key: key("a").into(), text: None, expected: None }]).await.unwrap();
    assert!(matches!(running.events.recv().await, Some(Event::UpsertObject { .. })));
    assert!(matches!(running.events.recv().await, Some(Event::UpsertInstance { .. })));
    assert!(matches!(running.events.recv().await, Some(Event::RemoveInstance { .. })));
    assert!(matches!(running.events.recv().await, Some(Event::RemoveObject { .. })));
}

#[tokio::test]
async fn an_instance_lives_while_renewed_and_is_gone_after_its_time() {
    let dir = TempDir::new().unwrap();
    let mut running = Running::start(&dir);
    running.resync().await;
    let id = InstanceId::new("i").unwrap();
    let ttl = Some(Duration::from_secs(10));
    assert_eq!(running.store.register(instance("i"), ttl).await.unwrap(), ttl);
    assert!(matches!(running.events.recv().await, Some(Event::UpsertInstance { .. })));
    // Real time up to here: the disk does not know of the paused clock.
    tokio::time::pause();
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(8)).await;
        assert_eq!(running.store.renew(service(), id.clone()).await.unwrap(), ttl);
        assert!(running.events.try_recv().is_err(), "a renewed instance stays");
    }
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    assert!(matches!(running.events.recv().await, Some(Event::RemoveInstance { .. })));
    let error = running.store.renew(service(), id.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::NoInstance { .. }), "it must register again");
    let error = running.store.deregister(service(), id).await.unwrap_err();
    assert!(matches!(error, StoreError::NoInstance { .. }));
}

#[tokio::test]
async fn a_lease_gets_its_whole_time_again_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let mut running = Running::start(&dir);
    running.resync().await;
    running.store.register(instance("i"), Some(Duration::from_secs(1))).await.unwrap();
    running.end().await;
    let mut running = Running::start(&dir);
    assert_eq!(running.resync().await.instances.len(), 1, "nobody could renew while it was down");
    assert!(
        matches!(running.events.recv().await, Some(Event::RemoveInstance { .. })),
        "and expires unless renewed"
    );
}

#[test]
fn a_file_that_is_no_store_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, "garbage").unwrap();
    let error = Embedded::open(SourceId::new(0, "embedded"), &path).err().unwrap().to_string();
    assert!(error.contains("db cannot be opened"), "{error}");
}
