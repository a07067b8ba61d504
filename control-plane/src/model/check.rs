//! Checks of one object by itself: names, ranges, syntax, and what gRPC clients can follow.
//!
//! Called at admission and for what was written past it, by `translate`, which adds the checks that need other
//! objects or compiled resources. Never stops at the first error.

mod bytes;
mod gateway;
mod observe;
mod policy;
mod resilience;
mod route;
mod secret;
mod service;
mod stage;
mod tls;

use std::fmt::Display;
use std::time::Duration;

use xds_types::google::protobuf::Duration as ProtoDuration;
use xds_types::portolan::config::v1::{Resource, resource::Spec};

use super::{ObjectKey, Problems};

pub use bytes::problems as bytes;
pub use gateway::addresses_clash;
pub use observe::HEADER_METADATA;
pub use policy::{OWN_DOMAIN, limit_name};
pub(crate) use resilience::{grpc_conditions, statuses};
pub use tls::is_on as speaks_mtls;

/// Longest duration that may be configured: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Everything wrong with an object that can be seen without looking at others.
pub fn object(key: &ObjectKey, resource: &Resource) -> Problems {
    let mut found = Problems::default();
    let Resource { name: _, labels: _, spec } = resource;
    let mut at = Checker { key, found: &mut found };
    match spec {
        Some(Spec::Service(s)) => service::check(s, &mut at),
        Some(Spec::Gateway(g)) => gateway::check(g, &mut at),
        Some(Spec::Route(r)) => route::check(r, &mut at),
        Some(Spec::Policy(p)) => policy::check(p, &mut at),
        Some(Spec::Secret(s)) => secret::check(s, &mut at),
        Some(Spec::Token(t)) => secret::check_token(t, &mut at),
        Some(Spec::Stage(s)) => stage::check(s, &mut at),
        None => at.error("spec", "is missing"),
    }
    found
}

/// Collects problems of one object.
struct Checker<'a> {
    key: &'a ObjectKey,
    found: &'a mut Problems,
}

impl Checker<'_> {
    fn error(&mut self, path: impl Into<String>, message: impl Display) {
        self.found.error(self.key, path, message.to_string());
    }

    fn warn(&mut self, path: impl Into<String>, message: impl Display) {
        self.found.warn(self.key, path, message.to_string());
    }

    /// A duration that is present, not negative, and below a year.
    fn duration(&mut self, path: &str, value: Option<&ProtoDuration>, zero: Zero) {
        let Some(d) = value else { return };
        match to_duration(d) {
            None => self.error(path, "must not be negative"),
            Some(d) if d.is_zero() && matches!(zero, Zero::Refused) => {
                self.error(path, "must be more than 0s")
            }
            Some(d) if d > LONGEST => self.error(path, "must be at most a year"),
            Some(_) => {}
        }
    }

    /// A number that, when it is there, must be in a range.
    fn range(&mut self, path: &str, value: Option<u32>, range: std::ops::RangeInclusive<u32>) {
        let (low, high) = (range.start(), range.end());
        match value {
            Some(n) if !range.contains(&n) && *high == u32::MAX => {
                self.error(path, format!("must be at least {low}"));
            }
            Some(n) if !range.contains(&n) => self.error(path, format!("must be {low} to {high}")),
            _ => {}
        }
    }

    fn port(&mut self, path: &str, port: u32) {
        if !(1..=65_535).contains(&port) {
            self.error(path, "must be 1 to 65535");
        }
    }

    /// A regular expression that RE2 and we read alike.
    fn regex(&mut self, path: &str, text: &str) {
        if let Err(message) = regex(text) {
            self.error(path, message);
        }
    }
}

/// Whether 0s is a value.
#[derive(Clone, Copy)]
enum Zero {
    Allowed,
    Refused,
}

/// A duration of the API as one of ours; `None` when it is negative.
pub fn to_duration(d: &ProtoDuration) -> Option<Duration> {
    let (seconds, nanos) = (u64::try_from(d.seconds).ok()?, u32::try_from(d.nanos).ok()?);
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

/// Why a text is not a regular expression that RE2 takes.
fn regex(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    regex::Regex::new(text).map_err(|e| {
        // The last line says what; those before draw an arrow, which one line cannot.
        let text = e.to_string();
        let last = text.lines().last().unwrap_or_default();
        format!("is not a regular expression: {}", last.trim_start_matches("error: "))
    })?;
    // Ours alone: set operations in classes, the flags R, u and x, word-boundary kinds.
    for ours in ["&&", "~~", "(?x", "(?u", "(?R", r"\b{"] {
        if text.contains(ours) {
            return Err(format!("is not RE2 syntax: `{ours}` means something else there"));
        }
    }
    Ok(())
}

/// Why a text is not a host without port: exact, `*.suffix`, or `*` where `any` says so.
fn host(text: &str, any: bool) -> Result<(), &'static str> {
    if text == "*" {
        return if any { Ok(()) } else { Err("must be a host name; leave the list empty to serve all") };
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    if name.is_empty() {
        return Err("must not be empty");
    }
    if name.contains('*') {
        return Err("may have a wildcard only in front, as `*.suffix`");
    }
    if name.len() > 253 {
        return Err("must be at most 253 bytes long");
    }
    if name.starts_with('[') && name.ends_with(']') {
        let inner = &name[1..name.len() - 1];
        return inner
            .parse::<std::net::Ipv6Addr>()
            .map(drop)
            .map_err(|_| "is not an IPv6 address in brackets");
    }
    if name.contains(':') {
        return Err("must not have a port: hosts are matched without it");
    }
    let label =
        |l: &str| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if name.split('.').all(label) { Ok(()) } else { Err("is not a host name") }
}

/// Why a text is not the name of a header that may be matched.
fn header_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("must not be empty");
    }
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let rest = name.strip_prefix(':').unwrap_or(name);
    if rest.is_empty() || !rest.bytes().all(token) { Err("is not a header name") } else { Ok(()) }
}

/// Why a text is not a format of Envoy's, as far as that shows without knowing its operators.
fn format(text: &str) -> Result<(), &'static str> {
    if text.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
        return Err("must not hold line breaks or NUL");
    }
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        if let Some(escaped) = rest.strip_prefix('%') {
            rest = escaped;
            continue;
        }
        let name =
            rest.bytes().take_while(|b| b.is_ascii_uppercase() || *b == b'_' || b.is_ascii_digit()).count();
        let after = &rest[name..];
        let Some(end) = operator_end(after) else {
            return Err("has a lone `%`: write `%%`, or close the operator");
        };
        if name == 0 {
            return Err("has an operator without a name");
        }
        rest = &after[end..];
    }
    Ok(())
}

/// Length of `(ARGUMENT):LENGTH%`, all but the last character optional.
fn operator_end(text: &str) -> Option<usize> {
    let argument = if text.starts_with('(') { text.find(')')? + 1 } else { 0 };
    text[argument..].find('%').map(|n| argument + n + 1)
}

#[cfg(test)]
mod tests;
