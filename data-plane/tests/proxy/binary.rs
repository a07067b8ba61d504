//! The binary: flags, exit codes, signals.

use crate::support::*;
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn proxy(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan-proxy"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(args: &[&str]) -> Output {
    proxy(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running binary; killed when dropped.
struct Running {
    child: Child,
    admin: SocketAddr,
}

impl Running {
    async fn start(dir: &Path, args: &[&str]) -> Self {
        let (config, address) = (dir.join("b.yaml"), dir.join("admin.txt"));
        let mut command = proxy(args);
        command.arg("-c").arg(config).arg("--admin-address-path").arg(&address);
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let admin = eventually("the admin address is written", async || {
            std::fs::read_to_string(&address).ok()?.parse().ok()
        })
        .await;
        eventually("the proxy is live", async || (get(admin, "/ready").await.status == 200).then_some(()))
            .await;
        Self { child, admin }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn exit_code(&mut self) -> Option<i32> {
        eventually("the process ends", async || self.child.try_wait().unwrap()).await.code()
    }

    async fn listener(&self, name: &str) -> SocketAddr {
        eventually(&format!("listener {name} is active"), async || {
            let listeners = get(self.admin, "/listeners").await.body;
            listeners.lines().find_map(|line| line.strip_prefix(&format!("{name}::"))?.parse().ok())
        })
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(dir: &Path, listeners: &[String], clusters: &[String]) {
    let resources = format!("listeners: [{}], clusters: [{}]", listeners.join(", "), clusters.join(", "));
    std::fs::write(dir.join("b.yaml"), format!("{ADMIN}static_resources: {{{resources}}}\n")).unwrap();
}

#[test]
fn a_valid_configuration_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[], &[]);
    let path = dir.path().join("b.yaml");
    let output = run(&["--mode", "validate", "-c", path.to_str().unwrap()]);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), format!("configuration '{}' OK\n", path.display()))
    );
}

#[test]
fn validation_builds_what_a_start_would_build_and_makes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.yaml");
    let validate = || {
        let output = run(&["--mode", "validate", "-c", path.to_str().unwrap()]);
        (output.status.code(), text(&output.stderr))
    };
    let nowhere = "127.0.0.1:1".parse().unwrap();
    write(dir.path(), &[], &[broken_tls_cluster("up", nowhere)]);
    let (code, told) = validate();
    assert!(
        code == Some(1) && told.contains("static_resources.clusters[0]: cluster \"up\": TLS: "),
        "{told}"
    );

    let logged = |file: &std::path::Path| {
        let log = r#"access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: PATH}}]"#;
        listener("web", &format!("{}, {}", to_cluster("up"), log.replace("PATH", file.to_str().unwrap())))
    };
    let up = [static_cluster("up", nowhere)];
    write(dir.path(), &[logged("/nonexistent/a.log".as_ref())], &up);
    let (code, told) = validate();
    assert!(
        code == Some(1) && told.contains("listener \"web\": ") && told.contains("/nonexistent/a.log"),
        "{told}"
    );

    // The port is another's, which is no fault of the configuration.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    write(dir.path(), &[at_port(&logged(&dir.path().join("a.log")), port)], &up);
    let (code, told) = validate();
    assert_eq!((code, &*told), (Some(0), ""));
    assert!(!dir.path().join("a.log").exists());

    let server = r#"transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {tls_certificates: [{certificate_chain: {inline_string: garbage}, private_key: {inline_string: garbage}}]}}}, filters"#;
    write(dir.path(), &[listener("web", &to_cluster("up")).replacen("filters", server, 1)], &up);
    let (code, told) = validate();
    assert!(code == Some(1) && told.contains("listener \"web\": filter chain #0: "), "{told}");
    let secret = "{name: s, tls_certificate: {certificate_chain: {inline_string: garbage}, private_key: {inline_string: garbage}}}";
    std::fs::write(&path, format!("{ADMIN}static_resources: {{secrets: [{secret}]}}\n")).unwrap();
    let (code, told) = validate();
    assert!(code == Some(1) && told.contains("static_resources.secrets[0]: secret \"s\": "), "{told}");
}

#[test]
fn every_error_of_a_configuration_is_printed_with_its_place_and_the_exit_code_is_1() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[],
        &["{name: a, connect_timeout: -1s}".into(), "{name: b, connect_timeout: -2s}".into()],
    );
    let path = dir.path().join("b.yaml");
    for args in [&["-c", path.to_str().unwrap()][..], &["--mode", "validate", "-c", path.to_str().unwrap()]] {
        let output = run(args);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        for cluster in ["clusters[0].connect_timeout", "clusters[1].connect_timeout"] {
            let line = errors
                .lines()
                .find(|line| line.contains(cluster))
                .unwrap_or_else(|| panic!("{cluster}: {errors}"));
            assert!(line.contains("b.yaml:2:"), "{line}");
        }
    }
}

#[test]
fn unknown_flags_and_missing_configuration_exit_with_1() {
    assert_eq!(run(&["--no-such-flag"]).status.code(), Some(1));
    assert_eq!(run(&[]).status.code(), Some(1));
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(text(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn sigterm_drains_and_exits_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Upstream::start("one").await;
    write(dir.path(), &[listener("web", &to_cluster("up"))], &[static_cluster("up", upstream.address)]);
    let mut proxy = Running::start(dir.path(), &["--concurrency", "2", "-l", "off"]).await;
    let web = proxy.listener("web").await;
    let under_way = tokio::spawn(async move { get(web, "/slow").await });
    eventually("the request is under way", async || {
        let stats = get(proxy.admin, "/stats?filter=upstream_rq_active").await.body;
        stats.contains("cluster.up.upstream_rq_active: 1\n").then_some(())
    })
    .await;
    proxy.signal(Signal::TERM);
    assert_eq!(under_way.await.unwrap().body, "one");
    assert_eq!(proxy.exit_code().await, Some(0));
}

#[tokio::test]
async fn sighup_takes_the_file_again_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let web = listener("web", &to_cluster("up"));
    write(dir.path(), std::slice::from_ref(&web), &[static_cluster("up", one.address)]);
    let log = dir.path().join("log.txt");
    let proxy = Running::start(dir.path(), &["--log-path", log.to_str().unwrap()]).await;
    let address = proxy.listener("web").await;
    assert_eq!(get(address, "/").await.body, "one");

    write(dir.path(), std::slice::from_ref(&web), &["{name: up, connect_timeout: -1s}".into()]);
    proxy.signal(Signal::HUP);
    eventually("the error is logged with its place", async || {
        let log = std::fs::read_to_string(&log).unwrap();
        (log.contains("configuration kept") && log.contains("connect_timeout") && log.contains("b.yaml:2:"))
            .then_some(())
    })
    .await;
    assert_eq!(get(address, "/").await.body, "one");

    write(dir.path(), &[web], &[static_cluster("up", two.address)]);
    proxy.signal(Signal::HUP);
    eventually("the new upstream serves", async || (get(address, "/").await.body == "two").then_some(()))
        .await;
    assert_eq!(proxy.listener("web").await, address, "the listener stayed");

    std::fs::rename(&log, dir.path().join("old.txt")).unwrap();
    proxy.signal(Signal::USR1);
    eventually("the log file is opened anew", async || log.exists().then_some(())).await;
}

#[tokio::test]
async fn log_levels_change_while_running() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[], &[]);
    let proxy = Running::start(dir.path(), &[]).await;
    assert!(post(proxy.admin, "/logging").await.body.contains("  xds: info\n"));
    let answer = post(proxy.admin, "/logging?paths=xds:debug,upstream:warning").await;
    assert!(
        answer.body.contains("  xds: debug\n") && answer.body.contains("  upstream: warning\n"),
        "{}",
        answer.body
    );
    assert_eq!(post(proxy.admin, "/logging?level=loud").await.status, 400);
}

#[tokio::test]
async fn log_lines_are_json_where_the_bootstrap_says_so_and_name_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    write(dir.path(), &[listener("web", "route_config: {virtual_hosts: []}")], &[]);
    let json =
        "application_log_config: {log_format: {json_format: {level: '%l', component: '%n', text: '%j'}}}\n";
    let path = dir.path().join("b.yaml");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + json).unwrap();
    let running = Running::start(dir.path(), &["-l", "debug", "--log-path", log.to_str().unwrap()]).await;
    let web = running.listener("web").await;
    assert_eq!(get(web, "/").await.status, 404);
    let line = eventually("the answer is logged", async || {
        let text = std::fs::read_to_string(&log).ok()?;
        text.lines().find(|line| line.contains("answered by the proxy itself")).map(str::to_owned)
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["component"]), (&"debug".into(), &"http".into()));
    assert!(line["text"].as_str().unwrap().contains("status=404"), "{line}");
    assert!(line["text"].as_str().unwrap().contains("request_id="), "{line}");
}

#[test]
fn log_formats_that_are_not_understood_or_said_twice_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.yaml");
    let validate = |format: &str, args: &[&str]| {
        std::fs::write(&path, format!("application_log_config: {{log_format: {{{format}}}}}\n")).unwrap();
        let done = run(&[&["--mode", "validate", "-c", path.to_str().unwrap()], args].concat());
        (done.status.code(), text(&done.stderr))
    };
    for (format, args, told) in [
        (
            "text_format: '%v %q'",
            &[][..],
            "application_log_config.log_format.text_format: %q is not understood (",
        ),
        (
            "json_format: {m: '%v'}",
            &[],
            "application_log_config.log_format.json_format: %v would break the JSON: use %j (",
        ),
        (
            "text_format: '%v'",
            &["--log-format", "%v"],
            "application_log_config.log_format: excludes --log-format",
        ),
    ] {
        let (code, stderr) = validate(format, args);
        assert!(code == Some(1) && stderr.contains(told), "{format}: {code:?} {stderr}");
    }
    assert_eq!(validate("text_format: '%v'", &[]).0, Some(0));
}
