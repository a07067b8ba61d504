//! Configuration from files, which count when they are moved into place.

use super::*;
use std::path::Path;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// Writes a discovery response beside its place and moves it there.
fn place(dir: &Path, file: &str, version: &str, type_url: &str, resource: &str) {
    let resources = if resource.is_empty() {
        String::new()
    } else {
        format!("{{'@type': {type_url}, {}", &resource[1..])
    };
    let text = format!("{{version_info: '{version}', resources: [{resources}]}}");
    let draft = dir.join(format!(".{file}.draft"));
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, dir.join(file)).unwrap();
}

fn source(dir: &Path, file: &str, watched: &str) -> String {
    format!(
        "{{resource_api_version: V3, path_config_source: {{path: {}{watched}}}}}",
        dir.join(file).display()
    )
}

fn listener_yaml(routes: &str) -> String {
    let chains = hcm(&format!("rds: {{route_config_name: all, config_source: {routes}}}"));
    format!(
        "{{name: web, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: {chains}}}"
    )
}

fn cluster_yaml(endpoints: &str) -> String {
    format!("{{name: up, type: EDS, eds_cluster_config: {{eds_config: {endpoints}}}}}")
}

async fn start(dir: &Path, watched: &str) -> Files {
    let bootstrap = format!(
        "{{node: {{id: node-1, cluster: fleet}}, admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, \
         dynamic_resources: {{cds_config: {}, lds_config: {}}}}}",
        source(dir, "cds.yaml", watched),
        source(dir, "lds.yaml", watched)
    );
    Files { proxy: e2e::proxy::start(&bootstrap).await.unwrap(), client: Client::h1() }
}

struct Files {
    proxy: Envoy,
    client: Client,
}

impl Files {
    async fn answers(&self, status: u16, instance: &str) {
        eventually(&format!("answers {status} {instance}"), async || -> Result<()> {
            let web = self.proxy.listener("web").await?;
            let answer = self.client.get(&format!("http://{web}/")).await?;
            let from = answer.header("x-instance");
            anyhow::ensure!(answer.status == status && from == instance, "{} {from:?}", answer.status);
            Ok(())
        })
        .await;
    }

    async fn stat(&self, name: &str, at_least: u64) {
        eventually(&format!("{name} >= {at_least}"), async || -> Result<()> {
            let value = self.proxy.stats().await?.get(name).copied().unwrap_or_default();
            anyhow::ensure!(value >= at_least, "is {value}");
            Ok(())
        })
        .await;
    }
}

#[tokio::test]
async fn files_moved_into_place_are_taken_and_bad_ones_are_not() {
    let (up, other) = (upstream("up").await, upstream("other").await);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    place(dir, "eds.yaml", "1", ENDPOINTS, &assignment_yaml("up", &[up.addr]));
    place(dir, "rds.yaml", "1", ROUTES, &routes_yaml("all", "up"));
    place(dir, "cds.yaml", "1", CLUSTER, &cluster_yaml(&source(dir, "eds.yaml", "")));
    place(dir, "lds.yaml", "1", LISTENER, &listener_yaml(&source(dir, "rds.yaml", "")));
    let files = start(dir, "").await;
    files.answers(200, "up").await;

    place(dir, "eds.yaml", "2", ENDPOINTS, &assignment_yaml("up", &[other.addr]));
    files.answers(200, "other").await;

    place(dir, "rds.yaml", "2", ROUTES, &routes_yaml("all", "elsewhere"));
    files.answers(503, "").await;
    place(dir, "rds.yaml", "3", ROUTES, &routes_yaml("all", "up"));
    files.answers(200, "other").await;

    // Refused: the last good one serves.
    place(dir, "cds.yaml", "2", CLUSTER, "{name: up, lb_policy: CLUSTER_PROVIDED}");
    files.stat("cluster_manager.cds.update_rejected", 1).await;
    files.answers(200, "other").await;
    // Not even a text that can be read.
    std::fs::write(dir.join("draft"), "{version_info: [").unwrap();
    std::fs::rename(dir.join("draft"), dir.join("lds.yaml")).unwrap();
    files.stat("listener_manager.lds.update_failure", 1).await;
    files.answers(200, "other").await;

    place(
        dir,
        "cds.yaml",
        "3",
        CLUSTER,
        &format!("{{name: up, load_assignment: {}}}", assignment_yaml("up", &[up.addr])),
    );
    files.answers(200, "up").await;
    place(dir, "cds.yaml", "4", CLUSTER, "");
    files.answers(503, "").await;
}

#[tokio::test]
async fn a_watched_directory_is_what_is_watched() {
    let (up, other) = (upstream("up").await, upstream("other").await);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // As Kubernetes mounts volumes: files are links into a folder that is a link, and only that link moves.
    let version = |name: &str, endpoint: SocketAddr| {
        let folder = dir.join(name);
        std::fs::create_dir(&folder).unwrap();
        place(
            &folder,
            "cds.yaml",
            name,
            CLUSTER,
            &format!("{{name: up, load_assignment: {}}}", assignment_yaml("up", &[endpoint])),
        );
        let chains = hcm(&format!("route_config: {}", routes_yaml("all", "up")));
        let listener = format!(
            "{{name: web, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: {chains}}}"
        );
        place(&folder, "lds.yaml", name, LISTENER, &listener);
        std::os::unix::fs::symlink(name, dir.join("..next")).unwrap();
        std::fs::rename(dir.join("..next"), dir.join("..data")).unwrap();
    };
    version("one", up.addr);
    for file in ["cds.yaml", "lds.yaml"] {
        std::os::unix::fs::symlink(Path::new("..data").join(file), dir.join(file)).unwrap();
    }
    let files = start(dir, &format!(", watched_directory: {{path: {}}}", dir.display())).await;
    files.answers(200, "up").await;
    version("two", other.addr);
    files.answers(200, "other").await;
}

#[tokio::test]
async fn a_field_that_is_not_known_refuses_no_file_and_is_counted() {
    let up = upstream("up").await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let with = |fields: &str| {
        format!("{{name: up, {fields}load_assignment: {}}}", assignment_yaml("up", &[up.addr]))
    };
    place(dir, "cds.yaml", "1", CLUSTER, &with("of_the_future: 1, "));
    place(dir, "lds.yaml", "1", LISTENER, &{
        let chains = hcm(&format!("route_config: {}", routes_yaml("all", "up")));
        format!(
            "{{name: web, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: {chains}}}"
        )
    });
    let mut files = start(dir, "").await;
    files.answers(200, "up").await;
    assert_eq!(files.proxy.stats().await.unwrap()["server.dynamic_unknown_fields"], 1);
    let log = files.proxy.process().log();
    assert!(log.contains("resources[0].of_the_future") && log.contains("cds.yaml:1:"), "{log}");
}
