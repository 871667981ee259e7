//! What a person sees of a pull: bars on a terminal, Docker's words line by line elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use shared::Digest;

use super::{ProgressMode, ProgressOptions};

/// Where plain lines would be silent for longer, one says how far it is.
const SUMMARY_EVERY: Duration = Duration::from_secs(5);

/// What happens to a layer, in Docker's words: scripts look for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerState {
    Pulling,
    Waiting,
    WaitingFor(Option<u32>),
    AlreadyExists,
    Downloading,
    Verifying,
    DownloadComplete,
    Extracting,
    PullComplete,
}

impl LayerState {
    fn words(self) -> String {
        match self {
            Self::Pulling => "Pulling fs layer".into(),
            Self::Waiting => "Waiting".into(),
            Self::WaitingFor(Some(pid)) => format!("waiting for pid {pid}"),
            Self::WaitingFor(None) => "waiting for another process".into(),
            Self::AlreadyExists => "Already exists".into(),
            Self::Downloading => "Downloading".into(),
            Self::Verifying => "Verifying Checksum".into(),
            Self::DownloadComplete => "Download complete".into(),
            Self::Extracting => "Extracting".into(),
            Self::PullComplete => "Pull complete".into(),
        }
    }

    fn is_last(self) -> bool {
        matches!(self, Self::AlreadyExists | Self::PullComplete)
    }
}

#[derive(Clone)]
pub(crate) struct Progress {
    inner: Arc<Inner>,
}

struct Inner {
    shown: Shown,
    to_stdout: bool,
    layers: Mutex<Layers>,
}

enum Shown {
    Bars(MultiProgress),
    Plain,
    Json,
    Nothing,
}

#[derive(Default)]
struct Layers {
    of: HashMap<Digest, OneLayer>,
    last_line: Option<Instant>,
}

struct OneLayer {
    state: LayerState,
    total: u64,
    downloaded: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(options: ProgressOptions) -> Self {
        let terminal = if options.to_stdout {
            std::io::stdout().is_terminal()
        } else {
            std::io::stderr().is_terminal()
        };
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let bars = || {
            let target = if options.to_stdout {
                ProgressDrawTarget::stdout()
            } else {
                ProgressDrawTarget::stderr()
            };
            Shown::Bars(MultiProgress::with_draw_target(target))
        };
        let shown = match options.mode {
            _ if options.quiet => Shown::Nothing,
            ProgressMode::None => Shown::Nothing,
            ProgressMode::Json => Shown::Json,
            ProgressMode::Plain => Shown::Plain,
            ProgressMode::Tty => bars(),
            ProgressMode::Auto if terminal && !dumb => bars(),
            ProgressMode::Auto => Shown::Plain,
        };
        let to_stdout = options.to_stdout;
        Self { inner: Arc::new(Inner { shown, to_stdout, layers: Mutex::default() }) }
    }

    /// A line about the image as a whole.
    pub(crate) fn say(&self, line: &str) {
        match &self.inner.shown {
            Shown::Bars(bars) => {
                // A line that a closed terminal does not show is nobody's loss.
                let _ = bars.println(line);
                if bars.is_hidden() {
                    self.write(line);
                }
            }
            Shown::Plain => self.write(line),
            Shown::Json => self.write(&serde_json::json!({ "status": line }).to_string()),
            Shown::Nothing => {}
        }
    }

    /// Names the layers that are to come, in the image's order.
    pub(crate) fn expect(&self, layers: impl Iterator<Item = (Digest, u64)>) {
        for (blob, total) in layers {
            let bar = match &self.inner.shown {
                Shown::Bars(bars) => {
                    let bar = bars.add(ProgressBar::new(total.max(1)));
                    bar.set_style(style(false));
                    bar.set_prefix(blob.short());
                    Some(bar)
                }
                _ => None,
            };
            let layer = OneLayer { state: LayerState::Waiting, total, downloaded: 0, bar };
            if self.layers().of.insert(blob.clone(), layer).is_none() {
                self.show(&blob, LayerState::Waiting);
            }
        }
    }

    pub(crate) fn state(&self, blob: &Digest, state: LayerState) {
        {
            let mut layers = self.layers();
            let Some(layer) = layers.of.get_mut(blob) else { return };
            if layer.state == state || layer.state.is_last() {
                return;
            }
            layer.state = state;
        }
        self.show(blob, state);
    }

    /// So many bytes of the blob have arrived.
    pub(crate) fn downloaded(&self, blob: &Digest, bytes: u64, total: u64) {
        let mut layers = self.layers();
        let Some(layer) = layers.of.get_mut(blob) else { return };
        layer.downloaded = bytes;
        layer.total = total;
        if let Some(bar) = &layer.bar {
            if layer.state != LayerState::Downloading {
                bar.set_style(style(true));
                bar.set_message(LayerState::Downloading.words());
            }
            bar.set_position(bytes);
        }
        layer.state = LayerState::Downloading;
        self.summarise(&mut layers);
    }

    /// So many bytes of the blob are on their way into files.
    pub(crate) fn extracted(&self, blob: &Digest, bytes: u64) {
        let mut layers = self.layers();
        let Some(layer) = layers.of.get_mut(blob) else { return };
        // While it still downloads, that is the slower half.
        if layer.state == LayerState::DownloadComplete || layer.state == LayerState::Extracting {
            layer.state = LayerState::Extracting;
            if let Some(bar) = &layer.bar {
                bar.set_message(LayerState::Extracting.words());
                bar.set_position(bytes);
            }
        }
    }

    /// Takes the bars away, with the last state of each left behind as a line.
    pub(crate) fn finish(&self) {
        for layer in self.layers().of.values() {
            if let Some(bar) = &layer.bar {
                bar.abandon();
            }
        }
    }

    fn show(&self, blob: &Digest, state: LayerState) {
        let words = state.words();
        match &self.inner.shown {
            Shown::Bars(_) => {
                let layers = self.layers();
                let Some(bar) = layers.of.get(blob).and_then(|layer| layer.bar.as_ref()) else {
                    return;
                };
                bar.set_style(style(matches!(state, LayerState::Downloading)));
                if state.is_last() {
                    bar.finish_with_message(words);
                } else {
                    bar.set_message(words);
                }
            }
            // Docker says on a pipe only that it begins and what has come of it.
            Shown::Plain if matches!(state, LayerState::Waiting) => {}
            Shown::Plain => self.write(&format!("{}: {words}", blob.short())),
            Shown::Json => {
                let line = serde_json::json!({ "id": blob.short(), "status": words });
                self.write(&line.to_string());
            }
            Shown::Nothing => return,
        }
        self.layers().last_line = Some(Instant::now());
    }

    fn summarise(&self, layers: &mut Layers) {
        let due = layers.last_line.is_none_or(|last| last.elapsed() >= SUMMARY_EVERY);
        if !due {
            return;
        }
        layers.last_line = Some(Instant::now());
        let (mut done, mut total) = (0, 0);
        for layer in layers.of.values().filter(|layer| layer.state != LayerState::AlreadyExists) {
            done += layer.downloaded;
            total += layer.total;
        }
        match self.inner.shown {
            Shown::Plain => {
                let (done, total) =
                    (super::error::human_bytes(done), super::error::human_bytes(total));
                self.write(&format!("Downloading {done}/{total}"));
            }
            Shown::Json => {
                let detail = serde_json::json!({ "current": done, "total": total });
                let line = serde_json::json!({ "status": "Downloading", "progressDetail": detail });
                self.write(&line.to_string());
            }
            _ => {}
        }
    }

    fn layers(&self) -> std::sync::MutexGuard<'_, Layers> {
        self.inner.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, line: &str) {
        // The pull goes on; what could not be said is the command's exit code.
        crate::cli::output::show_progress(line, self.inner.to_stdout);
    }
}

fn style(with_bar: bool) -> ProgressStyle {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_default()
        .to_ascii_lowercase();
    let letters =
        if locale.contains("utf-8") || locale.contains("utf8") { "━╸─" } else { "=>-" };
    let template = if with_bar {
        "  {prefix}  {msg:16} {bar:24} {bytes:>10}/{total_bytes:10} {bytes_per_sec}"
    } else {
        "  {prefix}  {msg}"
    };
    // The template is a constant; what it looks like when it is wrong matters to nobody.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars(letters)
}
