//! The table of commands, and which one a request means.

use super::page::{Content, Page, Params, Pieces};
use super::proxy::{Action, Proxy};
use super::{clusters, dump, info, listeners, logging, runtime, stats, telemetry};
use crate::listener::{Afterwards, Direction};
use http::{Method, StatusCode};
use std::fmt::Write;

/// Whether a command changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any method.
    Read,
    /// POST only.
    Change,
}

/// One command.
pub(super) struct Command {
    path: &'static str,
    kind: Kind,
    help: &'static str,
    run: fn(&dyn Proxy, &Params) -> Page,
}

const fn command(
    path: &'static str,
    kind: Kind,
    help: &'static str,
    run: fn(&dyn Proxy, &Params) -> Page,
) -> Command {
    Command { path, kind, help, run }
}

/// Every command, by path.
const COMMANDS: &[Command] = &[
    command("/", Kind::Read, "Admin home page", |_, _| home()),
    command("/certs", Kind::Read, "print certs on machine", |proxy, _| info::certs(proxy)),
    command("/clusters", Kind::Read, "upstream cluster status; params: format=text|json", clusters::page),
    command(
        "/config_dump",
        Kind::Read,
        "dump current configs; params: resource= mask= name_regex= include_eds include_ignored",
        dump::page,
    ),
    command(
        "/drain_listeners",
        Kind::Change,
        "drain listeners; params: graceful skip_exit inboundonly",
        drain,
    ),
    command("/healthcheck/fail", Kind::Change, "cause the server to fail health checks", |proxy, _| {
        proxy.act(Action::FailHealthCheck);
        Page::ok()
    }),
    command("/healthcheck/ok", Kind::Change, "cause the server to pass health checks", |proxy, _| {
        proxy.act(Action::PassHealthCheck);
        Page::ok()
    }),
    command("/help", Kind::Read, "print out list of admin commands", |_, _| help("")),
    command("/hot_restart_version", Kind::Read, "print the hot restart compatibility version", |_, _| {
        Page::text("disabled")
    }),
    command("/init_dump", Kind::Read, "dump what initialization still waits for", |proxy, _| {
        info::init(proxy)
    }),
    command("/listeners", Kind::Read, "print listener info; params: format=text|json", listeners::page),
    command(
        "/logging",
        Kind::Change,
        "query/change logging levels; params: level= paths= NAME=",
        logging::page,
    ),
    command("/memory", Kind::Read, "print current allocation/heap usage", |proxy, _| info::memory(proxy)),
    command("/quitquitquit", Kind::Change, "exit the server", |proxy, _| {
        proxy.act(Action::Quit);
        Page::ok()
    }),
    command(
        "/ready",
        Kind::Read,
        "print server state, return 200 if LIVE, otherwise return 503",
        |proxy, _| info::ready(proxy),
    ),
    command("/reset_counters", Kind::Change, "reset all counters to zero", |proxy, _| {
        proxy.metrics().reset_counters();
        Page::ok()
    }),
    command("/runtime", Kind::Read, "print runtime values", |proxy, _| runtime::page(proxy)),
    command(
        "/runtime_modify",
        Kind::Change,
        "add or modify runtime values; params: KEY=VALUE",
        runtime::modify,
    ),
    command("/server_info", Kind::Read, "print server version/status information", |proxy, _| {
        info::server(proxy)
    }),
    command(
        "/stats",
        Kind::Read,
        "print server stats; params: usedonly filter= type= format=text|json|prometheus text_readouts",
        |proxy, params| stats::page(proxy, params, None),
    ),
    command(
        "/stats/prometheus",
        Kind::Read,
        "print server stats in prometheus format; params: usedonly filter= text_readouts",
        |proxy, params| stats::page(proxy, params, Some(crate::stats::Format::Prometheus)),
    ),
    command("/telemetry", Kind::Read, "print how spans and logs are exported", |proxy, _| {
        telemetry::page(proxy)
    }),
];

/// Answers a request; `form`: parameters of a POST body.
pub(super) fn answer(proxy: &dyn Proxy, method: &Method, path: &str, query: &str) -> Page {
    let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    let Some(command) = COMMANDS.iter().find(|c| c.path == path) else {
        return help_with(StatusCode::NOT_FOUND, "invalid path. ");
    };
    if command.kind == Kind::Change && method != Method::POST {
        return Page::error(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Method {method} not allowed, POST required."),
        );
    }
    if command.kind == Kind::Read && ![Method::GET, Method::HEAD, Method::POST].contains(method) {
        return Page::error(StatusCode::METHOD_NOT_ALLOWED, format!("Method {method} not allowed."));
    }
    (command.run)(proxy, &Params::parse(query))
}

fn drain(proxy: &dyn Proxy, params: &Params) -> Page {
    let direction = if params.has("inboundonly") { Direction::Inbound } else { Direction::All };
    let action = match (params.has("graceful"), params.has("skip_exit")) {
        (false, false) => Action::StopListeners(direction),
        (true, false) => Action::DrainListeners(direction, Afterwards::Stop),
        // Graceful or not, as Envoy has it: clients are told and nothing is stopped.
        (_, true) => Action::DrainListeners(direction, Afterwards::GoOn),
    };
    proxy.act(action);
    Page::ok()
}

fn help(before: &str) -> Page {
    help_with(StatusCode::OK, before)
}

fn help_with(status: StatusCode, before: &str) -> Page {
    let mut out = format!("{before}admin commands are:\n");
    for Command { path, kind, help, .. } in COMMANDS {
        let post = if *kind == Kind::Change { " (POST)" } else { "" };
        let _ = writeln!(out, "  {path}{post}: {help}");
    }
    Page::error(status, out)
}

fn home() -> Page {
    let mut out = String::from(
        "<!DOCTYPE html><html><head><title>Envoy Admin</title></head><body><table>\n<tr><th>Command</th><th>Description</th></tr>\n",
    );
    for Command { path, kind, help, .. } in COMMANDS {
        let cell = match kind {
            Kind::Read => format!("<a href=\"{}\">{path}</a>", &path[1..]),
            Kind::Change => {
                format!("<form method=\"post\" action=\"{}\"><button>{path}</button></form>", &path[1..])
            }
        };
        let _ = writeln!(out, "<tr><td>{cell}</td><td>{help}</td></tr>");
    }
    out.push_str("</table></body></html>\n");
    Page::new(StatusCode::OK, Content::Html, Pieces::one(out))
}
