//! Metrics whose value is a text, such as a version.

use parking_lot::RwLock;
use std::sync::Arc;

/// A text, shown in `/stats` but not to Prometheus.
#[derive(Clone, Debug)]
pub struct TextReadout(pub(super) Arc<Cell>);

#[derive(Debug)]
pub(super) struct Cell {
    pub(super) name: &'static str,
    value: RwLock<Box<str>>,
}

impl TextReadout {
    pub(super) fn new(name: &'static str) -> Self {
        Self(Arc::new(Cell { name, value: RwLock::default() }))
    }

    /// Replaces the text.
    pub fn set(&self, value: &str) {
        *self.0.value.write() = value.into();
    }

    /// The text; empty until first set.
    pub fn value(&self) -> String {
        self.0.value()
    }
}

impl Cell {
    pub(super) fn value(&self) -> String {
        self.value.read().to_string()
    }
}
