//! Instances: the addresses that serve a service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::{InstanceId, ServiceName};

/// Largest weight of an instance.
pub const MAX_WEIGHT: u32 = 65_535;

/// Whether an instance takes traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Takes traffic.
    #[default]
    Healthy,
    /// Takes none: it is left out of what proxies are given, so that panic routing cannot pick it.
    Unhealthy,
    /// Takes no new work; given to proxies as draining.
    Draining,
}

/// One running instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Service it belongs to.
    pub service: ServiceName,
    /// Identity in the service.
    pub id: InstanceId,
    /// Address; names are not resolved here, so a source must give an IP address.
    pub address: IpAddr,
    /// Port, never 0.
    pub port: u16,
    /// Share of the service's requests, `1..=65535`.
    pub weight: u32,
    /// Zone it runs in; empty: none.
    pub zone: Box<str>,
    /// Labels, for subsets.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Whether it takes traffic.
    pub health: Health,
}

/// An instance that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInstance {
    /// Port 0.
    #[error("port must be 1 to 65535")]
    Port,
    /// Weight out of range.
    #[error("weight must be 1 to {MAX_WEIGHT}")]
    Weight,
    /// `0.0.0.0`, `::` or a multicast address.
    #[error("address {0} cannot be connected to")]
    Address(IpAddr),
}

impl Instance {
    /// A healthy instance of weight 1 without zone and labels, named after its address.
    ///
    /// # Errors
    /// When the address or the port cannot be connected to.
    pub fn at(service: ServiceName, address: SocketAddr) -> Result<Self, InvalidInstance> {
        let id = InstanceId::new(&address.to_string()).expect("INVARIANT: an address with its port is an id");
        Self {
            service,
            id,
            address: address.ip(),
            port: address.port(),
            weight: 1,
            zone: "".into(),
            labels: BTreeMap::new(),
            health: Health::Healthy,
        }
        .checked()
    }

    /// This instance, if it can be served. Every source calls it on what it read.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn checked(self) -> Result<Self, InvalidInstance> {
        if self.port == 0 {
            return Err(InvalidInstance::Port);
        }
        if !(1..=MAX_WEIGHT).contains(&self.weight) {
            return Err(InvalidInstance::Weight);
        }
        if self.address.is_unspecified() || self.address.is_multicast() {
            return Err(InvalidInstance::Address(self.address));
        }
        Ok(self)
    }

    /// Address and port.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Whether its labels hold all of these.
    pub fn has_labels<'a>(&self, wanted: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        wanted.into_iter().all(|(k, v)| self.labels.get(k).is_some_and(|have| **have == *v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ServiceName {
        ServiceName::new("cart").unwrap()
    }

    #[test]
    fn addresses_that_nobody_can_connect_to_are_refused() {
        for bad in ["0.0.0.0:80", "[::]:80", "224.0.0.1:80", "10.0.0.1:0"] {
            assert!(Instance::at(service(), bad.parse().unwrap()).is_err(), "{bad}");
        }
        assert!(Instance::at(service(), "[::1]:80".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_subset_takes_instances_whose_labels_hold_all_of_its_own() {
        let mut i = Instance::at(service(), "10.0.0.1:80".parse().unwrap()).unwrap();
        i.labels.insert("version".into(), "2".into());
        i.labels.insert("canary".into(), "yes".into());
        assert!(i.has_labels([("version", "2")]));
        assert!(i.has_labels([]));
        assert!(!i.has_labels([("version", "1")]));
        assert!(!i.has_labels([("version", "2"), ("zone", "a")]));
    }
}
