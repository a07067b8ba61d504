//! Log line formats: the part of spdlog's patterns that Envoy users write.

use arc_swap::ArcSwap;
use std::fmt;
use std::fmt::Write;
use std::sync::Arc;
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Envoy's default.
pub const DEFAULT_PATTERN: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// A compiled format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Flag(char),
}

/// Directives understood. `%j` is Envoy's: the message escaped for JSON; `%_` the same without line breaks.
const FLAGS: &str = "YmdHMSTDefFvlLnt@gs#Pjz_";

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The directives that are not understood; they would be written as they are.
    pub fn new(pattern: &str) -> Result<Self, Vec<String>> {
        let mut parts = Vec::new();
        let mut unknown = Vec::new();
        let mut text = String::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            match chars.next() {
                Some('%') => text.push('%'),
                // Colours: lines are never coloured.
                Some('^' | '$') => {}
                Some('C') => {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                    parts.push(Part::Flag('C'));
                }
                Some(flag) if FLAGS.contains(flag) => {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                    parts.push(Part::Flag(flag));
                }
                Some(flag) => unknown.push(format!("%{flag}")),
                None => unknown.push("%".into()),
            }
        }
        parts.push(Part::Text(text));
        parts.retain(|part| *part != Part::Text(String::new()));
        if unknown.is_empty() { Ok(Self(parts)) } else { Err(unknown) }
    }

    fn write(&self, out: &mut dyn Write, line: &Line<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.write_str(text)?,
                Part::Flag(flag) => line.write(*flag, out)?,
            }
        }
        out.write_char('\n')
    }
}

impl Default for Pattern {
    fn default() -> Self {
        Self::new(DEFAULT_PATTERN).expect("INVARIANT: a test compiles the default pattern")
    }
}

struct Line<'a> {
    at: OffsetDateTime,
    level: Level,
    component: &'a str,
    file: &'a str,
    line: u32,
    message: &'a str,
}

impl Line<'_> {
    fn write(&self, flag: char, out: &mut dyn Write) -> fmt::Result {
        let at = self.at;
        match flag {
            'Y' => write!(out, "{:04}", at.year()),
            'C' => write!(out, "{:02}", at.year() % 100),
            'm' => write!(out, "{:02}", u8::from(at.month())),
            'd' => write!(out, "{:02}", at.day()),
            'D' => write!(out, "{:02}/{:02}/{:02}", u8::from(at.month()), at.day(), at.year() % 100),
            'H' => write!(out, "{:02}", at.hour()),
            'M' => write!(out, "{:02}", at.minute()),
            'S' => write!(out, "{:02}", at.second()),
            'T' => write!(out, "{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second()),
            'e' => write!(out, "{:03}", at.millisecond()),
            'f' => write!(out, "{:06}", at.microsecond()),
            'F' => write!(out, "{:09}", at.nanosecond()),
            'z' => out.write_str("+00:00"),
            't' => write!(out, "{}", rustix::thread::gettid().as_raw_nonzero()),
            'P' => write!(out, "{}", std::process::id()),
            'l' => out.write_str(level_name(self.level)),
            'L' => {
                write!(out, "{}", level_name(self.level).chars().next().unwrap_or('?').to_ascii_uppercase())
            }
            'n' => out.write_str(self.component),
            'g' => out.write_str(self.file),
            's' => out.write_str(self.file.rsplit('/').next().unwrap_or(self.file)),
            '#' => write!(out, "{}", self.line),
            '@' => write!(out, "{}:{}", self.file, self.line),
            'j' => {
                let quoted = serde_json::Value::from(self.message).to_string();
                out.write_str(&quoted[1..quoted.len() - 1])
            }
            '_' => out.write_str(&self.message.replace('\n', "\\n")),
            _ => out.write_str(self.message),
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warning",
        Level::ERROR => "error",
    }
}

/// The message and fields of an event as one text: `message key=value key=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}

/// A pattern that can be changed while lines are written; clones share it.
#[derive(Clone)]
pub(super) struct SharedPattern(Arc<ArcSwap<Pattern>>);

impl SharedPattern {
    pub(super) fn new(pattern: Pattern) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(pattern)))
    }

    pub(super) fn set(&self, pattern: Pattern) {
        self.0.store(Arc::new(pattern));
    }
}

impl<S, N> FormatEvent<S, N> for SharedPattern
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = Text::default();
        event.record(&mut text);
        text.message.push_str(&text.fields);
        let meta = event.metadata();
        let component = meta.target().strip_prefix("data_plane::").unwrap_or(meta.target());
        let line = Line {
            at: OffsetDateTime::now_utc(),
            level: *meta.level(),
            component: component.split("::").next().unwrap_or(component),
            file: meta.file().unwrap_or("-"),
            line: meta.line().unwrap_or(0),
            message: &text.message,
        };
        self.0.load().write(&mut out, &line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pattern: &str) -> String {
        let line = Line {
            at: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap() + time::Duration::milliseconds(7),
            level: Level::WARN,
            component: "xds",
            file: "src/xds/mod.rs",
            line: 12,
            message: "say \"hi\"",
        };
        let mut out = String::new();
        Pattern::new(pattern).unwrap().write(&mut out, &line).unwrap();
        out
    }

    #[test]
    fn default_pattern_is_envoys() {
        let text = written(DEFAULT_PATTERN);
        assert!(text.starts_with("[2023-11-14 22:13:20.007]["), "{text}");
        assert!(text.ends_with("][warning][xds] [src/xds/mod.rs:12] say \"hi\"\n"), "{text}");
        assert_eq!(Pattern::default(), Pattern::new(DEFAULT_PATTERN).unwrap());
    }

    #[test]
    fn message_can_be_escaped_for_json() {
        assert_eq!(written("{\"l\":\"%L\",\"m\":\"%j\"}%%"), "{\"l\":\"W\",\"m\":\"say \\\"hi\\\"\"}%\n");
    }

    #[test]
    fn directives_that_are_not_understood_are_named() {
        assert_eq!(Pattern::new("%v %q %"), Err(vec!["%q".into(), "%".into()]));
    }
}
