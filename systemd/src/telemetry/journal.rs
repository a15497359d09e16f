//! Lines for the journal: systemd reads `<N>` at the start of a line as its priority, and stamps
//! the time and the unit itself.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::registry::LookupSpan;

/// syslog priorities, as the journal knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Work was refused or lost.
    Error = 3,
    /// Work goes on, but somebody should look.
    Warning = 4,
    /// Normal, for the operator.
    Informational = 6,
    /// For whoever debugs.
    Debug = 7,
}

impl From<Level> for Priority {
    fn from(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warning,
            Level::INFO => Self::Informational,
            _ => Self::Debug,
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "<{}>", *self as u8)
    }
}

/// Whether standard error is the journal: systemd names device and inode of what it connected,
/// so that a redirected standard error is not taken for it.
pub(crate) fn is_stderr() -> bool {
    let Ok(wanted) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|metadata| wanted == format!("{}:{}", metadata.dev(), metadata.ino()))
}

/// `<6>hsmd::rotate: rotated sequence=4`, one line each.
pub(super) struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        let format: Format<Full, ()> = Format::default().without_time().with_level(false).with_ansi(false);
        format.format_event(context, Writer::new(&mut line), event)?;
        let priority = Priority::from(*event.metadata().level());
        // A newline inside an event would make the rest a line of its own, without a priority.
        writeln!(writer, "{priority}{}", line.trim_end().replace('\n', "\\n"))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Log {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn one_line_each_with_a_priority_and_no_time() {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_writer(log.clone())
            .event_format(Lines)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "hsmd", code = "BA603", "token gone");
            tracing::warn!(target: "hsmd", "two\nlines");
            tracing::info!(target: "hsmd", "ready");
            tracing::trace!(target: "hsmd", "detail");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let expected =
            "<3>hsmd: token gone code=\"BA603\"\n<4>hsmd: two\\nlines\n<6>hsmd: ready\n<7>hsmd: detail\n";
        assert_eq!(text, expected);
    }
}
