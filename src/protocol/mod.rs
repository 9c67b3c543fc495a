//! Bytes: frames, views of messages, expected replies.
