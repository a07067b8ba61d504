//! Reading the bootstrap: text, command-line overrides, translation. Every error is reported at once, with its
//! place in the text.

use super::data::SystemData;
use super::logging::Pattern;
use crate::export::Knobs;
use data_plane_core::config;
use data_plane_core::path::{Diagnostics, Finding, Path, Rejected};
use data_plane_core::translate::{self, Options, Overrides};
use prost::Message;
use std::path::PathBuf;
use std::sync::Arc;
use xds_types::envoy::config::bootstrap::v3::Bootstrap;
use xds_types::text::{self, Positions, Source, UnknownFields};

/// A bootstrap that was read and found valid.
#[derive(Clone, Debug)]
pub struct Boot {
    /// What the proxy is built from.
    pub config: config::Bootstrap,
    /// The message it came from, for `/config_dump`.
    pub proto: Box<Bootstrap>,
    /// Fields that were set and have no effect.
    pub ignored: Vec<Finding>,
    /// How many of them are fields that are not known here.
    pub unknown_fields: usize,
    /// Lines of the log, where it says.
    pub log_pattern: Option<Pattern>,
    /// Where to read it again on SIGHUP.
    pub origin: Option<Origin>,
}

/// Where a bootstrap is read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `--config-path`.
    pub path: Option<PathBuf>,
    /// `--config-yaml`, merged over the file.
    pub yaml: Option<String>,
    /// `--service-node` and the like.
    pub overrides: Overrides,
    /// `--allow-unknown-static-fields`.
    pub allow_unknown_fields: bool,
    /// `--stats-tag`: tags with a fixed value, over those of the bootstrap.
    pub stats_tags: Vec<(String, String)>,
}

/// Why a bootstrap is refused: all reasons, each with its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BootError(pub Vec<String>);

/// A text that was parsed, and how to say where in it something is.
struct Parsed {
    name: String,
    proto: Bootstrap,
    positions: Positions,
    unknown: Vec<Finding>,
}

impl Boot {
    /// Whether nothing is learned from files or control planes once this is applied.
    pub fn is_static(&self) -> bool {
        let config::Dynamic { lds, cds, ads } = &self.config.dynamic;
        let eds = |c: &Arc<config::Cluster>| matches!(c.discovery, config::Discovery::Eds { .. });
        let rds = |l: &Arc<config::Listener>| {
            let chains = l.filter_chains.iter().chain(&l.default_filter_chain);
            chains.flat_map(|c| &c.filters).any(|filter| match filter {
                config::NetworkFilter::Http(hcm) => matches!(hcm.routes, config::RouteSource::Rds { .. }),
                config::NetworkFilter::Tcp(_)
                | config::NetworkFilter::DirectResponse(_)
                | config::NetworkFilter::Echo
                | config::NetworkFilter::ConnectionLimit(_) => false,
            })
        };
        lds.is_none()
            && cds.is_none()
            && ads.is_none()
            && !self.config.clusters.iter().any(eds)
            && !self.config.listeners.iter().any(rds)
    }

    /// Reads YAML or JSON.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn from_yaml(text: &str) -> Result<Self, BootError> {
        let parsed = parse("bootstrap", text, false)?;
        Self::build(vec![parsed], &Overrides::default(), false)
    }

    /// Reads what the command line names.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(origin: &Origin) -> Result<Self, BootError> {
        let mut parsed = Vec::new();
        let mut errors = Vec::new();
        if let Some(path) = &origin.path {
            match read_file(path, origin.allow_unknown_fields) {
                Ok(one) => parsed.push(one),
                Err(error) => errors.extend(error.0),
            }
        }
        if let Some(yaml) = &origin.yaml {
            match parse("--config-yaml", yaml, origin.allow_unknown_fields) {
                Ok(one) => parsed.push(one),
                Err(error) => errors.extend(error.0),
            }
        }
        if !errors.is_empty() {
            return Err(BootError(errors));
        }
        if parsed.is_empty() {
            return Err(BootError(vec![
                "At least one of --config-path or --config-yaml or Options::configProto() should be non-empty".into(),
            ]));
        }
        let mut boot = Self::build(parsed, &origin.overrides, origin.allow_unknown_fields)?;
        boot.config.stats.fixed_tags.extend(origin.stats_tags.iter().cloned());
        boot.origin = Some(origin.clone());
        Ok(boot)
    }

    /// Merges the texts in order and translates the whole.
    fn build(mut parsed: Vec<Parsed>, overrides: &Overrides, allow_unknown: bool) -> Result<Self, BootError> {
        let mut proto = Bootstrap::default();
        for one in &parsed {
            proto =
                text::merge(&proto, &one.proto).map_err(|e| BootError(vec![format!("cannot merge: {e}")]))?;
        }
        overrides.apply(&mut proto);
        let mut d = Diagnostics::default();
        let data = SystemData;
        let root = Path::root("");
        let config = translate::bootstrap(proto.clone(), &root, &mut d, &Options::new(&data));
        let log_pattern = match &config {
            Ok(config) => log_pattern(config.log_format.as_ref(), &root, &mut d),
            Err(Rejected) => Err(Rejected),
        };
        let config = match config {
            Ok(config) if !knobs_are_right(&config, &root, &mut d) => Err(Rejected),
            config => config,
        };
        let mut ignored: Vec<Finding> =
            parsed.iter_mut().flat_map(|p| std::mem::take(&mut p.unknown)).collect();
        // Of binary files.
        ignored.append(&mut d.unknown);
        let unknown_fields = ignored.len();
        if unknown_fields > 0 && !allow_unknown {
            let lines = d.rejected.iter().chain(&ignored).map(|finding| explain(finding, &parsed));
            return Err(BootError(lines.collect()));
        }
        ignored.append(&mut d.ignored);
        match config.and_then(|config| Ok((config, log_pattern?))) {
            Ok((config, log_pattern)) => {
                let proto = Box::new(proto);
                Ok(Self { config, proto, ignored, unknown_fields, log_pattern, origin: None })
            }
            Err(Rejected) => {
                let mut lines: Vec<String> = d.rejected.iter().map(|f| explain(f, &parsed)).collect();
                if d.omitted > 0 {
                    lines.push(format!("and {} more", d.omitted));
                }
                Err(BootError(lines))
            }
        }
    }
}

/// The compiled `application_log_config`.
fn log_pattern(
    format: Option<&config::LogFormat>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Option<Pattern>, Rejected> {
    let Some(config::LogFormat { pattern, json }) = format else { return Ok(None) };
    Pattern::new(pattern).map(Some).map_err(|unknown| {
        let (at, field) =
            (at.field("application_log_config"), if *json { "json_format" } else { "text_format" });
        let at = at.field("log_format");
        d.reject(&at.field(field), format_args!("{} is not understood", unknown.join(", ")))
    })
}

/// Whether what `layered_runtime` says of exporters can be used.
fn knobs_are_right(config: &config::Bootstrap, root: &Path<'_>, d: &mut Diagnostics) -> bool {
    let bad = Knobs::check(&config.runtime);
    let at = root.field("layered_runtime");
    for (key, reason) in &bad {
        d.reject(&at.key(key), reason);
    }
    bad.is_empty()
}

/// A finding with its place. Paths are those of the merged message.
fn explain(finding: &Finding, parsed: &[Parsed]) -> String {
    let Finding { path, message } = finding;
    let colon = if path.is_empty() { "" } else { ": " };
    let place = match parsed {
        [one] => one.positions.locate(path).map(|place| (0, place)),
        several => Positions::locate_merged(&several.iter().map(|p| &p.positions).collect::<Vec<_>>(), path),
    };
    match place {
        Some((text, place)) => {
            format!("{path}{colon}{message} ({}:{}:{})", parsed[text].name, place.line, place.column)
        }
        None => format!("{path}{colon}{message}"),
    }
}

fn read_file(path: &std::path::Path, allow_unknown: bool) -> Result<Parsed, BootError> {
    let name = path.to_string_lossy();
    let fail = |why: String| BootError(vec![format!("{name}: {why}")]);
    let bytes = std::fs::read(path).map_err(|e| fail(format!("unable to read file: {e}")))?;
    if path.extension().is_some_and(|e| e == "pb") {
        let proto = Bootstrap::decode(&*bytes).map_err(|e| fail(e.to_string()))?;
        let unknown = translate::unknown_fields(&bytes, &proto);
        return Ok(Parsed { name: name.into(), proto, positions: Positions::default(), unknown });
    }
    let text = String::from_utf8(bytes).map_err(|e| fail(e.to_string()))?;
    parse(&name, &text, allow_unknown)
}

fn parse(name: &str, text: &str, allow_unknown: bool) -> Result<Parsed, BootError> {
    let unknown_fields = if allow_unknown { UnknownFields::Report } else { UnknownFields::Refuse };
    let options = text::Options { unknown_fields };
    let parsed = text::parse_with(Source { name, text }, options)
        .map_err(|errors| BootError(errors.to_string().lines().map(Into::into).collect()))?;
    let unknown =
        parsed.ignored.list.into_iter().map(|e| Finding { path: e.path, message: e.message }).collect();
    Ok(Parsed { name: name.into(), proto: parsed.message, positions: parsed.positions, unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_told_with_its_place() {
        let text = "static_resources:\n  clusters:\n  - name: a\n    connect_timeout: -1s\n  - name: b\n    lb_policy: CLUSTER_PROVIDED\n";
        let BootError(lines) = Boot::from_yaml(text).unwrap_err();
        assert!(lines.iter().any(|l| l.contains("clusters[0]") && l.contains("(bootstrap:4:")), "{lines:?}");
        assert!(lines.iter().any(|l| l.contains("clusters[1]") && l.contains("(bootstrap:")), "{lines:?}");
    }

    #[test]
    fn unknown_field_is_refused_with_its_place_unless_allowed() {
        let text = "nod:\n  id: a\n";
        let BootError(lines) = Boot::from_yaml(text).unwrap_err();
        assert!(lines[0].contains("nod") && lines[0].contains("(bootstrap:1:1)"), "{lines:?}");
        let origin = Origin { yaml: Some(text.into()), allow_unknown_fields: true, ..Origin::default() };
        let boot = Boot::read(&origin).unwrap();
        assert_eq!(boot.ignored.len(), 1, "{:?}", boot.ignored);
    }

    #[test]
    fn yaml_of_the_command_line_is_merged_over_the_file_and_flags_over_both() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.yaml");
        std::fs::write(&path, "node:\n  id: file\n  cluster: file\n").unwrap();
        let origin = Origin {
            path: Some(path),
            yaml: Some("node: {id: yaml}".into()),
            overrides: Overrides { zone: Some("z".into()), ..Overrides::default() },
            ..Origin::default()
        };
        let node = Boot::read(&origin).unwrap().config.node;
        assert_eq!((&*node.id, &*node.cluster, &*node.locality.zone), ("yaml", "file", "z"));
    }

    #[test]
    fn of_merged_texts_the_one_is_named_that_holds_the_field() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.yaml");
        let cluster = |name: &str, fields: &str| format!("{{name: {name}, {fields}}}");
        let text = format!(
            "admin: {{}}\nstatic_resources:\n  clusters:\n  - {}\n  - {}\n",
            cluster("a", "connect_timeout: -1s"),
            cluster("b", "connect_timeout: 1s"),
        );
        std::fs::write(&path, text).unwrap();
        let yaml = format!(
            "stats_flush_interval: -1s\nstatic_resources:\n  clusters: [{}]\n",
            cluster("c", "connect_timeout: -1s")
        );
        let origin = Origin { path: Some(path.clone()), yaml: Some(yaml), ..Origin::default() };
        let BootError(lines) = Boot::read(&origin).unwrap_err();
        for (field, place) in [
            ("static_resources.clusters[0].connect_timeout", format!("({}:4:32)", path.display())),
            ("static_resources.clusters[2].connect_timeout", "(--config-yaml:3:41)".into()),
            ("stats_flush_interval", "(--config-yaml:1:23)".into()),
        ] {
            let line = lines.iter().find(|line| line.starts_with(field));
            assert!(line.is_some_and(|line| line.ends_with(&place)), "{field} {place}: {lines:#?}");
        }
    }

    #[test]
    fn fields_of_a_binary_bootstrap_that_are_not_known_are_refused_unless_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.pb");
        // Field 1999, a varint.
        std::fs::write(&path, [0xf8, 0x7c, 1]).unwrap();
        let origin = Origin { path: Some(path), ..Origin::default() };
        let BootError(lines) = Boot::read(&origin).unwrap_err();
        let told = "field 1999 of envoy.config.bootstrap.v3.Bootstrap is not known here";
        assert!(lines.len() == 1 && lines[0].starts_with(told), "{lines:?}");
        let boot = Boot::read(&Origin { allow_unknown_fields: true, ..origin }).unwrap();
        assert_eq!((boot.unknown_fields, boot.ignored.len()), (1, 1));
    }

    #[test]
    fn missing_file_is_named() {
        let origin = Origin { path: Some("/nonexistent/b.yaml".into()), ..Origin::default() };
        let BootError(lines) = Boot::read(&origin).unwrap_err();
        assert!(lines[0].contains("/nonexistent/b.yaml"), "{lines:?}");
    }
}
