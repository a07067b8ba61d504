//! Reaching a management server through a cluster of this proxy.

use crate::upstream::{self, Clusters, PickRequest};
use data_plane_core::config::GrpcTarget;
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::{AsciiMetadataKey, MetadataMap};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// PING on quiet connections unless the cluster says otherwise, so that a dead one is noticed (Envoy sends none).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Wait for the PING's answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a host of the target's cluster; each attempt picks anew.
pub(super) async fn connect(clusters: &Clusters, target: &GrpcTarget) -> Result<Channel, String> {
    let name = &target.cluster;
    let cluster = clusters.load().get(name).cloned().ok_or_else(|| format!("no cluster {name:?}"))?;
    let http2 = &cluster.config.http2;
    let interval = http2.keepalive_interval;
    let limit = cluster.config.connect_timeout;
    let endpoint = Endpoint::from(authority(target.authority.as_deref().unwrap_or(name)))
        .connect_timeout(limit)
        .tcp_nodelay(true)
        .initial_stream_window_size(http2.initial_stream_window)
        .initial_connection_window_size(http2.initial_connection_window)
        .http2_keep_alive_interval(interval.unwrap_or(KEEPALIVE_INTERVAL))
        .keep_alive_timeout(interval.map_or(KEEPALIVE_TIMEOUT, |_| http2.keepalive_timeout))
        .keep_alive_while_idle(true);
    let connector = service_fn(move |_: Uri| {
        let host = cluster.pick(&PickRequest::random(fastrand::u64(..)));
        let cluster = Arc::clone(&cluster);
        async move {
            let host = host.ok_or_else(|| io::Error::other("no healthy host"))?;
            // With the cluster's TLS, where it has any.
            let stream = tokio::time::timeout(limit, upstream::tls::connect(&cluster, &host))
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connect timed out"))??;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    endpoint.connect_with_connector(connector).await.map_err(|e| crate::xds::apply::chain_of(&e))
}

/// `:authority` as a URI; cluster names that cannot be one are replaced.
fn authority(name: &str) -> Uri {
    let uri = Uri::builder().scheme("http").authority(name).path_and_query("/").build();
    uri.unwrap_or_else(|_| Uri::from_static("http://control-plane/"))
}

/// `initial_metadata`. Binary values and names that HTTP/2 does not take were refused by translation or are left
/// out here.
pub(super) fn add_metadata(metadata: &mut MetadataMap, target: &GrpcTarget) {
    for (name, value) in &target.metadata {
        if let (Ok(name), Ok(value)) = (name.parse::<AsciiMetadataKey>(), value.parse()) {
            metadata.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_name_is_the_authority_when_it_can_be() {
        assert_eq!(authority("xds_cluster").authority().unwrap(), "xds_cluster");
        assert_eq!(authority("has a space").authority().unwrap(), "control-plane");
    }
}
