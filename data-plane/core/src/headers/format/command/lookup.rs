//! Every command by its name, and what its syntax allows.

use super::args::{
    address, choice, coalesce, common_duration, header, header_names, metadata_key, path, server_name, time,
};
use super::render::{count, filled, long_flags, millis, put, request_bytes, response_bytes, stream_id};
use super::{Command, Error, Moment, Part, Point, Source, Unit, Zone};
use crate::headers::Version;
use crate::headers::format::grpc::Style;
use crate::headers::format::time::Pattern;
use crate::headers::format::tls;
use std::io::Write;

/// A command, and what its syntax allows.
pub(super) enum Found {
    Plain(Command),
    Args(Command),
    ArgsAndLimit(Command),
}

pub(super) fn lookup(name: &str, args: Option<&str>) -> Result<Found, Error> {
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
        "REQ" | "REQUEST_HEADER" => ArgsAndLimit(header(Source::Request, required()?)?),
        "RESP" | "RESPONSE_HEADER" => ArgsAndLimit(header(Source::Response, required()?)?),
        "TRAILER" | "RESPONSE_TRAILER" => ArgsAndLimit(header(Source::Trailers, required()?)?),
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
        "START_TIME" => Args(time(Moment::Start, Zone::Utc, args)?),
        "START_TIME_LOCAL" => Args(time(Moment::Start, Zone::Local, args)?),
        "EMIT_TIME" => Args(time(Moment::Emit, Zone::Utc, args)?),
        "EMIT_TIME_LOCAL" => Args(time(Moment::Emit, Zone::Local, args)?),
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
