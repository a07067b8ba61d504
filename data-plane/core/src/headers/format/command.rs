//! The commands: what each is once compiled. `lookup` has them by name, `args` reads their arguments, `render` prints
//! their values.

mod args;
mod lookup;
mod render;

use super::grpc::Style;
use super::time::Pattern;
use super::tls;
use crate::headers::{HeaderId, MetadataKey, Record};
use lookup::{Found, lookup};
use std::net::SocketAddr;

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
