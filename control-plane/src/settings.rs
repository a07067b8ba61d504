//! What `portolan-control` is told at its start: flags, or the environment.

use crate::access::{Access, Audit};
use crate::authority;
use crate::model::{SourceId, guard};
use crate::secret::Vault;
use crate::source::consul::client::{Client, Options as ConsulOptions, Token};
use crate::source::consul::{Consul, Use};
use crate::source::embedded::Embedded;
use crate::source::etcd::{Etcd, Options as EtcdOptions, Password};
use crate::source::file::File;
use crate::source::store::Store;
use crate::translate::Trust;
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

    /// Where proxies connect (xDS over gRPC). Beyond the loopback it needs --xds-cert-file and --xds-client-ca-file
    #[arg(long, env = "PORTOLAN_XDS_ADDRESS", default_value = "127.0.0.1:18000", value_name = "IP:PORT")]
    pub xds_address: SocketAddr,

    /// Where people and tools connect (REST and gRPC). Beyond the loopback it needs --api-cert-file and
    /// --admin-token-file
    #[arg(long, env = "PORTOLAN_API_ADDRESS", default_value = "127.0.0.1:18080", value_name = "IP:PORT")]
    pub api_address: SocketAddr,

    /// Connections to the xDS port at a time, and to the rate-limit service's; more wait
    #[arg(long, env = "PORTOLAN_XDS_MAX_CONNECTIONS", default_value_t = 16_384, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub xds_max_connections: u32,

    /// Connections to the API's port at a time; more wait
    #[arg(long, env = "PORTOLAN_API_MAX_CONNECTIONS", default_value_t = 1024, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub api_max_connections: u32,

    /// PEM file with the certificate chain of the xDS port. Read again when it changes, as are the other files of TLS
    #[arg(long, env = "PORTOLAN_XDS_CERT_FILE", requires = "xds_key_file", value_name = "FILE")]
    pub xds_cert_file: Option<PathBuf>,

    /// PEM file with its key
    #[arg(long, env = "PORTOLAN_XDS_KEY_FILE", requires = "xds_cert_file", value_name = "FILE")]
    pub xds_key_file: Option<PathBuf>,

    /// PEM file with the authorities of proxies' certificates, each of which must name the proxy's group:
    /// spiffe://DOMAIN/group/GROUP or the DNS name GROUP
    #[arg(long, env = "PORTOLAN_XDS_CLIENT_CA_FILE", requires = "xds_cert_file", value_name = "FILE")]
    pub xds_client_ca_file: Option<PathBuf>,

    /// PEM file with the certificate chain of the API's port
    #[arg(long, env = "PORTOLAN_API_CERT_FILE", requires = "api_key_file", value_name = "FILE")]
    pub api_cert_file: Option<PathBuf>,

    /// PEM file with its key
    #[arg(long, env = "PORTOLAN_API_KEY_FILE", requires = "api_cert_file", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// PEM file with the authorities of clients of the API, who must show a certificate then, beside their token
    #[arg(long, env = "PORTOLAN_API_CLIENT_CA_FILE", requires = "api_cert_file", value_name = "FILE")]
    pub api_client_ca_file: Option<PathBuf>,

    /// File with the bootstrap token of the API, an admin's; or the token itself in PORTOLAN_ADMIN_TOKEN. With it, every
    /// call needs a token
    #[arg(long, env = "PORTOLAN_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// Append every change, and every refused call, to this file as JSON lines
    #[arg(long, env = "PORTOLAN_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,

    /// Serve xDS and the API beyond the loopback without TLS and authentication: whoever reaches the ports reads secrets
    /// and changes everything
    #[arg(long, env = "PORTOLAN_INSECURE")]
    pub insecure: bool,

    /// File with the keys that Secrets are encrypted with in the store: 32 bytes in base64 or hex, one a line, the one
    /// that encrypts first; or the text itself in PORTOLAN_SECRET_KEY. Default: secret.key in --data-dir with the
    /// embedded store, which is made; none with others
    #[arg(long, env = "PORTOLAN_SECRET_KEY_FILE", value_name = "FILE")]
    pub secret_key_file: Option<PathBuf>,

    /// Name of the fleet in the identities that the built-in authority issues
    #[arg(long, env = "PORTOLAN_TRUST_DOMAIN", default_value = "portolan", value_name = "NAME",
          value_parser = trust_domain)]
    pub trust_domain: String,

    /// Life of the certificates that the built-in authority issues, in seconds; renewed at half of it
    #[arg(long, env = "PORTOLAN_IDENTITY_LIFE", default_value_t = 86_400, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(4..=31_536_000))]
    pub identity_life: u64,

    /// Write the addresses that were bound to this file, as JSON, once both are
    #[arg(long, value_name = "FILE")]
    pub address_path: Option<PathBuf>,

    /// Name of this replica, told to proxies. Default: the host's name
    #[arg(long, env = "PORTOLAN_IDENTIFIER", value_name = "NAME")]
    pub identifier: Option<String>,

    /// End each connection to the xDS port after this many seconds, give or take a tenth, so that proxies spread over control
    /// planes that came later; 0: never
    #[arg(long, env = "PORTOLAN_XDS_MAX_AGE", default_value_t = 1800, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(..=31_536_000))]
    pub xds_max_age: u64,

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

    /// PEM file with the certificate that etcd and Consul are shown
    #[arg(long, env = "PORTOLAN_STORE_CERT_FILE", requires = "store_key_file", value_name = "FILE")]
    pub store_cert_file: Option<PathBuf>,

    /// PEM file with its key
    #[arg(long, env = "PORTOLAN_STORE_KEY_FILE", requires = "store_cert_file", value_name = "FILE")]
    pub store_key_file: Option<PathBuf>,

    /// Publish when no change came for this many milliseconds
    #[arg(long, env = "PORTOLAN_DEBOUNCE_QUIET_MS", default_value_t = 10, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub debounce_quiet_ms: u64,

    /// Publish at the latest this many milliseconds after a change
    #[arg(long, env = "PORTOLAN_DEBOUNCE_MAX_MS", default_value_t = 100, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub debounce_max_ms: u64,

    /// Serve on the last known instances of a service that loses more than this share of them at once, in percent, as a dead
    /// network looks the same as dead servers; 0: never
    #[arg(long, env = "PORTOLAN_MASS_LOSS_PERCENT", default_value_t = 50, value_name = "PERCENT",
          value_parser = clap::value_parser!(u8).range(..=99))]
    pub mass_loss_percent: u8,

    /// Services with fewer instances than this are not guarded
    #[arg(long, env = "PORTOLAN_MASS_LOSS_LEAST", default_value_t = 3, value_name = "N")]
    pub mass_loss_least: u32,

    /// What is lost within this many seconds is lost at once; at least the longest time to live in use
    #[arg(long, env = "PORTOLAN_MASS_LOSS_WINDOW", default_value_t = 60, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub mass_loss_window: u64,

    /// Hold them for this many seconds at most; 0: until they are back or `portolan accept-loss` says that they are gone
    #[arg(long, env = "PORTOLAN_MASS_LOSS_HOLD", default_value_t = 600, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(..=31_536_000))]
    pub mass_loss_hold: u64,

    /// Releases kept, the newest: how far `portolan rollback` can go back
    #[arg(long, env = "PORTOLAN_HISTORY", default_value_t = 100, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub history: u64,

    /// The rate-limit service
    #[command(flatten)]
    pub ratelimit: crate::ratelimit::Options,

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
    pub fn open_sources(&self, vault: &Arc<Vault>) -> Result<Sources, SettingsError> {
        std::fs::create_dir_all(&self.data_dir)
            .map_err(|e| SettingsError::new(format!("--data-dir {}", self.data_dir.display()), e))?;
        let mut all: Vec<Arc<dyn Store>> = Vec::new();
        let mut remote = Vec::new();
        for dir in &self.config_dir {
            if !dir.is_dir() {
                let what = format!("--config-dir {}", dir.display());
                return Err(SettingsError::new(what, "is not a directory"));
            }
            all.push(Arc::new(File::new(next_id(&all, "file"), dir.clone(), Arc::clone(vault))));
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
                let identity = self.store_identity();
                let options = EtcdOptions { endpoints: endpoints.clone(), user, ca_file, identity };
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
                    identity: self.store_identity(),
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

    fn store_identity(&self) -> Option<(PathBuf, PathBuf)> {
        self.store_cert_file.clone().zip(self.store_key_file.clone())
    }

    /// What secrets are sealed and opened with, and how identities are issued. Makes the embedded store's key.
    ///
    /// # Errors
    /// A key file cannot be read, or holds no key.
    pub fn trust(&self) -> Result<Trust, SettingsError> {
        let flag = "--secret-key-file";
        let vault = match (&self.secret_key_file, std::env::var("PORTOLAN_SECRET_KEY")) {
            (Some(file), _) => Vault::parse(&secret(flag, file)?)
                .map_err(|e| SettingsError::new(format!("{flag} {}", file.display()), e))?,
            (None, Ok(text)) => {
                Vault::parse(&text).map_err(|e| SettingsError::new("PORTOLAN_SECRET_KEY", e))?
            }
            (None, Err(_)) if matches!(self.store, StoreUrl::Embedded(_)) => {
                let path = self.data_dir.join("secret.key");
                std::fs::create_dir_all(&self.data_dir)
                    .map_err(|e| SettingsError::new(format!("--data-dir {}", self.data_dir.display()), e))?;
                Vault::at(&path).map_err(|e| SettingsError::new(path.display().to_string(), e))?
            }
            (None, Err(_)) => Vault::empty(),
        };
        let authority = authority::Options {
            trust_domain: self.trust_domain.clone(),
            life: Duration::from_secs(self.identity_life),
        };
        Ok(Trust { vault: Arc::new(vault), authority })
    }

    /// TLS of the xDS port.
    pub fn xds_tls(&self) -> Option<PortTls> {
        let files = (self.xds_cert_file.clone()?, self.xds_key_file.clone()?);
        Some(PortTls::new("--xds-cert-file", files, self.xds_client_ca_file.clone()))
    }

    /// TLS of the API's port.
    pub fn api_tls(&self) -> Option<PortTls> {
        let files = (self.api_cert_file.clone()?, self.api_key_file.clone()?);
        Some(PortTls::new("--api-cert-file", files, self.api_client_ca_file.clone()))
    }

    /// Who is let in to the API, and where calls are written down.
    ///
    /// # Errors
    /// A file cannot be read or opened.
    pub fn access(&self) -> Result<(Access, Audit), SettingsError> {
        let bootstrap = match (&self.admin_token_file, std::env::var("PORTOLAN_ADMIN_TOKEN")) {
            (Some(file), _) => Some(secret("--admin-token-file", file)?),
            (None, Ok(token)) if !token.trim().is_empty() => Some(token.trim().to_owned()),
            (None, _) => None,
        };
        if bootstrap.as_ref().is_some_and(|token| token.len() < MIN_TOKEN) {
            let told = format!("is shorter than {MIN_TOKEN} characters (`openssl rand -hex 32` makes one)");
            return Err(SettingsError::new("--admin-token-file", told));
        }
        let audit = match &self.audit_log {
            Some(path) => Audit::open(path)
                .map_err(|e| SettingsError::new(format!("--audit-log {}", path.display()), e))?,
            None => Audit::default(),
        };
        Ok((Access::new(bootstrap.as_deref()), audit))
    }

    /// Refuses ports that others reach without TLS and authentication, unless told to.
    ///
    /// # Errors
    /// A port is beyond the loopback and open.
    pub fn check_ports(&self, access: &Access) -> Result<(), SettingsError> {
        let (xds, api) = (self.xds_address.ip(), self.api_address.ip());
        if self.insecure {
            return Ok(());
        }
        if !xds.is_loopback() && self.xds_client_ca_file.is_none() {
            let told = "is reachable from other machines: give --xds-cert-file, --xds-key-file and \
                        --xds-client-ca-file, or --insecure to serve secrets and configuration to whoever asks";
            return Err(SettingsError::new(format!("--xds-address {}", self.xds_address), told));
        }
        let limits = self.ratelimit.ratelimit_address;
        if !limits.ip().is_loopback() && self.xds_client_ca_file.is_none() {
            let told = "is reachable from other machines: give --xds-cert-file, --xds-key-file and \
                        --xds-client-ca-file, which it shares, or --insecure to count for whoever asks";
            return Err(SettingsError::new(format!("--ratelimit-address {limits}"), told));
        }
        if !api.is_loopback() && (self.api_cert_file.is_none() || !access.is_required()) {
            let told = "is reachable from other machines: give --api-cert-file, --api-key-file and \
                        --admin-token-file, or --insecure to let whoever asks change everything";
            return Err(SettingsError::new(format!("--api-address {}", self.api_address), told));
        }
        Ok(())
    }

    /// When lost instances are held.
    pub fn guard(&self) -> guard::Options {
        guard::Options {
            percent: self.mass_loss_percent,
            least: usize::try_from(self.mass_loss_least).unwrap_or(usize::MAX),
            window: Duration::from_secs(self.mass_loss_window),
            longest: Some(Duration::from_secs(self.mass_loss_hold)).filter(|hold| !hold.is_zero()),
        }
    }

    /// Age at which connections to the xDS port end.
    pub fn xds_max_age(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.xds_max_age)).filter(|age| !age.is_zero())
    }

    /// How long a build waits for more changes: quiet time and longest.
    pub fn debounce(&self) -> (Duration, Duration) {
        (Duration::from_millis(self.debounce_quiet_ms), Duration::from_millis(self.debounce_max_ms))
    }
}

/// Shortest bootstrap token, so that it is not guessed.
const MIN_TOKEN: usize = 16;

/// TLS of a port, by files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTls {
    flag: &'static str,
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities of clients, who must show a certificate.
    pub client_ca: Option<PathBuf>,
}

impl PortTls {
    fn new(flag: &'static str, (certificate, key): (PathBuf, PathBuf), client_ca: Option<PathBuf>) -> Self {
        Self { flag, certificate, key, client_ca }
    }

    /// The flag that asked for it.
    pub fn name(&self) -> &'static str {
        self.flag
    }
}

/// A trust domain, as SPIFFE writes it: lowercase letters, digits, `.`, `-` and `_`.
fn trust_domain(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if text.is_empty() || text.len() > 255 || !text.bytes().all(allowed) {
        return Err("expected lowercase letters, digits, `.`, `-` and `_`".to_owned());
    }
    Ok(text.to_owned())
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

/// A secret out of a file.
pub(crate) fn secret(flag: &str, file: &Path) -> Result<String, SettingsError> {
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
        let sources = settings.open_sources(&Arc::new(Vault::empty())).unwrap();
        let names: Vec<_> = sources.all.iter().map(|s| s.id().to_string()).collect();
        assert_eq!(names, ["file", "etcd", "consul"]);
        assert_eq!(
            (sources.config.id().to_string(), sources.services.id().to_string()),
            ("etcd".into(), "consul".into())
        );
        assert_eq!(sources.remote.len(), 2);
    }

    #[test]
    fn ports_beyond_the_loopback_need_tls_and_authentication_or_a_word() {
        let parse = |args: &[&str]| {
            Settings::parse_from(std::iter::once("portolan-control").chain(args.iter().copied()))
        };
        let check = |args: &[&str], token: Option<&str>| parse(args).check_ports(&Access::new(token));
        let (xds, api) = ("--xds-address=0.0.0.0:1", "--api-address=0.0.0.0:2");
        let xds_tls = ["--xds-cert-file=a", "--xds-key-file=b"];
        let api_tls = ["--api-cert-file=a", "--api-key-file=b"];
        assert!(check(&[], None).is_ok());
        assert!(check(&["--xds-address=[::1]:1"], None).is_ok());
        assert!(check(&[xds, api, "--insecure"], None).is_ok());
        assert!(check(&[xds], None).is_err());
        assert!(check(&[xds, xds_tls[0], xds_tls[1]], None).is_err(), "whoever asks would be served");
        assert!(check(&[xds, xds_tls[0], xds_tls[1], "--xds-client-ca-file=c"], None).is_ok());
        assert!(check(&[api], Some("t")).is_err(), "tokens would be read on the wire");
        assert!(check(&[api, api_tls[0], api_tls[1]], None).is_err());
        assert!(check(&[api, api_tls[0], api_tls[1]], Some("t")).is_ok());
        let told = check(&[api], None).unwrap_err();
        assert_eq!(told.to_string(), "--api-address 0.0.0.0:2");
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
        let error = settings.open_sources(&Arc::new(Vault::empty())).err().unwrap().to_string();
        assert_eq!(error, "--consul-token-file /nonexistent");
    }
}
