//! Logs of the process: levels by component that change while serving, Envoy's line format, a file that is
//! reopened on SIGUSR1.
//!
//! Components are the modules of this crate; Envoy's component names mean the modules that do the same work.

mod pattern;

use pattern::SharedPattern;
pub use pattern::{DEFAULT_PATTERN, Pattern};

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// Modules that log, by name.
const COMPONENTS: &[&str] =
    &["admin", "codec", "http", "listener", "network", "server", "stats", "transport", "upstream", "xds"];

/// Envoy's component names and the modules that do their work.
const ENVOY_NAMES: &[(&str, &[&str])] = &[
    ("client", &["codec"]),
    ("config", &["xds"]),
    ("conn_handler", &["listener"]),
    ("connection", &["transport", "codec"]),
    ("dns", &["upstream"]),
    ("filter", &["network", "http"]),
    ("grpc", &["xds"]),
    ("http1", &["codec"]),
    ("http2", &["codec"]),
    ("init", &["xds"]),
    ("main", &["server"]),
    ("pool", &["upstream"]),
    ("router", &["http"]),
    ("runtime", &["server"]),
];

/// Envoy's names that stand for nothing here, taken without effect.
const NO_COMPONENT: &[&str] = &[
    "alternate_protocols_cache",
    "aws",
    "assert",
    "backtrace",
    "basic_auth",
    "cache_filter",
    "compression",
    "composite",
    "connection_limit",
    "credential_injector",
    "decompression",
    "dubbo",
    "dynamic_modules",
    "dynamic_forward_proxy",
    "envoy_bug",
    "ext_authz",
    "ext_proc",
    "external_processor",
    "file",
    "forward_proxy",
    "geolocation",
    "golang",
    "happy_eyeballs",
    "hc",
    "health_checker",
    "hystrix",
    "io",
    "jwt",
    "kafka",
    "key_value_store",
    "lua",
    "matcher",
    "misc",
    "mongo",
    "multi_connection",
    "oauth2",
    "quic",
    "quic_stream",
    "rate_limit_quota",
    "ratelimit",
    "rbac",
    "redis",
    "rocketmq",
    "secret",
    "stateful_session",
    "tap",
    "tcp",
    "testing",
    "thrift",
    "tls",
    "tracing",
    "udp",
    "wasm",
    "websocket",
];

/// A log level by Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(LevelFilter);

impl Level {
    /// The default.
    pub const INFO: Self = Self(LevelFilter::INFO);
}

/// Not one of Envoy's level names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid log level {0:?}; expected trace, debug, info, warning, error, critical or off")]
pub struct UnknownLevel(String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        Ok(Self(match name {
            "trace" => LevelFilter::TRACE,
            "debug" => LevelFilter::DEBUG,
            "info" => LevelFilter::INFO,
            "warning" | "warn" => LevelFilter::WARN,
            // There is no level above error.
            "error" | "err" | "critical" => LevelFilter::ERROR,
            "off" => LevelFilter::OFF,
            other => return Err(UnknownLevel(other.into())),
        }))
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            LevelFilter::WARN => "warning",
            LevelFilter::TRACE => "trace",
            LevelFilter::DEBUG => "debug",
            LevelFilter::INFO => "info",
            LevelFilter::ERROR => "error",
            _ => "off",
        })
    }
}

/// Not the name of a component.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown component {0:?}")]
pub struct UnknownComponent(String);

/// How to log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of components without their own.
    pub level: Level,
    /// By component.
    pub components: Vec<(String, Level)>,
    /// Appended to; `None`: standard error.
    pub path: Option<PathBuf>,
    /// Line format.
    pub pattern: Pattern,
}

/// The levels in force and where lines go; clones share them.
#[derive(Clone)]
pub struct Logging(Arc<Inner>);

struct Inner {
    levels: Mutex<Levels>,
    handle: reload::Handle<Targets, Registry>,
    pattern: SharedPattern,
    output: Output,
}

impl std::fmt::Debug for Logging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Logging").field(&*self.0.levels.lock()).finish()
    }
}

#[derive(Clone, Debug)]
struct Levels {
    default: Level,
    components: BTreeMap<&'static str, Level>,
}

impl Levels {
    fn set(&mut self, component: &str, level: Level) -> Result<(), UnknownComponent> {
        let own = COMPONENTS.iter().position(|c| *c == component).map(|i| &COMPONENTS[i..=i]);
        let envoys = ENVOY_NAMES.iter().find(|(name, _)| *name == component).map(|(_, modules)| *modules);
        let modules: &[&'static str] = match own.or(envoys) {
            Some(modules) => modules,
            None if NO_COMPONENT.contains(&component) => &[],
            None => return Err(UnknownComponent(component.into())),
        };
        self.components.extend(modules.iter().map(|module| (*module, level)));
        Ok(())
    }

    fn targets(&self) -> Targets {
        let own = self.components.iter().map(|(module, level)| (format!("data_plane::{module}"), level.0));
        // What is beneath us is only of interest when everything is.
        let beneath = if self.default.0 == LevelFilter::TRACE {
            LevelFilter::TRACE
        } else {
            self.default.0.min(LevelFilter::WARN)
        };
        Targets::new()
            .with_default(beneath)
            .with_target("data_plane", self.default.0)
            .with_target("portolan_proxy", self.default.0)
            .with_targets(own)
    }
}

impl Logging {
    /// Starts to log, for the whole process.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(settings: Settings) -> io::Result<(Self, Vec<UnknownComponent>)> {
        let mut levels = Levels { default: settings.level, components: BTreeMap::new() };
        let unknown =
            settings.components.iter().filter_map(|(c, level)| levels.set(c, *level).err()).collect();
        let output = Output::open(settings.path.as_deref())?;
        let (filter, handle) = reload::Layer::new(levels.targets());
        let writer = output.clone();
        let pattern = SharedPattern::new(settings.pattern);
        let lines = fmt::layer().event_format(pattern.clone()).with_writer(move || writer.clone());
        // A second proxy of a process logs where the first does.
        let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
        Ok((Self(Arc::new(Inner { levels: Mutex::new(levels), handle, pattern, output })), unknown))
    }

    /// Lines look so from now on.
    pub fn set_pattern(&self, pattern: Pattern) {
        self.0.pattern.set(pattern);
    }

    /// Every component and its level, by name.
    pub fn levels(&self) -> Vec<(&'static str, Level)> {
        let levels = self.0.levels.lock();
        COMPONENTS.iter().map(|c| (*c, levels.components.get(c).copied().unwrap_or(levels.default))).collect()
    }

    /// Sets the level of every component.
    pub fn set_all(&self, level: Level) {
        let mut levels = self.0.levels.lock();
        levels.default = level;
        levels.components.clear();
        self.reload(&levels);
    }

    /// Sets the level of one component.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn set(&self, component: &str, level: Level) -> Result<(), UnknownComponent> {
        let mut levels = self.0.levels.lock();
        levels.set(component, level)?;
        self.reload(&levels);
        Ok(())
    }

    /// Opens the file anew, as after it was rotated away.
    pub fn reopen(&self) -> io::Result<()> {
        self.0.output.reopen()
    }

    fn reload(&self, levels: &Levels) {
        // Fails only when the subscriber is gone.
        let _ = self.0.handle.reload(levels.targets());
    }
}

/// Where lines go.
#[derive(Clone)]
enum Output {
    Stderr,
    File(Arc<(PathBuf, Mutex<File>)>),
}

impl Output {
    fn open(path: Option<&Path>) -> io::Result<Self> {
        Ok(match path {
            None => Self::Stderr,
            Some(path) => Self::File(Arc::new((path.into(), Mutex::new(append_to(path)?)))),
        })
    }

    fn reopen(&self) -> io::Result<()> {
        if let Self::File(file) = self {
            let opened = append_to(&file.0)?;
            *file.1.lock() = opened;
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stderr => io::stderr().write(bytes),
            Self::File(file) => file.1.lock().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_level_names_are_understood() {
        for (name, shown) in
            [("warning", "warning"), ("critical", "error"), ("off", "off"), ("trace", "trace")]
        {
            assert_eq!(name.parse::<Level>().unwrap().to_string(), shown);
        }
        assert!("loud".parse::<Level>().is_err());
    }

    #[test]
    fn envoys_components_mean_the_modules_that_do_their_work() {
        let mut levels = Levels { default: Level::INFO, components: BTreeMap::new() };
        let debug: Level = "debug".parse().unwrap();
        levels.set("connection", debug).unwrap();
        levels.set("wasm", debug).unwrap();
        assert_eq!(levels.components.keys().copied().collect::<Vec<_>>(), ["codec", "transport"]);
        assert!(levels.set("nonsense", debug).is_err());
    }

    #[test]
    fn lists_are_sorted_so_that_names_are_found() {
        assert!(COMPONENTS.is_sorted());
        assert!(ENVOY_NAMES.is_sorted_by_key(|(name, _)| *name));
        for (_, modules) in ENVOY_NAMES {
            assert!(modules.iter().all(|m| COMPONENTS.contains(m)));
        }
    }
}
