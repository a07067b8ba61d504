//! Host choice.
