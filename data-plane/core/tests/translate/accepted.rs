//! What is accepted, and what it becomes.
