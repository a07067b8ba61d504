//! Resolution through name servers and the hosts file.

use super::{Answer, Resolve, ResolveError};
use data_plane_core::config::{DnsFamily, DnsOptions, DnsResolver};
use futures_util::future::BoxFuture;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use parking_lot::Mutex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time for the question for one address family, retries included: leaves time for the other family within the
/// refresh loop's own deadline.
const FAMILY_TIMEOUT: Duration = Duration::from_secs(4);

/// Resolves through the system's name servers, or those a cluster names. IP literals and `localhost` need no
/// server; a missing or unusable `/etc/resolv.conf` leaves these and the hosts file.
#[derive(Default)]
pub struct SystemResolver {
    /// One for each set of servers in use: a handful a proxy.
    by_servers: Mutex<Vec<(DnsResolver, Arc<TokioResolver>)>>,
}

impl std::fmt::Debug for SystemResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemResolver").finish_non_exhaustive()
    }
}

impl SystemResolver {
    /// A resolver that reads the system's configuration when it is first asked.
    pub fn new() -> Self {
        Self::default()
    }

    fn resolver(&self, servers: &DnsResolver) -> Result<Arc<TokioResolver>, ResolveError> {
        let mut known = self.by_servers.lock();
        if let Some((_, resolver)) = known.iter().find(|(s, _)| s == servers) {
            return Ok(Arc::clone(resolver));
        }
        let resolver = Arc::new(open(servers)?);
        known.push((servers.clone(), Arc::clone(&resolver)));
        Ok(resolver)
    }
}

fn open(servers: &DnsResolver) -> Result<TokioResolver, ResolveError> {
    let (mut config, mut options) = hickory_resolver::system_conf::read_system_conf().unwrap_or_else(|error| {
        tracing::warn!(%error, "the system's resolver configuration is not usable; only named servers are asked");
        (ResolverConfig::default(), ResolverOpts::default())
    });
    if !servers.servers.is_empty() {
        let search = config.search().to_vec();
        let domain = config.domain().cloned();
        let asked = servers.servers.iter().map(|address| {
            let connections = if servers.use_tcp {
                vec![ConnectionConfig::tcp()]
            } else {
                vec![ConnectionConfig::udp(), ConnectionConfig::tcp()]
            };
            let connections = connections
                .into_iter()
                .map(|mut connection| {
                    connection.port = address.port();
                    connection
                })
                .collect();
            NameServerConfig::new(address.ip(), true, connections)
        });
        config = ResolverConfig::from_parts(domain, search, asked.collect());
    } else if servers.use_tcp {
        let asked = config.name_servers().iter().cloned().map(|mut server| {
            let port = server.connections.first().map(|c| c.port);
            let mut tcp = ConnectionConfig::tcp();
            tcp.port = port.unwrap_or(tcp.port);
            server.connections = vec![tcp];
            server
        });
        config = ResolverConfig::from_parts(config.domain.clone(), config.search().to_vec(), asked.collect());
    }
    if servers.no_search_domains {
        config = ResolverConfig::from_parts(None, Vec::new(), config.name_servers().to_vec());
    }
    // The refresh loop decides how old an answer may be; a cache below it would add its own age.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Always;
    Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|error| ResolveError::Failed(error.to_string()))
}

impl Resolve for SystemResolver {
    fn resolve<'a>(
        &'a self,
        name: &'a str,
        options: &'a DnsOptions,
    ) -> BoxFuture<'a, Result<Answer, ResolveError>> {
        Box::pin(async move {
            if let Some(addresses) = without_server(name, options.family) {
                return Ok(Answer { addresses, ttl: None });
            }
            let parsed = Name::from_utf8(name).map_err(|error| ResolveError::Name(error.to_string()))?;
            let resolver = self.resolver(&options.resolver)?;
            let v4 = || ask(&resolver, parsed.clone(), RecordType::A);
            let v6 = || ask(&resolver, parsed.clone(), RecordType::AAAA);
            match options.family {
                DnsFamily::V4Only => v4().await,
                DnsFamily::V6Only => v6().await,
                DnsFamily::Auto => first_of(v6().await, v4).await,
                DnsFamily::V4Preferred => first_of(v4().await, v6).await,
                DnsFamily::All => both(v4().await, v6().await),
            }
        })
    }
}

/// Answers that need no server: literals, and `localhost` with all names below it (RFC 6761, section 6.3).
fn without_server(name: &str, family: DnsFamily) -> Option<Vec<IpAddr>> {
    let literal = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    if let Ok(address) = literal.parse() {
        return Some(vec![address]);
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if name != "localhost" && !name.ends_with(".localhost") {
        return None;
    }
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    Some(match family {
        DnsFamily::V4Only | DnsFamily::V4Preferred => vec![v4],
        DnsFamily::V6Only => vec![v6],
        // IPv6 first as for any name, but only where the host has it.
        DnsFamily::Auto => vec![if has_v6_loopback() { v6 } else { v4 }],
        DnsFamily::All => vec![v4, v6],
    })
}

fn has_v6_loopback() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

async fn ask(resolver: &TokioResolver, name: Name, kind: RecordType) -> Result<Answer, ResolveError> {
    let lookup = match tokio::time::timeout(FAMILY_TIMEOUT, resolver.lookup(name, kind)).await {
        Err(_) => return Err(ResolveError::Timeout),
        Ok(Ok(lookup)) => lookup,
        Ok(Err(error)) if error.is_no_records_found() => return Ok(Answer::default()),
        Ok(Err(error)) => return Err(ResolveError::Failed(error.to_string())),
    };
    let addresses = lookup
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        })
        .collect();
    let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
    // Rounded up to whole seconds: an answer is a little old by the time it is read.
    let ttl = Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
    Ok(Answer { addresses, ttl: Some(ttl) })
}

/// The first answer, unless it is empty or failed.
async fn first_of<F>(
    first: Result<Answer, ResolveError>,
    second: impl FnOnce() -> F,
) -> Result<Answer, ResolveError>
where
    F: Future<Output = Result<Answer, ResolveError>>,
{
    match first {
        Ok(answer) if !answer.addresses.is_empty() => Ok(answer),
        _ => second().await,
    }
}

/// Both answers; one failure is covered by the other's addresses.
fn both(v4: Result<Answer, ResolveError>, v6: Result<Answer, ResolveError>) -> Result<Answer, ResolveError> {
    match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.ttl = match (v4.addresses.is_empty(), v6.addresses.is_empty()) {
                (false, false) => v4.ttl.min(v6.ttl),
                (true, _) => v6.ttl,
                (_, true) => v4.ttl,
            };
            v4.addresses.extend(v6.addresses);
            Ok(v4)
        }
        (Ok(answer), Err(_)) | (Err(_), Ok(answer)) if !answer.addresses.is_empty() => Ok(answer),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(addresses: &[&str], ttl_s: u64) -> Answer {
        Answer {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ttl: Some(Duration::from_secs(ttl_s)),
        }
    }

    #[test]
    fn literals_and_localhost_need_no_server() {
        let ip = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        for (name, family, expected) in [
            ("192.0.2.7", DnsFamily::V6Only, Some(ip("192.0.2.7"))),
            ("2001:db8::1", DnsFamily::V4Only, Some(ip("2001:db8::1"))),
            ("[2001:db8::1]", DnsFamily::Auto, Some(ip("2001:db8::1"))),
            ("localhost", DnsFamily::V4Only, Some(ip("127.0.0.1"))),
            ("LOCALHOST.", DnsFamily::V6Only, Some(ip("::1"))),
            ("web.localhost", DnsFamily::V4Preferred, Some(ip("127.0.0.1"))),
            ("notlocalhost", DnsFamily::V4Only, None),
            ("example.com", DnsFamily::Auto, None),
        ] {
            assert_eq!(without_server(name, family), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn the_second_family_is_asked_only_when_the_first_yields_nothing() {
        let second = || async { Ok(answer(&["192.0.2.1"], 5)) };
        let never = || async { panic!("the first family had addresses") };
        let got = first_of(Ok(answer(&["2001:db8::1"], 9)), never).await;
        assert_eq!(got, Ok(answer(&["2001:db8::1"], 9)));
        assert_eq!(first_of(Ok(Answer::default()), second).await, Ok(answer(&["192.0.2.1"], 5)));
        assert_eq!(first_of(Err(ResolveError::Timeout), second).await, Ok(answer(&["192.0.2.1"], 5)));
    }

    #[test]
    fn both_families_together_hold_for_the_shorter_time() {
        let merged = both(Ok(answer(&["192.0.2.1"], 30)), Ok(answer(&["2001:db8::1"], 10)));
        assert_eq!(merged, Ok(answer(&["192.0.2.1", "2001:db8::1"], 10)));
        let one = both(Err(ResolveError::Timeout), Ok(answer(&["2001:db8::1"], 10)));
        assert_eq!(one, Ok(answer(&["2001:db8::1"], 10)));
        assert_eq!(both(Err(ResolveError::Timeout), Ok(Answer::default())), Err(ResolveError::Timeout));
    }
}
