//! Resources read from files, and the moves that bring new ones.

use crate::support::*;
use std::path::Path;

/// Writes beside and moves into place, as Envoy wants it.
fn put(path: &Path, text: &str) {
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn resources(type_url: &str, version: &str, items: &[String]) -> String {
    let items: Vec<_> =
        items.iter().map(|i| format!("{{\"@type\": {type_url}, {}", i.strip_prefix('{').unwrap())).collect();
    format!("version_info: \"{version}\"\nresources: [{}]\n", items.join(", "))
}

fn bootstrap(dir: &Path) -> String {
    let source = |file: &str| {
        format!("{{path_config_source: {{path: {}}}, resource_api_version: V3}}", dir.join(file).display())
    };
    format!(
        "{ADMIN}node: {{id: a, cluster: b}}\ndynamic_resources: {{cds_config: {}, lds_config: {}}}\n",
        source("cds.yaml"),
        source("lds.yaml")
    )
}

#[tokio::test]
async fn moved_files_are_applied_and_bad_ones_keep_the_last_good() {
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let dir = tempfile::tempdir().unwrap();
    let (cds, lds) = (dir.path().join("cds.yaml"), dir.path().join("lds.yaml"));
    put(&cds, &resources(CDS, "1", &[static_cluster("up", one.address)]));
    put(&lds, &resources(LDS, "1", &[listener("web", &to_cluster("up"))]));
    let proxy = ready(start(&bootstrap(dir.path()))).await;
    let web = bound(&proxy, "web").await;
    assert_eq!(get(web, "/").await.body, "one");

    put(&cds, &resources(CDS, "2", &[static_cluster("up", two.address)]));
    eventually("the second upstream serves", async || (get(web, "/").await.body == "two").then_some(()))
        .await;
    let value = |name: &str| proxy.stats().value(name);

    // Rejected: one good cluster, one bad.
    let bad = "{name: bad, connect_timeout: -1s}".to_owned();
    put(&cds, &resources(CDS, "3", &[static_cluster("up", one.address), bad]));
    eventually("the bad cluster is rejected", async || {
        (value("cluster_manager.cds.update_rejected") == Some(1)).then_some(())
    })
    .await;
    eventually("the good cluster applies", async || (get(web, "/").await.body == "one").then_some(())).await;
    let dump = get(proxy.admin_addr().unwrap(), "/config_dump?resource=dynamic_active_clusters").await.body;
    assert!(dump.contains("error_state") && dump.contains("connect_timeout"), "{dump}");

    // Not even YAML.
    put(&cds, "resources: [");
    eventually("the broken file is counted", async || {
        (value("cluster_manager.cds.update_failure") == Some(1)).then_some(())
    })
    .await;
    assert_eq!(get(web, "/").await.body, "one");
}

/// As [`resources`], one under the other: only those are read again whose text changed.
fn listed(type_url: &str, version: &str, items: &[String]) -> String {
    let item = |i: &String| format!("- {{\"@type\": {type_url}, {}\n", i.strip_prefix('{').unwrap());
    format!("version_info: \"{version}\"\nresources:\n{}", items.iter().map(item).collect::<String>())
}

#[tokio::test]
async fn what_a_file_still_says_stays_and_what_it_says_anew_applies() {
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let dir = tempfile::tempdir().unwrap();
    let (cds, lds) = (dir.path().join("cds.yaml"), dir.path().join("lds.yaml"));
    let (kept, bad) = (static_cluster("kept", one.address), "{name: other, connect_timeout: -1s}".to_owned());
    put(&cds, &listed(CDS, "1", &[kept.clone(), static_cluster("other", two.address)]));
    let listeners = [listener("web", &to_cluster("kept")), listener("other", &to_cluster("other"))];
    put(&lds, &listed(LDS, "1", &listeners));
    let proxy = ready(start(&bootstrap(dir.path()))).await;
    let (web, other) = (bound(&proxy, "web").await, bound(&proxy, "other").await);
    let answers = async |what: &str, address, wanted: &str| {
        eventually(what, async || (get(address, "/").await.body == wanted).then_some(())).await;
    };
    answers("one cluster serves", web, "one").await;
    answers("the other serves", other, "two").await;

    for (version, rejected) in [("2", 1), ("3", 2)] {
        put(&cds, &listed(CDS, version, &[kept.clone(), bad.clone()]));
        eventually("the bad one is refused, each time", async || {
            (proxy.stats().value("cluster_manager.cds.update_rejected") == Some(rejected)).then_some(())
        })
        .await;
        answers("its last good one serves", other, "two").await;
        answers("what did not change serves", web, "one").await;
    }
    let dump = get(proxy.admin_addr().unwrap(), "/config_dump?resource=dynamic_active_clusters").await.body;
    assert!(dump.contains("\"version_info\": \"3\""), "what did not change has the file's version: {dump}");

    put(&cds, &listed(CDS, "4", &[static_cluster("other", one.address)]));
    answers("the changed one serves", other, "one").await;
    eventually("what is left out is gone", async || (get(web, "/").await.status == 503).then_some(())).await;
    put(&cds, &listed(CDS, "5", &[kept, static_cluster("other", one.address)]));
    answers("it comes back as it was", web, "one").await;
}

#[tokio::test]
async fn clusters_and_listeners_left_out_are_removed() {
    let upstream = Upstream::start("one").await;
    let dir = tempfile::tempdir().unwrap();
    let (cds, lds) = (dir.path().join("cds.yaml"), dir.path().join("lds.yaml"));
    put(&cds, &resources(CDS, "1", &[static_cluster("up", upstream.address)]));
    put(
        &lds,
        &resources(LDS, "1", &[listener("web", &to_cluster("up")), listener("other", &to_cluster("up"))]),
    );
    let proxy = ready(start(&bootstrap(dir.path()))).await;
    let (web, other) = (bound(&proxy, "web").await, bound(&proxy, "other").await);
    put(&lds, &resources(LDS, "2", &[listener("web", &to_cluster("up"))]));
    eventually("the other port is closed", async || request(other, "GET", "/").await.is_err().then_some(()))
        .await;
    assert_eq!(get(web, "/").await.status, 200);
    put(&cds, &resources(CDS, "2", &[]));
    eventually("the cluster is gone", async || (get(web, "/").await.status == 503).then_some(())).await;
}

#[tokio::test]
async fn a_watched_directory_is_followed_through_a_symbolic_link() {
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let dir = tempfile::tempdir().unwrap();
    // As Kubernetes mounts configuration: `..data` points at a folder and is replaced by a move.
    let publish = |folder: &str, address| {
        let folder_path = dir.path().join(folder);
        std::fs::create_dir(&folder_path).unwrap();
        std::fs::write(
            folder_path.join("cds.yaml"),
            resources(CDS, folder, &[static_cluster("up", address)]),
        )
        .unwrap();
        std::fs::write(
            folder_path.join("lds.yaml"),
            resources(LDS, folder, &[listener("web", &to_cluster("up"))]),
        )
        .unwrap();
        let link = dir.path().join("..tmp");
        std::os::unix::fs::symlink(folder, &link).unwrap();
        std::fs::rename(link, dir.path().join("..data")).unwrap();
    };
    publish("v1", one.address);
    let source = |file: &str| {
        let (path, folder) = (dir.path().join("..data").join(file), dir.path().display().to_string());
        format!(
            "{{path_config_source: {{path: {}, watched_directory: {{path: {folder}}}}}, resource_api_version: V3}}",
            path.display()
        )
    };
    let proxy = ready(start(&format!(
        "{ADMIN}node: {{id: a, cluster: b}}\ndynamic_resources: {{cds_config: {}, lds_config: {}}}\n",
        source("cds.yaml"),
        source("lds.yaml")
    )))
    .await;
    let web = bound(&proxy, "web").await;
    assert_eq!(get(web, "/").await.body, "one");
    publish("v2", two.address);
    eventually("the second upstream serves", async || (get(web, "/").await.body == "two").then_some(()))
        .await;
}

#[tokio::test]
async fn endpoints_and_routes_come_from_files_too() {
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let dir = tempfile::tempdir().unwrap();
    let (eds, rds) = (dir.path().join("eds.yaml"), dir.path().join("rds.yaml"));
    let source = |path: &Path| {
        format!("{{path_config_source: {{path: {}}}, resource_api_version: V3}}", path.display())
    };
    put(&eds, &resources(EDS, "1", &[assignment("up", one.address)]));
    put(&rds, &resources(RDS, "1", &[route_config("routes", "up")]));
    let cluster = format!(
        "{{name: up, type: EDS, connect_timeout: 1s, eds_cluster_config: {{eds_config: {}}}}}",
        source(&eds)
    );
    let web =
        listener("web", &format!("rds: {{route_config_name: routes, config_source: {}}}", source(&rds)));
    let proxy =
        ready(start(&format!("{ADMIN}static_resources: {{listeners: [{web}], clusters: [{cluster}]}}\n")))
            .await;
    let web = bound(&proxy, "web").await;
    assert_eq!(get(web, "/").await.body, "one");
    put(&eds, &resources(EDS, "2", &[assignment("up", two.address)]));
    eventually("the second upstream serves", async || (get(web, "/").await.body == "two").then_some(()))
        .await;
    put(&rds, &resources(RDS, "2", &[route_config("routes", "missing")]));
    eventually("the new routes lead nowhere", async || (get(web, "/").await.status == 503).then_some(()))
        .await;
    // A file that was moved into place just as it began to be watched may be read twice.
    let updates = proxy.stats().value("http.web.rds.routes.update_success");
    assert!(updates >= Some(2), "{updates:?}");
}
