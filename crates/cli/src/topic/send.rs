//! Sending messages, one or many.

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::HumanCount;
use linchpin::bus::{Message, Publisher, PublisherOptions, Stored};
use linchpin::{Bus, Error, Kind, Result, TopicOptions};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::At;
use super::wire::{Defaults, Line};
use crate::{Interrupts, open_existing, out};

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    at: At,
    /// The message; without it, messages are read from standard input
    payload: Option<String>,
    /// What orders it: messages of one key stay in order
    #[arg(long)]
    key: Option<String>,
    /// A header; may be given more than once
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Keep it back for so long, such as 5s
    #[arg(long, value_parser = super::duration)]
    delay: Option<Duration>,
    /// To this partition, instead of the one its key says
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Each line of standard input is a payload as it stands, not JSON
    #[arg(long, conflicts_with = "payload")]
    lines: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) async fn send(args: SendArgs, json: bool) -> Result<ExitCode> {
    let SendArgs { at: At { url, topic }, payload, key, headers, delay, partition, lines } = args;
    let defaults = Defaults { key, headers, delay, partition };
    let bus = open_existing(&url).await?;
    let Some(payload) = payload else {
        let options = bus.stats(Some(&topic)).await?.pop().map(|stats| stats.options).unwrap_or_default();
        let reader = Reader { plain: lines, defaults, options };
        let outcome = send_lines(&bus, &topic, reader).await?;
        bus.close().await?;
        return outcome.report(&topic, json);
    };
    let message = defaults.fill(Message::new(payload));
    let id = message.id.clone();
    let position = bus.publish(&topic, message).await?;
    bus.close().await?;
    if json {
        let id = id.to_string();
        out::line(
            json!({ "stored": 1, "id": id, "partition": position.partition, "offset": position.offset }),
        )?;
    } else {
        out::say(format_args!("stored in {topic:?} at {position}, id {id}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Turns lines into messages.
struct Reader {
    plain: bool,
    defaults: Defaults,
    options: TopicOptions,
}

impl Reader {
    /// The message of a line; none for an empty line between JSON objects.
    ///
    /// What the topic would refuse is refused here already, so that nothing behind it is on its way yet.
    fn message(&self, line: Vec<u8>) -> Result<Option<Message>, String> {
        let message = if self.plain {
            Message::new(line)
        } else if line.trim_ascii().is_empty() {
            return Ok(None);
        } else {
            Line::parse(&line)?.message()?
        };
        let message = self.defaults.fill(message);
        let (size, max) = (message.size() as u64, self.options.max_message);
        if size > max {
            return Err(format!("the message has {size} bytes, the topic takes {max}"));
        }
        let partitions = self.options.partitions;
        match message.partition {
            Some(p) if p >= partitions => {
                Err(format!("partition {p} doesn't exist: the topic has {partitions}"))
            }
            _ => Ok(Some(message)),
        }
    }
}

/// What became of standard input.
#[derive(Debug)]
struct Outcome {
    count: Count,
    /// The first line that wasn't stored, and why.
    failed: Option<(u64, String)>,
    took: Duration,
}

async fn send_lines(bus: &Bus, topic: &str, reader: Reader) -> Result<Outcome> {
    if io::stdin().is_terminal() {
        let form = if reader.plain { "message" } else { "JSON object" };
        out::say(format_args!("one {form} per line; Ctrl-D ends"));
    }
    let mut interrupts = Interrupts::listen()?;
    let started = Instant::now();
    let publisher = bus.publisher(topic, PublisherOptions::default());
    let mut answers = Answers::start();
    let read = feed(&publisher, &reader, &mut interrupts, &mut answers).await;
    // Each message's own answer says what became of it.
    let _ = publisher.close().await;
    let mut count = answers.finish().await?;
    let failed = match count.refused.take() {
        Some((line, error)) => Some((line, error.to_string())),
        None => read.err(),
    };
    Ok(Outcome { count, failed, took: started.elapsed() })
}

/// Sends line by line until the end, an interruption, or the first line that can't be sent.
async fn feed(
    publisher: &Publisher,
    reader: &Reader,
    interrupts: &mut Interrupts,
    answers: &mut Answers,
) -> Result<(), (u64, String)> {
    let mut lines = read_stdin();
    for number in 1_u64.. {
        // Only between lines: what was accepted is counted.
        let line = tokio::select! {
            biased;
            () = interrupts.next() => return Err((number, "interrupted before it was sent".into())),
            line = lines.recv() => line,
        };
        let Some(line) = line else { break };
        let line = line.map_err(|e| (number, format!("can't read standard input: {e}")))?;
        if answers.failed.load(Ordering::Relaxed) {
            break;
        }
        if let Some(message) = reader.message(line).map_err(|what| (number, what))? {
            let stored = publisher.send(message).await.map_err(|e| (number, e.to_string()))?;
            answers.add(number, stored).await;
        }
    }
    Ok(())
}

/// Lines of standard input, without their ends, read by a thread of its own: a read can't be interrupted.
fn read_stdin() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (tell, lines) = mpsc::channel(4096);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.read_until(b'\n', &mut line);
            if matches!(read, Ok(0)) {
                return;
            }
            let ended = line.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line).len());
            line.truncate(ended.unwrap_or(line.len()));
            let failed = read.is_err();
            if tell.blocking_send(read.map(|_| line)).is_err() || failed {
                return;
            }
        }
    });
    lines
}

/// Waits for the answers, in order, and counts them.
struct Answers {
    tell: mpsc::Sender<(u64, Stored)>,
    failed: Arc<AtomicBool>,
    counting: JoinHandle<Count>,
}

/// The answers so far.
#[derive(Debug, Default)]
struct Count {
    stored: u64,
    /// The first line the engine refused.
    refused: Option<(u64, Error)>,
    /// Stored from lines behind that one: they were on their way already.
    behind: u64,
}

impl Answers {
    fn start() -> Self {
        let (tell, answers) = mpsc::channel(1 << 16);
        let failed = Arc::new(AtomicBool::new(false));
        Self { tell, counting: tokio::spawn(count(answers, failed.clone())), failed }
    }

    async fn add(&mut self, line: u64, stored: Stored) {
        // The counting task ends last.
        let _ = self.tell.send((line, stored)).await;
    }

    async fn finish(self) -> Result<Count> {
        drop(self.tell);
        self.counting.await.map_err(|e| Error::new(Kind::Unexpected, "counting the answers failed").source(e))
    }
}

async fn count(mut answers: mpsc::Receiver<(u64, Stored)>, failed: Arc<AtomicBool>) -> Count {
    let bar = out::bar(None, "{spinner} {human_pos} stored  {rate}  {elapsed}");
    let mut count = Count::default();
    while let Some((line, answer)) = answers.recv().await {
        match answer.await {
            Ok(_) => {
                count.stored += 1;
                count.behind += u64::from(count.refused.is_some());
                bar.set_position(count.stored);
            }
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                count.refused = count.refused.or(Some((line, error)));
            }
        }
    }
    bar.finish_and_clear();
    count
}

impl Outcome {
    fn report(self, topic: &str, json: bool) -> Result<ExitCode> {
        let (stored, seconds) = (self.count.stored, self.took.as_secs_f64());
        if json {
            let (line, error) = self.failed.clone().unzip();
            out::line(json!({ "stored": stored, "seconds": seconds, "failed_line": line, "error": error }))?;
        }
        let messages = out::count(stored, "message");
        let Some((line, what)) = self.failed else {
            let rate = HumanCount((stored as f64 / seconds.max(0.001)) as u64);
            if !json {
                out::say(format_args!("stored {messages} in {topic:?} in {seconds:.2} s ({rate}/s)"));
            }
            return Ok(ExitCode::SUCCESS);
        };
        let error = Error::new(Kind::Invalid, format!("line {line}: {what}"));
        let remedy = match self.count.behind {
            0 => format!("{messages} stored, none from line {line} on"),
            behind => format!("{messages} stored, {behind} of them from behind line {line}"),
        };
        out::error(&error.help(remedy));
        Ok(ExitCode::FAILURE)
    }
}
