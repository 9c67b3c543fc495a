//! Shows what happened: HTTP for metrics and health.
