//! Arguments of commands.

use super::{
    AddressPart, Command, Error, Moment, Name, Part, Point, Preference, ServerNameSource, Source, Unit, Zone,
    compile,
};
use crate::headers::format::time::Pattern;
use crate::headers::{HeaderId, MetadataKey, PathSegment, Record};
use std::net::SocketAddr;

/// An optional argument out of a list.
pub(super) fn choice<T: Copy>(args: Option<&str>, choices: &[(&str, T)]) -> Result<Option<T>, Error> {
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

pub(super) fn header(source: Source, args: &str) -> Result<Command, Error> {
    let (main, alternative) = header_names(args)?;
    Ok(Command::Header(source, main, alternative))
}

/// `X` or `X?Y`.
pub(super) fn header_names(args: &str) -> Result<(Name, Option<Name>), Error> {
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

pub(super) fn path(args: Option<&str>) -> Result<Command, Error> {
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

pub(super) fn server_name(args: Option<&str>) -> Result<Command, Error> {
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

pub(super) fn time(moment: Moment, zone: Zone, args: Option<&str>) -> Result<Command, Error> {
    let pattern = match (args, zone) {
        (None | Some(""), Zone::Utc) => Pattern::iso_utc(),
        (None | Some(""), Zone::Local) => Pattern::iso_local(),
        (Some(pattern), _) => Pattern::compile(pattern)
            .map_err(|(offset, message)| Error { part: Part::Args(offset), message })?,
    };
    Ok(Command::Time(moment, zone, pattern))
}

pub(super) fn common_duration(args: &str) -> Result<Command, Error> {
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
pub(super) fn address(name: &str, args: Option<&str>) -> Result<Option<Command>, Error> {
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
pub(super) fn metadata_key(args: &str) -> MetadataKey {
    let mut parts = args.split(':');
    let namespace = parts.next().unwrap_or_default().into();
    MetadataKey { namespace, path: parts.map(|part| PathSegment::Key(part.into())).collect() }
}

/// `{"operators": ["NAME", {"command": "NAME", "param": "X", "max_length": 5}]}`.
pub(super) fn coalesce(args: &str) -> Result<Command, Error> {
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
