//! Clients that wait for `100 Continue` before they send a body.

use super::*;
use e2e::load::Ask;
use e2e::wire::{Message, Role, Wire};
use std::time::Duration;

/// What the origin does, and what the client does when nothing comes.
struct Case {
    name: &'static str,
    script: &'static str,
    path: &'static str,
    client: Client,
    /// Why ours differs without and with `proxy_100_continue`.
    differs: [&'static str; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    /// Sends the body once it is asked for.
    Waits,
    /// Sends it after a while even if nobody asks for it (RFC 9110 10.1.1).
    Impatient,
    /// Looks for an answer for a while before it sends it.
    Looks,
}

/// How long such clients wait.
const WHILE: Duration = Duration::from_secs(2);

const SAME: [&str; 2] = [""; 2];

const CASES: &[Case] = &[
    Case {
        name: "origin says 100",
        script: "now continue read ok",
        path: "/plain/",
        client: Client::Waits,
        differs: SAME,
    },
    Case {
        name: "origin reads, says nothing",
        script: "ok",
        path: "/plain/",
        client: Client::Impatient,
        differs: ["", "ours asks for the body itself after a second"],
    },
    Case {
        name: "origin refuses",
        script: "now status:417",
        path: "/plain/",
        client: Client::Looks,
        differs: SAME,
    },
    Case {
        name: "origin answers at once",
        script: "now ok",
        path: "/plain/",
        client: Client::Looks,
        differs: SAME,
    },
    Case {
        name: "origin says 100, then refuses",
        script: "now continue status:403",
        path: "/plain/",
        client: Client::Looks,
        differs: SAME,
    },
    Case {
        name: "origin closes",
        script: "now close",
        path: "/plain/",
        client: Client::Waits,
        differs: SAME,
    },
    Case {
        name: "origin is not there",
        script: "ok",
        path: "/dead/",
        client: Client::Waits,
        differs: ["ours says 100 once the body is wanted, not before", ""],
    },
    Case {
        name: "no route",
        script: "ok",
        path: "/none/",
        client: Client::Waits,
        differs: ["ours says 100 once the body is wanted, not before", ""],
    },
    Case {
        name: "tried again",
        script: "now continue read close|now continue read ok",
        path: "/retry/",
        client: Client::Waits,
        differs: ["to say 100 is no answer", "to say 100 is no answer"],
    },
];

fn config(mode: &str) -> String {
    let routes = [
        route("/plain/", "up", "timeout: 0s"),
        route("/dead/", "dead", "timeout: 0s"),
        route("/retry/", "up", &format!("timeout: 0s, retry_policy: {{retry_on: reset, {RETRIES}}}")),
    ];
    let clusters = [cluster("up", "$UP", UNLIMITED), cluster("dead", "$REFUSED", UNLIMITED)];
    let listener =
        web(&routes).replacen("stat_prefix: web, delayed", &format!("stat_prefix: web, {mode}delayed"), 1);
    bootstrap(&[listener], &clusters)
}

impl Case {
    async fn on(&self, site: &Site) -> Result<String> {
        site.up.take();
        let mut out = String::new();
        let mut wire = Wire::connect(site.web).await?;
        let ask = Ask::get(self.name.replace([' ', ','], "-"), self.path, self.script);
        let bytes = ask.sending("POST", 3000).header("expect", "100-continue").bytes();
        let (head, body) = bytes.split_at(bytes.len() - 3000);
        wire.send(head).await?;
        let mut first = match self.client {
            Client::Impatient => tokio::time::timeout(WHILE, wire.head()).await.ok(),
            _ => Some(wire.head().await),
        };
        let asked = |first: &Result<Option<Message>>| {
            first.as_ref().is_ok_and(|m| m.as_ref().is_some_and(|m| m.status() == 100))
        };
        if first.as_ref().is_none_or(asked) {
            out += if first.is_some() { "  100\n" } else { "  nothing\n" };
            first = None;
            if self.client == Client::Looks {
                first = tokio::time::timeout(WHILE, wire.head()).await.ok();
            }
            if first.is_none() {
                out += "  body sent\n";
                wire.send(body).await?;
                first = Some(wire.head().await);
            }
        }
        let Some(mut answer) = first.transpose()?.flatten() else {
            return Ok(out + "  closed\n");
        };
        wire.body(&mut answer, Role::Response).await?;
        out += &format!("  {} {}\n", answer.status(), String::from_utf8_lossy(&answer.body));
        // Whether the body or the origin's end comes first is chance, and with it what becomes of the connection.
        if self.script != "now close" {
            let close = answer.header("connection").unwrap_or_default();
            out += &format!("  connection: {close}\n");
            let ends = tokio::time::timeout(Duration::from_secs(1), wire.ends()).await;
            out += if matches!(ends, Ok(Ok(true))) { "  closed\n" } else { "  open\n" };
        }
        drop(wire);
        site.quiet().await;
        for seen in site.up.take() {
            out += &format!("  origin got {} bytes, whole: {}\n", seen.body, seen.whole);
        }
        Ok(out)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_wait_for_continue_are_served_as_by_envoy() {
    let mut wrong = String::new();
    for (n, mode) in ["", "proxy_100_continue: true, "].into_iter().enumerate() {
        let sites = Site::pair(&config(mode)).await;
        for case in CASES {
            let (ours, envoy) = tokio::join!(case.on(&sites[0]), case.on(&sites[1]));
            let (ours, envoy) =
                (ours.unwrap_or_else(|e| format!("{e:#}\n")), envoy.unwrap_or_else(|e| format!("{e:#}\n")));
            if (ours != envoy) == case.differs[n].is_empty() {
                wrong += &format!("== {mode}{}\n{}", case.name, e2e::pair::difference(&envoy, &ours));
            }
        }
        assert!(wrong.is_empty(), "- Envoy, + ours\n{wrong}");
        for site in sites {
            site.over().await;
        }
    }
}
