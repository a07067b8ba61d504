//! Errors of a text: what, at which field, at which line and column.

use std::fmt;

use super::positions::Place;

/// Errors kept of one text; further ones are only counted.
pub const MAX_ERRORS: usize = 100;

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Field path in proto names, such as `static_resources.clusters[3].lb_policy`. Empty for the whole text.
    pub path: String,
    /// What is wrong, lowercase, no full stop.
    pub message: String,
    /// Where in the text.
    pub place: Option<Place>,
}

/// Everything wrong with one text, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// Name of the source: a file name, or what the text came from.
    pub source: String,
    /// At most [`MAX_ERRORS`].
    pub list: Vec<Error>,
    /// Errors past [`MAX_ERRORS`].
    pub omitted: usize,
}

impl Errors {
    /// No errors yet about the text of this name.
    pub fn new(source: &str) -> Self {
        Self { source: source.to_owned(), ..Self::default() }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many errors there are, those that are only counted included.
    pub fn count(&self) -> usize {
        self.list.len() + self.omitted
    }

    /// Whether further errors are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= MAX_ERRORS
    }

    /// Adds one.
    pub fn push(&mut self, path: String, message: String, place: Option<Place>) {
        if self.list.len() < MAX_ERRORS {
            self.list.push(Error { path, message, place });
        } else {
            self.omitted += 1;
        }
    }

    /// Adds those of another list about the same text.
    pub(crate) fn extend(&mut self, more: Self) {
        for Error { path, message, place } in more.list {
            self.push(path, message, place);
        }
        self.omitted += more.omitted;
    }

    /// Puts them in the order of the text.
    pub(crate) fn sort(&mut self) {
        self.list.sort_by_key(|e| e.place);
    }

    /// One line for each error, as `Display` prints them.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.list.iter().map(|e| self.line(e))
    }

    fn line(&self, error: &Error) -> String {
        let Error { path, message, place } = error;
        let colon = if path.is_empty() { "" } else { ": " };
        match place {
            Some(Place { line, column }) => {
                format!("{path}{colon}{message} ({}:{line}:{column})", self.source)
            }
            None if self.source.is_empty() => format!("{path}{colon}{message}"),
            None => format!("{path}{colon}{message} ({})", self.source),
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, line) in self.lines().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&line)?;
        }
        if self.omitted > 0 {
            write!(f, "\nand {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}
