//! Virtual host look-up by `:authority`: exact, then longest `*.suffix`, then longest `prefix.*`, then `*`.

use crate::config::RouteConfig;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

type Names = HashMap<Box<[u8]>, u32, FixedState>;

/// Wildcards of one length, without their `*`.
type ByLength = Vec<(usize, Names)>;

/// Domains of all virtual hosts.
#[derive(Debug, Default)]
pub(super) struct HostIndex {
    exact: Names,
    /// Longest first.
    suffixes: ByLength,
    /// Longest first.
    prefixes: ByLength,
    any: Option<u32>,
    ignore_port: bool,
}

impl HostIndex {
    /// A domain that is given twice belongs to the first virtual host that has it.
    pub(super) fn build(config: &RouteConfig) -> Self {
        let mut index = Self { ignore_port: config.ignore_port_in_host_matching, ..Self::default() };
        for (at, host) in config.virtual_hosts.iter().enumerate() {
            let at = at as u32;
            for domain in &host.domains {
                let domain = domain.to_ascii_lowercase();
                let name = domain.as_bytes();
                match name {
                    b"*" => {
                        index.any.get_or_insert(at);
                    }
                    [b'*', suffix @ ..] => insert(&mut index.suffixes, suffix, at),
                    [prefix @ .., b'*'] => insert(&mut index.prefixes, prefix, at),
                    exact => {
                        index.exact.entry(exact.into()).or_insert(at);
                    }
                }
            }
        }
        for wildcards in [&mut index.suffixes, &mut index.prefixes] {
            wildcards.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        }
        index
    }

    /// The virtual host that serves `authority`.
    pub(super) fn find(&self, authority: &str) -> Option<u32> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        // Envoy: a request without a host reaches a virtual host only if all of them are `*`.
        if authority.is_empty() {
            return None;
        }
        let authority = if self.ignore_port { without_port(authority) } else { authority };
        let mut host = SmallVec::<[u8; 128]>::from_slice(authority.as_bytes());
        host.make_ascii_lowercase();
        let wildcard = |wildcards: &ByLength, part: fn(&[u8], usize) -> &[u8]| {
            wildcards
                .iter()
                .filter(|(length, _)| *length < host.len())
                .find_map(|(length, names)| names.get(part(&host, *length)).copied())
        };
        self.exact
            .get(&host[..])
            .copied()
            .or_else(|| wildcard(&self.suffixes, |host, length| &host[host.len() - length..]))
            .or_else(|| wildcard(&self.prefixes, |host, length| &host[..length]))
            .or(self.any)
    }
}

fn insert(wildcards: &mut ByLength, name: &[u8], at: u32) {
    let names = match wildcards.iter_mut().position(|(length, _)| *length == name.len()) {
        Some(found) => &mut wildcards[found].1,
        None => {
            wildcards.push((name.len(), Names::default()));
            &mut wildcards.last_mut().expect("INVARIANT: an entry was just pushed").1
        }
    };
    names.entry(name.into()).or_insert(at);
}

/// Where the port's colon is, if the authority has a port. A colon inside `[..]` belongs to an IPv6 address.
pub(super) fn port_at(authority: &str) -> Option<usize> {
    let colon = authority.rfind(':')?;
    (!authority[colon..].contains(']')).then_some(colon)
}

/// An authority without its port.
pub(super) fn without_port(authority: &str) -> &str {
    port_at(authority).map_or(authority, |colon| &authority[..colon])
}
