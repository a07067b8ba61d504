//! Copies of requests: `request_mirror_policies`.

use super::field::{self, ignored, unsupported};
use super::{edits, fraction};
use crate::config::{Mirror, MirrorCluster};
use crate::path::{Diagnostics, Path, Rejected};
use std::sync::Arc;
use xds_types::envoy::config::route::v3::route_action::RequestMirrorPolicy;

/// All copies of the message at `at`; `inherited` where it has none, as in Envoy.
pub(super) fn mirrors(
    list: Vec<RequestMirrorPolicy>,
    inherited: &Arc<[Mirror]>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Arc<[Mirror]> {
    if list.is_empty() {
        return Arc::clone(inherited);
    }
    field::each(list, &at.field("request_mirror_policies"), d, mirror).into()
}

fn mirror(proto: RequestMirrorPolicy, at: &Path<'_>, d: &mut Diagnostics) -> Result<Mirror, Rejected> {
    let RequestMirrorPolicy {
        cluster,
        cluster_header,
        runtime_fraction,
        trace_sampled,
        disable_shadow_host_suffix_append,
        request_headers_mutations,
        host_rewrite_literal,
    } = proto;
    unsupported!(d, at; request_headers_mutations);
    ignored!(d, at, "copies are not traced"; trace_sampled);
    let cluster = match (cluster.is_empty(), cluster_header.is_empty()) {
        (false, true) => MirrorCluster::Named(cluster.into()),
        (true, false) => {
            edits::name(&cluster_header, &at.field("cluster_header"), d)?;
            MirrorCluster::Header(cluster_header.to_ascii_lowercase().into())
        }
        (true, true) => return Err(d.reject(at, "one of cluster, cluster_header is required")),
        (false, false) => return Err(d.reject(&at.field("cluster_header"), "excludes cluster")),
    };
    let fraction = match runtime_fraction {
        Some(proto) => Some(fraction::runtime(proto, &at.field("runtime_fraction"), d)?),
        None => None,
    };
    let host = (!host_rewrite_literal.is_empty()).then(|| host_rewrite_literal.into());
    Ok(Mirror { cluster, fraction, mark_host: !disable_shadow_host_suffix_append, host })
}
