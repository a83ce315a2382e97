//! Progress bars on standard error, for files; nothing where nobody watches (`indicatif` hides them outside a terminal).

use falaj_artifact::Progress;
use indicatif::{ProgressBar, ProgressStyle};

pub struct Bar(ProgressBar);

impl Bar {
    /// `what` stands before the bar. Drawn with the first `show`, removed when dropped.
    pub fn new(what: &str) -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        let bar = ProgressBar::new(0).with_message(what.to_owned());
        // The template is a constant; the default style is no worse than a crash.
        Self(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    pub fn show(&self, progress: &Progress<'_>) {
        self.set(progress.done_bytes, progress.total_bytes);
    }

    pub fn set(&self, done_bytes: u64, total_bytes: u64) {
        self.0.set_length(total_bytes);
        self.0.set_position(done_bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
