//! Counters in Redis, which all control planes share.
//!
//! One task owns the connection. It takes what waits, up to `BATCH` decisions, and has one script decide them all
//! in one atomic step; several batches may be under way. A decision that is not taken within its deadline, or while
//! Redis is away, is [`Away`]: whoever asked goes by the failure mode. Nothing waits for a reconnect.
//!
//! Redis 5 or newer, alone or behind a primary's address; not Redis Cluster, whose scripts may touch one slot only.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, Script, TlsCertificates};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::algorithm::{Algorithm, Hits, Rate, Verdict};

/// Decisions in one call of the script.
const BATCH: usize = 128;
/// Calls under way. More wait in the queue.
const CALLS: usize = 8;
/// Decisions that wait. Full: the next are away.
const QUEUE: usize = 8192;
/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(2);

/// Decides a batch; says what it takes and answers.
pub const SCRIPT: &str = include_str!("redis.lua");

/// Redis did not decide in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away;

/// Redis cannot be used as it was told.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// How it is reached.
pub struct Settings {
    /// `redis://` or `rediss://`, without a password.
    pub url: String,
    /// The password, if there is one. Never shown.
    pub password: Option<String>,
    /// Authorities to trust for `rediss://`; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// What keys begin with.
    pub prefix: String,
    /// For an answer.
    pub timeout: Duration,
    /// Keys outlive their use by up to this long.
    pub jitter: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

struct Job {
    key: String,
    rate: Rate,
    hits: Hits,
    deadline: Instant,
    answer: oneshot::Sender<Verdict>,
}

/// A handle to the task that asks Redis.
#[derive(Clone)]
pub struct Redis {
    queue: mpsc::Sender<Job>,
    up: Arc<AtomicBool>,
    prefix: Arc<str>,
    timeout: Duration,
    errors: Counter,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Redis {
    /// A handle, and the task to run. Connects when that runs.
    ///
    /// # Errors
    /// The URL or the CA file cannot be used.
    pub fn new(settings: Settings) -> Result<(Self, impl Future<Output = ()> + use<>), Invalid> {
        let client = client(&settings)?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let up = Arc::new(AtomicBool::new(false));
        let jitter = u64::try_from(settings.jitter.as_millis()).unwrap_or(u64::MAX);
        let worker = Worker {
            client,
            jobs,
            up: up.clone(),
            timeout: settings.timeout,
            jitter,
            script: Arc::new(Script::new(SCRIPT)),
            gauge: gauge!("ratelimit_redis_up"),
        };
        let handle = Self {
            queue,
            up,
            prefix: settings.prefix.into(),
            timeout: settings.timeout,
            errors: counter!("ratelimit_backend_errors_total"),
        };
        Ok((handle, worker.run()))
    }

    /// Whether it is connected.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Counts hits under a key.
    ///
    /// # Errors
    /// Redis did not decide within the timeout. It may have counted nevertheless.
    pub async fn decide(&self, key: &str, rate: &Rate, hits: Hits) -> Result<Verdict, Away> {
        let answer = self.ask(key, rate, hits).await;
        if answer.is_err() {
            self.errors.increment(1);
        }
        answer
    }

    async fn ask(&self, key: &str, rate: &Rate, hits: Hits) -> Result<Verdict, Away> {
        if !self.is_up() {
            return Err(Away);
        }
        let (algorithm, burst) = parts(rate);
        // Another rate under the same name is another counter.
        let key = format!("{}{key}|{algorithm}{}.{}.{burst}", self.prefix, rate.window.as_secs(), rate.hits);
        let deadline = Instant::now() + self.timeout;
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Job { key, rate: *rate, hits, deadline, answer }).map_err(|_| Away)?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(verdict)) => Ok(verdict),
            Ok(Err(_)) | Err(_) => Err(Away),
        }
    }
}

fn parts(rate: &Rate) -> (char, u32) {
    match rate.algorithm {
        Algorithm::FixedWindow => ('f', 0),
        Algorithm::TokenBucket { burst } => ('t', burst),
        Algorithm::SlidingWindow => ('s', 0),
    }
}

fn client(settings: &Settings) -> Result<Client, Invalid> {
    // What is wrong is said without the URL, which may hold a password after all.
    let wrong = |what: &str| Invalid(format!("is not redis://[USER@]HOST:PORT[/DB]: {what}"));
    let info: ConnectionInfo =
        settings.url.as_str().into_connection_info().map_err(|e| wrong(e.detail().unwrap_or("not a URL")))?;
    if info.redis_settings().password().is_some() {
        return Err(Invalid("must not hold the password; give --ratelimit-redis-password-file".to_owned()));
    }
    let mut redis = info.redis_settings().clone();
    if let Some(password) = &settings.password {
        redis = redis.set_password(password);
    }
    let info = info.set_redis_settings(redis);
    match &settings.ca_file {
        None => Client::open(info).map_err(|e| wrong(e.detail().unwrap_or("not usable"))),
        Some(file) => {
            let pem = std::fs::read(file).map_err(|e| Invalid(format!("{}: {e}", file.display())))?;
            let trusted = TlsCertificates { client_tls: None, root_cert: Some(pem) };
            Client::build_with_tls(info, trusted).map_err(|e| Invalid(format!("{}: {e}", file.display())))
        }
    }
}

struct Worker {
    client: Client,
    jobs: mpsc::Receiver<Job>,
    up: Arc<AtomicBool>,
    timeout: Duration,
    jitter: u64,
    script: Arc<Script>,
    gauge: Gauge,
}

impl Worker {
    /// Until every handle is gone.
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            match timeout(CONNECT, self.connect()).await {
                Ok(Ok(connection)) => {
                    info!("Redis counts rate limits");
                    (pause, told) = (FIRST_PAUSE, false);
                    self.set_up(true);
                    let ended = self.serve(&connection).await;
                    self.set_up(false);
                    // What still waits would only run into its deadline.
                    while self.jobs.try_recv().is_ok() {}
                    if ended {
                        return;
                    }
                    warn!("Redis is away; rate limits go by the failure mode");
                }
                Ok(Err(error)) if !told => {
                    warn!(kind = ?error.kind(), "Redis cannot be reached; rate limits go by the failure mode");
                    told = true;
                }
                Ok(Err(_)) | Err(_) => {}
            }
            if self.jobs.is_closed() {
                return;
            }
            // Spread, so that control planes do not return in step.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
        self.gauge.set(if up { 1.0 } else { 0.0 });
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(self.timeout.max(Duration::from_millis(10))));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        // The script is there before the first decision needs it.
        self.script.prepare_invoke().load_async(&mut connection).await?;
        Ok(connection)
    }

    /// Until the connection fails, or every handle is gone (true).
    async fn serve(&mut self, connection: &MultiplexedConnection) -> bool {
        let slots = Arc::new(Semaphore::new(CALLS));
        let failed = CancellationToken::new();
        let mut calls = tokio::task::JoinSet::new();
        let mut waiting = Vec::with_capacity(BATCH);
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&slots).acquire_owned() => slot,
                () = failed.cancelled() => return false,
            };
            let taken = tokio::select! {
                // Cancel-safe: nothing is taken when it is dropped.
                taken = self.jobs.recv_many(&mut waiting, BATCH) => taken,
                () = failed.cancelled() => return false,
            };
            if taken == 0 {
                return true;
            }
            let now = Instant::now();
            waiting.retain(|job: &Job| job.deadline > now);
            let batch = std::mem::take(&mut waiting);
            if batch.is_empty() {
                continue;
            }
            while calls.try_join_next().is_some() {}
            let (script, jitter) = (self.script.clone(), self.jitter);
            let (mut connection, failed) = (connection.clone(), failed.clone());
            calls.spawn(async move {
                if let Err(error) = call(&script, &mut connection, batch, jitter).await {
                    warn!(kind = ?error.kind(), "a batch of rate limits failed in Redis");
                    failed.cancel();
                }
                drop(slot);
            });
        }
    }
}

async fn call(
    script: &Script,
    connection: &mut MultiplexedConnection,
    batch: Vec<Job>,
    jitter: u64,
) -> redis::RedisResult<()> {
    let mut invocation = script.prepare_invoke();
    for job in &batch {
        let (algorithm, burst) = parts(&job.rate);
        let hits = match job.hits {
            Hits::Take(n) => i64::try_from(n).unwrap_or(i64::MAX),
            Hits::Return(n) => -i64::try_from(n).unwrap_or(i64::MAX),
        };
        let window = u64::try_from(job.rate.window.as_micros()).unwrap_or(u64::MAX);
        let outlive = if jitter == 0 { 0 } else { fastrand::u64(..=jitter) };
        invocation.key(&job.key).arg(algorithm.to_string()).arg(job.rate.hits).arg(hits);
        invocation.arg(window).arg(burst).arg(outlive + 1);
    }
    let answers: Vec<i64> = invocation.invoke_async(connection).await?;
    for (job, said) in batch.into_iter().zip(answers.chunks_exact(3)) {
        let verdict = Verdict {
            allowed: said[0] == 1,
            remaining: u32::try_from(said[1].max(0)).unwrap_or(u32::MAX),
            reset: Duration::from_micros(u64::try_from(said[2]).unwrap_or_default()),
        };
        // Whoever asked may have stopped waiting.
        let _ = job.answer.send(verdict);
    }
    Ok(())
}
