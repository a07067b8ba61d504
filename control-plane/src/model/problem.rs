//! What is wrong with an object, and where.

use std::fmt;

use super::ObjectKey;

/// Whether a problem keeps an object from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object is refused at admission, and quarantined when it was written past it.
    Error,
    /// The object is used, but probably does not do what was meant.
    Warning,
}

/// One thing wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Object it is about.
    pub object: Option<ObjectKey>,
    /// Field path, such as `spec.rules[0].timeout`.
    pub path: String,
    /// What is wrong, lowercase, no full stop.
    pub message: String,
    /// Whether it keeps the object from being used.
    pub severity: Severity,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything wrong, in the order found.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    /// The list.
    pub list: Vec<Problem>,
}

impl Problems {
    /// Whether any of them is an error.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|p| p.severity == Severity::Error)
    }

    /// The errors.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|p| p.severity == Severity::Error)
    }

    /// The warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|p| p.severity == Severity::Warning)
    }

    /// Adds an error about an object.
    pub fn error(&mut self, object: &ObjectKey, path: impl Into<String>, message: impl Into<String>) {
        self.push(object, path, message, Severity::Error);
    }

    /// Adds a warning about an object.
    pub fn warn(&mut self, object: &ObjectKey, path: impl Into<String>, message: impl Into<String>) {
        self.push(object, path, message, Severity::Warning);
    }

    fn push(
        &mut self,
        object: &ObjectKey,
        path: impl Into<String>,
        message: impl Into<String>,
        severity: Severity,
    ) {
        let (path, message) = (path.into(), message.into());
        self.list.push(Problem { object: Some(object.clone()), path, message, severity });
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl Extend<Problem> for Problems {
    fn extend<I: IntoIterator<Item = Problem>>(&mut self, iter: I) {
        self.list.extend(iter);
    }
}
