//! The Consul client against a real agent.

use bytes::Bytes;
use control_plane::source::consul::client::{Client, Operation, Options};
use e2e::store::Consul;
use std::time::Duration;

fn client(consul: &Consul) -> Client {
    let url = format!("http://{}", consul.endpoint()).parse().unwrap();
    Client::new(Options { url, token: None, ca_file: None, identity: None, datacenter: None }).unwrap()
}

#[tokio::test]
async fn keys_are_written_by_compare_and_set_and_watched_from_an_empty_store() {
    let consul = Consul::start().await.unwrap();
    let client = client(&consul);
    let empty = client.keys_below("portolan/", 0).await.unwrap();
    assert!(empty.value.is_empty());
    assert!(empty.index > 0, "there is something to block on before the first key");

    let watch = tokio::spawn({
        let client = client.clone();
        async move { client.keys_below("portolan/", empty.index).await }
    });
    let key = "portolan/v1/config/route/a b";
    let write = |value: Option<&'static [u8]>, expected| Operation {
        key: key.to_owned(),
        value: value.map(Bytes::from_static),
        expected,
    };
    let index = client.transact(&[write(Some(b"\x00\xff"), Some(0))]).await.unwrap().unwrap()[0];
    let again = client.transact(&[write(Some(b"x"), None), write(Some(b"y"), Some(0))]).await.unwrap();
    assert_eq!(again, Err(1), "it exists, so neither is written");
    let seen = watch.await.unwrap().unwrap();
    assert_eq!(seen.value.len(), 1, "the watch wakes with the key");
    assert_eq!((seen.value[0].key.as_str(), &seen.value[0].value[..]), (key, &b"\x00\xff"[..]));
    assert_eq!(seen.value[0].modify_index, index);
    assert!(seen.index > empty.index);
    assert_eq!(client.transact(&[write(None, Some(index + 1))]).await.unwrap(), Err(0), "changed since");
    assert_eq!(client.transact(&[write(None, Some(index))]).await.unwrap(), Ok(vec![0]));
    assert!(client.keys_below("portolan/", 0).await.unwrap().value.is_empty());
}

#[tokio::test]
async fn instances_come_with_their_checks_and_go_with_deregistration() {
    let consul = Consul::start().await.unwrap();
    let client = client(&consul);
    consul.register("web", "web-1", 8080, Duration::from_secs(60)).await.unwrap();
    assert!(client.services(0).await.unwrap().value.contains_key("web"));
    let first = client.instances("web", 0).await.unwrap();
    assert_eq!((first.value[0].service.id.as_str(), first.value[0].service.port), ("web-1", 8080));
    assert!(first.value[0].checks.iter().all(|c| c.status == "passing"));

    let watch = tokio::spawn({
        let client = client.clone();
        async move { client.instances("web", first.index).await }
    });
    consul.check("web-1", "fail").await.unwrap();
    let failed = watch.await.unwrap().unwrap();
    assert!(failed.value[0].checks.iter().any(|c| c.status == "critical"));
    client.renew("check-web-1").await.unwrap();
    client.deregister("web-1").await.unwrap();
    assert!(client.instances("web", 0).await.unwrap().value.is_empty());
}

#[tokio::test]
async fn a_refusal_names_the_path_and_the_reason() {
    let consul = Consul::start().await.unwrap();
    let error = client(&consul).renew("no-such-check").await.unwrap_err().to_string();
    assert!(
        error.contains("/v1/agent/check/pass/no-such-check") && error.contains("no-such-check"),
        "{error}"
    );
}
