//! How the rate-limit service is told to run.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The rate-limit service.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where proxies ask the rate-limit service (gRPC). It is on the xDS port too
    #[arg(
        long,
        env = "PORTOLAN_RATELIMIT_ADDRESS",
        default_value = "127.0.0.1:18081",
        value_name = "IP:PORT"
    )]
    pub ratelimit_address: SocketAddr,

    /// Redis that control planes share: redis://USER@HOST:PORT/DB (user and database may be left out), rediss:// with TLS. Without it each
    /// control plane counts for itself, in memory
    #[arg(long, env = "PORTOLAN_RATELIMIT_REDIS", value_name = "URL")]
    pub ratelimit_redis: Option<String>,

    /// File with its password
    #[arg(
        long,
        env = "PORTOLAN_RATELIMIT_REDIS_PASSWORD_FILE",
        requires = "ratelimit_redis",
        value_name = "FILE"
    )]
    pub ratelimit_redis_password_file: Option<PathBuf>,

    /// PEM file with the authorities to trust for rediss://. Default: the system's
    #[arg(long, env = "PORTOLAN_RATELIMIT_REDIS_CA_FILE", requires = "ratelimit_redis", value_name = "FILE")]
    pub ratelimit_redis_ca_file: Option<PathBuf>,

    /// What its keys begin with
    #[arg(
        long,
        env = "PORTOLAN_RATELIMIT_REDIS_PREFIX",
        default_value = "portolan:rl:",
        value_name = "TEXT"
    )]
    pub ratelimit_redis_prefix: String,

    /// Longest wait for it, in milliseconds; then the failure mode decides
    #[arg(long, env = "PORTOLAN_RATELIMIT_REDIS_TIMEOUT_MS", default_value_t = 50, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub ratelimit_redis_timeout_ms: u64,

    /// What counts while it is away
    #[arg(
        long,
        env = "PORTOLAN_RATELIMIT_REDIS_FAILURE",
        default_value = "local",
        value_enum,
        value_name = "MODE"
    )]
    pub ratelimit_redis_failure: Failure,

    /// Keys outlive their use by up to so many seconds, at random, so that they do not expire in step
    #[arg(long, env = "PORTOLAN_RATELIMIT_REDIS_JITTER_S", default_value_t = 10, value_name = "S",
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub ratelimit_redis_jitter_s: u32,

    /// Counters in memory, at most
    #[arg(long, env = "PORTOLAN_RATELIMIT_ENTRIES", default_value_t = 1_000_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(64..))]
    pub ratelimit_entries: u32,

    /// Count, and refuse nothing, whatever the limits
    #[arg(long, env = "PORTOLAN_RATELIMIT_SHADOW")]
    pub ratelimit_shadow: bool,
}

/// What counts while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Failure {
    /// Let everything through.
    Open,
    /// Refuse everything.
    Closed,
    /// Count in this control plane's memory.
    Local,
    /// Answer with an error, so that the proxy's own failure mode decides.
    Error,
}
