use super::commands::answer;
use super::*;
use crate::runtime::Runtime;
use crate::stats::Registry;
use crate::{listener, upstream};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};

struct Fake {
    registry: Registry,
    runtime: Runtime,
    state: Cell<ServerState>,
    actions: RefCell<Vec<Action>>,
    levels: RefCell<Vec<(Option<String>, String)>>,
}

impl Fake {
    fn new() -> Self {
        Self {
            registry: Registry::new(1),
            runtime: Runtime::new(&[("a".into(), "1".into())], true),
            state: Cell::new(ServerState::Live),
            actions: RefCell::default(),
            levels: RefCell::default(),
        }
    }

    fn get(&self, target: &str) -> (StatusCode, String) {
        self.send(&Method::GET, target)
    }

    fn send(&self, method: &Method, target: &str) -> (StatusCode, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let page = answer(self, method, path, query);
        (page.status, page.body.text())
    }

    fn json(&self, target: &str) -> Value {
        let (_, body) = self.get(target);
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{target}: {e}: {body}"))
    }
}

impl Proxy for Fake {
    fn metrics(&self) -> &Registry {
        &self.registry
    }
    fn clusters(&self) -> Vec<upstream::ClusterInfo> {
        Vec::new()
    }
    fn listeners(&self) -> Vec<listener::Info> {
        Vec::new()
    }
    fn runtime(&self) -> &Runtime {
        &self.runtime
    }
    fn state(&self) -> ServerState {
        self.state.get()
    }
    fn about(&self) -> About {
        About { version: "v".into(), ..About::default() }
    }
    fn memory(&self) -> Memory {
        Memory { allocated: 1, heap: 2, physical: 3 }
    }
    fn telemetry(&self) -> Vec<crate::export::Report> {
        Vec::new()
    }
    fn dump(&self, endpoints: bool) -> Vec<Section> {
        let item = |name: &str| {
            let value = json!({ "version_info": "1", "cluster": { "name": name, "type": "EDS" } });
            Item { name: name.into(), render: Box::new(move || value.clone()) }
        };
        let list = List {
            field: "dynamic_active_clusters",
            item_type: "t/Dynamic".into(),
            items: vec![item("a"), item("b")],
        };
        let clusters = Section {
            type_url: "t/Clusters".into(),
            fields: vec![("version_info", json!("1"))],
            lists: vec![list],
        };
        let endpoints =
            endpoints.then(|| Section { type_url: "t/Endpoints".into(), fields: vec![], lists: vec![] });
        std::iter::once(clusters).chain(endpoints).collect()
    }
    fn ignored(&self) -> Vec<Ignored> {
        vec![Ignored {
            resource: "bootstrap".into(),
            path: "watchdogs".into(),
            message: "has no effect".into(),
        }]
    }
    fn certificates(&self) -> Value {
        json!({ "certificates": [] })
    }
    fn unready(&self) -> Vec<(String, String)> {
        vec![("RDS".into(), "r".into()), ("RDS".into(), "s".into())]
    }
    fn log_levels(&self) -> Vec<(&'static str, String)> {
        vec![("xds", "info".into())]
    }
    fn set_log_level(&self, component: Option<&str>, level: &str) -> Result<(), String> {
        if level == "loud" {
            return Err("invalid level".into());
        }
        self.levels.borrow_mut().push((component.map(Into::into), level.into()));
        Ok(())
    }
    fn act(&self, action: Action) {
        self.actions.borrow_mut().push(action);
    }
}

#[test]
fn ready_is_200_only_while_live() {
    let proxy = Fake::new();
    assert_eq!(proxy.get("/ready"), (StatusCode::OK, "LIVE\n".into()));
    proxy.state.set(ServerState::Initializing);
    assert_eq!(proxy.get("/ready"), (StatusCode::SERVICE_UNAVAILABLE, "INITIALIZING\n".into()));
}

#[test]
fn levers_need_post_and_say_so() {
    let proxy = Fake::new();
    let (status, body) = proxy.get("/logging");
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::METHOD_NOT_ALLOWED, "Method GET not allowed, POST required.")
    );
    for path in
        ["/quitquitquit", "/drain_listeners", "/healthcheck/fail", "/reset_counters", "/runtime_modify?a=1"]
    {
        assert_eq!(proxy.get(path).0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert!(proxy.actions.borrow().is_empty());
    assert_eq!(proxy.send(&Method::POST, "/healthcheck/fail"), (StatusCode::OK, "OK\n".into()));
    assert_eq!(proxy.send(&Method::POST, "/quitquitquit"), (StatusCode::OK, "OK\n".into()));
    assert_eq!(*proxy.actions.borrow(), [Action::FailHealthCheck, Action::Quit]);
}

#[test]
fn unknown_path_lists_the_commands() {
    let (status, body) = Fake::new().get("/nope");
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.starts_with("invalid path. admin commands are:\n  /: Admin home page\n"), "{body}");
}

#[test]
fn log_levels_change_for_all_or_by_component() {
    let proxy = Fake::new();
    let (_, body) = proxy.send(&Method::POST, "/logging?level=debug");
    assert_eq!(body, "active loggers:\n  xds: info\n\n");
    proxy.send(&Method::POST, "/logging?paths=xds:trace,http:off");
    proxy.send(&Method::POST, "/logging?upstream=warning");
    let seen: Vec<_> =
        proxy.levels.borrow().iter().map(|(c, l)| (c.clone().unwrap_or_default(), l.clone())).collect();
    let expected = [("", "debug"), ("xds", "trace"), ("http", "off"), ("upstream", "warning")];
    assert_eq!(seen, expected.map(|(c, l)| (c.to_owned(), l.to_owned())));
    assert_eq!(proxy.send(&Method::POST, "/logging?level=loud").0, StatusCode::BAD_REQUEST);
}

#[test]
fn stats_are_filtered_and_wrong_parameters_refused() {
    let proxy = Fake::new();
    let counter = proxy.registry.scope("server.", "server.", &[]).counter(&["restarts"]);
    counter.inc();
    assert_eq!(proxy.get("/stats?filter=rest").1, "server.restarts: 1\n");
    assert_eq!(proxy.get("/stats?filter=nothing").1, "");
    assert!(proxy.get("/stats/prometheus").1.contains("envoy_server_restarts{} 1"));
    assert!(proxy.get("/stats?format=prometheus").1.contains("envoy_server_restarts{} 1"));
    for bad in ["filter=(", "format=xml", "type=Things", "histogram_buckets=detailed"] {
        assert_eq!(proxy.get(&format!("/stats?{bad}")).0, StatusCode::BAD_REQUEST, "{bad}");
    }
    proxy.send(&Method::POST, "/reset_counters");
    assert_eq!(counter.value(), 0);
}

#[test]
fn config_dump_is_whole_by_default() {
    let dump = Fake::new().json("/config_dump");
    assert_eq!(dump["configs"].as_array().unwrap().len(), 1);
    assert_eq!(dump["configs"][0]["@type"], "t/Clusters");
    assert_eq!(dump["configs"][0]["dynamic_active_clusters"][1]["cluster"]["name"], "b");
    assert_eq!(dump["ignored_fields"], Value::Null);
}

#[test]
fn config_dump_takes_endpoints_names_resources_and_masks() {
    let proxy = Fake::new();
    assert_eq!(proxy.json("/config_dump?include_eds")["configs"][1]["@type"], "t/Endpoints");
    let named = proxy.json("/config_dump?name_regex=^b$");
    assert_eq!(named["configs"][0]["dynamic_active_clusters"].as_array().unwrap().len(), 1);
    let list = proxy.json("/config_dump?resource=dynamic_active_clusters&mask=cluster.name");
    assert_eq!(list["configs"][0], json!({ "@type": "t/Dynamic", "cluster": { "name": "a" } }));
    let masked = proxy.json("/config_dump?mask=version_info");
    assert_eq!(masked["configs"][0], json!({ "@type": "t/Clusters", "version_info": "1" }));
    assert_eq!(proxy.get("/config_dump?resource=nonsense").0, StatusCode::NOT_FOUND);
    assert_eq!(proxy.get("/config_dump?name_regex=(").0, StatusCode::BAD_REQUEST);
}

#[test]
fn config_dump_tells_ignored_fields_when_asked() {
    let dump = Fake::new().json("/config_dump?include_ignored");
    assert_eq!(dump["ignored_fields"][0]["path"], "watchdogs");
}

#[test]
fn runtime_is_shown_by_layer_and_modified() {
    let proxy = Fake::new();
    assert_eq!(proxy.send(&Method::POST, "/runtime_modify?a=2"), (StatusCode::OK, "OK\n".into()));
    let runtime = proxy.json("/runtime");
    assert_eq!(runtime["entries"]["a"], json!({ "layer_values": ["1", "2"], "final_value": "2" }));
    assert_eq!(*proxy.actions.borrow(), [Action::RuntimeChanged]);
    assert_eq!(proxy.send(&Method::POST, "/runtime_modify").0, StatusCode::BAD_REQUEST);
}

#[test]
fn what_is_waited_for_is_grouped_by_kind() {
    let dump = Fake::new().json("/init_dump");
    assert_eq!(dump["unready_targets_dumps"], json!([{ "name": "RDS", "target_names": ["r", "s"] }]));
}

#[test]
fn small_pages_answer() {
    let proxy = Fake::new();
    assert_eq!(proxy.get("/hot_restart_version").1, "disabled");
    assert_eq!(proxy.json("/certs"), json!({ "certificates": [] }));
    assert_eq!(proxy.json("/memory")["total_physical_bytes"], "3");
    assert_eq!(proxy.json("/server_info")["state"], "LIVE");
    assert_eq!(proxy.get("/clusters").1, "");
    assert_eq!(proxy.json("/clusters?format=json")["cluster_statuses"], json!([]));
    assert_eq!(proxy.json("/listeners?format=json")["listener_statuses"], json!([]));
    assert!(proxy.get("/help").1.contains("/stats/prometheus"));
    assert!(proxy.get("/").1.starts_with("<!DOCTYPE html>"));
}
