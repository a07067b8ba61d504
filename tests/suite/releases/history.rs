//! History, diff and rollback.

use super::{done, number, post, refused, releases, route, target};
use anyhow::ensure;
use e2e::control::Control;
use e2e::eventually;
use e2e::store::{Consul, Etcd};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

async fn diff(control: &Control, query: &str) -> BTreeMap<String, String> {
    let answer = control.call("GET", &format!("/api/v1/diff{query}"), "").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer: Value = answer.json().unwrap();
    let all = answer["diffs"].as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    all.iter().map(|d| (text(&d["object"]), text(&d["text"]))).collect()
}

/// What every store does alike.
async fn changes_are_kept_shown_and_undone(control: &Control) {
    let both = format!("{}---\n{}", route("a", "one"), route("b", "one"));
    let first = done(control, "/api/v1/apply?message=first%20of%20all", &both).await;
    assert_eq!(number(&first["release"]), 1);
    let again = done(control, "/api/v1/apply", &both).await;
    assert_eq!(number(&again["release"]), 0, "what changes nothing is no release");
    done(control, "/api/v1/apply", &route("a", "two")).await;
    let deleted = control.call("DELETE", "/api/v1/objects/route/b?message=gone", "").await.unwrap();
    assert_eq!(deleted.status, 200, "{}", deleted.text());

    let all = releases(control).await;
    let told: Vec<_> = all
        .iter()
        .map(|r| (number(&r["number"]), r["by"].clone(), r["message"].clone(), r["changes"].clone()))
        .collect();
    let anonymous = json!("anonymous");
    assert_eq!(
        told,
        [
            (3, anonymous.clone(), json!("gone"), json!([{"object": "Route/b", "outcome": "DELETED"}])),
            (2, anonymous.clone(), Value::Null, json!([{"object": "Route/a", "outcome": "UPDATED"}])),
            (
                1,
                anonymous,
                json!("first of all"),
                json!([{"object": "Route/a", "outcome": "CREATED"}, {"object": "Route/b", "outcome": "CREATED"}])
            ),
        ]
    );

    let found = diff(control, "?from=1&to=2").await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["Route/a"]);
    assert!(found["Route/a"].contains("-    - service: one\n+    - service: two\n"), "{}", found["Route/a"]);
    let newest = diff(control, "").await;
    assert_eq!(newest.keys().collect::<Vec<_>>(), ["Route/b"], "without numbers: the newest change");
    let to_come = done(control, "/api/v1/diff", &route("a", "three")).await;
    assert!(to_come["diffs"][0]["text"].as_str().unwrap().contains("+    - service: three\n"), "{to_come}");

    let back = done(control, "/api/v1/rollback?to=1&dry_run=true", "").await;
    assert_eq!((number(&back["release"]), back["changed"].as_array().unwrap().len()), (0, 2));
    assert_eq!(target(control, "a").await.as_deref(), Some("two"), "a dry run writes nothing");
    let back = done(control, "/api/v1/rollback?to=1&message=oops", "").await;
    assert_eq!(number(&back["release"]), 4);
    assert_eq!(target(control, "a").await.as_deref(), Some("one"));
    assert_eq!(target(control, "b").await.as_deref(), Some("one"));
    // Not told where to: the newest change, the rollback itself.
    let forth = done(control, "/api/v1/rollback", "").await;
    assert_eq!((number(&forth["release"]), number(&forth["to"])), (5, 3));
    assert_eq!(target(control, "a").await.as_deref(), Some("two"));
    assert_eq!(target(control, "b").await, None);
    let all = releases(control).await;
    assert_eq!((&all[1]["action"], number(&all[1]["of"])), (&json!("ROLLBACK"), 1));

    let nothing = done(control, "/api/v1/rollback?to=5", "").await;
    assert_eq!(number(&nothing["release"]), 0, "nothing differs");
    let (status, why) = refused(control, "/api/v1/rollback?to=9", "").await;
    assert!(status == 404 && why.contains("the newest is 5"), "{status} {why}");
    let (status, why) = refused(control, "/api/v1/rollback?to=1&if_newest=4", "").await;
    assert!(status == 409 && why.contains("release 5 is the newest"), "{status} {why}");
}

#[tokio::test]
async fn changes_are_kept_shown_and_undone_on_the_embedded_store() {
    let mut control = Control::start(&[]).await.unwrap();
    changes_are_kept_shown_and_undone(&control).await;
    control.restart().await.unwrap();
    assert_eq!(releases(&control).await.len(), 5, "history outlives a restart");
    let back = done(&control, "/api/v1/rollback?to=0", "").await;
    assert_eq!(number(&back["release"]), 6);
    assert_eq!(target(&control, "a").await, None);
}

#[tokio::test]
async fn changes_are_kept_shown_and_undone_on_etcd() {
    let etcd = Etcd::start().await.unwrap();
    let control = Control::start(&["--store", &format!("etcd://{}", etcd.endpoint())]).await.unwrap();
    changes_are_kept_shown_and_undone(&control).await;
}

#[tokio::test]
async fn changes_are_kept_shown_and_undone_on_consul() {
    let consul = Consul::start().await.unwrap();
    let control = Control::start(&["--store", &format!("consul://{}", consul.endpoint())]).await.unwrap();
    changes_are_kept_shown_and_undone(&control).await;
}

#[tokio::test]
async fn old_releases_are_collected_and_cannot_be_gone_back_to() {
    let control = Control::start(&["--history", "3"]).await.unwrap();
    for i in 1..=6 {
        done(&control, "/api/v1/apply", &route("a", &format!("s{i}"))).await;
    }
    let kept: Vec<u64> = releases(&control).await.iter().map(|r| number(&r["number"])).collect();
    assert_eq!(kept, [6, 5, 4]);
    let (status, why) = refused(&control, "/api/v1/rollback?to=2", "").await;
    assert!(status == 404 && why.contains("the oldest to go back to is 3"), "{why}");
    done(&control, "/api/v1/rollback?to=3", "").await;
    assert_eq!(target(&control, "a").await.as_deref(), Some("s3"));
}

#[tokio::test]
async fn going_back_is_admitted_as_any_change_is() {
    let etcd = Etcd::start().await.unwrap();
    let control = Control::start(&["--store", &format!("etcd://{}", etcd.endpoint())]).await.unwrap();
    let (status, why) =
        refused(&control, "/api/v1/apply", "kind: Route\nname: b\nspec: {gateways: [none]}\n").await;
    assert_eq!(status, 422, "{why}");
    assert!(releases(&control).await.is_empty(), "what is refused is no release");
    done(&control, "/api/v1/apply", "kind: Gateway\nname: edge\nspec: {listeners: [{port: 18999}]}\n").await;
    // Written past the API, so that no release knows of it.
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    let attached = "{kind: Route, name: shop, spec: {gateways: [edge], rules: [{backends: [{service: s}]}]}}";
    client.put("/portolan/v1/config/route/shop", attached, None).await.unwrap();
    eventually("the direct write is seen", async || {
        ensure!(target(&control, "shop").await.is_some());
        Ok(())
    })
    .await;
    let (status, why) = refused(&control, "/api/v1/rollback?to=0", "").await;
    assert!(status == 422 && why.contains("is named by Route/shop"), "{status} {why}");
    assert_eq!(releases(&control).await.len(), 1);
}

#[tokio::test]
async fn a_direct_write_is_not_rolled_over_in_silence() {
    let etcd = Etcd::start().await.unwrap();
    let control = Control::start(&["--store", &format!("etcd://{}", etcd.endpoint())]).await.unwrap();
    done(&control, "/api/v1/apply", &route("a", "one")).await; // 1
    done(&control, "/api/v1/apply", &route("a", "two")).await; // 2
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    client.put("/portolan/v1/config/route/a", route("a", "direct"), None).await.unwrap();
    eventually("the direct write is seen", async || {
        ensure!(target(&control, "a").await.as_deref() == Some("direct"));
        Ok(())
    })
    .await;
    let (status, why) = refused(&control, "/api/v1/rollback?to=1", "").await;
    assert!(status == 409 && why.contains("Route/a: changed in the store directly"), "{status} {why}");
    assert_eq!(target(&control, "a").await.as_deref(), Some("direct"));
    done(&control, "/api/v1/rollback?to=1&force=true", "").await; // 3
    assert_eq!(target(&control, "a").await.as_deref(), Some("one"));
    // What was overwritten is in the history: undoing the rollback brings it back.
    done(&control, "/api/v1/rollback", "").await;
    assert_eq!(target(&control, "a").await.as_deref(), Some("direct"));
}

#[tokio::test]
async fn two_operators_at_once_lose_no_change() {
    let etcd = Etcd::start().await.unwrap();
    let store = format!("etcd://{}", etcd.endpoint());
    let one = Control::start(&["--store", &store]).await.unwrap();
    let two = Control::start(&["--store", &store]).await.unwrap();
    done(&one, "/api/v1/apply", &route("a", "start")).await;
    let (one, two) = (std::sync::Arc::new(one), std::sync::Arc::new(two));
    let mut all = JoinSet::new();
    for i in 0..12 {
        let control = if i % 2 == 0 { one.clone() } else { two.clone() };
        all.spawn(async move {
            let path = if i % 4 == 3 { "/api/v1/rollback" } else { "/api/v1/apply" };
            let answer = post(&control, path, &route("a", &format!("s{i}"))).await;
            (answer.status, answer.text())
        });
    }
    let mut made = 1;
    while let Some(ended) = all.join_next().await {
        let (status, told) = ended.unwrap();
        match status {
            200 => made += u64::from(number(&serde_json::from_str::<Value>(&told).unwrap()["release"]) > 0),
            // Of two that began from the same state one is told so.
            409 => assert!(told.contains("meanwhile") || told.contains("has changed"), "{told}"),
            other => panic!("{other}: {told}"),
        }
    }
    let kept: Vec<u64> = releases(&one).await.iter().map(|r| number(&r["number"])).rev().collect();
    assert_eq!(
        kept,
        (1..=made).collect::<Vec<_>>(),
        "every change that was accepted is a release of its own"
    );
    // Undone one by one, each finds what it expects: no release overwrote what it had not seen.
    for to in (1..made).rev() {
        done(&one, &format!("/api/v1/rollback?to={to}"), "").await;
    }
    assert_eq!(target(&one, "a").await.as_deref(), Some("start"));
}

#[tokio::test]
async fn what_secrets_hold_is_in_no_history_and_tokens_are_not_brought_back() {
    let control = Control::start(&[]).await.unwrap();
    let secret = |text: &str| format!("kind: Secret\nname: key\nspec: {{value: {{text: {text}}}}}\n");
    done(&control, "/api/v1/apply", &secret("first-hidden")).await; // 1
    done(&control, "/api/v1/apply", &secret("second-hidden")).await; // 2
    done(&control, "/api/v1/tokens", r#"{"name": "ci"}"#).await;
    let revoked = control.call("DELETE", "/api/v1/tokens/ci", "").await.unwrap();
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    let all = releases(&control).await;
    assert_eq!(all.len(), 2, "tokens are not part of releases: {all:?}");
    let found = diff(&control, "?from=1&to=2").await;
    assert_eq!(found["Secret/key"], "# what it holds has changed; it is never shown\n");
    let made = diff(&control, "?from=0&to=1").await;
    assert!(made["Secret/key"].contains("+    holds: value\n"), "{}", made["Secret/key"]);
    let to_come = done(&control, "/api/v1/diff", &secret("third-hidden")).await;
    for shown in
        [json!(all).to_string(), json!(found).to_string(), json!(made).to_string(), to_come.to_string()]
    {
        assert!(!shown.contains("hidden") && !shown.contains("ciphertext"), "{shown}");
    }
    let same = done(&control, "/api/v1/diff", &secret("second-hidden")).await;
    assert_eq!(same["diffs"], Value::Null, "it holds what it held");
    done(&control, "/api/v1/rollback?to=1", "").await;
    let same = done(&control, "/api/v1/diff", &secret("first-hidden")).await;
    assert_eq!(same["diffs"], Value::Null, "the first is back");
    let list = control.call("GET", "/api/v1/tokens", "").await.unwrap().text();
    assert!(!list.contains("\"ci\""), "{list}");
}
