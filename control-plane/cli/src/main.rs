//! `portolan`: the person's tool. A client of the control plane's REST API.

mod client;
mod show;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use client::Client;
use serde_json::{Value, json};
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Configure and look at a fleet of proxies.
#[derive(Parser)]
#[command(name = "portolan", version, about)]
struct Cli {
    /// The control plane's API
    #[arg(
        long,
        env = "PORTOLAN_API",
        default_value = "http://127.0.0.1:18080",
        value_name = "URL",
        global = true
    )]
    api: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create or replace objects: all of them, or none when one is refused
    Apply {
        /// YAML or JSON with one or more objects; - reads standard input. Repeatable
        #[arg(short, long, required = true, value_name = "FILE")]
        file: Vec<PathBuf>,
        /// Write only if the stored revision is this; 0: only if there is none. With one object
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,
        /// Say what would be refused, and write nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Show objects: all, of a kind, or one
    Get {
        /// service, gateway or route
        kind: Option<String>,
        /// Name of the object
        name: Option<String>,
        /// Only those with this label. Repeatable
        #[arg(short, long, value_name = "NAME=VALUE")]
        label: Vec<String>,
        /// How to print
        #[arg(short, long, value_enum, default_value = "table")]
        output: show::Output,
    },
    /// Delete an object
    Delete {
        /// service, gateway or route
        kind: String,
        /// Name of the object
        name: String,
        /// Only if the stored revision is this
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,
    },
    /// Say what apply would say
    Validate {
        /// YAML or JSON with one or more objects; - reads standard input. Repeatable
        #[arg(short, long, required = true, value_name = "FILE")]
        file: Vec<PathBuf>,
    },
    /// Register an instance of a service
    Register {
        /// Service
        service: String,
        /// Where the instance listens
        #[arg(value_name = "IP:PORT")]
        address: SocketAddr,
        /// Unique in the service. Default: the address
        #[arg(long)]
        id: Option<String>,
        /// Share of the service's requests, 1 to 65535
        #[arg(long, default_value_t = 1)]
        weight: u32,
        /// Zone it runs in
        #[arg(long, default_value = "")]
        zone: String,
        /// Repeatable
        #[arg(short, long, value_name = "NAME=VALUE")]
        label: Vec<String>,
        /// It is gone after this many seconds without heartbeat. Default: it stays
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u32>,
        /// Stay and send heartbeats until Ctrl-C, then deregister. Needs --ttl
        #[arg(long, requires = "ttl")]
        keep: bool,
    },
    /// Deregister an instance
    Deregister {
        /// Service
        service: String,
        /// Its id
        id: String,
    },
    /// List registered instances
    Instances {
        /// Of this service only
        service: Option<String>,
    },
    /// Print an Envoy bootstrap that points a real Envoy or portolan-proxy at this control plane
    Bootstrap {
        /// Node group: which gateways the proxy serves
        #[arg(long)]
        group: String,
        /// Unique name of the proxy. Default: the group
        #[arg(long)]
        node: Option<String>,
        /// State-of-the-world xDS instead of delta
        #[arg(long)]
        sotw: bool,
        /// Where the proxy reaches the control plane's xDS port. Default: where it listens
        #[arg(long, value_name = "HOST:PORT")]
        xds: Option<String>,
        /// Where the proxy's admin interface listens. Default 127.0.0.1:9901
        #[arg(long, value_name = "IP:PORT")]
        admin: Option<SocketAddr>,
    },
    /// Show sources, connected proxies, what they acknowledged and what they refused
    Status {
        /// Of this node group only
        #[arg(long)]
        group: Option<String>,
        /// How to print
        #[arg(short, long, value_enum, default_value = "table")]
        output: show::Output,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => {
            let failed = told.use_stderr();
            let _ = told.print();
            return if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portolan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let api = Client::new(&cli.api)?;
    match cli.command {
        Command::Apply { file, dry_run: true, .. } | Command::Validate { file } => {
            let answer = api.post("/api/v1/validate", &read(&file)?).await?;
            show::problems(&answer);
            if answer["accepted"] != json!(true) {
                bail!("refused; nothing would be written");
            }
            println!("accepted");
        }
        Command::Apply { file, if_revision, dry_run: false } => {
            let query = if_revision.map(|n| format!("?if_revision={n}")).unwrap_or_default();
            let answer = api.post(&format!("/api/v1/apply{query}"), &read(&file)?).await?;
            show::applied(&answer);
        }
        Command::Get { kind, name, label, output } => {
            let path = match (&kind, &name) {
                (Some(kind), Some(name)) => {
                    format!("/api/v1/objects/{}/{}", client::escape(kind), client::escape(name))
                }
                (Some(kind), None) => format!("/api/v1/objects/{}", client::escape(kind)),
                (None, _) => "/api/v1/objects".to_owned(),
            };
            let labels: Vec<String> = label.iter().map(|l| format!("label={}", client::escape(l))).collect();
            show::objects(&api.get(&format!("{path}?{}", labels.join("&"))).await?, output);
        }
        Command::Delete { kind, name, if_revision } => {
            let query = if_revision.map(|n| format!("?if_revision={n}")).unwrap_or_default();
            let path = format!("/api/v1/objects/{}/{}{query}", client::escape(&kind), client::escape(&name));
            api.delete(&path).await?;
            println!("{kind}/{name} deleted");
        }
        Command::Register { service, address, id, weight, zone, label, ttl, keep } => {
            let mut labels = serde_json::Map::new();
            for one in &label {
                let (k, v) =
                    one.split_once('=').with_context(|| format!("label `{one}` is not NAME=VALUE"))?;
                labels.insert(k.to_owned(), json!(v));
            }
            let mut instance = json!({
                "address": address.ip(), "port": address.port(), "weight": weight, "zone": zone, "labels": labels,
            });
            if let Some(seconds) = ttl {
                instance["ttl"] = json!(format!("{seconds}s"));
            }
            let id = id.unwrap_or_else(|| address.to_string());
            let path = instance_path(&service, &id);
            api.put(&path, &instance).await?;
            println!("{service}/{id} registered");
            if keep {
                heartbeat(&api, &path, &instance, Duration::from_secs(ttl.unwrap_or(1).into())).await?;
                println!("{service}/{id} deregistered");
            }
        }
        Command::Deregister { service, id } => {
            api.delete(&instance_path(&service, &id)).await?;
            println!("{service}/{id} deregistered");
        }
        Command::Instances { service } => {
            let path = match service {
                Some(service) => format!("/api/v1/services/{}/instances", client::escape(&service)),
                None => "/api/v1/instances".to_owned(),
            };
            show::instances(&api.get(&path).await?);
        }
        Command::Bootstrap { group, node, sotw, xds, admin } => {
            let mut query = format!("group={}&delta={}", client::escape(&group), !sotw);
            for (name, value) in [("node", node), ("xds", xds), ("admin", admin.map(|a| a.to_string()))] {
                if let Some(value) = value {
                    query += &format!("&{name}={}", client::escape(&value));
                }
            }
            print!("{}", api.text(&format!("/api/v1/bootstrap?{query}")).await?);
        }
        Command::Status { group, output } => {
            let query = group.map(|g| format!("?group={}", client::escape(&g))).unwrap_or_default();
            show::status(&api.get(&format!("/api/v1/status{query}")).await?, output);
        }
    }
    Ok(())
}

fn instance_path(service: &str, id: &str) -> String {
    format!("/api/v1/services/{}/instances/{}", client::escape(service), client::escape(id))
}

/// All files as one text of several documents.
fn read(files: &[PathBuf]) -> Result<String> {
    let mut all = String::new();
    for file in files {
        if !all.is_empty() {
            all.push_str("\n---\n");
        }
        if file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut all).context("standard input")?;
        } else {
            all += &std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        }
    }
    // Errors are told with the file's own lines before anything is sent.
    for file in files.iter().filter(|f| f.as_os_str() != "-") {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(|| name.clone())?;
        if let Err(errors) = xds_types::resource::parse(xds_types::text::Source { name: &name, text: &text })
        {
            bail!("{errors}");
        }
    }
    Ok(all)
}

/// Renews at a third of the time to live until Ctrl-C; registers again when the control plane has forgotten.
async fn heartbeat(api: &Client, path: &str, instance: &Value, ttl: Duration) -> Result<()> {
    let mut tick = tokio::time::interval(ttl / 3);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return api.delete(path).await.map(drop);
            }
        }
        match api.post(&format!("{path}/heartbeat"), "").await {
            Ok(_) => {}
            Err(error) if client::is_not_found(&error) => {
                eprintln!("portolan: expired meanwhile; registering again");
                if let Err(error) = api.put(path, instance).await {
                    eprintln!("portolan: {error:#}");
                }
            }
            // The store or the control plane may be away for a while.
            Err(error) => eprintln!("portolan: {error:#}"),
        }
    }
}
