//! A change that one node group gets first, and that returns by itself when a proxy refuses it.

use super::fleet::{CANARY, EDGE, Fleet, Program, REFUSED, in_sync, route, status};
use super::{done, number, refused, releases};
use anyhow::ensure;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::process::built;
use e2e::store::Etcd;
use e2e::{eventually, proxy};
use serde_json::{Value, json};
use std::process::Command;

async fn a_change_goes_to_one_group_first(program: Program) {
    let mut control = Control::start(&[]).await.unwrap();
    let fleet = Fleet::new(&control).await;
    let _edge = proxy::start(&control.bootstrap("edge", "edge-1", true).await.unwrap()).await.unwrap();
    let _canary = program.start(&control.bootstrap("canary", "canary-1", true).await.unwrap()).await.unwrap();
    fleet.reaches(EDGE, "one").await;
    fleet.reaches(CANARY, "one").await;

    let staged = done(&control, "/api/v1/apply?stage=canary&message=try", &route("two")).await;
    assert_eq!(number(&staged["release"]), 2);
    fleet.reaches(CANARY, "two").await;
    fleet.stays(EDGE, "one").await;
    let shown = status(&control).await["stages"].clone();
    assert_eq!(shown, json!([{"group": "canary", "release": "2", "objects": ["Route/web"]}]));
    let differs = control.call("GET", "/api/v1/diff?stage=canary", "").await.unwrap().text();
    assert!(differs.contains("+    - service: two"), "{differs}");

    // A control plane that starts again finds it in the store.
    control.restart().await.unwrap();
    in_sync(&control, 2).await;
    fleet.stays(CANARY, "two").await;
    fleet.stays(EDGE, "one").await;

    let (code, why) = refused(&control, "/api/v1/apply?stage=canary", &route("one")).await;
    assert!(code == 409 || why.contains("release 2 is staged"), "{code} {why}");
    let promoted = done(&control, "/api/v1/releases/2/promote", "").await;
    assert_eq!(number(&promoted["release"]), 3);
    fleet.reaches(EDGE, "two").await;
    fleet.stays(CANARY, "two").await;
    assert_eq!(status(&control).await["stages"], Value::Null);

    let staged = done(&control, "/api/v1/apply?stage=canary", &route("one")).await;
    assert_eq!(number(&staged["release"]), 4);
    fleet.reaches(CANARY, "one").await;
    done(&control, "/api/v1/releases/4/abort", "").await;
    fleet.reaches(CANARY, "two").await;
    fleet.stays(EDGE, "two").await;
    let (code, why) = refused(&control, "/api/v1/releases/4/promote", "").await;
    assert!(code == 404, "{code} {why}");

    let told: Vec<_> = releases(&control)
        .await
        .iter()
        .map(|r| (r["action"].clone(), r["ended"].clone(), number(&r["ended_by"]), number(&r["of"])))
        .collect();
    let expected = [
        (json!("ABORT"), Value::Null, 0, 4),
        (json!("STAGE"), json!("ABORT"), 5, 0),
        (json!("PROMOTE"), Value::Null, 0, 2),
        (json!("STAGE"), json!("PROMOTE"), 3, 0),
        (Value::Null, Value::Null, 0, 0),
    ];
    assert_eq!(told, expected);
    // What was promoted is undone as any change is.
    done(&control, "/api/v1/rollback?to=2", "").await;
    fleet.reaches(EDGE, "one").await;
    fleet.reaches(CANARY, "one").await;
}

#[tokio::test]
async fn a_change_goes_to_one_group_first_with_our_proxy() {
    a_change_goes_to_one_group_first(Program::Ours).await;
}

#[tokio::test]
async fn a_change_goes_to_one_group_first_with_envoy() {
    a_change_goes_to_one_group_first(Program::Envoy).await;
}

#[tokio::test]
async fn a_stage_that_a_proxy_refuses_returns_by_itself() {
    let etcd = Etcd::start().await.unwrap();
    let store = format!("etcd://{}", etcd.endpoint());
    let first = Control::start(&["--store", &store, "--identifier", "first"]).await.unwrap();
    let second = Control::start(&["--store", &store, "--identifier", "second"]).await.unwrap();
    let fleet = Fleet::new(&first).await;
    let _edge = Envoy::start(&first.bootstrap("edge", "edge-1", true).await.unwrap()).await.unwrap();
    // Of the group that is changed first, one proxy on each control plane: both see that it is refused.
    let _canary = Envoy::start(&first.bootstrap("canary", "canary-1", true).await.unwrap()).await.unwrap();
    let _other = Envoy::start(&second.bootstrap("canary", "canary-2", false).await.unwrap()).await.unwrap();
    fleet.reaches(EDGE, "one").await;
    fleet.reaches(CANARY, "one").await;
    in_sync(&second, 1).await;

    let staged = done(&first, "/api/v1/apply?stage=canary", REFUSED).await;
    assert_eq!(number(&staged["release"]), 2);
    eventually("the stage is withdrawn", async || {
        // Neither group misses a request meanwhile.
        for group in [EDGE, CANARY] {
            assert_eq!(fleet.ask(group, "/").await.unwrap(), "one");
        }
        let all = releases(&first).await;
        ensure!(all[0]["action"] == "WITHDRAW", "{:?}", all[0]);
        Ok(())
    })
    .await;
    for control in [&first, &second] {
        eventually("nothing is staged or refused any more", async || {
            let status = status(control).await;
            ensure!(status["stages"].is_null() && status["refused"].is_null(), "{status}");
            Ok(())
        })
        .await;
    }
    fleet.stays(EDGE, "one").await;
    fleet.stays(CANARY, "one").await;
    let all = releases(&second).await;
    assert_eq!(all.len(), 3, "it is withdrawn once: {all:?}");
    let why = all[0]["message"].as_str().unwrap();
    assert!(
        why.starts_with("canary-") && why.contains("refuses CDS one: ") && why.contains("no_such_transport"),
        "{why}"
    );
    assert!(all[0]["by"].as_str().unwrap().starts_with("control plane "), "{}", all[0]);
    assert_eq!((all[1]["ended"].clone(), number(&all[1]["ended_by"])), (json!("WITHDRAW"), 3));
}

#[tokio::test]
async fn an_object_shows_which_nodes_refuse_it_and_why() {
    let control = Control::start(&[]).await.unwrap();
    let fleet = Fleet::new(&control).await;
    let _edge = Envoy::start(&control.bootstrap("edge", "edge-1", true).await.unwrap()).await.unwrap();
    fleet.reaches(EDGE, "one").await;
    control.apply(REFUSED).await.unwrap();
    let object = eventually("the refusal is shown on the object", async || {
        let object = control.call("GET", "/api/v1/objects/service/one", "").await?.json()?;
        ensure!(object["refused_by_nodes"] == 1, "{object}");
        Ok(object)
    })
    .await;
    let refusal = &object["refused_by"][0];
    assert_eq!(
        (&refusal["node"], &refusal["group"], &refusal["type"]),
        (&json!("edge-1"), &json!("edge"), &json!("CDS"))
    );
    assert!(refusal["reason"].as_str().unwrap().contains("no_such_transport"), "{refusal}");
    let status = status(&control).await;
    assert_eq!(status["refused"][0]["resource"]["name"], "one");
    let tool = |args: &[&str]| {
        let mut command = Command::new(built("portolan").unwrap());
        let output = command.args(["--api", &format!("http://{}", control.api)]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = tool(&["get", "service", "one"]);
    assert!(
        shown.contains("REFUSED by 1") && shown.contains("Service/one refused by edge-1 (edge, CDS): "),
        "{shown}"
    );
    assert!(tool(&["status"]).contains("Service/one refused by edge-1"));
    assert!(tool(&["history"]).contains("+Service/one"));
    assert!(tool(&["diff"]).contains("+++ Service/one\n"));
    let told = tool(&["rollback", "-m", "Envoy refuses it"]);
    assert!(
        told.contains("Service/one deleted") && told.contains("back to release 1, as release 3"),
        "{told}"
    );
    eventually("it is refused no more", async || {
        let status = control.status().await?;
        ensure!(status["refused"].is_null(), "{status}");
        Ok(())
    })
    .await;
    fleet.stays(EDGE, "one").await;
}

#[tokio::test]
async fn a_stage_is_not_promoted_over_what_was_written_meanwhile() {
    let control = Control::start(&[]).await.unwrap();
    let fleet = Fleet::new(&control).await;
    done(&control, "/api/v1/apply?stage=canary", &route("two")).await;
    let written = done(&control, "/api/v1/apply", &(route("one") + "labels: {urgent: fix}\n")).await;
    assert!(
        written["warnings"][0]["message"].as_str().unwrap().contains("staged for group canary"),
        "{written}"
    );
    let (code, why) = refused(&control, "/api/v1/releases/2/promote", "").await;
    assert!(code == 409 && why.contains("Route/web was changed since it was staged"), "{code} {why}");
    let shown = control.call("GET", "/api/v1/objects/stage/canary", "").await.unwrap().text();
    assert!(
        shown.contains("\"Route/web\"") && !shown.contains("backends"),
        "contents are not shown: {shown}"
    );
    for (method, path) in [("DELETE", "/api/v1/objects/stage/canary"), ("POST", "/api/v1/apply")] {
        let body = "{kind: Stage, name: canary, spec: {release: 9}}";
        let answer = control.call(method, path, body).await.unwrap();
        assert_eq!(answer.status, 400, "stages are made and ended by their own calls: {}", answer.text());
    }
    done(&control, "/api/v1/releases/2/abort", "").await;
    drop(fleet);
}
