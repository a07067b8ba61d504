//! How proxies see services: what real Envoy and our proxy report, and what `status` makes of it.

mod sinks;

use anyhow::{Result, ensure};
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::upstream::Upstream;
use e2e::{eventually, proxy};
use serde_json::Value;

const OBJECTS: &str = "
kind: Gateway
name: ours
spec: {group: ours, listeners: [{name: web, address: 127.0.0.1, port: 0}]}
---
kind: Gateway
name: theirs
spec: {group: theirs, listeners: [{name: web, address: 127.0.0.1, port: 0}]}
---
kind: Service
name: web
spec:
  health_check:
    tcp: {}
    interval: 0.1s
    no_traffic_interval: 0.1s
    timeout: 1s
    unhealthy_threshold: 1
    healthy_threshold: 1
  outlier_detection: {consecutive_5xx: 3, base_ejection: 600s, max_ejection: 600s}
---
kind: Route
name: web
spec:
  gateways: [ours, theirs]
  rules: [{backends: [{service: web}]}]
";

async fn bootstrap(control: &Control, group: &str, node: &str) -> String {
    let path = format!("/api/v1/bootstrap?group={group}&node={node}&admin=127.0.0.1:0&report=1");
    let answer = control.call("GET", &path, "").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

async fn service(control: &Control, name: &str) -> Result<Value> {
    let status = control.status().await?;
    let all = status["services"].as_array().cloned().unwrap_or_default();
    ensure!(all.iter().all(|s| s["cluster"] != "portolan_control"), "{status:#}");
    Ok(all.into_iter().find(|s| s["cluster"] == name).unwrap_or_default())
}

/// Waits until so many proxies see so many healthy instances: (proxies, fewest, most).
async fn seen(control: &Control, what: &str, expected: (u64, u64, u64)) {
    eventually(what, async || {
        let web = service(control, "web").await?;
        let number = |field: &str| web[field].as_u64().unwrap_or_default();
        let seen = (number("proxies"), number("fewest_healthy"), number("most_healthy"));
        ensure!(seen == expected, "{web:#}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_how_envoy_and_our_proxy_see_a_service() {
    let control = Control::start(&[]).await.unwrap();
    let (one, two) = (Upstream::start("one").await.unwrap(), Upstream::start("two").await.unwrap());
    let gone = two.addr;
    control.register("web", "one", one.addr, None).await.unwrap();
    control.register("web", "two", two.addr, None).await.unwrap();
    let port = e2e::process::free_port().unwrap();
    let objects = OBJECTS.replacen("port: 0", &format!("port: {port}"), 1);
    let objects = objects.replacen("port: 0", &format!("port: {}", e2e::process::free_port().unwrap()), 1);
    control.apply(&objects).await.unwrap();
    seen(&control, "nobody reports", (0, 0, 0)).await;
    let ours = proxy::start(&bootstrap(&control, "ours", "ours-1").await).await.unwrap();
    let theirs = Envoy::start(&bootstrap(&control, "theirs", "theirs-1").await).await.unwrap();
    seen(&control, "both see both", (2, 2, 2)).await;
    assert_eq!(service(&control, "web").await.unwrap()["instances"], 2);

    drop(two);
    seen(&control, "both see one fail its check", (2, 1, 1)).await;
    assert_eq!(service(&control, "web").await.unwrap()["instances"], 2, "it is still registered");
    let two = Upstream::bind("two", gone).await.unwrap();
    seen(&control, "both see it recover", (2, 2, 2)).await;

    // Only ours carries traffic, so that only ours sees an instance that answers wrongly.
    let client = e2e::client::Client::h1();
    eventually("ours disagrees", async || {
        client.get(&format!("http://127.0.0.1:{port}/status/503")).await?;
        let web = service(&control, "web").await?;
        let odd = &web["disagreeing"][0];
        ensure!(
            web["disagreeing_count"] == 1 && odd["node"] == "ours-1" && odd["ejected"].is_u64(),
            "{web:#}"
        );
        Ok(())
    })
    .await;
    let told = std::process::Command::new(e2e::process::built("portolan").unwrap())
        .args(["--api", &format!("http://{}", control.api), "status"])
        .output()
        .unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("ours-1 (") && told.contains("ejected"), "{told}");
    let group = control.call("GET", "/api/v1/status?group=theirs", "").await.unwrap().json().unwrap();
    assert_eq!(group["services"][0]["proxies"], 1, "{group:#}");

    drop(theirs);
    eventually("an Envoy that is gone is forgotten", async || {
        let web = service(&control, "web").await?;
        ensure!(web["proxies"] == 1, "{web:#}");
        Ok(())
    })
    .await;
    drop((ours, one, two));
}
