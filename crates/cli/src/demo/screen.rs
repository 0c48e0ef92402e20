//! What the person sees while it runs: bars on a terminal, a line now and then elsewhere.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use console::style;
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::worker::Role;
use crate::out;

/// How often a line is printed where there is no terminal.
const LINES: Duration = Duration::from_secs(2);

/// How far everything is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Now {
    pub(super) fed: u64,
    pub(super) stock: Group,
    pub(super) tables: Group,
    pub(super) redelivered: u64,
    pub(super) kills: u32,
}

/// How far one group is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Group {
    /// Orders in its tables.
    pub(super) done: u64,
    pub(super) dead: u64,
    pub(super) lag: u64,
    pub(super) in_flight: u64,
    /// Messages that are still to be settled, those that wait after a failure included.
    pub(super) open: u64,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Screen(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    messages: u64,
    kills: u32,
    bars: Option<Bars>,
    /// Seconds after the start when the last line was printed.
    last: AtomicU64,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    feed: ProgressBar,
    groups: [ProgressBar; 2],
    foot: ProgressBar,
}

impl Screen {
    /// A screen for a run of so many messages and kills.
    pub(super) fn new(messages: u64, kills: u32) -> Self {
        let bars = console::user_attended_stderr().then(|| Bars::new(messages));
        Self(Arc::new(Inner { started: Instant::now(), messages, kills, bars, last: AtomicU64::new(0) }))
    }

    /// How many messages there are to be.
    pub(super) fn messages(&self) -> u64 {
        self.0.messages
    }

    /// Shows how far everything is.
    pub(super) fn show(&self, now: &Now) {
        let seconds = self.0.started.elapsed().as_secs_f64();
        match &self.0.bars {
            Some(bars) => bars.show(now, self.0.kills, now.fed as f64 / seconds),
            None => self.show_line(now),
        }
    }

    fn show_line(&self, now: &Now) {
        let elapsed = self.0.started.elapsed();
        let due = self.0.last.load(Ordering::Relaxed) + LINES.as_secs();
        if elapsed.as_secs() < due {
            return;
        }
        self.0.last.store(elapsed.as_secs(), Ordering::Relaxed);
        let (total, fed) = (HumanCount(self.0.messages), HumanCount(now.fed));
        out::say(format_args!(
            "{:5.1} s  fed {fed}/{total}; stock {}; tables {}; killed {}/{}; redelivered {}",
            elapsed.as_secs_f64(),
            now.stock,
            now.tables,
            now.kills,
            self.0.kills,
            now.redelivered
        ));
    }

    /// Tells of a kill.
    pub(super) fn kill(&self, nth: u32, what: &str) {
        self.line(&format!("  {} kill {nth}/{}  {what}", style("✗").red().for_stderr(), self.0.kills));
    }

    /// Tells something else that happened.
    pub(super) fn note(&self, what: &str) {
        self.line(&format!("  {} {what}", style("!").yellow().for_stderr()));
    }

    fn line(&self, text: &str) {
        match &self.0.bars {
            // A terminal that went away is no reason to fail.
            Some(bars) => drop(bars.all.println(text)),
            None => out::say(text),
        }
    }

    /// Leaves the screen as it stands.
    pub(super) fn finish(&self) {
        if let Some(bars) = &self.0.bars {
            bars.foot.finish_and_clear();
            for bar in bars.groups.iter().chain([&bars.feed]) {
                bar.abandon();
            }
            out::say("");
        }
    }
}

impl Bars {
    fn new(messages: u64) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(15));
        let bar = |name: &'static str, colour: &str| {
            let template = format!(
                "  {{prefix:7}} {{bar:28.{colour}/dim}} {{human_pos:>7}}/{{human_len}}  {{wide_msg}}"
            );
            let bar = all.add(ProgressBar::new(messages).with_prefix(name));
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar
        };
        let feed = bar("feed", "blue");
        let groups = Role::ALL.map(|role| bar(role.group(), "green"));
        let foot = all.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("  {elapsed:7} {spinner} {wide_msg}") {
            foot.set_style(style);
        }
        foot.enable_steady_tick(Duration::from_millis(100));
        Self { all, feed, groups, foot }
    }

    fn show(&self, now: &Now, kills: u32, rate: f64) {
        self.feed.set_position(now.fed);
        self.feed.set_message(format!("{rate:.0} messages/s"));
        for (bar, group) in self.groups.iter().zip([now.stock, now.tables]) {
            bar.set_position(group.settled());
            let Group { lag, in_flight, dead, .. } = group;
            bar.set_message(format!("lag {lag:<4} in flight {in_flight:<4} dead {dead}"));
        }
        self.foot.set_message(format!(
            "killed {}/{kills}, redelivered {}",
            now.kills,
            HumanCount(now.redelivered)
        ));
    }
}

impl Group {
    /// Messages it is through with.
    pub(super) fn settled(&self) -> u64 {
        self.done + self.dead
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dead, lag, in_flight, .. } = self;
        write!(f, "{} (lag {lag}, in flight {in_flight}, dead {dead})", HumanCount(self.settled()))
    }
}
