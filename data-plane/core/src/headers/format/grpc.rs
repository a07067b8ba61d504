//! gRPC status codes, their names, and what HTTP statuses stand for.

use crate::headers::{HeaderId, HeaderList, Record, RequestHead};

/// Names of the codes 0..=16, as Envoy prints them: camel case, then snake case.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// How a status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Camel,
    Snake,
    Number,
}

/// The name of a code; `None` for codes without one, which are printed as numbers.
pub(super) fn name(code: i64, style: Style) -> Option<&'static str> {
    let (camel, snake) = NAMES.get(usize::try_from(code).ok()?)?;
    match style {
        Style::Camel => Some(camel),
        Style::Snake => Some(snake),
        Style::Number => None,
    }
}

/// The status of a gRPC stream: from trailers, from headers (trailers-only), or what the HTTP status means.
pub(super) fn status(record: &Record<'_>) -> Option<i64> {
    record.request.filter(|head| is_grpc(head))?;
    grpc_status(record)
}

/// The same of any stream, gRPC or not.
pub(crate) fn grpc_status(record: &Record<'_>) -> Option<i64> {
    let read = |headers: &HeaderList| -> Option<i64> {
        std::str::from_utf8(headers.get_id(HeaderId::GrpcStatus)?).ok()?.parse::<u32>().ok().map(i64::from)
    };
    record
        .trailers
        .and_then(read)
        .or_else(|| read(&record.response?.headers))
        .or_else(|| record.status.map(from_http))
}

/// Whether the content type is gRPC's: `application/grpc` or `application/grpc+..`; grpc-web is not.
pub(crate) fn is_grpc(head: &RequestHead) -> bool {
    head.headers
        .get_id(HeaderId::ContentType)
        .and_then(|value| value.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// gRPC's `doc/http-grpc-status-mapping.md`.
fn from_http(status: u16) -> i64 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
