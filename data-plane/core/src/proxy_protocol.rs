//! The PROXY protocol: a header before all else on a connection that tells whose connection it is.
//!
//! Reading is strict, and works on the first bytes of a connection as they are: it keeps nothing. Where the
//! specification leaves room, it does as Envoy: a version 2 header on behalf of somebody must name IP addresses, of
//! a stream or datagrams, and both ends of any header must be unicast addresses.
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>

use crate::config::ProxyProtocolVersion as Version;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every version 2 header begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What every version 1 header begins with.
const WORD: &[u8; 6] = b"PROXY ";
/// Longest version 1 header, its line end included.
const MAX_V1: usize = 107;
/// Signature, version and command, family, length.
const V2_PREFIX: usize = 16;
const V2_IPV4: usize = 12;
const V2_IPV6: usize = 36;

/// This many bytes are enough for [`read`] to decide.
pub const MAX_READ: usize = MAX_V1 + 1;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Who connected.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which version it is.
    pub version: Version,
    /// Its bytes up to its extensions.
    pub length: usize,
    /// Whose connection it is; `None`: the sender's own, or nobody knows.
    pub ends: Option<Ends>,
    /// Bytes of extensions that follow.
    pub extensions: usize,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// More bytes are needed to tell.
    Partial,
    /// No header of any version that is looked for.
    Absent,
    /// A header.
    Header(Header),
}

/// Versions that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Version 1.
    pub v1: bool,
    /// Version 2.
    pub v2: bool,
}

/// A header that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// What it claims to be.
    pub version: Version,
    /// What is wrong.
    pub reason: &'static str,
}

/// Reads the header that `bytes`, the first ones of a connection, begin with.
///
/// # Errors
/// They begin with one that cannot be read.
pub fn read(bytes: &[u8], wanted: Wanted) -> Result<Found, Malformed> {
    if wanted.v2 && begins(bytes, SIGNATURE) {
        return v2(bytes).map_err(|reason| Malformed { version: Version::V2, reason });
    }
    if wanted.v1 && begins(bytes, WORD) {
        return v1(bytes).map_err(|reason| Malformed { version: Version::V1, reason });
    }
    Ok(if bytes.is_empty() { Found::Partial } else { Found::Absent })
}

/// The version that the beginning of `bytes` claims; `None`: none, or more bytes are needed to tell.
pub fn claimed(bytes: &[u8]) -> Option<Version> {
    if bytes.starts_with(SIGNATURE) {
        return Some(Version::V2);
    }
    bytes.starts_with(WORD).then_some(Version::V1)
}

/// Whether `bytes` begin with `word`, as far as they go.
fn begins(bytes: &[u8], word: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().zip(word).all(|(a, b)| a == b)
}

fn v1(bytes: &[u8]) -> Result<Found, &'static str> {
    let line = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= MAX_V1 { Err("the line is too long") } else { Ok(Found::Partial) };
    };
    let text = line.get(WORD.len()..end).ok_or("the line is cut short")?;
    let text = std::str::from_utf8(text).map_err(|_| "not ASCII")?;
    let mut words = text.split(' ');
    let ends = match words.next() {
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => {
            let mut next = || words.next().ok_or("a field is missing");
            let (source, destination) = (ip(next()?, family)?, ip(next()?, family)?);
            let (from, to) = (port(next()?)?, port(next()?)?);
            if words.next().is_some() {
                return Err("there are too many fields");
            }
            Some(ends((source, from), (destination, to))?)
        }
        _ => return Err("the protocol is not known"),
    };
    Ok(Found::Header(Header { version: Version::V1, length: end + 2, ends, extensions: 0 }))
}

fn ip(word: &str, family: &str) -> Result<IpAddr, &'static str> {
    let parsed = match family {
        "TCP4" => word.parse().map(IpAddr::V4),
        _ => word.parse().map(IpAddr::V6),
    };
    parsed.map_err(|_| "an address cannot be read")
}

fn port(word: &str) -> Result<u16, &'static str> {
    // Rust would take a sign.
    let is_decimal = word.bytes().all(|b| b.is_ascii_digit());
    word.parse().ok().filter(|_| is_decimal).ok_or("a port cannot be read")
}

fn v2(bytes: &[u8]) -> Result<Found, &'static str> {
    const LOCAL: u8 = 0;
    const ON_BEHALF: u8 = 1;
    let Some(prefix) = bytes.first_chunk::<V2_PREFIX>() else { return Ok(Found::Partial) };
    let [.., command, family, high, low] = *prefix;
    let body = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 {
        return Err("the version is not 2");
    }
    let header = |address: usize, ends| {
        let (length, extensions) = (V2_PREFIX + address, body - address);
        Found::Header(Header { version: Version::V2, length, ends, extensions })
    };
    match command & 0xf {
        // The sender speaks for itself, whatever else it says.
        LOCAL => return Ok(header(0, None)),
        ON_BEHALF => {}
        _ => return Err("the command is not known"),
    }
    let address = match family {
        0x11 | 0x12 => V2_IPV4,
        0x21 | 0x22 => V2_IPV6,
        _ => return Err("the address family or the transport is not supported"),
    };
    if body < address {
        return Err("the addresses are cut short");
    }
    let Some(block) = bytes.get(V2_PREFIX..V2_PREFIX + address) else { return Ok(Found::Partial) };
    let (ips, ports) = block.split_at(address - 4);
    let (source, destination) = ips.split_at(ips.len() / 2);
    let ends = ends(
        (octets(source), u16::from_be_bytes([ports[0], ports[1]])),
        (octets(destination), u16::from_be_bytes([ports[2], ports[3]])),
    )?;
    Ok(header(address, Some(ends)))
}

/// Four or sixteen.
fn octets(bytes: &[u8]) -> IpAddr {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(v4), _) => Ipv4Addr::from(v4).into(),
        (_, Ok(v6)) => Ipv6Addr::from(v6).into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

fn ends(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Result<Ends, &'static str> {
    let is_unicast = |ip: IpAddr| {
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        !ip.is_unspecified() && !ip.is_multicast() && !broadcast
    };
    if is_unicast(source.0) && is_unicast(destination.0) {
        Ok(Ends { source: source.into(), destination: destination.into() })
    } else {
        Err("an address is not of one host")
    }
}

/// Checks that the extensions of a header are whole, piece by piece: a type, a length, that many bytes, and again.
#[derive(Clone, Copy, Debug)]
pub struct Extensions {
    /// Bytes of all of them still to come.
    left: usize,
    /// Bytes of the present one's content still to come.
    content: usize,
    /// What came of the present one's type and length.
    head: [u8; 3],
    seen: usize,
    checked: bool,
}

impl Extensions {
    /// Those of `header`.
    pub fn of(header: &Header) -> Self {
        Self { left: header.extensions, content: 0, head: [0; 3], seen: 0, checked: header.ends.is_some() }
    }

    /// Bytes still to come.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Takes the next bytes, at most as many as are left.
    ///
    /// # Errors
    /// One says to be longer than all of them.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        const BROKEN: Malformed =
            Malformed { version: Version::V2, reason: "an extension is longer than the header" };
        let mut bytes = bytes;
        while let Some(first) = bytes.first().copied() {
            if !self.checked || self.content > 0 {
                let most = if self.checked { self.content } else { self.left };
                let some = bytes.len().min(most);
                if some == 0 {
                    return Err(BROKEN);
                }
                self.content = self.content.saturating_sub(some);
                self.left = self.left.saturating_sub(some);
                bytes = &bytes[some..];
                continue;
            }
            self.head[self.seen] = first;
            self.seen += 1;
            self.left = self.left.saturating_sub(1);
            bytes = &bytes[1..];
            if self.seen == self.head.len() {
                self.seen = 0;
                self.content = usize::from(u16::from_be_bytes([self.head[1], self.head[2]]));
                if self.content > self.left {
                    return Err(BROKEN);
                }
            }
        }
        if self.left == 0 && (self.seen > 0 || self.content > 0) { Err(BROKEN) } else { Ok(()) }
    }
}

/// Appends a header on behalf of the connection between `ends`; `None`: on the sender's own, from `own`.
pub fn write(version: Version, ends: Option<Ends>, own: Ends, out: &mut Vec<u8>) {
    match (version, ends) {
        // As Envoy: version 1 has no word for that but UNKNOWN, which says less.
        (Version::V1, ends) => write_v1(ends.unwrap_or(own), out),
        (Version::V2, None) => {
            out.extend_from_slice(SIGNATURE);
            out.extend_from_slice(&[0x20, 0, 0, 0]);
        }
        (Version::V2, Some(ends)) => write_v2(ends, out),
    }
}

fn write_v1(Ends { source, destination }: Ends, out: &mut Vec<u8>) {
    use std::io::Write;
    // An address of the other family is written as one of this.
    let (from, to) = same_family(source.ip(), destination.ip());
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    // Writing to memory does not fail.
    let _ = write!(out, "PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port());
}

fn write_v2(Ends { source, destination }: Ends, out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    match same_family(source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x21, 0x11, 0, V2_IPV4 as u8]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            out.extend_from_slice(&[0x21, 0x21, 0, V2_IPV6 as u8]);
            out.extend_from_slice(&as_v6(from).octets());
            out.extend_from_slice(&as_v6(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

fn same_family(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    if a.is_ipv4() == b.is_ipv4() { (a, b) } else { (as_v6(a).into(), as_v6(b).into()) }
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests;
