//! Where a cluster's endpoints come from: its type and the fields that go with it.

use super::endpoint::{self, Hosts};
use super::field::{self, required, unsupported};
use super::{Options, dns, extension, source};
use crate::config::{Assignment, Discovery, DnsOptions};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::cluster::v3 as proto;
use xds_types::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig,
};
use xds_types::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_types::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_types::envoy::extensions::clusters::dns::v3::DnsCluster;

/// Everything that says where endpoints come from.
pub(super) struct Places<'a> {
    pub(super) cluster: &'a str,
    pub(super) eds_cluster_config: Option<EdsClusterConfig>,
    pub(super) load_assignment: Option<ClusterLoadAssignment>,
    pub(super) dns: dns::Legacy,
}

impl Places<'_> {
    /// Where the cluster's type says that they come from.
    pub(super) fn discovery(
        self,
        kind: Option<ClusterDiscoveryType>,
        at: &Path<'_>,
        d: &mut Diagnostics,
        o: &Options<'_>,
    ) -> Result<Discovery, Rejected> {
        let type_at = at.field("type");
        match kind {
            Some(ClusterDiscoveryType::Type(value)) => match field::variant(value, &type_at, d)? {
                DiscoveryType::Static => {
                    self.dns.unused("is for DNS clusters", at, d);
                    refuse_eds(self.eds_cluster_config, at, d);
                    Ok(Discovery::Static(assignment(self.load_assignment, Hosts::Addresses, at, d)?))
                }
                DiscoveryType::StrictDns => {
                    refuse_eds(self.eds_cluster_config, at, d);
                    let options = self.dns.options(at, d, o);
                    Ok(Discovery::StrictDns(assignment(self.load_assignment, Hosts::Names, at, d)?, options))
                }
                DiscoveryType::LogicalDns => {
                    refuse_eds(self.eds_cluster_config, at, d);
                    let options = self.dns.options(at, d, o);
                    logical(self.load_assignment, options, at, d)
                }
                DiscoveryType::Eds => self.eds(at, d, o),
                DiscoveryType::OriginalDst => Err(d.reject(&type_at, "ORIGINAL_DST is not supported")),
            },
            Some(ClusterDiscoveryType::ClusterType(proto)) => {
                self.custom(proto, &at.field("cluster_type"), at, d, o)
            }
            // The proto default of the enum, as in Envoy.
            None => {
                self.dns.unused("is for DNS clusters", at, d);
                refuse_eds(self.eds_cluster_config, at, d);
                Ok(Discovery::Static(assignment(self.load_assignment, Hosts::Addresses, at, d)?))
            }
        }
    }

    fn eds(self, at: &Path<'_>, d: &mut Diagnostics, o: &Options<'_>) -> Result<Discovery, Rejected> {
        self.dns.unused("is for DNS clusters", at, d);
        let load_assignment = self.load_assignment;
        unsupported!(d, at, "EDS clusters get their endpoints from eds_cluster_config"; load_assignment);
        let at = at.field("eds_cluster_config");
        let EdsClusterConfig { eds_config, service_name } = required(self.eds_cluster_config, &at, d)?;
        let source_at = at.field("eds_config");
        let source = source::config_source(required(eds_config, &source_at, d)?, &source_at, d, o)?;
        let service_name = if service_name.is_empty() { self.cluster } else { &service_name };
        Ok(Discovery::Eds { service_name: service_name.into(), source })
    }

    /// A cluster extension: only the one that replaces the two DNS types.
    fn custom(
        self,
        proto: CustomClusterType,
        type_at: &Path<'_>,
        at: &Path<'_>,
        d: &mut Diagnostics,
        o: &Options<'_>,
    ) -> Result<Discovery, Rejected> {
        let CustomClusterType { name, typed_config } = proto;
        let packed = extension::packed(typed_config.as_ref(), type_at, d)?;
        let config_at = type_at.field("typed_config");
        if !extension::is::<DnsCluster>(packed) {
            return Err(extension::unknown("cluster type", &name, packed, &config_at, d));
        }
        refuse_eds(self.eds_cluster_config, at, d);
        let wait_for_warm = self.dns.unused("cluster_type takes its place", at, d);
        let (options, shape) =
            dns::extension(extension::open(packed, &config_at, d)?, wait_for_warm, &config_at, d, o);
        match shape {
            dns::Shape::Strict => {
                Ok(Discovery::StrictDns(assignment(self.load_assignment, Hosts::Names, at, d)?, options))
            }
            dns::Shape::Logical => logical(self.load_assignment, options, at, d),
        }
    }
}

fn refuse_eds(eds_cluster_config: Option<EdsClusterConfig>, at: &Path<'_>, d: &mut Diagnostics) {
    unsupported!(d, at, "is for EDS clusters"; eds_cluster_config);
}

fn assignment(
    proto: Option<ClusterLoadAssignment>,
    hosts: Hosts,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Assignment, Rejected> {
    endpoint::assignment(proto.unwrap_or_default(), hosts, &at.field("load_assignment"), d)
}

fn logical(
    proto: Option<ClusterLoadAssignment>,
    options: DnsOptions,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Discovery, Rejected> {
    let before = d.rejections();
    let assignment = assignment(proto, Hosts::Names, at, d)?;
    let single = matches!(&assignment.localities[..], [only] if only.endpoints.len() == 1);
    if !single && d.rejections() == before {
        let message = "LOGICAL_DNS clusters must have a single locality with a single endpoint";
        return Err(d.reject(&at.field("load_assignment"), message));
    }
    Ok(Discovery::LogicalDns(assignment, options))
}

/// Whether a management server may be reached by this cluster: it needs no other one for its endpoints.
pub(super) fn reaches_servers(proto: &proto::Cluster) -> bool {
    let is_eds = matches!(
        proto.cluster_discovery_type,
        Some(ClusterDiscoveryType::Type(kind)) if kind == DiscoveryType::Eds as i32
    );
    let source = proto.eds_cluster_config.as_ref().and_then(|eds| eds.eds_config.as_ref());
    let by_file = matches!(
        source.and_then(|source| source.config_source_specifier.as_ref()),
        Some(ConfigSourceSpecifier::Path(_) | ConfigSourceSpecifier::PathConfigSource(_))
    );
    !is_eds || by_file
}
