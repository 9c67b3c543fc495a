//! Logs on standard error, one line an event, as text or JSON.
//!
//! Invariant: what a client sends cannot begin a line of its own. Every control character of an
//! event, in its message, its fields or its spans, is written as an escape.

use std::io::{self, Write};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Another part of the process has set up logging before.
#[derive(Debug, thiserror::Error)]
#[error("logging is set up already")]
pub struct AlreadySetUp;

/// Writes the events of the whole process to standard error from now on.
///
/// # Errors
/// [`AlreadySetUp`] at the second call.
pub fn set_up(config: &LogConfig) -> Result<(), AlreadySetUp> {
    tracing::subscriber::set_global_default(subscriber(config, io::stderr))
        .map_err(|_| AlreadySetUp)
}

fn subscriber<W>(config: &LogConfig, sink: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(level_filter(config.level))
        .with_ansi(false)
        .with_writer(OneLine(sink));
    match config.format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}

const fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Makes writers that put each event on one line.
struct OneLine<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = LineWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self.0.make_writer())
    }
}

/// Takes one whole event at each `write`, as tracing-subscriber's `fmt` layer hands it over.
struct LineWriter<W>(W);

impl<W: Write> Write for LineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let body = text.strip_suffix('\n').unwrap_or(&text);
        let mut line = String::with_capacity(text.len());
        for character in body.chars() {
            if is_harmless(character) {
                line.push(character);
            } else {
                line.extend(character.escape_default());
            }
        }
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Neither a control character nor one of the separators that some readers take for a line's end.
fn is_harmless(character: char) -> bool {
    !character.is_control() && !matches!(character, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, level: LogLevel, log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let sink = captured.clone();
        let subscriber = subscriber(&LogConfig { format, level }, move || sink.clone());
        tracing::subscriber::with_default(subscriber, log);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const HOSTILE: &str = "x\n2030-01-01T00:00:00Z ERROR forged\r\u{1b}[31m\u{85}\u{2028}y";

    fn log_hostile_text_everywhere() {
        let _span = tracing::info_span!("session", user = %HOSTILE).entered();
        tracing::info!(plain = HOSTILE, shown = %HOSTILE, debug = ?HOSTILE, "message {HOSTILE}");
    }

    #[test]
    fn a_hostile_value_cannot_begin_a_line_or_reach_the_terminal() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = written(format, LogLevel::Info, log_hostile_text_everywhere);
            assert_eq!(text.lines().count(), 1, "{format:?}: {text}");
            let body = text.strip_suffix('\n').unwrap();
            assert!(body.chars().all(is_harmless), "{format:?}: {text:?}");
            assert!(body.contains("forged"), "the value itself is kept: {text}");
        }
    }

    #[test]
    fn a_json_line_is_one_object_that_keeps_the_value() {
        let text = written(LogFormat::Json, LogLevel::Info, || {
            tracing::info!(node = "a\nb", "probe failed");
        });
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["node"], "a\nb");
        assert_eq!(event["message"], "probe failed");
        assert_eq!(event["level"], "INFO");
    }

    #[test]
    fn events_below_the_level_are_not_written() {
        let log = || {
            tracing::debug!("hidden");
            tracing::warn!("seen");
        };
        let text = written(LogFormat::Text, LogLevel::Info, log);
        assert!(text.contains("WARN") && text.contains("seen"), "{text}");
        assert!(!text.contains("hidden"), "{text}");
        assert_eq!(written(LogFormat::Text, LogLevel::Error, log), "");
    }
}
