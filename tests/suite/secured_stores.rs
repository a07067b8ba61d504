//! etcd with TLS and a user, Consul with TLS and ACLs: the control plane works on both, and says what is wrong when the
//! password, the token or the authority is.

use anyhow::ensure;
use e2e::certs::Authority;
use e2e::control::Control;
use e2e::eventually;
use e2e::store::{Consul, Etcd};
use std::path::Path;

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

const SERVICE: &str = "{kind: Service, name: web, spec: {protocol: HTTP2}}";

async fn works(args: &[&str]) {
    let control = Control::start(args).await.unwrap();
    eventually("an object is written", async || control.apply(SERVICE).await).await;
    control.register("web", "one", "127.0.0.1:1".parse().unwrap(), None).await.unwrap();
    eventually("both come back by the watch", async || {
        let status = control.status().await?;
        ensure!(status["sources"][0]["objects"] == "1", "{status}");
        ensure!(status["sources"][0]["instances"] == "1", "{status}");
        Ok(())
    })
    .await;
}

/// It says why in its log and answers writes with it; nothing secret is in either.
async fn says(args: &[&str], reason: &str, secret: &str) {
    let mut control = Control::start(args).await.unwrap();
    eventually("the reason is in the log", async || {
        let log = control.process().log();
        ensure!(log.contains(reason), "no `{reason}` in:\n{log}");
        Ok(())
    })
    .await;
    let answer = control.call("POST", "/api/v1/apply", SERVICE).await.unwrap();
    assert!(answer.status >= 400, "{}", answer.text());
    let told = answer.text() + &control.process().log();
    assert!(!told.contains(secret), "the secret is told:\n{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_with_tls_and_a_user() {
    let (authority, other) = (Authority::new("right").unwrap(), Authority::new("other").unwrap());
    let etcd = Etcd::start_secured(&authority, "correct-horse").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = write(dir.path(), "ca", &authority.pem);
    let wrong_ca = write(dir.path(), "wrong-ca", &other.pem);
    let password = write(dir.path(), "password", "correct-horse\n");
    let wrong_password = write(dir.path(), "wrong-password", "wrong-battery");
    let url = format!("etcds://{}", etcd.endpoint());
    let base = ["--store", &url, "--etcd-user", "root"];
    let right = ["--etcd-password-file", &password, "--store-ca-file", &ca];
    works(&[base.as_slice(), &right].concat()).await;
    let other_password = ["--etcd-password-file", &wrong_password, "--store-ca-file", &ca];
    let reason = "authentication failed, invalid user ID or password";
    says(&[base.as_slice(), &other_password].concat(), reason, "wrong-battery").await;
    let other_ca = ["--etcd-password-file", &password, "--store-ca-file", &wrong_ca];
    says(&[base.as_slice(), &other_ca].concat(), "certificate", "correct-horse").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consul_with_tls_and_acls() {
    let (authority, other) = (Authority::new("right").unwrap(), Authority::new("other").unwrap());
    let token = "11111111-2222-3333-4444-555555555555";
    let wrong = "99999999-2222-3333-4444-555555555555";
    let consul = Consul::start_secured(&authority, token).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = write(dir.path(), "ca", &authority.pem);
    let wrong_ca = write(dir.path(), "wrong-ca", &other.pem);
    let token_file = write(dir.path(), "token", token);
    let wrong_token = write(dir.path(), "wrong-token", wrong);
    let url = format!("consuls://{}", consul.endpoint());
    works(&["--store", &url, "--consul-token-file", &token_file, "--store-ca-file", &ca]).await;
    says(&["--store", &url, "--consul-token-file", &wrong_token, "--store-ca-file", &ca], "403", wrong).await;
    says(
        &["--store", &url, "--consul-token-file", &token_file, "--store-ca-file", &wrong_ca],
        "certificate",
        token,
    )
    .await;
}
