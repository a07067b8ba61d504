//! What commands print.

use super::{
    AddressPart, Command, Kind, Moment, Name, Point, Preference, ServerNameSource, Source, Unit, Zone,
};
use crate::headers::format::grpc::{self, Style};
use crate::headers::format::tls;
use crate::headers::{HeaderId, HeaderList, MetadataKey, Record, RequestHead, ResponseHead, percent_decoded};
use ipnet::IpNet;
use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use time::UtcOffset;

impl Command {
    /// Appends the value, at most `limit` bytes of it.
    pub(in crate::headers::format) fn render(
        &self,
        limit: Option<usize>,
        record: &Record<'_>,
        out: &mut Vec<u8>,
    ) -> Kind {
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
                    let kept = head.headers.get_id(HeaderId::XEnvoyOriginalHost);
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

pub(super) fn long_flags(record: &Record<'_>, out: &mut Vec<u8>) -> Option<()> {
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
pub(super) fn stream_id(record: &Record<'_>, out: &mut Vec<u8>) -> Option<()> {
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
pub(super) fn request_bytes(head: &RequestHead) -> i64 {
    let pseudo = |name: &str, value: &str| if value.is_empty() { 0 } else { name.len() + value.len() };
    let size = head.headers.byte_size()
        + pseudo(":method", &head.method)
        + pseudo(":path", &head.path)
        + pseudo(":authority", &head.authority)
        + pseudo(":scheme", head.scheme.as_str());
    size as i64
}

/// Names and values, `:status` included.
pub(super) fn response_bytes(head: &ResponseHead) -> i64 {
    (head.headers.byte_size() + ":status200".len()) as i64
}

pub(super) fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn put(text: &str, out: &mut Vec<u8>) -> Option<()> {
    out.extend_from_slice(text.as_bytes());
    Some(())
}

pub(super) fn count(bytes: u64) -> Option<i64> {
    Some(i64::try_from(bytes).unwrap_or(i64::MAX))
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
