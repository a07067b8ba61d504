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
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    /// Token to show, made by `portolan token create`. Better in the environment than here, where others see it
    #[arg(long, env = "PORTOLAN_TOKEN", hide_env_values = true, value_name = "TOKEN", global = true)]
    token: Option<String>,
    /// PEM file with the authorities of the control plane's certificate. Default: the system's
    #[arg(long, env = "PORTOLAN_CA", value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// PEM file with the certificate to show
    #[arg(long, env = "PORTOLAN_CERT", value_name = "FILE", global = true, requires = "key")]
    cert: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long, env = "PORTOLAN_KEY", value_name = "FILE", global = true, requires = "cert")]
    key: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create or replace objects: all of them, or none when one is refused
    Apply {
        /// YAML or JSON with one or more objects; - reads standard input. Repeatable
        #[arg(short, long, required_unless_present = "delete", value_name = "FILE")]
        file: Vec<PathBuf>,
        /// Delete this object in the same release. Repeatable
        #[arg(long, value_name = "KIND/NAME")]
        delete: Vec<String>,
        /// Write only if the stored revision is this; 0: only if there is none. With one object
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,
        /// Say what would be refused, and write nothing
        #[arg(long, conflicts_with_all = ["if_revision", "stage"])]
        dry_run: bool,
        /// Why, for the history
        #[arg(short, long, default_value = "", value_name = "TEXT")]
        message: String,
        /// Make it active for the proxies of this node group first; promote or abort it later
        #[arg(long, default_value = "", value_name = "GROUP", conflicts_with = "if_revision")]
        stage: String,
    },
    /// Make a staged release active for all proxies
    Promote {
        /// The release that `apply --stage` made
        release: u64,
        /// Why, for the history
        #[arg(short, long, default_value = "", value_name = "TEXT")]
        message: String,
    },
    /// Give a staged release up: its group goes back to what all have
    Abort {
        /// The release that `apply --stage` made
        release: u64,
        /// Why, for the history
        #[arg(short, long, default_value = "", value_name = "TEXT")]
        message: String,
    },
    /// Show objects: all, of a kind, or one
    Get {
        /// service, gateway, route, policy or secret
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
        /// service, gateway, route, policy or secret
        kind: String,
        /// Name of the object
        name: String,
        /// Only if the stored revision is this
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,
        /// Why, for the history
        #[arg(short, long, default_value = "", value_name = "TEXT")]
        message: String,
        /// The proxies of this node group go without it first; promote or abort it later
        #[arg(long, default_value = "", value_name = "GROUP", conflicts_with = "if_revision")]
        stage: String,
    },
    /// List releases: every accepted change, who made it and why
    History {
        /// At most so many, the newest
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<u32>,
        /// How to print
        #[arg(short, long, value_enum, default_value = "table")]
        output: show::Output,
    },
    /// Show what differs between a release and what is stored now, or another release
    Diff {
        /// What there was right after this release. Default: before the newest change
        from: Option<u64>,
        /// What there was right after this one. Default: what is stored now
        to: Option<u64>,
        /// Show what apply would change with this file instead. Repeatable
        #[arg(short, long, value_name = "FILE", conflicts_with = "from")]
        file: Vec<PathBuf>,
        /// Show what is staged for this node group instead
        #[arg(long, default_value = "", value_name = "GROUP", conflicts_with_all = ["from", "file"])]
        stage: String,
    },
    /// Go back to what there was right after a release, as a new release
    Rollback {
        /// The release; 0: before the first. Default: the newest change is undone
        to: Option<u64>,
        /// Why, for the history
        #[arg(short, long, default_value = "", value_name = "TEXT")]
        message: String,
        /// Only while this release is the newest
        #[arg(long, value_name = "N")]
        if_newest: Option<u64>,
        /// Overwrite also what was changed in the store directly
        #[arg(long)]
        force: bool,
        /// Say what would be done, and write nothing
        #[arg(long)]
        dry_run: bool,
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
    /// Let go the lost instances of a service that the control plane still serves: they are gone for good
    AcceptLoss {
        /// Service
        service: String,
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
        /// Where the proxy finds the authorities of the xDS port's certificate: a PEM file on its machine. Needed when xDS
        /// speaks TLS
        #[arg(long, value_name = "FILE")]
        xds_ca: Option<String>,
        /// Where the proxy finds its own certificate
        #[arg(long, value_name = "FILE", requires = "xds_key")]
        xds_cert: Option<String>,
        /// Where the proxy finds its key
        #[arg(long, value_name = "FILE", requires = "xds_cert")]
        xds_key: Option<String>,
        /// Name in the xDS port's certificate. Default: the host of --xds
        #[arg(long, value_name = "NAME")]
        xds_sni: Option<String>,
        /// Where the proxy's admin interface listens. Default 127.0.0.1:9901
        #[arg(long, value_name = "IP:PORT")]
        admin: Option<SocketAddr>,
        /// How often the proxy reports its stats to the control plane, for `portolan status`; 0: never
        #[arg(long, value_name = "SECONDS", default_value_t = 5)]
        report: u32,
    },
    /// Make, list and revoke tokens of the API
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Encrypt every stored Secret with the control plane's newest key
    Reseal,
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

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token, and print it: it is shown only now
    Create {
        /// What it is for; shown in the audit log
        name: String,
        /// What its holder may do
        #[arg(long, value_enum, default_value = "viewer")]
        role: RoleName,
        /// Days after which it is not valid any more. Default: it stays valid until revoked
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
    },
    /// List tokens
    List,
    /// Make a token invalid
    Revoke {
        /// Its name
        name: String,
    },
}

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RoleName {
    /// Read
    Viewer,
    /// And write objects and instances
    Operator,
    /// And make tokens
    Admin,
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
    let options =
        client::Options { api: cli.api, token: cli.token, ca: cli.ca, identity: cli.cert.zip(cli.key) };
    let api = Client::new(&options)?;
    match cli.command {
        Command::Apply { file, delete, dry_run: true, .. } => validate(&api, &file, &delete).await?,
        Command::Validate { file } => validate(&api, &file, &[]).await?,
        Command::Apply { file, delete, if_revision, dry_run: false, message, stage } => {
            let told = [number("if_revision", if_revision), text("message", &message), text("stage", &stage)];
            let query = query(told.into_iter().chain(deletes(&delete)));
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
        Command::Delete { kind, name, if_revision, message, stage } => {
            let query =
                query([number("if_revision", if_revision), text("message", &message), text("stage", &stage)]);
            let path = format!("/api/v1/objects/{}/{}{query}", client::escape(&kind), client::escape(&name));
            let answer = api.delete(&path).await?;
            show::problems(&answer);
            match &*stage {
                "" => println!("{kind}/{name} deleted"),
                group => println!("{kind}/{name} deleted for group {group}"),
            }
            show::release(&answer);
        }
        Command::History { limit, output } => {
            let query = query([number("limit", limit.map(u64::from))]);
            show::history(&api.get(&format!("/api/v1/releases{query}")).await?, output);
        }
        Command::Promote { release, message } => {
            let path = format!("/api/v1/releases/{release}/promote{}", query([text("message", &message)]));
            show::promoted(&api.post(&path, "").await?);
        }
        Command::Abort { release, message } => {
            let path = format!("/api/v1/releases/{release}/abort{}", query([text("message", &message)]));
            show::release(&api.post(&path, "").await?);
        }
        Command::Diff { from, to, file, stage } => {
            let answer = if file.is_empty() {
                let query = query([number("from", from), number("to", to), text("stage", &stage)]);
                api.get(&format!("/api/v1/diff{query}")).await?
            } else {
                api.post("/api/v1/diff", &read(&file)?).await?
            };
            show::diff(&answer);
        }
        Command::Rollback { to, message, if_newest, force, dry_run } => {
            let query = query([
                number("to", to),
                text("message", &message),
                number("if_newest", if_newest),
                force.then(|| "force=true".to_owned()),
                dry_run.then(|| "dry_run=true".to_owned()),
            ]);
            show::rollback(&api.post(&format!("/api/v1/rollback{query}"), "").await?, dry_run);
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
            // From here on an interruption is heard whenever it comes.
            let interrupts = keep.then(|| signal(SignalKind::interrupt())).transpose()?;
            api.put(&path, &instance).await?;
            println!("{service}/{id} registered");
            if let Some(interrupts) = interrupts {
                let ttl = Duration::from_secs(ttl.unwrap_or(1).into());
                heartbeat(&api, &path, &instance, ttl, interrupts).await?;
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
        Command::AcceptLoss { service } => {
            let path = format!("/api/v1/services/{}/accept-loss", client::escape(&service));
            let answer = api.post(&path, "").await?;
            for id in answer["ids"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                println!("{service}/{id} let go");
            }
        }
        Command::Bootstrap { group, node, sotw, xds, xds_ca, xds_cert, xds_key, xds_sni, admin, report } => {
            let mut query = format!("group={}&delta={}&report={report}", client::escape(&group), !sotw);
            let admin = admin.map(|a| a.to_string());
            let tls =
                [("xds_ca", xds_ca), ("xds_cert", xds_cert), ("xds_key", xds_key), ("xds_sni", xds_sni)];
            for (name, value) in [("node", node), ("xds", xds), ("admin", admin)].into_iter().chain(tls) {
                if let Some(value) = value {
                    query += &format!("&{name}={}", client::escape(&value));
                }
            }
            print!("{}", api.text(&format!("/api/v1/bootstrap?{query}")).await?);
        }
        Command::Token { command } => token(&api, command).await?,
        Command::Reseal => {
            let answer = api.post("/api/v1/secrets/reseal", "").await?;
            for (list, told) in [("resealed", "encrypted anew"), ("left", "LEFT: its key is not configured")]
            {
                for one in answer[list].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    println!("{one} {told}");
                }
            }
        }
        Command::Status { group, output } => {
            let query = group.map(|g| format!("?group={}", client::escape(&g))).unwrap_or_default();
            show::status(&api.get(&format!("/api/v1/status{query}")).await?, output);
        }
    }
    Ok(())
}

/// Says what apply would say.
async fn validate(api: &Client, files: &[PathBuf], delete: &[String]) -> Result<()> {
    let answer = api.post(&format!("/api/v1/validate{}", query(deletes(delete))), &read(files)?).await?;
    show::problems(&answer);
    if answer["accepted"] != json!(true) {
        bail!("refused; nothing would be written");
    }
    println!("accepted");
    Ok(())
}

async fn token(api: &Client, command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create { name, role, days } => {
            let mut request = json!({"name": name, "role": format!("{role:?}").to_uppercase()});
            if let Some(days) = days {
                request["ttl"] = json!(format!("{}s", u64::from(days) * 86_400));
            }
            let answer = api.post("/api/v1/tokens", &request.to_string()).await?;
            println!("{}", answer["token"].as_str().context("the answer holds no token")?);
        }
        TokenCommand::List => show::tokens(&api.get("/api/v1/tokens").await?),
        TokenCommand::Revoke { name } => {
            api.delete(&format!("/api/v1/tokens/{}", client::escape(&name))).await?;
            println!("{name} revoked");
        }
    }
    Ok(())
}

/// `?name=value&...` of what there is.
fn query(parts: impl IntoIterator<Item = Option<String>>) -> String {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

fn number(name: &str, value: Option<u64>) -> Option<String> {
    value.map(|n| format!("{name}={n}"))
}

fn text(name: &str, value: &str) -> Option<String> {
    (!value.is_empty()).then(|| format!("{name}={}", client::escape(value)))
}

fn deletes(objects: &[String]) -> impl Iterator<Item = Option<String>> {
    objects.iter().map(|object| text("delete", object))
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
async fn heartbeat(
    api: &Client,
    path: &str,
    instance: &Value,
    ttl: Duration,
    mut interrupts: Signal,
) -> Result<()> {
    let mut tick = tokio::time::interval(ttl / 3);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = interrupts.recv() => return api.delete(path).await.map(drop),
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
