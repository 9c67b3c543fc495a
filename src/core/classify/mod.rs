//! SQL text to [`Classification`](super::statement::Classification).
