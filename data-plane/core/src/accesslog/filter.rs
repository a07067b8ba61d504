//! Which streams are logged (Envoy `AccessLogFilter`).

use super::{Record, ResponseFlags};
use crate::config::{AccessLogFilter, Comparison, RuntimeFraction};
use crate::headers::format::grpc_status;
use crate::matcher::{HeaderMatcher, Runtime};

/// Decides which streams are logged.
#[derive(Clone, Debug)]
pub struct Filter(Condition);

#[derive(Clone, Debug)]
enum Condition {
    Status(Comparison, u64),
    DurationMs(Comparison, u64),
    NotHealthCheck,
    Traced,
    Share(RuntimeFraction),
    All(Box<[Condition]>),
    Any(Box<[Condition]>),
    Header(HeaderMatcher),
    /// One of these is set; `None`: any flag at all.
    Flags(Option<ResponseFlags>),
    /// A bit for each code.
    GrpcStatus {
        codes: u32,
        exclude: bool,
    },
}

/// UNKNOWN, which a stream without any status has (Envoy: `GrpcStatusFilter`).
const UNKNOWN: i64 = 2;

impl Filter {
    /// Compiles a filter.
    pub fn new(filter: &AccessLogFilter) -> Self {
        Self(Condition::new(filter))
    }

    /// Whether to log. `random` is the stream's.
    pub fn passes(&self, record: &Record<'_>, random: u64, runtime: Option<Runtime<'_>>) -> bool {
        self.0.holds(record, random, runtime)
    }
}

impl Condition {
    fn new(filter: &AccessLogFilter) -> Self {
        match filter {
            AccessLogFilter::Status(comparison, status) => Self::Status(*comparison, u64::from(*status)),
            AccessLogFilter::Duration(comparison, millis) => Self::DurationMs(*comparison, *millis),
            AccessLogFilter::NotHealthCheck => Self::NotHealthCheck,
            AccessLogFilter::Traceable => Self::Traced,
            AccessLogFilter::Runtime(fraction) => Self::Share(fraction.clone()),
            AccessLogFilter::And(filters) => Self::All(filters.iter().map(Self::new).collect()),
            AccessLogFilter::Or(filters) => Self::Any(filters.iter().map(Self::new).collect()),
            AccessLogFilter::Header(matcher) => Self::Header(matcher.clone()),
            AccessLogFilter::GrpcStatus { codes, exclude } => Self::GrpcStatus {
                codes: codes.iter().fold(0, |all, code| all | 1 << code),
                exclude: *exclude,
            },
            AccessLogFilter::ResponseFlag(names) if names.is_empty() => Self::Flags(None),
            AccessLogFilter::ResponseFlag(names) => {
                // Unknown names were refused with the configuration.
                let flags = names.iter().filter_map(|name| ResponseFlags::from_short(name));
                Self::Flags(Some(flags.fold(ResponseFlags::NONE, ResponseFlags::union)))
            }
        }
    }

    fn holds(&self, record: &Record<'_>, random: u64, runtime: Option<Runtime<'_>>) -> bool {
        match self {
            Self::Status(comparison, wanted) => {
                compare(*comparison, record.status.map_or(0, u64::from), *wanted)
            }
            Self::DurationMs(comparison, wanted) => {
                let duration = record.timing.end.unwrap_or(record.now).as_millis();
                compare(*comparison, u64::try_from(duration).unwrap_or(u64::MAX), *wanted)
            }
            Self::NotHealthCheck => !record.health_check,
            Self::Traced => record.traced,
            Self::Share(fraction) => fraction.takes(random, runtime),
            Self::All(conditions) => conditions.iter().all(|one| one.holds(record, random, runtime)),
            Self::Any(conditions) => conditions.iter().any(|one| one.holds(record, random, runtime)),
            Self::Header(matcher) => record.request.is_some_and(|head| matcher.matches(head)),
            Self::GrpcStatus { codes, exclude } => {
                let code = grpc_status(record).unwrap_or(UNKNOWN);
                let found =
                    u32::try_from(code).is_ok_and(|code| codes.checked_shr(code).unwrap_or(0) & 1 == 1);
                found != *exclude
            }
            Self::Flags(None) => !record.flags.is_empty(),
            Self::Flags(Some(flags)) => record.flags.intersects(*flags),
        }
    }
}

fn compare(comparison: Comparison, value: u64, wanted: u64) -> bool {
    match comparison {
        Comparison::Eq => value == wanted,
        Comparison::Ge => value >= wanted,
        Comparison::Le => value <= wanted,
        Comparison::Ne => value != wanted,
    }
}
