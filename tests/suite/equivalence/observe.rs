//! What an operator sees: access logs, stats, the admin interface.
