//! The commands: how each is compiled from its name and argument, and what it renders.

use super::grpc::{self, Style};
use super::time::Pattern;
use super::tls;
use crate::headers::{
    HeaderId, HeaderList, MetadataKey, PathSegment, Record, RequestHead, ResponseHead, Version,
    percent_decoded,
};
use ipnet::IpNet;
use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use time::UtcOffset;

/// What a command rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: there is no value.
    Missing,
    /// Text, perhaps empty.
    Text,
    /// A decimal number.
    Number,
    /// JSON that is no text.
    Json,
}

/// Why a command is refused, and which part of it is to blame.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) part: Part,
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Name,
    /// At this offset in the argument.
    Args(usize),
    Limit,
}

/// A compiled command.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// Has no value while connections are plaintext, or while no filter sets one.
    Absent,
    Number(fn(&Record<'_>) -> Option<i64>),
    /// Appends text; whether there was any.
    Text(fn(&Record<'_>, &mut Vec<u8>) -> Option<()>),
    Header(Source, Name, Option<Name>),
    /// A request header up to its query.
    HeaderWithoutQuery(Name, Option<Name>),
    Time(Moment, Zone, Pattern),
    Between(Point, Point, Unit),
    Address(fn(&Record<'_>) -> Option<SocketAddr>, AddressPart),
    Environment(Box<str>),
    QueryParameter(Box<str>),
    QueryParameters {
        decoded: bool,
    },
    Path {
        query: bool,
        original: Preference,
    },
    ServerName {
        prefer: ServerNameSource,
        host: Preference,
    },
    StatusDetails {
        whitespace: bool,
    },
    GrpcStatus(Style),
    /// Of a TLS connection.
    Tls(tls::Side, tls::What),
    /// A value of dynamic metadata.
    Metadata(MetadataKey),
    /// The first that has a value which is not empty.
    Coalesce(Box<[(Command, Option<usize>)]>),
}

/// Where a header is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Request,
    Response,
    Trailers,
}

/// A header name, looked up by id where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    text: Box<str>,
    id: HeaderId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Start,
    Emit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    Utc,
    Local,
}

/// The time points of `COMMON_DURATION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    Start,
    DownstreamRxEnd,
    UpstreamConnectBegin,
    UpstreamConnectEnd,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxBodyBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Millis,
    Micros,
    Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressPart {
    Whole,
    Ip,
    /// The network of this prefix length, as a CIDR.
    Masked(u8),
    Port,
}

/// Which of two sources: a header that keeps what was rewritten, or what is there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preference {
    Original,
    Current,
    OriginalThenCurrent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerNameSource {
    SniOnly,
    SniFirst,
    HostFirst,
}

/// Compiles a command. `limited`: a length follows it.
pub(super) fn compile(name: &str, args: Option<&str>, limited: bool) -> Result<Command, Error> {
    let (command, takes_args, takes_limit) = match lookup(name, args)? {
        Found::Plain(command) => (command, false, false),
        Found::Args(command) => (command, true, false),
        Found::ArgsAndLimit(command) => (command, true, true),
    };
    if args.is_some() && !takes_args {
        return Err(Error { part: Part::Args(0), message: format!("{name} takes no argument") });
    }
    if limited && !takes_limit {
        return Err(Error { part: Part::Limit, message: format!("{name} takes no length") });
    }
    Ok(command)
}

/// A command, and what its syntax allows.
enum Found {
    Plain(Command),
    Args(Command),
    ArgsAndLimit(Command),
}

fn lookup(name: &str, args: Option<&str>) -> Result<Found, Error> {
    use Found::{Args, ArgsAndLimit, Plain};
    let number = |get| Plain(Command::Number(get));
    let text = |get| Plain(Command::Text(get));
    let required = || {
        args.filter(|args| !args.is_empty()).ok_or_else(|| Error {
            part: Part::Name,
            message: format!("{name} needs an argument: {name}(X)"),
        })
    };
    Ok(match name {
        "REQ" | "REQUEST_HEADER" => header(Source::Request, required()?)?,
        "RESP" | "RESPONSE_HEADER" => header(Source::Response, required()?)?,
        "TRAILER" | "RESPONSE_TRAILER" => header(Source::Trailers, required()?)?,
        "REQ_WITHOUT_QUERY" => {
            let (main, alternative) = header_names(required()?)?;
            ArgsAndLimit(Command::HeaderWithoutQuery(main, alternative))
        }
        "PATH" => ArgsAndLimit(path(args)?),
        "QUERY_PARAM" => ArgsAndLimit(Command::QueryParameter(required()?.into())),
        "QUERY_PARAMS" => ArgsAndLimit(Command::QueryParameters {
            decoded: choice(args, &[("ORIG", false), ("DECODED", true)])?.unwrap_or(false),
        }),
        "ENVIRONMENT" => ArgsAndLimit(Command::Environment(required()?.into())),
        "REQUESTED_SERVER_NAME" => Args(server_name(args)?),
        "RESPONSE_CODE_DETAILS" => Args(Command::StatusDetails {
            whitespace: choice(args, &[("ALLOW_WHITESPACES", true)])?.unwrap_or(false),
        }),
        "GRPC_STATUS" => {
            let styles =
                [("CAMEL_STRING", Style::Camel), ("SNAKE_STRING", Style::Snake), ("NUMBER", Style::Number)];
            Args(Command::GrpcStatus(choice(args, &styles)?.unwrap_or(Style::Camel)))
        }
        "GRPC_STATUS_NUMBER" => Plain(Command::GrpcStatus(Style::Number)),
        "COALESCE" => ArgsAndLimit(coalesce(required()?)?),
        "START_TIME" => time(Moment::Start, Zone::Utc, args)?,
        "START_TIME_LOCAL" => time(Moment::Start, Zone::Local, args)?,
        "EMIT_TIME" => time(Moment::Emit, Zone::Utc, args)?,
        "EMIT_TIME_LOCAL" => time(Moment::Emit, Zone::Local, args)?,
        "COMMON_DURATION" => Args(common_duration(required()?)?),
        "DURATION" => number(|r| Some(millis(r.timing.end.unwrap_or(r.now)))),
        "REQUEST_DURATION" => number(|r| r.timing.downstream_rx_end.map(millis)),
        "REQUEST_TX_DURATION" => number(|r| r.timing.upstream_tx_end.map(millis)),
        "RESPONSE_DURATION" => number(|r| r.timing.upstream_rx_begin.map(millis)),
        "RESPONSE_TX_DURATION" => {
            Plain(Command::Between(Point::UpstreamRxBegin, Point::DownstreamTxEnd, Unit::Millis))
        }
        "ROUNDTRIP_DURATION" => number(|r| r.timing.downstream_ack.map(millis)),
        "DOWNSTREAM_HANDSHAKE_DURATION" => number(|r| r.downstream?.handshake.map(millis)),
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => number(|r| r.upstream?.connect.map(millis)),
        "PROTOCOL" => text(|r, out| put(r.protocol.map(Version::as_str)?, out)),
        "UPSTREAM_PROTOCOL" => text(|r, out| put(r.upstream?.protocol.map(Version::as_str)?, out)),
        "RESPONSE_CODE" => number(|r| Some(r.status.map_or(0, i64::from))),
        "RESPONSE_FLAGS" => text(|r, out| write!(out, "{}", r.flags).ok()),
        "RESPONSE_FLAGS_LONG" => text(long_flags),
        "CONNECTION_TERMINATION_DETAILS" => text(|r, out| put(r.termination_details?, out)),
        "BYTES_RECEIVED" => number(|r| count(r.downstream_bytes.body_received)),
        "BYTES_SENT" => number(|r| count(r.downstream_bytes.body_sent)),
        // QUIC only.
        "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" => number(|_| Some(0)),
        "REQUEST_HEADERS_BYTES" => number(|r| Some(r.request.map_or(0, request_bytes))),
        "RESPONSE_HEADERS_BYTES" => number(|r| Some(r.response.map_or(0, response_bytes))),
        "RESPONSE_TRAILERS_BYTES" => number(|r| Some(r.trailers.map_or(0, |list| list.byte_size() as i64))),
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => number(|r| count(r.downstream_bytes.wire_received)),
        "DOWNSTREAM_WIRE_BYTES_SENT" => number(|r| count(r.downstream_bytes.wire_sent)),
        "DOWNSTREAM_HEADER_BYTES_RECEIVED" => number(|r| count(r.downstream_bytes.header_received)),
        "DOWNSTREAM_HEADER_BYTES_SENT" => number(|r| count(r.downstream_bytes.header_sent)),
        "UPSTREAM_WIRE_BYTES_RECEIVED" => number(|r| count(r.upstream_bytes.wire_received)),
        "UPSTREAM_WIRE_BYTES_SENT" => number(|r| count(r.upstream_bytes.wire_sent)),
        "UPSTREAM_HEADER_BYTES_RECEIVED" => number(|r| count(r.upstream_bytes.header_received)),
        "UPSTREAM_HEADER_BYTES_SENT" => number(|r| count(r.upstream_bytes.header_sent)),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => number(|r| Some(i64::from(r.attempts))),
        "UPSTREAM_CLUSTER" => text(|r, out| put(filled(r.cluster_stat_name.or(r.cluster)?)?, out)),
        "UPSTREAM_CLUSTER_RAW" => text(|r, out| put(filled(r.cluster?)?, out)),
        "UPSTREAM_HOST_NAME" => text(|r, out| {
            let upstream = r.upstream?;
            match filled(upstream.hostname) {
                Some(name) => put(name, out),
                None => write!(out, "{}", upstream.address).ok(),
            }
        }),
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => text(|r, out| {
            let upstream = r.upstream?;
            match filled(upstream.hostname) {
                Some(name) => put(name.rsplit_once(':').map_or(name, |(name, _)| name), out),
                None => write!(out, "{}", upstream.address.ip()).ok(),
            }
        }),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => {
            // One word, so that it is one field of a log line.
            text(|r, out| put(&filled(r.upstream?.transport_failure?)?.replace(' ', "_"), out))
        }
        "UPSTREAM_CONNECTION_ID" => number(|r| count(r.upstream.and_then(|u| u.connection_id).unwrap_or(0))),
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => {
            text(|r, out| put(filled(r.downstream?.transport_failure.as_deref()?)?, out))
        }
        "CONNECTION_ID" => number(|r| count(r.downstream.map_or(0, |d| d.connection_id))),
        "STREAM_ID" => text(stream_id),
        "TRACE_ID" => text(|r, out| put(&crate::headers::trace_id_text(r.trace?.0), out)),
        "SPAN_ID" => text(|r, out| put(&format!("{:016x}", r.trace?.1), out)),
        "UNIQUE_ID" => text(|r, out| {
            let mut text = [0; 36];
            put(crate::headers::forwarded::uuid(r.stream_id, &mut text), out)
        }),
        "ROUTE_NAME" => text(|r, out| put(filled(r.route)?, out)),
        "VIRTUAL_HOST_NAME" => text(|r, out| put(filled(r.virtual_host)?, out)),
        "FILTER_CHAIN_NAME" => text(|r, out| put(filled(r.filter_chain)?, out)),
        "HOSTNAME" => text(|r, out| put(filled(&r.process?.hostname)?, out)),
        "LOCAL_REPLY_BODY" => text(|r, out| {
            out.extend_from_slice(r.local_reply_body.unwrap_or_default());
            Some(())
        }),
        "ACCESS_LOG_TYPE" => text(|r, out| put(r.log_type.as_str(), out)),
        "DYNAMIC_METADATA" => ArgsAndLimit(Command::Metadata(metadata_key(required()?))),
        // Nothing sets these yet: filter state, flags and spans of filters to come.
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => {
            required()?;
            ArgsAndLimit(Command::Absent)
        }
        "CUSTOM_FLAGS" => text(|_, _| Some(())),
        "VIRTUAL_CLUSTER_NAME" => Plain(Command::Absent),
        name if is_tls_command(name) => Args(tls_command(name, args)?),
        name => match address(name, args)? {
            Some(command) => Args(command),
            None => return Err(Error { part: Part::Name, message: unknown(name) }),
        },
    })
}

fn unknown(name: &str) -> String {
    let known_to_envoy = ["CLUSTER_METADATA", "UPSTREAM_METADATA", "METADATA", "CEL", "TYPED_CEL"]
        .contains(&name)
        || name.starts_with("UPSTREAM_HOSTS_ATTEMPTED")
        || name.starts_with("UPSTREAM_HOST_NAMES_ATTEMPTED")
        || name.ends_with("_ATTEMPTED")
        || name.ends_with("_DETECTED_CLOSE_TYPE")
        || name.ends_with("_LOCAL_CLOSE_REASON")
        || name.contains("_DECOMPRESSED_HEADER_BYTES_")
        || name.ends_with("_ENDPOINT_ID");
    if known_to_envoy {
        format!("{name} is not supported: what it prints is not recorded")
    } else {
        format!("there is no command {name}")
    }
}

/// Commands about certificates and TLS sessions.
fn is_tls_command(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("DOWNSTREAM_").or_else(|| name.strip_prefix("UPSTREAM_")) else {
        return matches!(name, "TLS_JA3_FINGERPRINT" | "TLS_JA4_FINGERPRINT");
    };
    if let Some(san) = rest.strip_prefix("LOCAL_").or_else(|| rest.strip_prefix("PEER_"))
        && let Some(kind) = san.strip_suffix("_SAN")
    {
        return matches!(kind, "IP" | "DNS" | "URI" | "EMAIL" | "OTHERNAME");
    }
    matches!(
        rest,
        "LOCAL_SUBJECT"
            | "PEER_SUBJECT"
            | "PEER_ISSUER"
            | "TLS_SESSION_ID"
            | "TLS_CIPHER"
            | "TLS_GROUP"
            | "TLS_VERSION"
            | "PEER_FINGERPRINT_256"
            | "PEER_FINGERPRINT_1"
            | "PEER_SERIAL"
            | "PEER_CHAIN_FINGERPRINTS_256"
            | "PEER_CHAIN_FINGERPRINTS_1"
            | "PEER_CHAIN_SERIALS"
            | "PEER_ISSUER_FINGERPRINT_256"
            | "PEER_ISSUER_SERIAL"
            | "PEER_CERT"
            | "PEER_CERT_V_START"
            | "PEER_CERT_V_END"
            | "SERVER_NAME"
    )
}

/// One of [`is_tls_command`].
fn tls_command(name: &str, args: Option<&str>) -> Result<Command, Error> {
    let (side, rest) = match (name.strip_prefix("DOWNSTREAM_"), name.strip_prefix("UPSTREAM_")) {
        (Some(rest), _) => (tls::Side::Downstream, rest),
        (None, Some(rest)) => (tls::Side::Upstream, rest),
        (None, None) => return Ok(Command::Absent),
    };
    let pattern = || match args {
        None | Some("") => Ok(Pattern::iso_utc()),
        Some(pattern) => {
            Pattern::compile(pattern).map_err(|(offset, message)| Error { part: Part::Args(offset), message })
        }
    };
    let what = match rest {
        "PEER_CERT_V_START" => tls::What::ValidFrom(pattern()?),
        "PEER_CERT_V_END" => tls::What::ValidUntil(pattern()?),
        // Session ids are not known.
        rest => match tls::command(rest) {
            Some(print) => tls::What::Of(print),
            None => return Ok(Command::Absent),
        },
    };
    Ok(Command::Tls(side, what))
}

/// An optional argument out of a list.
fn choice<T: Copy>(args: Option<&str>, choices: &[(&str, T)]) -> Result<Option<T>, Error> {
    let Some(given) = args.filter(|given| !given.is_empty()) else { return Ok(None) };
    match choices.iter().find(|(name, _)| *name == given) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            Err(Error { part: Part::Args(0), message: format!("{given:?} is none of {}", names.join(", ")) })
        }
    }
}

/// Two optional arguments `X:Y`.
fn two(args: Option<&str>) -> (Option<&str>, Option<&str>, usize) {
    match args.map(|args| args.split_once(':').ok_or(args)) {
        None => (None, None, 0),
        Some(Ok((first, second))) => (Some(first), Some(second), first.len() + 1),
        Some(Err(only)) => (Some(only), None, 0),
    }
}

/// [`choice`] for the second of two arguments, which begins at `offset`.
fn second_choice<T: Copy>(
    args: Option<&str>,
    offset: usize,
    choices: &[(&str, T)],
) -> Result<Option<T>, Error> {
    choice(args, choices).map_err(|error| Error { part: Part::Args(offset), ..error })
}

fn header(source: Source, args: &str) -> Result<Found, Error> {
    let (main, alternative) = header_names(args)?;
    Ok(Found::ArgsAndLimit(Command::Header(source, main, alternative)))
}

/// `X` or `X?Y`.
fn header_names(args: &str) -> Result<(Name, Option<Name>), Error> {
    let mut names = args.split('?');
    let main = names.next().unwrap_or_default();
    let alternative = names.next();
    if names.next().is_some() {
        let message = "more than one alternative header".into();
        return Err(Error { part: Part::Args(args.rfind('?').unwrap_or(0)), message });
    }
    Ok((name(main, 0)?, alternative.map(|text| name(text, main.len() + 1)).transpose()?))
}

fn name(text: &str, offset: usize) -> Result<Name, Error> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let plain = text.strip_prefix(':').unwrap_or(text);
    if plain.is_empty() || !plain.bytes().all(legal) {
        return Err(Error { part: Part::Args(offset), message: format!("{text:?} is not a header name") });
    }
    Ok(Name { id: HeaderId::of(text.as_bytes()), text: text.to_ascii_lowercase().into() })
}

fn path(args: Option<&str>) -> Result<Command, Error> {
    let (query, source, offset) = two(args);
    let query = choice(query, &[("WQ", true), ("NQ", false)])?.unwrap_or(true);
    let sources = [
        ("ORIG", Preference::Original),
        ("PATH", Preference::Current),
        ("ORIG_OR_PATH", Preference::OriginalThenCurrent),
    ];
    let original = second_choice(source, offset, &sources)?.unwrap_or(Preference::OriginalThenCurrent);
    Ok(Command::Path { query, original })
}

fn server_name(args: Option<&str>) -> Result<Command, Error> {
    let (prefer, host, offset) = two(args);
    let sources = [
        ("SNI_ONLY", ServerNameSource::SniOnly),
        ("SNI_FIRST", ServerNameSource::SniFirst),
        ("HOST_FIRST", ServerNameSource::HostFirst),
    ];
    let prefer = choice(prefer, &sources)?.unwrap_or(ServerNameSource::SniOnly);
    let hosts = [
        ("ORIG", Preference::Original),
        ("HOST", Preference::Current),
        ("ORIG_OR_HOST", Preference::OriginalThenCurrent),
    ];
    let host = second_choice(host, offset, &hosts)?.unwrap_or(Preference::OriginalThenCurrent);
    Ok(Command::ServerName { prefer, host })
}

fn time(moment: Moment, zone: Zone, args: Option<&str>) -> Result<Found, Error> {
    let pattern = match (args, zone) {
        (None | Some(""), Zone::Utc) => Pattern::iso_utc(),
        (None | Some(""), Zone::Local) => Pattern::iso_local(),
        (Some(pattern), _) => Pattern::compile(pattern)
            .map_err(|(offset, message)| Error { part: Part::Args(offset), message })?,
    };
    Ok(Found::Args(Command::Time(moment, zone, pattern)))
}

fn common_duration(args: &str) -> Result<Command, Error> {
    let points = [
        ("DS_RX_BEG", Point::Start),
        ("DS_RX_END", Point::DownstreamRxEnd),
        ("US_CX_BEG", Point::UpstreamConnectBegin),
        ("US_CX_END", Point::UpstreamConnectEnd),
        ("US_TX_BEG", Point::UpstreamTxBegin),
        ("US_TX_END", Point::UpstreamTxEnd),
        ("US_RX_BEG", Point::UpstreamRxBegin),
        ("US_RX_BODY_BEG", Point::UpstreamRxBodyBegin),
        ("US_RX_END", Point::UpstreamRxEnd),
        ("DS_TX_BEG", Point::DownstreamTxBegin),
        ("DS_TX_END", Point::DownstreamTxEnd),
    ];
    let parts: Vec<_> = args.split(':').collect();
    let [from, to, unit] = parts[..] else {
        let message = "COMMON_DURATION needs START:END:PRECISION".into();
        return Err(Error { part: Part::Args(0), message });
    };
    let none = |offset| Error { part: Part::Args(offset), message: "an argument is empty".into() };
    let (to_at, unit_at) = (from.len() + 1, from.len() + to.len() + 2);
    let from = choice(Some(from), &points)?.ok_or_else(|| none(0))?;
    let to = second_choice(Some(to), to_at, &points)?.ok_or_else(|| none(to_at))?;
    let units = [("ms", Unit::Millis), ("us", Unit::Micros), ("ns", Unit::Nanos)];
    let unit = second_choice(Some(unit), unit_at, &units)?.ok_or_else(|| none(unit_at))?;
    Ok(Command::Between(from, to, unit))
}

/// `<WHICH>_ADDRESS`, `<WHICH>_ADDRESS_WITHOUT_PORT(LENGTH)` and `<WHICH>_PORT`.
fn address(name: &str, args: Option<&str>) -> Result<Option<Command>, Error> {
    type Get = fn(&Record<'_>) -> Option<SocketAddr>;
    let upstream: Get = |r| r.upstream.map(|upstream| upstream.address);
    let sources: [(&str, Get); 6] = [
        ("DOWNSTREAM_REMOTE", |r| r.downstream.map(|d| d.remote)),
        ("DOWNSTREAM_DIRECT_REMOTE", |r| r.downstream.map(|d| d.direct_remote)),
        ("DOWNSTREAM_LOCAL", |r| r.downstream.map(|d| d.local)),
        ("DOWNSTREAM_DIRECT_LOCAL", |r| r.downstream.map(|d| d.direct_local)),
        ("UPSTREAM_REMOTE", upstream),
        ("UPSTREAM_LOCAL", |r| r.upstream?.local),
    ];
    let (get, part) = if name == "UPSTREAM_HOST" {
        (upstream, AddressPart::Whole)
    } else {
        let Some((rest, get)) = sources.iter().find_map(|(which, get)| {
            let rest = name.strip_prefix(which)?.strip_prefix('_')?;
            Some((rest, *get))
        }) else {
            return Ok(None);
        };
        match rest {
            "ADDRESS" => (get, AddressPart::Whole),
            "ADDRESS_WITHOUT_PORT" => match args {
                None | Some("") => (get, AddressPart::Ip),
                Some(length) => match length.parse() {
                    Ok(length @ 0..=128) => (get, AddressPart::Masked(length)),
                    _ => {
                        let message = format!("{length:?} is not a prefix length");
                        return Err(Error { part: Part::Args(0), message });
                    }
                },
            },
            "PORT" => (get, AddressPart::Port),
            _ => return Ok(None),
        }
    };
    if args.is_some() && !name.ends_with("_WITHOUT_PORT") {
        return Err(Error { part: Part::Args(0), message: format!("{name} takes no argument") });
    }
    Ok(Some(Command::Address(get, part)))
}

/// `NAMESPACE:KEY:KEY`.
fn metadata_key(args: &str) -> MetadataKey {
    let mut parts = args.split(':');
    let namespace = parts.next().unwrap_or_default().into();
    MetadataKey { namespace, path: parts.map(|part| PathSegment::Key(part.into())).collect() }
}

/// `{"operators": ["NAME", {"command": "NAME", "param": "X", "max_length": 5}]}`.
fn coalesce(args: &str) -> Result<Command, Error> {
    let fail = |message: String| Error { part: Part::Args(0), message: format!("COALESCE: {message}") };
    let value: serde_json::Value =
        serde_json::from_str(args).map_err(|error| fail(format!("the argument is not JSON: {error}")))?;
    let operators = value
        .get("operators")
        .and_then(|operators| operators.as_array())
        .filter(|operators| !operators.is_empty())
        .ok_or_else(|| fail("`operators` must be a list that is not empty".into()))?;
    let compiled = operators.iter().map(|operator| {
        let (name, param, limit) = match operator {
            serde_json::Value::String(name) => (name.as_str(), None, None),
            serde_json::Value::Object(fields) => {
                let name = fields.get("command").and_then(|name| name.as_str());
                let name = name.ok_or_else(|| fail("an operator has no `command`".into()))?;
                let limit = match fields.get("max_length") {
                    None => None,
                    Some(limit) => Some(
                        limit.as_u64().ok_or_else(|| fail("`max_length` must be a whole number".into()))?
                            as usize,
                    ),
                };
                (name, fields.get("param").and_then(|param| param.as_str()), limit)
            }
            _ => return Err(fail("an operator must be a text or an object".into())),
        };
        let command = compile(name, param, false).map_err(|error| fail(error.message))?;
        Ok((command, limit))
    });
    Ok(Command::Coalesce(compiled.collect::<Result<_, _>>()?))
}

impl Command {
    /// Appends the value, at most `limit` bytes of it.
    pub(super) fn render(&self, limit: Option<usize>, record: &Record<'_>, out: &mut Vec<u8>) -> Kind {
        let start = out.len();
        let kind = self.write(record, out);
        if let Some(limit) = limit {
            out.truncate(start.saturating_add(limit).min(out.len()));
        }
        kind
    }

    fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) -> Kind {
        let number = match self {
            Self::Number(get) => get(record),
            Self::Between(from, to, unit) => between(*from, *to, *unit, record),
            Self::GrpcStatus(Style::Number) => grpc::status(record),
            Self::Address(get, AddressPart::Port) => get(record).map(|address| i64::from(address.port())),
            Self::Coalesce(commands) => return coalesced(commands, record, out),
            Self::Metadata(key) => return metadata(key, record, out),
            _ => return self.write_text(record, out).map_or(Kind::Missing, |()| Kind::Text),
        };
        match number {
            Some(number) => {
                out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
                Kind::Number
            }
            None => Kind::Missing,
        }
    }

    fn write_text(&self, record: &Record<'_>, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Text(write) => write(record, out),
            Self::Header(source, main, alternative) => {
                let get = |name: &Name| source.get(name, record);
                out.extend_from_slice(&get(main).or_else(|| get(alternative.as_ref()?))?);
                Some(())
            }
            Self::HeaderWithoutQuery(main, alternative) => {
                let get = |name: &Name| Source::Request.get(name, record);
                let value = get(main).or_else(|| get(alternative.as_ref()?))?;
                out.extend_from_slice(value.split(|byte| *byte == b'?').next()?);
                Some(())
            }
            Self::Tls(side, what) => tls::render(*side, what, record, out),
            Self::Time(moment, zone, pattern) => {
                let at = match moment {
                    Moment::Start => record.start,
                    Moment::Emit => record.start.checked_add(record.now)?,
                };
                let offset = match zone {
                    Zone::Utc => UtcOffset::UTC,
                    Zone::Local => record.process.map_or(UtcOffset::UTC, |process| process.local_offset),
                };
                pattern.render(at, offset, out);
                Some(())
            }
            Self::Address(get, part) => write_address(get(record)?, *part, out),
            // Envoy: a dash in headers too, where other commands without a value leave the header out.
            Self::Environment(name) => {
                put(record.process?.environment.get(&**name).map_or("-", String::as_str), out)
            }
            Self::QueryParameter(name) => {
                let mut parameters = crate::headers::parameters(&record.request?.path);
                let (_, value) = parameters.find(|(key, _)| *percent_decoded(key) == *name.as_bytes())?;
                out.extend_from_slice(&percent_decoded(value));
                Some(())
            }
            Self::QueryParameters { decoded } => {
                let (_, query) = record.request?.path.split_once('?')?;
                let query = filled(query.split('#').next()?)?;
                if *decoded {
                    out.extend_from_slice(&percent_decoded(query));
                } else {
                    out.extend_from_slice(query.as_bytes());
                }
                Some(())
            }
            Self::Path { query, original } => {
                let head = record.request?;
                let kept = head.headers.get_id(HeaderId::XEnvoyOriginalPath);
                let path = prefer(*original, kept, filled(&head.path).map(str::as_bytes))?;
                let end = if *query { None } else { memchr::memchr2(b'?', b'#', path) };
                out.extend_from_slice(&path[..end.unwrap_or(path.len())]);
                Some(())
            }
            Self::ServerName { prefer: order, host } => {
                let sni =
                    record.downstream.and_then(|d| filled(d.server_name.as_deref()?)).map(str::as_bytes);
                let from_request = || {
                    let head = record.request?;
                    let kept = head.headers.get(b"x-envoy-original-host");
                    prefer(*host, kept, filled(&head.authority).map(str::as_bytes))
                };
                let name = match order {
                    ServerNameSource::SniOnly => sni,
                    ServerNameSource::SniFirst => sni.or_else(from_request),
                    ServerNameSource::HostFirst => from_request().or(sni),
                };
                out.extend_from_slice(name?);
                Some(())
            }
            Self::StatusDetails { whitespace } => {
                let details = filled(record.status_details?)?;
                out.extend(details.bytes().map(|byte| match byte {
                    byte if byte.is_ascii_whitespace() && !whitespace => b'_',
                    byte => byte,
                }));
                Some(())
            }
            Self::GrpcStatus(style) => {
                let code = grpc::status(record)?;
                match grpc::name(code, *style) {
                    Some(name) => put(name, out),
                    None => put(itoa::Buffer::new().format(code), out),
                }
            }
            Self::Absent | Self::Number(_) | Self::Between(..) | Self::Coalesce(_) | Self::Metadata(_) => {
                None
            }
        }
    }
}

impl Source {
    /// The first value of a header.
    fn get<'a>(self, name: &Name, record: &Record<'a>) -> Option<Cow<'a, [u8]>> {
        let list: &'a HeaderList = match self {
            Self::Request => {
                let head: &'a RequestHead = record.request?;
                if let Some(value) = head.pseudo(name.text.as_bytes()) {
                    return filled(value).map(|value| Cow::Borrowed(value.as_bytes()));
                }
                &head.headers
            }
            Self::Response => {
                let head: &'a ResponseHead = record.response?;
                if &*name.text == ":status" {
                    return Some(Cow::Owned(itoa::Buffer::new().format(head.status).as_bytes().to_vec()));
                }
                &head.headers
            }
            Self::Trailers => record.trailers?,
        };
        let value = match name.id {
            HeaderId::Other => list.get(name.text.as_bytes()),
            id => list.get_id(id),
        };
        value.map(Cow::Borrowed)
    }
}

fn prefer<'a>(order: Preference, original: Option<&'a [u8]>, current: Option<&'a [u8]>) -> Option<&'a [u8]> {
    match order {
        Preference::Original => original,
        Preference::Current => current,
        Preference::OriginalThenCurrent => original.or(current),
    }
}

fn between(from: Point, to: Point, unit: Unit, record: &Record<'_>) -> Option<i64> {
    let at = |point| {
        let timing = &record.timing;
        match point {
            Point::Start => Some(Duration::ZERO),
            Point::DownstreamRxEnd => timing.downstream_rx_end,
            Point::UpstreamConnectBegin => timing.upstream_connect_begin,
            Point::UpstreamConnectEnd => timing.upstream_connect_end,
            Point::UpstreamTxBegin => timing.upstream_tx_begin,
            Point::UpstreamTxEnd => timing.upstream_tx_end,
            Point::UpstreamRxBegin => timing.upstream_rx_begin,
            Point::UpstreamRxBodyBegin => timing.upstream_rx_body_begin,
            Point::UpstreamRxEnd => timing.upstream_rx_end,
            Point::DownstreamTxBegin => timing.downstream_tx_begin,
            Point::DownstreamTxEnd => timing.downstream_tx_end,
        }
    };
    let nanos = at(to)?.as_nanos() as i128 - at(from)?.as_nanos() as i128;
    let per_unit = match unit {
        Unit::Millis => 1_000_000,
        Unit::Micros => 1_000,
        Unit::Nanos => 1,
    };
    i64::try_from(nanos / per_unit).ok()
}

fn coalesced(commands: &[(Command, Option<usize>)], record: &Record<'_>, out: &mut Vec<u8>) -> Kind {
    let start = out.len();
    for (command, limit) in commands {
        let kind = command.render(*limit, record, out);
        if kind != Kind::Missing && out.len() > start {
            return kind;
        }
        out.truncate(start);
    }
    Kind::Missing
}

/// Text as it is, all else as JSON with its keys sorted, as Envoy writes it.
fn metadata(key: &MetadataKey, record: &Record<'_>, out: &mut Vec<u8>) -> Kind {
    let Some(metadata) = record.metadata else { return Kind::Missing };
    let mut value = match metadata.get(key) {
        Some(serde_json::Value::String(text)) => {
            out.extend_from_slice(text.as_bytes());
            return Kind::Text;
        }
        Some(value) => value.clone(),
        None if key.path.is_empty() => match metadata.namespace(&key.namespace) {
            Some(fields) => serde_json::Value::Object(fields.clone()),
            None => return Kind::Missing,
        },
        None => return Kind::Missing,
    };
    value.sort_all_objects();
    // Writing to memory does not fail.
    serde_json::to_writer(out, &value).map_or(Kind::Missing, |()| Kind::Json)
}

fn write_address(address: SocketAddr, part: AddressPart, out: &mut Vec<u8>) -> Option<()> {
    match part {
        AddressPart::Whole => write!(out, "{address}").ok(),
        AddressPart::Ip => write!(out, "{}", address.ip()).ok(),
        AddressPart::Masked(length) => {
            // Envoy: a length past the family's longest is the longest.
            let longest = match address.ip() {
                IpAddr::V4(_) => 32,
                IpAddr::V6(_) => 128,
            };
            let network = IpNet::new(address.ip(), length.min(longest)).ok()?;
            write!(out, "{}", network.trunc()).ok()
        }
        AddressPart::Port => put(itoa::Buffer::new().format(address.port()), out),
    }
}

fn long_flags(record: &Record<'_>, out: &mut Vec<u8>) -> Option<()> {
    if record.flags.is_empty() {
        return put("-", out);
    }
    for (i, name) in record.flags.long_names().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
    }
    Some(())
}

/// The request id; a stream without one has its own.
fn stream_id(record: &Record<'_>, out: &mut Vec<u8>) -> Option<()> {
    if let Some(id) = record.request.and_then(|head| head.headers.get_id(HeaderId::XRequestId)) {
        out.extend_from_slice(id);
        return Some(());
    }
    if record.stream_id == 0 {
        return None;
    }
    let mut text = [0; 36];
    put(crate::headers::forwarded::uuid(record.stream_id, &mut text), out)
}

/// Names and values, pseudo-headers included.
fn request_bytes(head: &RequestHead) -> i64 {
    let pseudo = |name: &str, value: &str| if value.is_empty() { 0 } else { name.len() + value.len() };
    let size = head.headers.byte_size()
        + pseudo(":method", &head.method)
        + pseudo(":path", &head.path)
        + pseudo(":authority", &head.authority)
        + pseudo(":scheme", head.scheme.as_str());
    size as i64
}

/// Names and values, `:status` included.
fn response_bytes(head: &ResponseHead) -> i64 {
    (head.headers.byte_size() + ":status200".len()) as i64
}

fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn put(text: &str, out: &mut Vec<u8>) -> Option<()> {
    out.extend_from_slice(text.as_bytes());
    Some(())
}

fn count(bytes: u64) -> Option<i64> {
    Some(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
