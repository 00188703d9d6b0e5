//! How far a pull has come: the callback, the speed measurement, and bars for a terminal.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Reports are passed on at most this often.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// The speed is the mean over the last so many seconds.
const SPEED_WINDOW: Duration = Duration::from_secs(5);

/// What a pull is doing at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Bytes are coming in.
    Downloading,
    /// Bytes already on disk are being hashed.
    Verifying,
}

/// The state of a pull.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Transfer {
    /// What is being done.
    pub phase: Phase,
    /// The file at hand.
    pub file: String,
    /// Bytes of the whole model that are here.
    pub done: u64,
    /// Bytes of the whole model, if known.
    pub total: Option<u64>,
    /// Speed over the last seconds.
    pub bytes_per_second: f64,
    /// Time left at that speed, if it can be told.
    pub remaining: Option<Duration>,
}

/// Receives the progress of a pull. Called from the pull's own task: return quickly.
pub trait Progress: Send + Sync {
    /// The transfer moved on; at most about ten times a second.
    fn update(&self, transfer: &Transfer);
    /// One line worth telling: a source that failed, a wait for another process.
    fn message(&self, text: &str);
    /// The pull is over, well or not.
    fn finish(&self) {}
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn update(&self, _: &Transfer) {}
    fn message(&self, _: &str) {}
}

/// A progress bar on standard error. When that is not a terminal, no bar is drawn, and messages are plain lines.
#[derive(Debug)]
pub struct TerminalProgress {
    bar: ProgressBar,
}

impl TerminalProgress {
    /// A bar labelled with the model's name.
    pub fn new(model: &str) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(model.to_owned());
        Self { bar }
    }

    fn style(total_known: bool) -> ProgressStyle {
        let template =
            if total_known { "{prefix} {bar:24} {percent:>3}% {msg}" } else { "{prefix} {spinner} {msg}" };
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    }
}

impl Progress for TerminalProgress {
    fn update(&self, transfer: &Transfer) {
        if self.bar.length() != transfer.total || self.bar.position() == 0 {
            self.bar.set_style(Self::style(transfer.total.is_some()));
            match transfer.total {
                Some(total) => self.bar.set_length(total),
                None => self.bar.unset_length(),
            }
        }
        self.bar.set_position(transfer.done);
        self.bar.set_message(describe(transfer));
    }

    fn message(&self, text: &str) {
        if self.bar.is_hidden() {
            // The pull does not fail because nobody reads its messages.
            let _ = writeln!(std::io::stderr(), "{text}");
        } else {
            self.bar.println(text);
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// `12.3 MB of 98.4 MB, 8.1 MB/s, 11 s left`, in words of [`Transfer`].
pub fn describe(transfer: &Transfer) -> String {
    let mut text = format_bytes(transfer.done);
    if let Some(total) = transfer.total {
        text.push_str(" of ");
        text.push_str(&format_bytes(total));
    }
    match transfer.phase {
        Phase::Verifying => text.push_str(", verifying"),
        Phase::Downloading => {
            if transfer.bytes_per_second >= 1.0 {
                text.push_str(", ");
                text.push_str(&format_bytes(transfer.bytes_per_second as u64));
                text.push_str("/s");
            }
            if let Some(remaining) = transfer.remaining {
                text.push_str(", ");
                text.push_str(&format_duration(remaining));
                text.push_str(" left");
            }
        }
    }
    text
}

/// Bytes in decimal units with three digits: `98.4 MB`.
pub fn format_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" || value >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Turns byte counts into [`Transfer`]s with speed and remaining time, and passes them on now and then.
pub(crate) struct Meter<'a> {
    progress: &'a dyn Progress,
    transfer: Transfer,
    /// Recent (time, bytes done), oldest first.
    samples: VecDeque<(Instant, u64)>,
    reported: Option<Instant>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, total: Option<u64>) -> Self {
        let transfer = Transfer {
            phase: Phase::Downloading,
            file: String::new(),
            done: 0,
            total,
            bytes_per_second: 0.0,
            remaining: None,
        };
        Self { progress, transfer, samples: VecDeque::new(), reported: None }
    }

    /// Passes a line on.
    pub(crate) fn message(&self, text: &str) {
        tracing::info!("{text}");
        self.progress.message(text);
    }

    /// The total became known.
    pub(crate) fn set_total(&mut self, total: u64) {
        self.transfer.total = Some(total);
    }

    /// Whether the total is known.
    pub(crate) fn has_total(&self) -> bool {
        self.transfer.total.is_some()
    }

    /// Another file is at hand.
    pub(crate) fn set_file(&mut self, file: &str) {
        file.clone_into(&mut self.transfer.file);
    }

    /// Hashing what is here already, or downloading.
    pub(crate) fn set_phase(&mut self, phase: Phase) {
        if self.transfer.phase != phase {
            self.transfer.phase = phase;
            self.report(true);
        }
    }

    /// Bytes are here that did not come in just now: they do not count for the speed.
    pub(crate) fn jump(&mut self, done: u64) {
        self.samples.clear();
        self.transfer.done = done;
        self.samples.push_back((Instant::now(), done));
        self.report(true);
    }

    /// So many bytes of the whole are here now.
    pub(crate) fn set(&mut self, done: u64) {
        let now = Instant::now();
        self.transfer.done = done;
        let due = self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= REPORT_INTERVAL);
        if due {
            self.samples.push_back((now, done));
            while self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > SPEED_WINDOW)
                && self.samples.len() > 2
            {
                self.samples.pop_front();
            }
        }
        self.report(false);
    }

    /// Bytes done so far.
    pub(crate) fn done(&self) -> u64 {
        self.transfer.done
    }

    fn report(&mut self, now: bool) {
        if !now && self.reported.is_some_and(|at| at.elapsed() < REPORT_INTERVAL) {
            return;
        }
        self.reported = Some(Instant::now());
        if let Some((at, bytes)) = self.samples.front() {
            let (speed, remaining) = speed_and_remaining(
                at.elapsed(),
                self.transfer.done.saturating_sub(*bytes),
                self.transfer.done,
                self.transfer.total,
            );
            self.transfer.bytes_per_second = speed;
            self.transfer.remaining = remaining;
        }
        self.progress.update(&self.transfer);
    }
}

/// Speed from `moved` bytes in `elapsed`, and the time that the rest needs at that speed.
fn speed_and_remaining(
    elapsed: Duration,
    moved: u64,
    done: u64,
    total: Option<u64>,
) -> (f64, Option<Duration>) {
    let seconds = elapsed.as_secs_f64();
    if seconds < 0.05 || moved == 0 {
        return (0.0, None);
    }
    let speed = moved as f64 / seconds;
    let remaining =
        total.and_then(|total| Duration::try_from_secs_f64(total.saturating_sub(done) as f64 / speed).ok());
    (speed, remaining)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_decimal_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (98_362_432, "98.4 MB"),
            (491_400_064, "491 MB"),
            (999_999, "1.0 MB"),
            (53_800_000_000, "53.8 GB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    #[test]
    fn remaining_time_follows_from_the_speed() {
        let (speed, remaining) = speed_and_remaining(Duration::from_secs(2), 2000, 3000, Some(10_000));
        assert!((speed - 1000.0).abs() < 1e-9);
        assert_eq!(remaining, Some(Duration::from_secs(7)));
        assert_eq!(speed_and_remaining(Duration::from_secs(2), 0, 3000, Some(10_000)), (0.0, None));
        assert_eq!(speed_and_remaining(Duration::from_secs(2), 10, 10, None).1, None);
    }

    #[test]
    fn a_transfer_reads_as_one_line() {
        let transfer = Transfer {
            phase: Phase::Downloading,
            file: "a".into(),
            done: 12_300_000,
            total: Some(98_400_000),
            bytes_per_second: 8_100_000.0,
            remaining: Some(Duration::from_secs(71)),
        };
        assert_eq!(describe(&transfer), "12.3 MB of 98.4 MB, 8.1 MB/s, 1 min 11 s left");
    }
}
