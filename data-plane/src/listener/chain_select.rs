//! Which filter chain serves a connection (Envoy: `FilterChainMatch`).
//!
//! The criteria are looked at in a fixed order, each taking the most specific match: destination port, destination
//! address (longest range), server name, transport protocol, application protocols, address of the direct peer,
//! source address, source port. What one criterion has chosen is never taken back when a later one finds nothing:
//! then the default chain serves. Pure; built once a listener.

use data_plane_core::config::FilterChainMatch;
use data_plane_core::matcher::Cidr;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

/// What is known of a connection before its chain is chosen.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    /// Where the client connected to.
    pub(super) local: SocketAddr,
    /// SNI, lowercase; empty for none.
    pub(super) server_name: &'a str,
    /// `raw_buffer` or `tls`.
    pub(super) transport_protocol: &'a str,
    /// What the client speaks, in its order of preference.
    pub(super) application_protocols: &'a [&'a str],
    /// The directly connected peer.
    pub(super) direct_peer: IpAddr,
    /// The client.
    pub(super) peer: SocketAddr,
}

/// Two chains of a listener match the same connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    pub(super) first: usize,
    pub(super) second: usize,
}

/// Leaf of the tree: the chain's index.
type Leaf = Option<usize>;
type BySource = Ranges<Exact<u16, Leaf>>;
type ByProtocol = Exact<Box<str>, Exact<Box<str>, Ranges<BySource>>>;
type Tree = Exact<u16, Ranges<Names<ByProtocol>>>;

/// Chooses among the chains of a listener.
#[derive(Debug, Default)]
pub(super) struct Selector {
    tree: Tree,
}

impl Selector {
    /// Chains by their index in `chains`.
    pub(super) fn build<'a>(chains: impl Iterator<Item = &'a FilterChainMatch>) -> Result<Self, Overlap> {
        let mut tree = Tree::default();
        for (index, chain) in chains.enumerate() {
            let FilterChainMatch {
                destination_port,
                prefix_ranges,
                source_prefix_ranges,
                source_ports,
                direct_source_prefix_ranges,
                server_names,
                transport_protocol,
                application_protocols,
            } = chain;
            let transport = (!transport_protocol.is_empty()).then(|| transport_protocol.clone());
            let at_port = tree.at(*destination_port);
            for range in or_any(prefix_ranges) {
                let at_range = at_port.at(range);
                for name in or_any(server_names) {
                    let at_transport = at_range.at(name.as_deref()).at(transport.clone());
                    for protocol in or_any(application_protocols) {
                        let at_protocol = at_transport.at(protocol);
                        for direct in or_any(direct_source_prefix_ranges) {
                            let at_direct = at_protocol.at(direct);
                            for source in or_any(source_prefix_ranges) {
                                let at_source = at_direct.at(source);
                                for port in or_any(source_ports) {
                                    match at_source.at(port) {
                                        Some(first) if *first != index => {
                                            return Err(Overlap { first: *first, second: index });
                                        }
                                        leaf => *leaf = Some(index),
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(Self { tree })
    }

    /// The chain for a connection; `None`: the default one, if any.
    pub(super) fn select(&self, facts: &Facts<'_>) -> Option<usize> {
        let protocols = self
            .tree
            .find(&facts.local.port())?
            .find(facts.local.ip())?
            .find(facts.server_name)?
            .find(facts.transport_protocol)?;
        let spoken = facts.application_protocols.iter().find_map(|p| protocols.exact.get(*p));
        *spoken
            .or(protocols.any.as_deref())?
            .find(facts.direct_peer)?
            .find(facts.peer.ip())?
            .find(&facts.peer.port())?
    }
}

/// Every value, or the one that stands for all.
fn or_any<T: Clone>(values: &[T]) -> Vec<Option<T>> {
    if values.is_empty() { vec![None] } else { values.iter().cloned().map(Some).collect() }
}

/// A criterion that matches a value, or anything.
#[derive(Debug)]
struct Exact<K, T> {
    exact: HashMap<K, T>,
    any: Option<Box<T>>,
}

impl<K, T> Default for Exact<K, T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), any: None }
    }
}

impl<K: Eq + Hash, T: Default> Exact<K, T> {
    fn at(&mut self, key: Option<K>) -> &mut T {
        match key {
            Some(key) => self.exact.entry(key).or_default(),
            None => self.any.get_or_insert_default(),
        }
    }

    fn find<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&T>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.exact.get(key).or(self.any.as_deref())
    }
}

/// A criterion that matches an address range, the longest first, or anything.
#[derive(Debug)]
struct Ranges<T> {
    /// Longest prefix first.
    ranges: Vec<(Cidr, T)>,
    any: Option<Box<T>>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self { ranges: Vec::new(), any: None }
    }
}

impl<T: Default> Ranges<T> {
    fn at(&mut self, range: Option<Cidr>) -> &mut T {
        let Some(range) = range.map(|r| r.trunc()).filter(|r| r.prefix_len() > 0) else {
            return self.any.get_or_insert_default();
        };
        let index = match self.ranges.iter().position(|(r, _)| *r == range) {
            Some(index) => index,
            None => {
                let index = self.ranges.partition_point(|(r, _)| r.prefix_len() >= range.prefix_len());
                self.ranges.insert(index, (range, T::default()));
                index
            }
        };
        &mut self.ranges[index].1
    }

    fn find(&self, address: IpAddr) -> Option<&T> {
        let longest = self.ranges.iter().find(|(range, _)| range.contains(&address));
        longest.map(|(_, next)| next).or(self.any.as_deref())
    }
}

/// A criterion that matches a server name: exact, by longest suffix, or anything.
#[derive(Debug)]
struct Names<T> {
    exact: HashMap<Box<str>, T>,
    /// Without the asterisk: `.example.com`.
    suffixes: HashMap<Box<str>, T>,
    any: Option<Box<T>>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), suffixes: HashMap::new(), any: None }
    }
}

impl<T: Default> Names<T> {
    fn at(&mut self, name: Option<&str>) -> &mut T {
        match name {
            None | Some("" | "*") => self.any.get_or_insert_default(),
            Some(name) => match name.strip_prefix('*') {
                Some(suffix) => self.suffixes.entry(suffix.to_ascii_lowercase().into()).or_default(),
                None => self.exact.entry(name.to_ascii_lowercase().into()).or_default(),
            },
        }
    }

    fn find(&self, name: &str) -> Option<&T> {
        if let Some(next) = self.exact.get(name) {
            return Some(next);
        }
        let dots = name.char_indices().skip(1).filter(|(_, c)| *c == '.').map(|(at, _)| at);
        let by_suffix = dots.into_iter().find_map(|at| self.suffixes.get(&name[at..]));
        by_suffix.or(self.any.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts<'static> {
        Facts {
            local: "10.0.0.1:443".parse().unwrap(),
            server_name: "",
            transport_protocol: "raw_buffer",
            application_protocols: &[],
            direct_peer: "192.0.2.1".parse().unwrap(),
            peer: "192.0.2.1:5000".parse().unwrap(),
        }
    }

    fn cidrs(ranges: &[&str]) -> Vec<Cidr> {
        ranges.iter().map(|r| r.parse().unwrap()).collect()
    }

    fn words(words: &[&str]) -> Vec<Box<str>> {
        words.iter().map(|w| (*w).into()).collect()
    }

    fn select(chains: &[FilterChainMatch], facts: &Facts<'_>) -> Option<usize> {
        Selector::build(chains.iter()).expect("chains do not overlap").select(facts)
    }

    fn port(port: u16) -> FilterChainMatch {
        FilterChainMatch { destination_port: Some(port), ..Default::default() }
    }

    fn to(ranges: &[&str]) -> FilterChainMatch {
        FilterChainMatch { prefix_ranges: cidrs(ranges), ..Default::default() }
    }

    fn sni(names: &[&str]) -> FilterChainMatch {
        FilterChainMatch { server_names: words(names), ..Default::default() }
    }

    fn transport(name: &str) -> FilterChainMatch {
        FilterChainMatch { transport_protocol: name.into(), ..Default::default() }
    }

    fn alpn(names: &[&str]) -> FilterChainMatch {
        FilterChainMatch { application_protocols: words(names), ..Default::default() }
    }

    fn from(ranges: &[&str]) -> FilterChainMatch {
        FilterChainMatch { source_prefix_ranges: cidrs(ranges), ..Default::default() }
    }

    fn direct(ranges: &[&str]) -> FilterChainMatch {
        FilterChainMatch { direct_source_prefix_ranges: cidrs(ranges), ..Default::default() }
    }

    fn any() -> FilterChainMatch {
        FilterChainMatch::default()
    }

    #[test]
    fn each_criterion_takes_its_most_specific_match() {
        let named = |server_name| Facts { server_name, ..facts() };
        let speaking = |application_protocols| Facts { application_protocols, ..facts() };
        let cases: Vec<(&str, Vec<FilterChainMatch>, Facts<'_>, Option<usize>)> = vec![
            ("a chain without criteria serves all", vec![any()], facts(), Some(0)),
            ("no chain, no match", vec![], facts(), None),
            ("port over none", vec![any(), port(443)], facts(), Some(1)),
            ("none where the port differs", vec![any(), port(80)], facts(), Some(0)),
            ("only another port", vec![port(80)], facts(), None),
            ("longest range", vec![to(&["10.0.0.0/8"]), to(&["10.0.0.0/24"]), any()], facts(), Some(1)),
            ("one of several ranges", vec![any(), to(&["172.16.0.0/12", "10.0.0.1/32"])], facts(), Some(1)),
            ("a range of length zero is any", vec![to(&["0.0.0.0/0"])], facts(), Some(0)),
            ("another range", vec![to(&["11.0.0.0/8"])], facts(), None),
            ("host bits do not matter", vec![to(&["10.0.0.77/24"])], facts(), Some(0)),
            ("exact name", vec![sni(&["*.b.c"]), sni(&["a.b.c"])], named("a.b.c"), Some(1)),
            ("longest suffix", vec![sni(&["*.c"]), sni(&["*.b.c"]), any()], named("a.b.c"), Some(1)),
            ("shorter suffix", vec![sni(&["*.c"]), sni(&["*.b.c"]), any()], named("a.x.c"), Some(0)),
            ("a suffix needs a label before it", vec![sni(&["*.b.c"]), any()], named("b.c"), Some(1)),
            ("no name", vec![sni(&["a.b.c"]), any()], named(""), Some(1)),
            ("another name", vec![sni(&["a.b.c"])], named("x.b.c"), None),
            ("names are compared without case", vec![sni(&["A.B.c"])], named("a.b.c"), Some(0)),
            ("transport", vec![any(), transport("raw_buffer")], facts(), Some(1)),
            ("other transport", vec![transport("tls"), any()], facts(), Some(1)),
            ("protocol", vec![alpn(&["h2c"]), any()], speaking(&["h2c"]), Some(0)),
            (
                "the client's first choice that a chain has",
                vec![alpn(&["a"]), alpn(&["b"])],
                speaking(&["x", "b", "a"]),
                Some(1),
            ),
            ("no protocol known", vec![alpn(&["h2c"]), any()], facts(), Some(1)),
            ("direct peer", vec![any(), direct(&["192.0.2.0/24"])], facts(), Some(1)),
            ("source", vec![any(), from(&["192.0.0.0/16"]), from(&["192.0.2.1/32"])], facts(), Some(2)),
            (
                "source port",
                vec![any(), FilterChainMatch { source_ports: vec![5000, 5001], ..any() }],
                facts(),
                Some(1),
            ),
        ];
        for (what, chains, facts, expected) in cases {
            assert_eq!(select(&chains, &facts), expected, "{what}");
        }
    }

    #[test]
    fn an_earlier_criterion_is_never_taken_back() {
        let both = FilterChainMatch { prefix_ranges: cidrs(&["10.0.0.0/8"]), ..sni(&["a.test"]) };
        let chains = [both, port(443), sni(&["b.test"])];
        // The port decides first, though other chains would match by name.
        assert_eq!(select(&chains, &Facts { server_name: "a.test", ..facts() }), Some(1));
        // The longer range decides, though only the chain without a range has the name.
        let chains = [&chains[0], &chains[2]];
        let selector = Selector::build(chains.into_iter()).unwrap();
        assert_eq!(selector.select(&Facts { server_name: "b.test", ..facts() }), None);
    }

    #[test]
    fn addresses_of_the_other_family_match_only_chains_without_a_range() {
        let chains = [to(&["10.0.0.0/8"]), any()];
        let facts = Facts { local: "[2001:db8::1]:443".parse().unwrap(), ..facts() };
        assert_eq!(select(&chains, &facts), Some(1));
    }

    #[test]
    fn chains_that_match_the_same_are_refused() {
        for (first, second) in [
            (any(), any()),
            (any(), to(&["0.0.0.0/0"])),
            (sni(&["a.test", "b.test"]), sni(&["B.test"])),
            (to(&["10.1.0.0/8"]), to(&["10.2.0.0/8"])),
        ] {
            let chains = [port(1), first, second];
            let overlap = Selector::build(chains.iter()).unwrap_err();
            assert_eq!(overlap, Overlap { first: 1, second: 2 });
        }
    }

    #[test]
    fn a_value_written_twice_in_one_chain_is_no_overlap() {
        assert_eq!(select(&[to(&["10.0.0.0/8", "10.0.0.0/8"])], &facts()), Some(0));
    }
}
