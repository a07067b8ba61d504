//! Where a configuration error is, and the list that collects such errors.
//!
//! [`Path`] is built top-down on the stack while a message is translated and allocates only when printed.
//! [`Diagnostics`] collects every rejection and every ignored field, so that all are reported at once.
//! Never decides what is an error: `translate` does.

use std::fmt;

#[derive(Clone, Copy)]
enum Step<'a> {
    Root(&'a str),
    Field(&'static str),
    Index(usize),
    Key(&'a str),
}

/// Where we are inside the message being translated.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

impl<'a> Path<'a> {
    /// The outermost step: a resource's name or the empty string for a whole file.
    pub fn root(name: &'a str) -> Self {
        Self { parent: None, step: Step::Root(name) }
    }

    /// Steps into a field.
    pub fn field<'b>(&'b self, name: &'static str) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    /// Steps into an element of a repeated field.
    pub fn index<'b>(&'b self, index: usize) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// Steps into a map entry.
    pub fn key<'b>(&'b self, key: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root(name) => f.write_str(name),
            Step::Field(name) => {
                let at_start = matches!(self.parent, Some(Path { parent: None, step: Step::Root("") }));
                write!(f, "{}{name}", if at_start { "" } else { "." })
            }
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

/// One finding: where and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Field path in Envoy's proto names.
    pub path: String,
    /// What is wrong, lowercase, no full stop.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Findings kept of one kind; further ones are only counted.
pub const MAX_FINDINGS: usize = 32;

/// Everything found while translating one resource or file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// Why the resource is refused.
    pub rejected: Vec<Finding>,
    /// Fields that were set and have no effect here.
    pub ignored: Vec<Finding>,
    /// Fields that this proxy's version of the API does not have: nothing is known of what they ask for.
    pub unknown: Vec<Finding>,
    /// Rejections past [`MAX_FINDINGS`].
    pub omitted: usize,
    /// Ignored fields past [`MAX_FINDINGS`].
    pub ignored_omitted: usize,
}

/// The reason is already in [`Diagnostics`]; zero-sized so that `?` stays cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected;

impl Diagnostics {
    /// Records why the resource is refused.
    pub fn reject(&mut self, at: &Path<'_>, message: impl fmt::Display) -> Rejected {
        self.reject_path(|| at.to_string(), message)
    }

    /// Records why the resource is refused, at a place below `at` that another validator already printed.
    pub fn reject_below(&mut self, at: &Path<'_>, below: &str, message: impl fmt::Display) -> Rejected {
        self.reject_path(|| join(at, below), message)
    }

    fn reject_path(&mut self, path: impl FnOnce() -> String, message: impl fmt::Display) -> Rejected {
        let path = path();
        // A place is refused once: the first reason is enough.
        if self.rejected.iter().any(|known| known.path == path) {
            return Rejected;
        }
        if self.rejected.len() < MAX_FINDINGS {
            self.rejected.push(Finding { path, message: message.to_string() });
        } else {
            self.omitted += 1;
        }
        Rejected
    }

    /// Records a field that is set and has no effect here.
    pub fn ignored(&mut self, at: &Path<'_>, message: impl fmt::Display) {
        if self.ignored.len() < MAX_FINDINGS {
            self.ignored.push(Finding { path: at.to_string(), message: message.to_string() });
        } else {
            self.ignored_omitted += 1;
        }
    }

    /// Records fields that are not known, of a message below `at`.
    pub fn unknown(&mut self, at: &Path<'_>, below: &str, message: impl fmt::Display) {
        if self.unknown.len() < MAX_FINDINGS {
            self.unknown.push(Finding { path: join(at, below), message: message.to_string() });
        }
    }

    /// How often something was refused so far, the omitted included.
    pub fn rejections(&self) -> usize {
        self.rejected.len() + self.omitted
    }

    /// Whether anything was refused.
    pub fn is_rejected(&self) -> bool {
        !self.rejected.is_empty()
    }
}

/// A place below another.
fn join(at: &Path<'_>, below: &str) -> String {
    match at.to_string() {
        at if at.is_empty() || below.is_empty() || below.starts_with('[') => at + below,
        at => format!("{at}.{below}"),
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.rejected.iter().enumerate() {
            write!(f, "{}{finding}", if i > 0 { "; " } else { "" })?;
        }
        if self.omitted > 0 {
            write!(f, "; and {} more", self.omitted)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_users_write_them() {
        let root = Path::root("");
        let clusters = root.field("clusters");
        let cluster = clusters.index(3);
        let options = cluster.field("options");
        assert_eq!(options.key("a.b").to_string(), r#"clusters[3].options["a.b"]"#);
        assert_eq!(Path::root("web").field("name").to_string(), "web.name");
    }

    #[test]
    fn findings_of_other_validators_are_placed_below_a_path() {
        let mut d = Diagnostics::default();
        d.reject_below(&Path::root(""), "name", "is required");
        d.reject_below(&Path::root("web"), "name", "is required");
        d.reject_below(&Path::root("list"), "[0]", "is required");
        d.reject_below(&Path::root("all"), "", "is required");
        let paths: Vec<_> = d.rejected.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["name", "web.name", "list[0]", "all"]);
    }

    #[test]
    fn a_place_is_refused_once() {
        let mut d = Diagnostics::default();
        d.reject(&Path::root("a"), "first");
        d.reject(&Path::root("a"), "second");
        assert_eq!(d.to_string(), "a: first");
    }

    #[test]
    fn findings_past_the_limit_are_counted() {
        let mut d = Diagnostics::default();
        let root = Path::root("list");
        for i in 0..MAX_FINDINGS + 2 {
            d.reject(&root.index(i), "bad");
            d.ignored(&root.index(i), "unused");
        }
        assert_eq!((d.rejected.len(), d.omitted, d.rejections()), (MAX_FINDINGS, 2, MAX_FINDINGS + 2));
        assert_eq!((d.ignored.len(), d.ignored_omitted), (MAX_FINDINGS, 2));
        assert!(d.to_string().ends_with("; and 2 more"));
    }
}
