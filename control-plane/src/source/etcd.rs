//! etcd: list, then watch from the revision of the list; leases for instances.
//!
//! A compaction, a broken stream or a lost server leads to a new list, whose difference is taken: nothing is
//! deleted because a server is away.

use super::keys::{self, Key};
use super::retry::Retry;
use super::store::{Store, StoreError, Write, causes};
use super::{Event, Gone, Held, Sender, SourceId};
use crate::model::{Instance, InstanceId, Object, ServiceName};
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, EventType, GetOptions, KeyValue, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse, WatchStream,
};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Keys asked for at a time; fewer where they are so large that an answer goes beyond gRPC's 4 MiB.
const PAGE: i64 = 500;
/// Records of releases read at a time: each may be as large as etcd takes, 1.5 MiB.
const RELEASE_PAGE: i64 = 2;
/// Deadline of a call.
const DEADLINE: Duration = Duration::from_secs(5);
/// Leases asked after at a time.
const LOOKUPS: usize = 16;
/// A connection that has signed in is made anew after this long: etcd forgets its token after 5 min by default.
const TOKEN_LIFE: Duration = Duration::from_secs(120);
/// A connection without traffic is probed after this long, and given up after as long again.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A watch that is silent for this long is asked how far it is, and given up after as long again.
const SILENCE: Duration = Duration::from_secs(30);

/// Where etcd is and how to speak with it.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http://host:port` or `https://host:port`, one per member.
    pub endpoints: Vec<String>,
    /// User and password.
    pub user: Option<(String, Password)>,
    /// PEM file with the authorities to trust with https; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files with the certificate to show, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A password; never printed.
#[derive(Clone)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// No endpoint was given.
    #[error("etcd needs at least one endpoint")]
    NoEndpoint,
    /// The certificate to show, or its key, cannot be read.
    #[error("etcd client certificate {path}")]
    Identity {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The authorities cannot be read.
    #[error("etcd authorities {path}")]
    Authorities {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// An etcd cluster.
pub struct Etcd {
    id: SourceId,
    endpoints: Vec<String>,
    connect: ConnectOptions,
    /// Made when first needed, and again after an error, or when its token may have ended.
    client: Mutex<Option<(Client, Instant)>>,
    has_user: bool,
}

impl Etcd {
    /// Takes the options; connects when first used.
    ///
    /// # Errors
    /// There is no endpoint, or the authorities cannot be read.
    pub fn new(id: SourceId, options: Options) -> Result<Self, OptionsError> {
        if options.endpoints.is_empty() {
            return Err(OptionsError::NoEndpoint);
        }
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(DEADLINE)
            .with_keep_alive(KEEPALIVE, KEEPALIVE)
            .with_keep_alive_while_idle(true)
            // A member that is cut off from the others says so, instead of keeping watches that nothing comes over.
            .with_require_leader(true);
        let has_user = options.user.is_some();
        if let Some((user, password)) = options.user {
            connect = connect.with_user(user, password.0);
        }
        if options.endpoints.iter().any(|e| e.starts_with("https://")) {
            let mut tls = etcd_client::TlsOptions::new();
            tls = match &options.ca_file {
                Some(path) => {
                    let pem = std::fs::read(path).map_err(|source| OptionsError::Authorities {
                        path: path.display().to_string(),
                        source,
                    })?;
                    tls.ca_certificate(etcd_client::Certificate::from_pem(pem))
                }
                None => tls.with_enabled_roots(),
            };
            if let Some((certificate, key)) = &options.identity {
                let read = |path: &PathBuf| {
                    std::fs::read(path)
                        .map_err(|source| OptionsError::Identity { path: path.display().to_string(), source })
                };
                tls = tls.identity(etcd_client::Identity::from_pem(read(certificate)?, read(key)?));
            }
            connect = connect.with_tls(tls);
        }
        Ok(Self { id, endpoints: options.endpoints, connect, client: Mutex::default(), has_user })
    }

    async fn client(&self) -> Result<Client, etcd_client::Error> {
        let mut kept = self.client.lock().await;
        if let Some((client, since)) = &*kept
            && (!self.has_user || since.elapsed() < TOKEN_LIFE)
        {
            return Ok(client.clone());
        }
        let client = Client::connect(&self.endpoints, Some(self.connect.clone())).await?;
        *kept = Some((client.clone(), Instant::now()));
        Ok(client)
    }

    /// Runs a call within the deadline; after a failure the next one connects anew.
    async fn call<T>(
        &self,
        call: impl AsyncFnOnce(&mut Client) -> Result<T, etcd_client::Error>,
    ) -> Result<T, Lost> {
        let attempt = async { call(&mut self.client().await?).await };
        let result = match tokio::time::timeout(DEADLINE, attempt).await {
            Ok(result) => result.map_err(Lost::from),
            Err(_) => Err(Lost::Deadline),
        };
        if result.is_err() {
            *self.client.lock().await = None;
        }
        result
    }

    fn unavailable(&self, lost: Lost) -> StoreError {
        match lost {
            Lost::Etcd(error) if is_refusal(&error) => StoreError::Refused(error.to_string()),
            lost => StoreError::Unavailable { store: self.id.clone(), source: lost.into() },
        }
    }

    /// Every object and instance at one revision.
    async fn list(&self) -> Result<(Held, i64), Lost> {
        let mut held = Held::default();
        let mut from = keys::CONFIG.to_owned();
        let (mut revision, mut limit) = (0, PAGE);
        loop {
            let options = GetOptions::new()
                .with_range(end_of(keys::INSTANCES))
                .with_limit(limit)
                .with_sort(SortTarget::Key, SortOrder::Ascend)
                .with_revision(revision);
            let page = match self.call(async |c| c.get(from.clone(), Some(options)).await).await {
                Err(Lost::Etcd(error)) if is_too_large(&error) && limit > 1 => {
                    limit /= 2;
                    continue;
                }
                page => page?,
            };
            if revision == 0 {
                revision = page.header().map_or(0, |h| h.revision());
            }
            for kv in page.kvs() {
                match read(kv) {
                    Some(Item::Object(object)) => held.objects.push(object),
                    Some(Item::Instance(instance)) => held.instances.push(instance),
                    None => {}
                }
            }
            let Some(last) = page.kvs().last().filter(|_| page.more()) else { return Ok((held, revision)) };
            from = format!("{}\0", String::from_utf8_lossy(last.key()));
            limit = (limit * 2).min(PAGE); // what follows may be small
        }
    }

    /// Lists, watches and tells until the stream ends. Only returns with a reason.
    async fn follow(&self, events: &Sender, retry: &mut Retry) -> Result<std::convert::Infallible, Lost> {
        let (held, revision) = self.list().await?;
        info!(source = %self.id, revision, objects = held.objects.len(), instances = held.instances.len(), "listed");
        let options = WatchOptions::new()
            .with_range(end_of(keys::INSTANCES))
            .with_prev_key()
            .with_fragment()
            .with_start_revision(revision + 1);
        let mut stream = self.call(async |c| c.watch(keys::CONFIG, Some(options)).await).await?;
        send(events, Event::Resync { source: self.id.clone(), held }).await?;
        retry.reset();
        while let Some(answer) = self.next(&mut stream).await? {
            if answer.canceled() {
                return Err(Lost::Canceled {
                    compacted: answer.compact_revision(),
                    reason: answer.cancel_reason().to_owned(),
                });
            }
            let alive = self.leases_alive(answer.events()).await;
            for event in answer.events() {
                let Some(kv) = event.kv() else { continue };
                let asked = event.prev_kv().is_some_and(|p| p.lease() == 0 || alive.contains(&p.lease()));
                let why = if asked { Gone::Asked } else { Gone::Lost };
                if let Some(event) = self.event(event.event_type(), kv, why) {
                    send(events, event).await?;
                }
            }
        }
        Err(Lost::Ended)
    }

    /// The next answer of a watch. HTTP/2 keepalive ends the stream when the server hangs; a server that is there but
    /// serves this watch no more does not answer when asked how far it is.
    async fn next(&self, stream: &mut WatchStream) -> Result<Option<WatchResponse>, Lost> {
        if let Ok(answer) = tokio::time::timeout(SILENCE, stream.message()).await {
            return Ok(answer?);
        }
        stream.request_progress().await?;
        tokio::time::timeout(SILENCE, stream.message()).await.map_err(|_| Lost::Silent)?.map_err(Lost::from)
    }

    /// Leases of deleted instances that have not ended: their keys were deleted by somebody, and did not expire.
    async fn leases_alive(&self, told: &[etcd_client::Event]) -> BTreeSet<i64> {
        let deleted = told.iter().filter(|e| e.event_type() == EventType::Delete);
        let leases: BTreeSet<i64> =
            deleted.filter_map(|e| e.prev_kv()).map(KeyValue::lease).filter(|lease| *lease != 0).collect();
        let mut alive = BTreeSet::new();
        let asked = stream::iter(leases).map(|lease| async move {
            let answer = self.call(async |c| c.lease_time_to_live(lease, None).await).await;
            answer.is_ok_and(|a| a.ttl() > 0).then_some(lease)
        });
        let mut asked = std::pin::pin!(asked.buffer_unordered(LOOKUPS));
        // What is not known in time is told as lost, which is the safe side.
        let all = async {
            while let Some(answer) = asked.next().await {
                alive.extend(answer);
            }
        };
        let _ = tokio::time::timeout(DEADLINE, all).await;
        alive
    }

    fn event(&self, kind: EventType, kv: &KeyValue, why: Gone) -> Option<Event> {
        let source = self.id.clone();
        Some(match kind {
            EventType::Put => match read(kv)? {
                Item::Object(object) => Event::UpsertObject { source, object },
                Item::Instance(instance) => Event::UpsertInstance { source, instance },
            },
            EventType::Delete => match Key::parse(&String::from_utf8_lossy(kv.key())).ok()? {
                Key::Object(key) => Event::RemoveObject { source, key },
                Key::Instance(service, id) => Event::RemoveInstance { source, service, id, why },
                Key::Release(_) => return None,
            },
        })
    }
}

impl Store for Etcd {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn watch<'a>(&'a self, events: Sender, stop: CancellationToken) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut retry = Retry::default();
            loop {
                let lost = tokio::select! {
                    Err(lost) = self.follow(&events, &mut retry) => lost,
                    () = stop.cancelled() => return,
                };
                match &lost {
                    Lost::Pipeline => return,
                    Lost::Canceled { compacted, .. } if *compacted > 0 => {
                        info!(source = %self.id, compacted, "watched revision was compacted; listing again");
                    }
                    lost => {
                        let reason = causes(lost);
                        warn!(source = %self.id, reason, "watch lost; the last known state serves on")
                    }
                }
                if !retry.wait(&stop).await {
                    return;
                }
                debug!(source = %self.id, "watching again");
            }
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<u64>, StoreError>> {
        Box::pin(async move {
            let mut conditions = Vec::new();
            let mut operations = Vec::new();
            let mut reads = Vec::new();
            for write in &writes {
                let key = keys::path(&write.key);
                if let Some(expected) = write.expected {
                    conditions.push(Compare::mod_revision(key.clone(), CompareOp::Equal, expected as i64));
                    reads.push(TxnOp::get(key.clone(), Some(GetOptions::new().with_keys_only())));
                }
                operations.push(match &write.text {
                    Some(text) => TxnOp::put(key, text.as_str(), None),
                    None => TxnOp::delete(key, None),
                });
            }
            let txn = Txn::new().when(conditions).and_then(operations).or_else(reads);
            let answer =
                self.call(async |c| c.txn(txn).await).await.map_err(|lost| self.unavailable(lost))?;
            if answer.succeeded() {
                let revision = answer.header().map_or(0, |h| h.revision()) as u64;
                return Ok(writes.iter().map(|w| if w.text.is_some() { revision } else { 0 }).collect());
            }
            let found = answer.op_responses().into_iter().map(|r| match r {
                TxnOpResponse::Get(get) => get.kvs().first().map_or(0, |kv| kv.mod_revision() as u64),
                _ => 0,
            });
            let stale = writes
                .iter()
                .filter_map(|w| Some((w, w.expected?)))
                .zip(found)
                .find(|((_, expected), found)| expected != found)
                .or_else(|| writes.iter().filter_map(|w| Some((w, w.expected?))).map(|w| (w, 0)).next());
            Err(match stale {
                Some(((write, _), _)) => StoreError::Conflict(write.key.clone()),
                None => StoreError::Refused("etcd refused a transaction without conditions".to_owned()),
            })
        })
    }

    fn release_numbers(&self) -> BoxFuture<'_, Result<Vec<u64>, StoreError>> {
        Box::pin(async move {
            let options = GetOptions::new()
                .with_prefix()
                .with_sort(SortTarget::Key, SortOrder::Ascend)
                .with_keys_only();
            let answer = self.call(async |c| c.get(keys::RELEASES, Some(options)).await).await;
            let answer = answer.map_err(|lost| self.unavailable(lost))?;
            Ok(answer.kvs().iter().filter_map(release_of).collect())
        })
    }

    fn releases(&self) -> BoxFuture<'_, Result<Vec<(u64, String)>, StoreError>> {
        Box::pin(async move {
            let mut found = Vec::new();
            let mut from = keys::RELEASES.to_owned();
            let mut revision = 0;
            loop {
                let options = GetOptions::new()
                    .with_range(end_of(keys::RELEASES))
                    .with_limit(RELEASE_PAGE)
                    .with_sort(SortTarget::Key, SortOrder::Ascend)
                    .with_revision(revision);
                let page = self.call(async |c| c.get(from.clone(), Some(options)).await).await;
                let page = page.map_err(|lost| self.unavailable(lost))?;
                revision =
                    page.header().map_or(revision, |h| if revision > 0 { revision } else { h.revision() });
                let text = |kv: &KeyValue| String::from_utf8_lossy(kv.value()).into_owned();
                found.extend(page.kvs().iter().filter_map(|kv| Some((release_of(kv)?, text(kv)))));
                let Some(last) = page.kvs().last().filter(|_| page.more()) else { return Ok(found) };
                from = format!("{}\0", String::from_utf8_lossy(last.key()));
            }
        })
    }

    fn register(
        &self,
        instance: Instance,
        ttl: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        Box::pin(async move {
            let key = keys::instance_key(&instance.service, &instance.id);
            let value = keys::write_instance(&instance);
            self.call(async |c| {
                let mut options = PutOptions::new();
                let mut granted = None;
                if let Some(ttl) = ttl {
                    let seconds = ttl.as_millis().div_ceil(1000).max(1) as i64;
                    let lease = c.lease_grant(seconds, None).await?;
                    options = options.with_lease(lease.id());
                    granted = Some(Duration::from_secs(lease.ttl().max(0) as u64));
                }
                c.put(key, value, Some(options)).await?;
                Ok(granted)
            })
            .await
            .map_err(|lost| self.unavailable(lost))
        })
    }

    fn renew(
        &self,
        service: ServiceName,
        id: InstanceId,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        Box::pin(async move {
            let key = keys::instance_key(&service, &id);
            // The lease is read from the key, so that any replica can renew what another registered.
            let renewed = self
                .call(async |c| {
                    let found = c.get(key, Some(GetOptions::new().with_keys_only())).await?;
                    let Some(kv) = found.kvs().first() else { return Ok(None) };
                    if kv.lease() == 0 {
                        return Ok(Some(None));
                    }
                    let (mut keeper, mut answers) = c.lease_keep_alive(kv.lease()).await?;
                    keeper.keep_alive().await?;
                    let ttl = answers.message().await?.map_or(0, |a| a.ttl());
                    Ok((ttl > 0).then(|| Some(Duration::from_secs(ttl as u64))))
                })
                .await
                .map_err(|lost| self.unavailable(lost))?;
            renewed.ok_or(StoreError::NoInstance { service, id })
        })
    }

    fn deregister(&self, service: ServiceName, id: InstanceId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let key = keys::instance_key(&service, &id);
            let answer = self
                .call(async |c| c.delete(key, None).await)
                .await
                .map_err(|lost| self.unavailable(lost))?;
            if answer.deleted() == 0 { Err(StoreError::NoInstance { service, id }) } else { Ok(()) }
        })
    }
}

enum Item {
    Object(Object),
    Instance(Instance),
}

fn read(kv: &KeyValue) -> Option<Item> {
    let key = String::from_utf8_lossy(kv.key());
    let item = Key::parse(&key).and_then(|parsed| {
        Ok(match parsed {
            Key::Object(object) => {
                let text = String::from_utf8_lossy(kv.value());
                Some(Item::Object(Object::stored(object, kv.mod_revision() as u64, &text)))
            }
            Key::Instance(service, id) => Some(Item::Instance(keys::read_instance(service, id, kv.value())?)),
            Key::Release(_) => None, // read when asked for
        })
    });
    item.inspect_err(|reason| warn!(%key, %reason, "ignored in etcd")).ok().flatten()
}

fn release_of(kv: &KeyValue) -> Option<u64> {
    match Key::parse(&String::from_utf8_lossy(kv.key())) {
        Ok(Key::Release(number)) => Some(number),
        _ => None,
    }
}

/// The first key after all that begin with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1; // INVARIANT: prefixes are ASCII and end with `/`
    }
    end
}

async fn send(events: &Sender, event: Event) -> Result<(), Lost> {
    events.send(event).await.map_err(|_| Lost::Pipeline)
}

/// Whether an answer was larger than what gRPC takes; etcd itself says with this code that a revision was compacted.
fn is_too_large(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.code() == tonic::Code::OutOfRange && !status.message().starts_with("etcdserver"))
}

/// Whether etcd understood and said no, rather than was away.
fn is_refusal(error: &etcd_client::Error) -> bool {
    use tonic::Code::{FailedPrecondition, InvalidArgument, OutOfRange, PermissionDenied, Unauthenticated};
    match error {
        etcd_client::Error::GRpcStatus(status) => matches!(
            status.code(),
            FailedPrecondition | InvalidArgument | OutOfRange | PermissionDenied | Unauthenticated
        ),
        _ => false,
    }
}

/// Why etcd cannot be followed further.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Etcd(#[from] etcd_client::Error),
    #[error("no answer within {DEADLINE:?}")]
    Deadline,
    #[error("watch canceled: {reason} (compacted at {compacted})")]
    Canceled { compacted: i64, reason: String },
    #[error("watch ended")]
    Ended,
    #[error("the watch does not answer within {SILENCE:?}")]
    Silent,
    #[error("the pipeline has ended")]
    Pipeline,
}
