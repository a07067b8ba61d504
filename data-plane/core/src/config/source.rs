//! Where a resource comes from (Envoy `config.core.v3.ConfigSource`).

use std::path::PathBuf;
use std::time::Duration;

/// Where resources of one type are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// The bootstrap's one ADS stream.
    Ads {
        /// Wait for the first update; `None` waits for ever. Default 15 s.
        initial_fetch_timeout: Option<Duration>,
    },
    /// A gRPC stream of its own.
    Grpc {
        /// Server and protocol.
        source: GrpcSource,
        /// Wait for the first update; `None` waits for ever. Default 15 s.
        initial_fetch_timeout: Option<Duration>,
    },
    /// A file, read again when it is moved into place.
    Path {
        /// The file with a DiscoveryResponse or a list of resources.
        path: PathBuf,
        /// The folder whose moves trigger a read; `None`: the file's own.
        watched_directory: Option<PathBuf>,
    },
}

/// A management server and how to speak with it (Envoy `ApiConfigSource`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcSource {
    /// SotW or delta.
    pub api: TransportApi,
    /// Servers in order of preference; at least one.
    pub targets: Vec<GrpcTarget>,
    /// Send `node` only in a stream's first request.
    pub node_on_first_message_only: bool,
    /// Discovery requests: bucket size and refill per second; `None`: unlimited.
    pub rate_limit: Option<(u32, f64Bits)>,
}

/// An `f64` compared by its bits, so that configuration is `Eq`.
#[allow(non_camel_case_types, reason = "reads as the primitive it wraps")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct f64Bits(u64);

impl f64Bits {
    /// Wraps.
    pub fn new(value: f64) -> Self {
        Self(value.to_bits())
    }

    /// Unwraps.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// State of the world or incremental.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportApi {
    /// `GRPC` / `AGGREGATED_GRPC`.
    Sotw,
    /// `DELTA_GRPC` / `AGGREGATED_DELTA_GRPC`.
    Delta,
}

/// A gRPC server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcTarget {
    /// The static cluster to reach it by (`envoy_grpc.cluster_name`).
    pub cluster: Box<str>,
    /// `:authority`; `None`: the cluster's name.
    pub authority: Option<Box<str>>,
    /// Deadline for a unary call; has no effect on streams.
    pub timeout: Option<Duration>,
    /// Longest message received, bytes; `None`: no limit.
    pub max_receive_message_bytes: Option<u32>,
    /// Metadata sent with every stream.
    pub metadata: Vec<(Box<str>, Box<str>)>,
}
