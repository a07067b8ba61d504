//! Answers of the API, printed for people.

use comfy_table::{Table, presets};
use serde_json::Value;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// One line each.
    Table,
    /// As it can be applied again.
    Yaml,
    /// As the API answers.
    Json,
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// Numbers of 64 bits are strings in protobuf's JSON.
fn number(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::String(text) => text.clone(),
        Value::Null => "0".to_owned(),
        other => other.to_string(),
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table
}

pub(crate) fn problem_lines(value: &Value) -> Vec<String> {
    let line = |p: &Value| {
        let parts = [text(p, "object"), text(p, "path"), text(p, "message")];
        let told: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let warning = if text(p, "severity") == "WARNING" { "warning: " } else { "" };
        format!("{warning}{}", told.join(": "))
    };
    list(value, "problems").iter().chain(list(value, "warnings")).map(line).collect()
}

pub(crate) fn problems(value: &Value) {
    for line in problem_lines(value) {
        eprintln!("{line}");
    }
}

pub(crate) fn applied(answer: &Value) {
    problems(answer);
    for one in list(answer, "applied") {
        println!("{} {} (revision {})", text(one, "object"), outcome(one), number(one, "revision"));
    }
    release(answer);
}

fn outcome(one: &Value) -> String {
    match text(one, "outcome") {
        "" => "unchanged".to_owned(),
        outcome => outcome.to_lowercase(),
    }
}

/// The release that was made, if one was.
pub(crate) fn release(answer: &Value) {
    let number = number(answer, "release");
    if number != "0" {
        println!("release {number}");
    }
}

pub(crate) fn history(answer: &Value, output: Output) {
    match output {
        Output::Json => return println!("{answer:#}"),
        Output::Yaml => return print!("{}", xds_types::text::json_to_yaml(answer)),
        Output::Table => {}
    }
    let mut table = table(&["RELEASE", "TIME", "BY", "WHAT", "OBJECTS", "MESSAGE"]);
    for one in list(answer, "releases") {
        let objects = list(one, "changes").iter().map(|c| {
            let sign = match text(c, "outcome") {
                "CREATED" => '+',
                "DELETED" => '-',
                _ => '~',
            };
            format!("{sign}{}", text(c, "object"))
        });
        table.add_row([
            number(one, "number"),
            text(one, "at").to_owned(),
            text(one, "by").to_owned(),
            what(one),
            few(objects),
            text(one, "message").to_owned(),
        ]);
    }
    println!("{table}");
}

/// What made a release.
fn what(release: &Value) -> String {
    match text(release, "action") {
        "" => "apply".to_owned(),
        "ROLLBACK" => format!("rollback to {}", number(release, "of")),
        "STAGE" => {
            let end = match (number(release, "ended_by"), text(release, "ended")) {
                (none, _) if none == "0" => "open".to_owned(),
                (by, "PROMOTE") => format!("promoted by {by}"),
                (by, "ABORT") => format!("aborted by {by}"),
                (by, _) => format!("withdrawn by {by}"),
            };
            format!("stage for {}: {end}", text(release, "group"))
        }
        "PROMOTE" | "ABORT" | "WITHDRAW" => {
            format!("{} {}", text(release, "action").to_lowercase(), number(release, "of"))
        }
        action => action.to_lowercase(),
    }
}

/// The first of many, and how many more there are.
fn few(all: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 4;
    let all: Vec<String> = all.collect();
    let more = all.len().saturating_sub(SHOWN);
    let shown = all[..all.len() - more].join(" ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

pub(crate) fn promoted(answer: &Value) {
    problems(answer);
    for one in list(answer, "changed") {
        println!("{} {} (revision {})", text(one, "object"), outcome(one), number(one, "revision"));
    }
    release(answer);
}

pub(crate) fn diff(answer: &Value) {
    for one in list(answer, "diffs") {
        let object = text(one, "object");
        let (old, new) = match text(one, "outcome") {
            "CREATED" => ("/dev/null", object),
            "DELETED" => (object, "/dev/null"),
            _ => (object, object),
        };
        print!("--- {old}\n+++ {new}\n{}", text(one, "text"));
    }
}

pub(crate) fn rollback(answer: &Value, dry_run: bool) {
    problems(answer);
    let changed = list(answer, "changed");
    for one in changed {
        println!("{} {}", text(one, "object"), outcome(one));
    }
    let to = number(answer, "to");
    match (changed.is_empty(), dry_run) {
        (true, _) => println!("nothing differs from release {to}"),
        (false, true) => println!("would go back to release {to}"),
        (false, false) => println!("back to release {to}, as release {}", number(answer, "release")),
    }
}

pub(crate) fn objects(answer: &Value, output: Output) {
    let one = [answer.clone()];
    let objects = if answer["objects"].is_array() { list(answer, "objects") } else { &one };
    match output {
        Output::Json => println!("{answer:#}"),
        Output::Yaml => {
            for (i, object) in objects.iter().enumerate() {
                if i > 0 {
                    println!("---");
                }
                print!("{}", xds_types::text::json_to_yaml(&object["resource"]));
            }
        }
        Output::Table => {
            let mut table = table(&["KIND", "NAME", "REVISION", "SOURCE", "STATE"]);
            for object in objects {
                let resource = &object["resource"];
                let state =
                    match (object["in_force"] == Value::Bool(true), number(object, "revision_in_force")) {
                        (true, _) => "in force".to_owned(),
                        (false, none) if none == "0" => "quarantined".to_owned(),
                        (false, last) => format!("quarantined; revision {last} in force"),
                    };
                let refused = match number(object, "refused_by_nodes") {
                    none if none == "0" => String::new(),
                    nodes => format!("; REFUSED by {nodes}"),
                };
                table.add_row([
                    text(resource, "kind").to_owned(),
                    text(resource, "name").to_owned(),
                    number(object, "revision"),
                    text(object, "source").to_owned(),
                    state + &refused,
                ]);
            }
            println!("{table}");
            for line in objects.iter().flat_map(|o| secret_lines(&o["resource"])) {
                println!("{line}");
            }
            for object in objects {
                problems(object);
                refusals(object);
            }
        }
    }
}

/// Who refuses an object, and why.
fn refusals(object: &Value) {
    let resource = &object["resource"];
    for one in list(object, "refused_by") {
        println!(
            "{}/{} refused by {} ({}, {}): {}",
            text(resource, "kind"),
            text(resource, "name"),
            text(one, "node"),
            text(one, "group"),
            text(one, "type"),
            text(one, "reason"),
        );
    }
}

pub(crate) fn tokens(answer: &Value) {
    let mut table = table(&["NAME", "ROLE", "CREATED", "BY", "EXPIRES"]);
    for one in list(answer, "tokens") {
        let role = match text(one, "role") {
            "" => "viewer".to_owned(),
            role => role.to_lowercase(),
        };
        let expires = match text(one, "expires") {
            "" => "never",
            at => at,
        };
        table.add_row([text(one, "name"), &role, text(one, "created"), text(one, "created_by"), expires]);
    }
    println!("{table}");
}

/// What may be shown of a Secret, a certificate a line.
fn secret_lines(resource: &Value) -> Vec<String> {
    let sealed = &resource["spec"]["sealed"];
    let one = |c: &Value| {
        let names: Vec<&str> = list(c, "names").iter().filter_map(Value::as_str).collect();
        let fingerprint: String = text(c, "fingerprint").chars().take(16).collect();
        format!(
            "  Secret/{}: {} {} until {} sha256 {fingerprint}",
            text(resource, "name"),
            text(c, "subject"),
            names.join(" "),
            text(c, "not_after"),
        )
    };
    list(sealed, "certificates").iter().map(one).collect()
}

pub(crate) fn instances(answer: &Value) {
    let mut table = table(&["SERVICE", "ID", "ADDRESS", "WEIGHT", "ZONE", "HEALTH", "SOURCE"]);
    for one in list(answer, "instances") {
        let instance = &one["instance"];
        let health = match text(instance, "health") {
            "" => "healthy".to_owned(),
            health => health.to_lowercase(),
        };
        table.add_row([
            text(instance, "service").to_owned(),
            text(instance, "id").to_owned(),
            format!("{}:{}", text(instance, "address"), number(instance, "port")),
            number(instance, "weight"),
            text(instance, "zone").to_owned(),
            health,
            text(one, "source").to_owned(),
        ]);
    }
    println!("{table}");
}

/// Proxies that see a service otherwise than most, and how.
fn disagreeing(service: &Value) -> String {
    let one = |node: &Value| {
        let mut told =
            format!("{} ({} of {}", text(node, "node"), number(node, "healthy"), number(node, "total"));
        if number(node, "ejected") != "0" {
            told += &format!(", {} ejected", number(node, "ejected"));
        }
        if node["breaker_open"] == Value::Bool(true) {
            told += ", breaker open";
        }
        told + ")"
    };
    let named: Vec<String> = list(service, "disagreeing").iter().map(one).collect();
    let all = service["disagreeing_count"].as_u64().unwrap_or_default() as usize;
    let more = all.saturating_sub(named.len());
    if more > 0 { format!("{}, and {more} more", named.join(", ")) } else { named.join(", ") }
}

pub(crate) fn status(answer: &Value, output: Output) {
    match output {
        Output::Json => return println!("{answer:#}"),
        Output::Yaml => return print!("{}", xds_types::text::json_to_yaml(answer)),
        Output::Table => {}
    }
    println!(
        "control plane {}, {} publications, {} connected",
        text(answer, "control_plane"),
        number(answer, "publications"),
        number(answer, "connected_nodes"),
    );
    let mut sources = table(&["SOURCE", "STATE", "INSTANCES", "OBJECTS"]);
    for source in list(answer, "sources") {
        let state = match (source["synced"] == Value::Bool(true), source["restored"] == Value::Bool(true)) {
            (true, _) => "synced",
            (false, true) => "away; last good state from disk",
            (false, false) => "not reached yet",
        };
        sources.add_row([
            text(source, "name").to_owned(),
            state.to_owned(),
            number(source, "instances"),
            number(source, "objects"),
        ]);
    }
    println!("\n{sources}");
    let mut services = table(&["SERVICE", "INSTANCES", "PROXIES", "HEALTHY", "SEEN OTHERWISE BY"]);
    for service in list(answer, "services") {
        let (fewest, most) = (number(service, "fewest_healthy"), number(service, "most_healthy"));
        let healthy = match (number(service, "proxies").as_str(), fewest == most) {
            ("0", _) => "not reported".to_owned(),
            (_, true) => most,
            (_, false) => format!("{fewest} to {most}"),
        };
        services.add_row([
            text(service, "cluster").to_owned(),
            number(service, "instances"),
            number(service, "proxies"),
            healthy,
            disagreeing(service),
        ]);
    }
    if !list(answer, "services").is_empty() {
        println!("\n{services}");
    }
    for held in list(answer, "held") {
        let lost = list(held, "lost");
        let names: Vec<&str> = lost.iter().take(5).filter_map(Value::as_str).collect();
        let more = if lost.len() > names.len() { ", ..." } else { "" };
        let until = match text(held, "until") {
            "" => String::new(),
            at => format!(", until {at} at the latest"),
        };
        println!(
            "\nHELD: {} has lost {} of {} instances at once ({}{more}); proxies are given the last known ones \
             since {}{until}\n      if they are gone for good: portolan accept-loss {}",
            text(held, "service"),
            lost.len(),
            lost.len() + held["live"].as_u64().unwrap_or_default() as usize,
            names.join(", "),
            text(held, "since"),
            text(held, "service"),
        );
    }
    let mut nodes = table(&["NODE", "GROUP", "CLIENT", "MODE", "TYPE", "SENT", "ACKED", "STATE"]);
    for node in list(answer, "nodes") {
        for kind in list(node, "types") {
            let state = match &kind["nack"] {
                Value::Object(_) => format!("REFUSED: {}", text(&kind["nack"], "reason")),
                _ if text(kind, "sent_version") == text(kind, "acked_version") => "in sync".to_owned(),
                _ => "waiting".to_owned(),
            };
            nodes.add_row([
                text(node, "id").to_owned(),
                text(node, "group").to_owned(),
                text(node, "user_agent").to_owned(),
                text(node, "mode").to_owned(),
                text(kind, "type").to_owned(),
                text(kind, "sent_version").chars().take(12).collect(),
                text(kind, "acked_version").chars().take(12).collect(),
                state,
            ]);
        }
    }
    println!("\n{nodes}");
    for stage in list(answer, "stages") {
        let deletes = list(stage, "deletes");
        let shown = |object: &str| match deletes.iter().any(|d| d == object) {
            true => format!("-{object}"),
            false => object.to_owned(),
        };
        let objects = list(stage, "objects").iter().filter_map(Value::as_str).map(shown);
        println!(
            "staged for {}: release {} ({})",
            text(stage, "group"),
            number(stage, "release"),
            few(objects)
        );
    }
    let quarantined = list(answer, "quarantined");
    for object in quarantined {
        let resource = &object["resource"];
        println!("quarantined: {}/{}", text(resource, "kind"), text(resource, "name"));
        problems(object);
    }
    list(answer, "refused").iter().for_each(refusals);
}
