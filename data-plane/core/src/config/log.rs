//! Access logs (Envoy `config.accesslog.v3.AccessLog`).

use super::route::RuntimeFraction;
use crate::headers::format::Format;
use crate::matcher::HeaderMatcher;
use std::path::PathBuf;

/// One access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where lines go.
    pub sink: AccessLogSink,
    /// How a line is made.
    pub format: AccessLogFormat,
    /// Which requests are logged; `None`: all.
    pub filter: Option<AccessLogFilter>,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AccessLogSink {
    /// Appended to a file; reopened on SIGUSR1.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a line is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// Text, line end included in the format.
    Text(Format),
    /// One JSON object and a line feed.
    Json {
        /// The object.
        object: JsonFormat,
        /// Leave out members without a value instead of writing null.
        omit_empty: bool,
    },
}

/// A JSON value with formats at its leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonFormat {
    /// A format: keeps its command's type if it is a single command.
    Text(Format),
    /// Written as is.
    Literal(String),
    /// Members in the order of their names.
    Object(Vec<(String, JsonFormat)>),
    /// Elements.
    Array(Vec<JsonFormat>),
}

/// Which requests are logged (Envoy `AccessLogFilter`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogFilter {
    /// Response status.
    Status(Comparison, u32),
    /// Duration in milliseconds.
    Duration(Comparison, u64),
    /// Not a health check request.
    NotHealthCheck,
    /// Traced requests only.
    Traceable,
    /// A share of requests.
    Runtime(RuntimeFraction),
    /// All hold.
    And(Vec<AccessLogFilter>),
    /// One holds.
    Or(Vec<AccessLogFilter>),
    /// A request header matches.
    Header(HeaderMatcher),
    /// One of these response flags is set; empty: any flag.
    ResponseFlag(Vec<Box<str>>),
    /// The gRPC status, or what the HTTP status means in gRPC, is one of these; or, with `exclude`, none of them.
    GrpcStatus {
        /// Codes, 0 to 16.
        codes: Vec<u8>,
        /// All others.
        exclude: bool,
    },
}

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Eq,
    /// `>=`
    Ge,
    /// `<=`
    Le,
    /// `!=`
    Ne,
}
