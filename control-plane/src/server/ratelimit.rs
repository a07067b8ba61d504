//! Wires the rate-limit service: its counters, its limits out of what is in force, and its port.

use std::future::Future;
use std::time::Duration;

use ::http::{Request, Response};
use axum::body::Body;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::info;
use xds_types::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer;

use super::http::{self, Answers, Port};
use super::tls::Conn;
use crate::pipeline::Handle;
use crate::ratelimit::memory::Memory;
use crate::ratelimit::redis::{Redis, Settings};
use crate::ratelimit::{Backend, Limiter, Limits, Options};
use crate::settings::SettingsError;
use crate::translate;

/// Calls under way on one connection.
const MAX_CALLS: u32 = 4096;

/// The service, and the tasks that feed it.
pub(super) fn start(
    options: &Options,
    handle: &Handle,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<Limiter, SettingsError> {
    let memory = Memory::new(usize::try_from(options.ratelimit_entries).unwrap_or(usize::MAX));
    let backend = match &options.ratelimit_redis {
        None => Backend::Memory(memory),
        Some(url) => {
            let password = match &options.ratelimit_redis_password_file {
                Some(file) => Some(crate::settings::secret("--ratelimit-redis-password-file", file)?),
                None => None,
            };
            let settings = Settings {
                url: url.clone(),
                password,
                ca_file: options.ratelimit_redis_ca_file.clone(),
                prefix: options.ratelimit_redis_prefix.clone(),
                timeout: Duration::from_millis(options.ratelimit_redis_timeout_ms),
                jitter: Duration::from_secs(options.ratelimit_redis_jitter_s.into()),
            };
            let (redis, work) =
                Redis::new(settings).map_err(|e| SettingsError::new("--ratelimit-redis", e))?;
            let stop = stop.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = work => {}
                    () = stop.cancelled() => {}
                }
            });
            Backend::Redis { redis, failure: options.ratelimit_redis_failure, memory }
        }
    };
    let limiter = Limiter::new(backend, options.ratelimit_shadow);
    tasks.spawn(follow(limiter.clone(), handle.clone(), stop.clone()));
    Ok(limiter)
}

/// Puts in force what policies say, whenever they say something else.
async fn follow(limiter: Limiter, handle: Handle, stop: CancellationToken) {
    let mut views = handle.watch();
    let mut before = Vec::new();
    loop {
        let domains = translate::rate_limit_domains(&views.borrow_and_update().objects);
        if domains != before {
            let limits = Limits::new(&domains);
            info!(domains = ?limits.domains(), "rate limits are in force");
            limiter.set(limits);
            before = domains;
        }
        tokio::select! {
            // Cancel-safe: a change that was not seen is seen the next time.
            changed = views.changed() => if changed.is_err() {
                return;
            },
            () = stop.cancelled() => return,
        }
    }
}

/// Serves until stopped.
pub(super) async fn serve(
    accepted: mpsc::Receiver<Conn>,
    limiter: Limiter,
    connections: u32,
    stop: CancellationToken,
) {
    let port = Port { connections, streams: MAX_CALLS, http1: false, call: None, age: None };
    let calls = Calls(limiter.server());
    http::serve(accepted, move |_, _| calls.clone(), port, stop).await;
}

/// The service alone, without a router before it.
#[derive(Clone)]
struct Calls(RateLimitServiceServer<Limiter>);

impl Answers for Calls {
    type Body = tonic::body::Body;

    fn answer(
        mut self,
        request: Request<Body>,
    ) -> impl Future<Output = Response<Self::Body>> + Send + 'static {
        let answer = tower::Service::call(&mut self.0, request);
        async move {
            match answer.await {
                Ok(answer) => answer,
                Err(never) => match never {},
            }
        }
    }

    fn timed_out() -> Response<Self::Body> {
        Status::deadline_exceeded("not answered in time").into_http()
    }
}
