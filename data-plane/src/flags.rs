//! The command line: Envoy's flags, so that what starts Envoy starts this proxy.

use clap::{Args, Parser, ValueEnum};
use data_plane::server::logging::{DEFAULT_PATTERN, Level, Pattern, Settings};
use data_plane::server::{self, DrainStrategy, Logging, Options, Origin, UnknownFields};
use data_plane_core::translate::Overrides;
use serde_json::{Map, Value, json};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

/// A proxy that speaks Envoy's configuration.
#[derive(Debug, Parser)]
#[command(name = "portolan-proxy", disable_version_flag = true)]
pub(crate) struct Flags {
    /// Bootstrap file: YAML, JSON, or .pb
    #[arg(short = 'c', long, value_name = "PATH")]
    config_path: Option<PathBuf>,

    /// Bootstrap as YAML, merged over --config-path
    #[arg(long, value_name = "YAML")]
    config_yaml: Option<String>,

    /// Serve, or only check the configuration
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub(crate) mode: Mode,

    /// Worker threads; the number of cores by default
    #[arg(long, allow_negative_numbers = true)]
    concurrency: Option<usize>,

    /// Node id
    #[arg(long)]
    service_node: Option<String>,

    /// Cluster name of the node
    #[arg(long)]
    service_cluster: Option<String>,

    /// Zone of the node
    #[arg(long)]
    service_zone: Option<String>,

    /// trace, debug, info, warning, error, critical or off
    #[arg(short = 'l', long, default_value = "info")]
    log_level: Level,

    /// Levels by component: upstream:debug,connection:trace
    #[arg(long, value_delimiter = ',', value_parser = component_level)]
    component_log_level: Vec<(String, Level)>,

    /// Log file, opened anew on SIGUSR1; standard error by default
    #[arg(long, value_name = "PATH")]
    log_path: Option<PathBuf>,

    #[arg(
        long,
        value_name = "PATTERN",
        help = "Log line format, in spdlog's directives; not with the bootstrap's application_log_config \
                [default: \"[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v\"]"
    )]
    log_format: Option<String>,

    /// Longest wait for connections to end when draining, seconds
    #[arg(long, default_value_t = 600, allow_negative_numbers = true)]
    drain_time_s: u64,

    /// Longest time that access-log lines wait to be written, milliseconds
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    file_flush_interval_msec: u64,

    /// TAG:VALUE added to every metric for Prometheus; may be repeated
    #[arg(long, value_name = "TAG:VALUE", value_parser = stats_tag)]
    stats_tag: Vec<(String, String)>,

    /// How clients of listeners that drain are told to leave: over time or at once
    #[arg(long, value_enum, default_value_t = Strategy::Gradual)]
    drain_strategy: Strategy,

    /// File that the bound admin address is written to
    #[arg(long, value_name = "PATH")]
    admin_address_path: Option<PathBuf>,

    /// Report unknown fields of the bootstrap instead of refusing it
    #[arg(long, visible_alias = "allow-unknown-fields")]
    allow_unknown_static_fields: bool,

    /// Refuse xDS resources with unknown fields instead of counting and logging them
    #[arg(long)]
    reject_unknown_dynamic_fields: bool,

    /// Neither count nor log unknown fields of xDS resources
    #[arg(long)]
    ignore_unknown_dynamic_fields: bool,

    /// Print the version
    #[arg(long)]
    pub(crate) version: bool,

    #[command(flatten)]
    ignored: Ignored,
}

/// Envoy's flags that are accepted and have no effect.
#[derive(Args, Debug)]
#[command(next_help_heading = "Accepted for Envoy's sake, without effect")]
struct Ignored {
    #[arg(long, hide = true)]
    base_id: Option<u32>,
    #[arg(long, hide = true)]
    base_id_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    use_dynamic_base_id: bool,
    #[arg(long, hide = true)]
    skip_hot_restart_on_no_parent: bool,
    #[arg(long, hide = true)]
    skip_hot_restart_parent_stats: bool,
    #[arg(long, hide = true)]
    restart_epoch: Option<u32>,
    #[arg(long, hide = true)]
    parent_shutdown_time_s: Option<u64>,
    #[arg(long, hide = true)]
    disable_hot_restart: bool,
    #[arg(long, hide = true)]
    hot_restart_version: bool,
    #[arg(long, hide = true)]
    skip_deprecated_logs: bool,
    #[arg(long, hide = true)]
    log_format_escaped: bool,
    #[arg(long, hide = true)]
    enable_fine_grain_logging: bool,
    #[arg(long, hide = true)]
    file_flush_min_size_kb: Option<u64>,
    #[arg(long, hide = true)]
    local_address_ip_version: Option<String>,
    #[arg(long, hide = true)]
    ignore_unknown_fields: bool,
    #[arg(long, hide = true)]
    cpuset_threads: bool,
    #[arg(long, hide = true)]
    disable_extensions: Option<String>,
    #[arg(long, hide = true)]
    enable_core_dump: bool,
    #[arg(long, hide = true)]
    socket_path: Option<String>,
    #[arg(long, hide = true)]
    socket_mode: Option<String>,
    #[arg(long, hide = true)]
    bootstrap_version: Option<u32>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Serve.
    Serve,
    /// Check the configuration and end.
    Validate,
    /// Bring everything up but the workers' traffic, and end.
    #[value(name = "init_only")]
    InitOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Strategy {
    Gradual,
    Immediate,
}

fn component_level(text: &str) -> Result<(String, Level), String> {
    let (component, level) = text.split_once(':').ok_or("expected COMPONENT:LEVEL")?;
    let level = level.parse().map_err(|e: server::logging::UnknownLevel| e.to_string())?;
    Ok((component.into(), level))
}

fn stats_tag(text: &str) -> Result<(String, String), String> {
    let (tag, value) = text.split_once(':').filter(|(tag, _)| !tag.is_empty()).ok_or("expected TAG:VALUE")?;
    Ok((tag.into(), value.into()))
}

impl Flags {
    /// Where the bootstrap is.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            path: self.config_path.clone(),
            yaml: self.config_yaml.clone(),
            overrides: Overrides {
                node_id: self.service_node.clone(),
                node_cluster: self.service_cluster.clone(),
                zone: self.service_zone.clone(),
            },
            allow_unknown_fields: self.allow_unknown_static_fields,
            stats_tags: self.stats_tag.clone(),
        }
    }

    /// The bootstrap's name in messages.
    pub(crate) fn config_name(&self) -> String {
        self.config_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }

    /// How to log. Directives that are not understood are named, and the default format used.
    pub(crate) fn logging(&self) -> (Settings, Vec<String>) {
        let (pattern, unknown) = match self.log_format.as_deref().map(Pattern::new) {
            None => (Pattern::default(), Vec::new()),
            Some(Ok(pattern)) => (pattern, Vec::new()),
            Some(Err(unknown)) => (Pattern::default(), unknown),
        };
        let settings = Settings {
            level: self.log_level,
            components: self.component_log_level.clone(),
            path: self.log_path.clone(),
            pattern,
        };
        (settings, unknown)
    }

    /// Whether it is said here how log lines look.
    pub(crate) fn has_log_format(&self) -> bool {
        self.log_format.is_some()
    }

    /// How to run.
    pub(crate) fn options(&self, logging: Logging) -> Options {
        Options {
            concurrency: self.concurrency(),
            drain_time: Duration::from_secs(self.drain_time_s),
            unknown_dynamic_fields: match (
                self.reject_unknown_dynamic_fields,
                self.ignore_unknown_dynamic_fields,
            ) {
                (true, _) => UnknownFields::Refuse,
                (false, true) => UnknownFields::Ignore,
                (false, false) => UnknownFields::Warn,
            },
            drain_strategy: match self.drain_strategy {
                Strategy::Gradual => DrainStrategy::Gradual,
                Strategy::Immediate => DrainStrategy::Immediate,
            },
            access_log_flush: Duration::from_millis(self.file_flush_interval_msec),
            admin_address_path: self.admin_address_path.clone(),
            signals: true,
            logging: Some(logging),
            give_back: crate::allocator::give_back,
            command_line: self.command_line(),
        }
    }

    /// Flags given that have no effect, for the log.
    pub(crate) fn without_effect(&self) -> Vec<&'static str> {
        let Ignored {
            base_id,
            base_id_path,
            use_dynamic_base_id,
            skip_hot_restart_on_no_parent,
            skip_hot_restart_parent_stats,
            restart_epoch,
            parent_shutdown_time_s,
            disable_hot_restart,
            hot_restart_version,
            skip_deprecated_logs,
            log_format_escaped,
            enable_fine_grain_logging,
            file_flush_min_size_kb,
            local_address_ip_version,
            ignore_unknown_fields,
            cpuset_threads,
            disable_extensions,
            enable_core_dump,
            socket_path,
            socket_mode,
            bootstrap_version,
        } = &self.ignored;
        let given = [
            ("--base-id", base_id.is_some()),
            ("--base-id-path", base_id_path.is_some()),
            ("--use-dynamic-base-id", *use_dynamic_base_id),
            ("--skip-hot-restart-on-no-parent", *skip_hot_restart_on_no_parent),
            ("--skip-hot-restart-parent-stats", *skip_hot_restart_parent_stats),
            ("--restart-epoch", restart_epoch.is_some()),
            ("--parent-shutdown-time-s", parent_shutdown_time_s.is_some()),
            ("--disable-hot-restart", *disable_hot_restart),
            ("--hot-restart-version", *hot_restart_version),
            ("--skip-deprecated-logs", *skip_deprecated_logs),
            ("--log-format-escaped", *log_format_escaped),
            ("--enable-fine-grain-logging", *enable_fine_grain_logging),
            ("--file-flush-min-size-kb", file_flush_min_size_kb.is_some()),
            ("--local-address-ip-version", local_address_ip_version.is_some()),
            ("--ignore-unknown-fields", *ignore_unknown_fields),
            ("--cpuset-threads", *cpuset_threads),
            ("--disable-extensions", disable_extensions.is_some()),
            ("--enable-core-dump", *enable_core_dump),
            ("--socket-path", socket_path.is_some()),
            ("--socket-mode", socket_mode.is_some()),
            ("--bootstrap-version", bootstrap_version.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }

    fn concurrency(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        // Envoy: 0 means one.
        self.concurrency.map_or_else(cores, |n| n.max(1))
    }

    /// Envoy's `command_line_options` of `/server_info`.
    fn command_line(&self) -> Map<String, Value> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let value = json!({
            "base_id": "0",
            "concurrency": self.concurrency(),
            "config_path": self.config_name(),
            "config_yaml": text(&self.config_yaml),
            "allow_unknown_static_fields": self.allow_unknown_static_fields,
            "reject_unknown_dynamic_fields": self.reject_unknown_dynamic_fields,
            "ignore_unknown_dynamic_fields": self.ignore_unknown_dynamic_fields,
            "admin_address_path": self.admin_address_path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
            "log_level": self.log_level.to_string(),
            "component_log_level": self.component_log_level.iter().map(|(c, l)| format!("{c}:{l}")).collect::<Vec<_>>().join(","),
            "log_format": self.log_format.as_deref().unwrap_or(DEFAULT_PATTERN),
            "log_path": self.log_path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
            "service_cluster": text(&self.service_cluster),
            "service_node": text(&self.service_node),
            "service_zone": text(&self.service_zone),
            "drain_time": format!("{}s", self.drain_time_s),
            "drain_strategy": if self.drain_strategy == Strategy::Gradual { "Gradual" } else { "Immediate" },
            "mode": match self.mode { Mode::Serve => "Serve", Mode::Validate => "Validate", Mode::InitOnly => "InitOnly" },
            "disable_hot_restart": true,
            "restart_epoch": self.ignored.restart_epoch.unwrap_or(0),
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, clap::Error> {
        Flags::try_parse_from(std::iter::once("portolan-proxy").chain(args.iter().copied()))
    }

    #[test]
    fn what_istio_passes_is_accepted() {
        let flags = parse(&[
            "-c",
            "etc/istio/proxy/envoy-rev0.json",
            "--drain-time-s",
            "45",
            "--drain-strategy",
            "immediate",
            "--local-address-ip-version",
            "v4",
            "--file-flush-interval-msec",
            "1000",
            "--disable-hot-restart",
            "--allow-unknown-static-fields",
            "-l",
            "warning",
            "--component-log-level",
            "misc:error",
            "--concurrency",
            "2",
            "--service-cluster",
            "a",
            "--service-node",
            "b",
            "--parent-shutdown-time-s",
            "60",
            "--skip-deprecated-logs",
            "--log-format",
            "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t",
        ])
        .unwrap();
        assert_eq!(flags.concurrency(), 2);
        assert!(flags.without_effect().contains(&"--disable-hot-restart"));
        assert_eq!(flags.logging().1, Vec::<String>::new());
        assert_eq!(flags.origin().overrides.node_id.as_deref(), Some("b"));
    }

    #[test]
    fn unknown_flags_and_levels_are_refused() {
        assert!(parse(&["--no-such-flag"]).is_err());
        assert!(parse(&["-l", "loud"]).is_err());
        assert!(parse(&["--component-log-level", "upstream"]).is_err());
    }

    #[test]
    fn a_log_format_that_is_not_understood_is_named() {
        let flags = parse(&["--log-format", "%v %q"]).unwrap();
        assert_eq!(flags.logging().1, ["%q"]);
    }
}
