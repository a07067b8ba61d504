//! Changing a fleet safely: what there was is kept, shown and brought back, whatever the store.

mod deletions;
mod fleet;
mod history;
mod stages;

use e2e::client::Answer;
use e2e::control::Control;
use serde_json::Value;

/// A Route to a service.
fn route(name: &str, service: &str) -> String {
    format!(
        "kind: Route\nname: {name}\nspec: {{mesh: true, rules: [{{backends: [{{service: {service}}}]}}]}}\n"
    )
}

async fn post(control: &Control, path: &str, body: &str) -> Answer {
    control.call("POST", path, body.to_owned()).await.unwrap()
}

/// A call that succeeds, and its answer.
async fn done(control: &Control, path: &str, body: &str) -> Value {
    let answer = post(control, path, body).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json().unwrap()
}

/// A call that is refused, and why.
async fn refused(control: &Control, path: &str, body: &str) -> (u16, String) {
    let answer = post(control, path, body).await;
    assert!(answer.status >= 400, "{path}: {}", answer.text());
    (answer.status, answer.text())
}

/// The releases, the newest first.
async fn releases(control: &Control) -> Vec<Value> {
    let answer = control.call("GET", "/api/v1/releases", "").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer: Value = answer.json().unwrap();
    answer["releases"].as_array().cloned().unwrap_or_default()
}

/// A 64-bit number of an answer.
fn number(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}

/// The service that a Route sends everything to; `None` without such a Route.
async fn target(control: &Control, route: &str) -> Option<String> {
    let answer = control.call("GET", &format!("/api/v1/objects/route/{route}"), "").await.unwrap();
    if answer.status == 404 {
        return None;
    }
    let answer: Value = answer.json().unwrap();
    Some(answer["resource"]["spec"]["rules"][0]["backends"][0]["service"].as_str().unwrap().to_owned())
}
