//! What `portolan-control` is told at its start: flags, or the environment.

use crate::model::SourceId;
use crate::source::consul::client::{Client, Options as ConsulOptions, Token};
use crate::source::consul::{Consul, Use};
use crate::source::embedded::Embedded;
use crate::source::etcd::{Etcd, Options as EtcdOptions, Password};
use crate::source::file::File;
use crate::source::store::Store;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The control plane: watches stores, serves xDS to proxies, and an API to people.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "portolan-control", version, about, long_about = None)]
pub struct Settings {
    /// Where services and configuration live and are written: embedded, embedded:FILE,
    /// etcd://HOST:PORT,HOST:PORT, consul://HOST:PORT; etcds:// and consuls:// speak TLS
    #[arg(long, env = "PORTOLAN_STORE", default_value = "embedded", value_name = "STORE")]
    pub store: StoreUrl,

    /// Another store for services, for instance consul://HOST:PORT beside configuration in etcd
    #[arg(long, env = "PORTOLAN_SERVICE_STORE", value_name = "STORE")]
    pub service_store: Option<StoreUrl>,

    /// A directory of YAML files with objects, watched; comes before the store. Repeatable
    #[arg(long, env = "PORTOLAN_CONFIG_DIR", value_name = "DIR")]
    pub config_dir: Vec<PathBuf>,

    /// Where the embedded store and the last good state are kept
    #[arg(long, env = "PORTOLAN_DATA_DIR", default_value = "portolan-data", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Where proxies connect (xDS over gRPC). Not authenticated yet: keep it on a trusted network
    #[arg(long, env = "PORTOLAN_XDS_ADDRESS", default_value = "127.0.0.1:18000", value_name = "IP:PORT")]
    pub xds_address: SocketAddr,

    /// Where people and tools connect (REST and gRPC). Not authenticated yet: keep it on the loopback
    #[arg(long, env = "PORTOLAN_API_ADDRESS", default_value = "127.0.0.1:18080", value_name = "IP:PORT")]
    pub api_address: SocketAddr,

    /// Write the addresses that were bound to this file, as JSON, once both are
    #[arg(long, value_name = "FILE")]
    pub address_path: Option<PathBuf>,

    /// Name of this replica, told to proxies. Default: the host's name
    #[arg(long, env = "PORTOLAN_IDENTIFIER", value_name = "NAME")]
    pub identifier: Option<String>,

    /// User of etcd
    #[arg(long, env = "PORTOLAN_ETCD_USER", requires = "etcd_password_file", value_name = "NAME")]
    pub etcd_user: Option<String>,

    /// File with that user's password
    #[arg(long, env = "PORTOLAN_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,

    /// File with Consul's ACL token
    #[arg(long, env = "PORTOLAN_CONSUL_TOKEN_FILE", value_name = "FILE")]
    pub consul_token_file: Option<PathBuf>,

    /// Consul datacenter, if not the agent's own
    #[arg(long, env = "PORTOLAN_CONSUL_DATACENTER", value_name = "NAME")]
    pub consul_datacenter: Option<String>,

    /// PEM file with the authorities to trust for etcds:// and consuls://. Default: the system's
    #[arg(long, env = "PORTOLAN_STORE_CA_FILE", value_name = "FILE")]
    pub store_ca_file: Option<PathBuf>,

    /// Publish when no change came for this many milliseconds
    #[arg(long, env = "PORTOLAN_DEBOUNCE_QUIET_MS", default_value_t = 10, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub debounce_quiet_ms: u64,

    /// Publish at the latest this many milliseconds after a change
    #[arg(long, env = "PORTOLAN_DEBOUNCE_MAX_MS", default_value_t = 100, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub debounce_max_ms: u64,

    /// What to log: trace, debug, info, warn, error, or per module as in info,control_plane::ads=debug
    #[arg(short, long, env = "PORTOLAN_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    pub log_level: String,

    /// How to log
    #[arg(long, env = "PORTOLAN_LOG_FORMAT", default_value = "text", value_enum, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A store as written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// In a file; `None`: `store.redb` in the data directory.
    Embedded(Option<PathBuf>),
    /// etcd, by its members' URLs.
    Etcd(Vec<String>),
    /// A Consul agent, by its URL.
    Consul(http::Uri),
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected embedded, embedded:FILE, etcd://HOST:PORT[,HOST:PORT] or consul://HOST:PORT";
        let address = |host: &str| -> Result<(), String> {
            let (name, port) =
                host.rsplit_once(':').ok_or_else(|| format!("`{host}` has no port; {expected}"))?;
            if name.is_empty() || name.contains('/') || !port.parse::<u16>().is_ok_and(|p| p > 0) {
                return Err(format!("`{host}` is not HOST:PORT; {expected}"));
            }
            Ok(())
        };
        match text.split_once(':').unwrap_or((text, "")) {
            ("embedded", "") => Ok(Self::Embedded(None)),
            ("embedded", path) => Ok(Self::Embedded(Some(path.into()))),
            (scheme @ ("etcd" | "etcds"), rest) => {
                let hosts = rest.strip_prefix("//").ok_or_else(|| expected.to_owned())?;
                let tls = if scheme == "etcds" { "https" } else { "http" };
                let member = |host: &str| address(host).map(|()| format!("{tls}://{host}"));
                Ok(Self::Etcd(hosts.split(',').map(member).collect::<Result<_, _>>()?))
            }
            (scheme @ ("consul" | "consuls"), rest) => {
                let host = rest.strip_prefix("//").ok_or_else(|| expected.to_owned())?;
                address(host)?;
                let tls = if scheme == "consuls" { "https" } else { "http" };
                Ok(Self::Consul(format!("{tls}://{host}").parse().map_err(|e| format!("{host}: {e}"))?))
            }
            _ => Err(expected.to_owned()),
        }
    }
}

/// The stores as the settings name them.
pub struct Sources {
    /// All, the one that wins first.
    pub all: Vec<Arc<dyn Store>>,
    /// Takes objects.
    pub config: Arc<dyn Store>,
    /// Takes instances.
    pub services: Arc<dyn Store>,
    /// Those whose state must be kept on disk, since they live elsewhere.
    pub remote: Vec<SourceId>,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct SettingsError {
    what: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SettingsError {
    pub(crate) fn new(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }
}

impl Settings {
    /// Opens the stores. Remote ones are connected to later, and retried for ever.
    ///
    /// # Errors
    /// A file cannot be read or the embedded store not opened.
    pub fn open_sources(&self) -> Result<Sources, SettingsError> {
        std::fs::create_dir_all(&self.data_dir)
            .map_err(|e| SettingsError::new(format!("--data-dir {}", self.data_dir.display()), e))?;
        let mut all: Vec<Arc<dyn Store>> = Vec::new();
        let mut remote = Vec::new();
        for dir in &self.config_dir {
            if !dir.is_dir() {
                let what = format!("--config-dir {}", dir.display());
                return Err(SettingsError::new(what, "is not a directory"));
            }
            all.push(Arc::new(File::new(next_id(&all, "file"), dir.clone())));
        }
        let split = self.service_store.as_ref().is_some_and(|s| *s != self.store);
        let uses = Use { services: !split, config: true };
        let config = self.open(&self.store, &mut all, &mut remote, uses)?;
        let services = match &self.service_store {
            Some(url) if split => {
                self.open(url, &mut all, &mut remote, Use { services: true, config: false })?
            }
            _ => Arc::clone(&config),
        };
        Ok(Sources { all, config, services, remote })
    }

    fn open(
        &self,
        url: &StoreUrl,
        all: &mut Vec<Arc<dyn Store>>,
        remote: &mut Vec<SourceId>,
        uses: Use,
    ) -> Result<Arc<dyn Store>, SettingsError> {
        let store: Arc<dyn Store> = match url {
            StoreUrl::Embedded(path) => {
                let path = path.clone().unwrap_or_else(|| self.data_dir.join("store.redb"));
                let opened = Embedded::open(next_id(all, "embedded"), &path);
                Arc::new(opened.map_err(|e| SettingsError::new("--store embedded", e))?)
            }
            StoreUrl::Etcd(endpoints) => {
                let user = match (&self.etcd_user, &self.etcd_password_file) {
                    (Some(user), Some(file)) => {
                        Some((user.clone(), Password(secret("--etcd-password-file", file)?)))
                    }
                    _ => None,
                };
                let ca_file = self.store_ca_file.clone();
                let options = EtcdOptions { endpoints: endpoints.clone(), user, ca_file };
                let etcd = Etcd::new(next_id(all, "etcd"), options);
                Arc::new(etcd.map_err(|e| SettingsError::new("--store etcd", e))?)
            }
            StoreUrl::Consul(url) => {
                let fail = |e: crate::source::consul::client::Error| SettingsError::new("--store consul", e);
                let token = match &self.consul_token_file {
                    Some(file) => Some(Token::new(&secret("--consul-token-file", file)?).map_err(fail)?),
                    None => None,
                };
                let options = ConsulOptions {
                    url: url.clone(),
                    token,
                    ca_file: self.store_ca_file.clone(),
                    datacenter: self.consul_datacenter.clone(),
                };
                Arc::new(Consul::new(next_id(all, "consul"), Client::new(options).map_err(fail)?, uses))
            }
        };
        if !matches!(url, StoreUrl::Embedded(_)) {
            remote.push(store.id().clone());
        }
        all.push(Arc::clone(&store));
        Ok(store)
    }

    /// How long a build waits for more changes: quiet time and longest.
    pub fn debounce(&self) -> (Duration, Duration) {
        (Duration::from_millis(self.debounce_quiet_ms), Duration::from_millis(self.debounce_max_ms))
    }
}

/// An id for the next source, unique by name.
fn next_id(all: &[Arc<dyn Store>], name: &str) -> SourceId {
    let same = all.iter().filter(|s| s.id().name.split('-').next() == Some(name)).count();
    let rank = u8::try_from(all.len()).unwrap_or(u8::MAX);
    match same {
        0 => SourceId::new(rank, name),
        n => SourceId::new(rank, &format!("{name}-{}", n + 1)),
    }
}

fn secret(flag: &str, file: &Path) -> Result<String, SettingsError> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| SettingsError::new(format!("{flag} {}", file.display()), e))?;
    match text.trim() {
        "" => Err(SettingsError::new(format!("{flag} {}", file.display()), "is empty")),
        secret => Ok(secret.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use tempfile::TempDir;

    #[test]
    fn stores_are_read_from_their_urls() {
        let etcd = |members: &[&str]| StoreUrl::Etcd(members.iter().map(ToString::to_string).collect());
        for (text, expected) in [
            ("embedded", StoreUrl::Embedded(None)),
            ("embedded:/var/x.redb", StoreUrl::Embedded(Some("/var/x.redb".into()))),
            ("etcd://a:1,b:2", etcd(&["http://a:1", "http://b:2"])),
            ("etcds://[::1]:2379", etcd(&["https://[::1]:2379"])),
            ("consul://127.0.0.1:8500", StoreUrl::Consul("http://127.0.0.1:8500".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<StoreUrl>().unwrap(), expected, "{text}");
        }
        for bad in [
            "",
            "etcd",
            "etcd:a:1",
            "etcd://",
            "etcd://a",
            "etcd://a:0",
            "etcd://a:1,",
            "consul://a/b:1",
            "redis://a:1",
        ] {
            assert!(bad.parse::<StoreUrl>().unwrap_err().contains("expected embedded"), "{bad}");
        }
    }

    #[test]
    fn services_may_come_from_elsewhere_and_directories_win() {
        let dir = TempDir::new().unwrap();
        let at = dir.path().display().to_string();
        let settings = Settings::parse_from([
            "portolan-control",
            "--store",
            "etcd://127.0.0.1:1",
            "--service-store",
            "consul://127.0.0.1:2",
            "--config-dir",
            &at,
            "--data-dir",
            &at,
        ]);
        let sources = settings.open_sources().unwrap();
        let names: Vec<_> = sources.all.iter().map(|s| s.id().to_string()).collect();
        assert_eq!(names, ["file", "etcd", "consul"]);
        assert_eq!(
            (sources.config.id().to_string(), sources.services.id().to_string()),
            ("etcd".into(), "consul".into())
        );
        assert_eq!(sources.remote.len(), 2);
    }

    #[test]
    fn a_missing_secret_is_named_by_its_flag() {
        let dir = TempDir::new().unwrap();
        let at = dir.path().display().to_string();
        let settings = Settings::parse_from([
            "portolan-control",
            "--store",
            "consul://127.0.0.1:2",
            "--consul-token-file",
            "/nonexistent",
            "--data-dir",
            &at,
        ]);
        let error = settings.open_sources().err().unwrap().to_string();
        assert_eq!(error, "--consul-token-file /nonexistent");
    }
}
