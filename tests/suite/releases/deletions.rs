//! Objects that one node group goes without first.

use super::fleet::{CANARY, EDGE, Fleet, Program, REFUSED, in_sync, route, status};
use super::{done, number, refused, releases};
use anyhow::ensure;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::{eventually, proxy};
use serde_json::{Value, json};

/// A Route of its own at /gone, for requests to both groups.
const GONE: &str = "
kind: Route
name: gone
spec: {gateways: [edge, canary], rules: [{matches: [{path_prefix: /gone}], backends: [{service: two}]}]}
";

async fn delete(control: &Control, path: &str) -> Value {
    let answer = control.call("DELETE", &format!("/api/v1/objects/{path}"), "").await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json().unwrap()
}

async fn a_deletion_goes_to_one_group_first(program: Program) {
    let mut control = Control::start(&[]).await.unwrap();
    let fleet = Fleet::new(&control).await;
    done(&control, "/api/v1/apply", GONE).await; // release 2
    let _edge = proxy::start(&control.bootstrap("edge", "edge-1", true).await.unwrap()).await.unwrap();
    let _canary = program.start(&control.bootstrap("canary", "canary-1", true).await.unwrap()).await.unwrap();
    for group in [EDGE, CANARY] {
        fleet.reaches_at(group, "/gone", "two").await;
    }

    let staged = delete(&control, "route/gone?stage=canary&message=try").await;
    assert_eq!(number(&staged["release"]), 3);
    fleet.reaches_at(CANARY, "/gone", "one").await;
    fleet.stays_at(EDGE, "/gone", "two").await;
    let shown = status(&control).await["stages"].clone();
    let expected = json!([
        {"group": "canary", "release": "3", "objects": ["Route/gone"], "deletes": ["Route/gone"]}
    ]);
    assert_eq!(shown, expected);
    let differs = control.call("GET", "/api/v1/diff?stage=canary", "").await.unwrap().json().unwrap();
    assert_eq!(differs["diffs"][0]["outcome"], "DELETED", "{differs}");
    let there = control.call("GET", "/api/v1/objects/route/gone", "").await.unwrap();
    assert_eq!(there.status, 200, "the object is there for all others: {}", there.text());

    control.restart().await.unwrap();
    in_sync(&control, 2).await;
    fleet.stays_at(CANARY, "/gone", "one").await;
    fleet.stays_at(EDGE, "/gone", "two").await;

    done(&control, "/api/v1/releases/3/abort", "").await;
    fleet.reaches_at(CANARY, "/gone", "two").await;
    let staged = delete(&control, "route/gone?stage=canary").await;
    assert_eq!(number(&staged["release"]), 5);
    fleet.reaches_at(CANARY, "/gone", "one").await;
    let promoted = done(&control, "/api/v1/releases/5/promote", "").await;
    let changed = json!([{"object": "Route/gone", "outcome": "DELETED"}]);
    assert_eq!((number(&promoted["release"]), &promoted["changed"]), (6, &changed));
    fleet.reaches_at(EDGE, "/gone", "one").await;
    fleet.stays_at(CANARY, "/gone", "one").await;
    let there = control.call("GET", "/api/v1/objects/route/gone", "").await.unwrap();
    assert_eq!(there.status, 404, "{}", there.text());
    // What was promoted is undone as any change is.
    done(&control, "/api/v1/rollback", "").await;
    for group in [EDGE, CANARY] {
        fleet.reaches_at(group, "/gone", "two").await;
    }
}

#[tokio::test]
async fn a_deletion_goes_to_one_group_first_with_our_proxy() {
    a_deletion_goes_to_one_group_first(Program::Ours).await;
}

#[tokio::test]
async fn a_deletion_goes_to_one_group_first_with_envoy() {
    a_deletion_goes_to_one_group_first(Program::Envoy).await;
}

#[tokio::test]
async fn a_stage_that_a_proxy_refuses_brings_back_what_it_deleted() {
    let control = Control::start(&[]).await.unwrap();
    let fleet = Fleet::new(&control).await;
    done(&control, "/api/v1/apply", GONE).await; // release 2
    let _edge = Envoy::start(&control.bootstrap("edge", "edge-1", true).await.unwrap()).await.unwrap();
    let _canary = Envoy::start(&control.bootstrap("canary", "canary-1", true).await.unwrap()).await.unwrap();
    for group in [EDGE, CANARY] {
        fleet.reaches_at(group, "/gone", "two").await;
    }
    let staged = done(&control, "/api/v1/apply?stage=canary&delete=Route/gone", REFUSED).await;
    assert_eq!(number(&staged["release"]), 3);
    eventually("the stage is withdrawn", async || {
        fleet.ask(EDGE, "/").await?;
        let all = releases(&control).await;
        ensure!(all[0]["action"] == "WITHDRAW", "{:?}", all[0]);
        Ok(())
    })
    .await;
    for group in [EDGE, CANARY] {
        fleet.reaches_at(group, "/gone", "two").await;
    }
    assert_eq!(status(&control).await["stages"], Value::Null);
}

#[tokio::test]
async fn only_what_is_there_and_not_named_by_others_is_deleted_for_a_group() {
    let control = Control::start(&[]).await.unwrap();
    let fleet = Fleet::new(&control).await;
    let call = async |method: &str, path: &str| {
        let answer = control.call(method, &format!("/api/v1/{path}"), "").await.unwrap();
        (answer.status, answer.text())
    };
    for (method, path, status, why) in [
        ("DELETE", "objects/route/none?stage=canary", 404, "Route/none not found"),
        ("DELETE", "objects/gateway/canary?stage=canary", 409, "is named by Route/web"),
        (
            "DELETE",
            "objects/route/web?stage=canary&if_revision=1",
            400,
            "if_revision does not go with a stage",
        ),
        ("POST", "apply?delete=Gateway/canary", 422, "is named by Route/web"),
        ("POST", "apply?delete=AccessToken/ci", 400, "cannot be deleted with others"),
        ("POST", "apply?delete=Route/web&delete=Route/web", 400, "is given twice"),
    ] {
        let (code, told) = call(method, path).await;
        assert!(code == status && told.contains(why), "{path}: {code} {told}");
    }
    assert_eq!(releases(&control).await.len(), 1, "nothing of that is a release");

    // A Gateway goes together with the Route that names it.
    let one_left = route("one").replace("[edge, canary]", "[edge]");
    let written = done(&control, "/api/v1/apply?delete=Gateway/canary", &one_left).await;
    assert_eq!(number(&written["release"]), 2);
    let kept = control.call("GET", "/api/v1/objects/gateway", "").await.unwrap().json().unwrap();
    assert_eq!(kept["objects"].as_array().unwrap().len(), 1, "{kept}");

    // Of a staged deletion, as of any change: it is not promoted over what was written meanwhile.
    let staged = done(&control, "/api/v1/apply?stage=canary&delete=Route/web", "").await;
    let written = done(&control, "/api/v1/apply", &(one_left + "labels: {urgent: fix}\n")).await;
    let warned = written["warnings"][0]["message"].as_str().unwrap_or_default();
    assert!(warned.contains("staged for group canary"), "{written}");
    let promote = format!("/api/v1/releases/{}/promote", number(&staged["release"]));
    let (code, why) = refused(&control, &promote, "").await;
    assert!(code == 409 && why.contains("Route/web was changed since it was staged"), "{code} {why}");
    drop(fleet);
}
