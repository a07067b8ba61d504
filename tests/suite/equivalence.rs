//! Our proxy answers as the real Envoy does: the same bootstrap, the same bytes, the same answers, the same requests
//! upstream. A case that is marked `differs` says why, and fails once it no longer does.

mod balance;
mod bodies;
mod certificates;
mod connections;
mod draining;
mod forward;
mod headers;
mod messages;
mod metadata;
mod mirrors;
mod observe;
mod ratelimit;
mod replies;
mod routing;
mod subsets;

use e2e::pair::{Pair, SPEAKS_H2, cluster, http_listener, routes};

/// A pair with the listener `web`, all of it routed to the origin, and these further listeners.
async fn simple(hcm: &str, more: &[String]) -> Pair {
    let web = http_listener(
        "web",
        hcm,
        &routes("{match: {prefix: /h2/}, route: {cluster: h2}}, {match: {prefix: /}, route: {cluster: up}}"),
    );
    let listeners = [&[web], more].concat();
    Pair::start(&listeners, &clusters()).await.unwrap()
}

/// The origins, a port where nobody listens, and a cluster without endpoints.
fn clusters() -> Vec<String> {
    vec![
        cluster("up", "$ORIGIN", ""),
        cluster("h2", "$H2", SPEAKS_H2),
        cluster("refused", "$REFUSED", ""),
        "{name: empty, load_assignment: {cluster_name: empty}}".into(),
    ]
}
