//! `linchpin topic …`

mod admin;
mod copy;
mod send;
mod tail;
mod wire;

pub(crate) use self::admin::dead_letters;

use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use linchpin::bus::{Position, Start};
use linchpin::{Result, Timestamp};

/// What can be done to topics.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a topic, or change how one is kept
    #[command(after_help = CREATE)]
    Create(CreateArgs),
    /// List the topics
    #[command(after_help = "Example:\n  linchpin topic ls sqlite:shop.db")]
    Ls {
        /// The engine, for example sqlite:shop.db
        url: String,
    },
    /// Show what a topic holds and how far its groups are
    #[command(after_help = STAT)]
    Stat {
        #[command(flatten)]
        at: At,
    },
    /// Send one message, or one per line of standard input
    #[command(after_help = SEND)]
    Send(send::SendArgs),
    /// Print messages, one JSON object per line
    #[command(after_help = TAIL)]
    Tail(tail::TailArgs),
    /// Copy a topic to another engine
    #[command(after_help = COPY)]
    Copy(copy::CopyArgs),
    /// Move a topic to another engine: consume it here, store it there
    #[command(after_help = MOVE)]
    Move(copy::MoveArgs),
    /// Send dead letters back to the group they failed in
    #[command(after_help = REDRIVE)]
    Redrive(RedriveArgs),
    /// Remove a topic with its messages and groups, or one group
    #[command(after_help = RM)]
    Rm(RmArgs),
}

const CREATE: &str = "\
Examples:
  linchpin topic create sqlite:shop.db orders --partitions 8
  linchpin topic create sqlite:shop.db audit --retention none --max-size 64KiB

On a topic that is there, what you name changes and the rest stays; the number of partitions
can't change.";

const STAT: &str = "\
Columns of a group: LAG, messages it was never handed; IN FLIGHT, in hand of a member; WAITING,
failed and to be tried again; DEAD, dead letters that wait in <topic>.<group>.dead for
`linchpin topic redrive`.";

const SEND: &str = "\
Examples:
  linchpin topic send sqlite:shop.db orders '2 lanterns' --key customer-7 --header country=GB
  echo '{\"key\":\"customer-7\",\"payload\":\"2 lanterns\"}' | linchpin topic send sqlite:shop.db orders
  linchpin topic send sqlite:shop.db log --lines < app.log
  linchpin topic tail sqlite:a.db orders | linchpin topic send sqlite:b.db orders

Without PAYLOAD each line is a JSON object: payload (text) or payload_base64, and optionally key or
key_base64, id, headers {\"name\": \"value\"} and delay (\"5s\"). What else `tail` prints (partition,
offset, time, attempt) is ignored. A line that can't be sent ends the run: the error names it and
says how many messages were stored.";

const TAIL: &str = "\
Examples:
  linchpin topic tail sqlite:shop.db orders -n 10
  linchpin topic tail sqlite:shop.db orders --from newest --follow
  linchpin topic tail sqlite:shop.db orders --from 3/1200
  linchpin topic tail sqlite:shop.db orders.billing.dead | jq -r '.headers[\"lp-dead-reason\"]'

Without --group it only looks: nothing is consumed. With --group it is a member of the group, and
what it prints is done. Without --follow it ends when it has printed what is there. What isn't
UTF-8 is printed in base64, under payload_base64 and key_base64.";

const COPY: &str = "\
Examples:
  linchpin topic copy sqlite:shop.db orders sqlite:backup.db
  linchpin topic copy sqlite:shop.db orders sqlite:shop.db orders-wide --partitions 16
  linchpin topic copy sqlite:shop.db orders sqlite:backup.db --follow

Ids, keys, headers and payloads stay as they are; the time is that of the copy. Messages of a key
stay in order, in one partition. A topic that is missing there is created with this one's options.

Without --follow it ends when it has caught up. Killed or stopped, it goes on from where it was when
you run it again, --ack-wait later at most; up to a batch of messages may then be there twice, under
the same ids. Its progress is a group of this topic, lp-copy-..., known by the target's URL as written;
it goes when the copy is complete, and stays, until `linchpin topic rm` removes it, when it isn't.";

const MOVE: &str = "\
Examples:
  linchpin topic move sqlite:shop.db orders sqlite:new.db
  linchpin topic move sqlite:shop.db orders sqlite:new.db --group billing

What is stored there is done here, for that group; other groups of the topic aren't touched. Stop
the group's other consumers first. A topic that no group consumes is moved through the group
lp-move. Otherwise it works as `linchpin topic copy` does.";

const REDRIVE: &str = "\
Examples:
  linchpin topic tail sqlite:shop.db orders.billing.dead          # look at them first
  linchpin topic redrive sqlite:shop.db orders --group billing

Only that group gets them again; attempts start over. They keep their ids.";

const RM: &str = "\
Examples:
  linchpin topic rm sqlite:shop.db orders --yes
  linchpin topic rm sqlite:shop.db orders --group billing

Removing a topic leaves its dead-letter topics.";

/// A topic on an engine.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The engine, for example sqlite:shop.db
    url: String,
    /// The topic
    topic: String,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    at: At,
    /// Number of partitions, 1 to 1024 [default: 4]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// How long settled messages are kept, such as 12h or 7d; none for ever [default: 7d]
    #[arg(long, value_name = "AGE", value_parser = retention)]
    retention: Option<Retention>,
    /// How many settled messages are kept; 0 for no limit [default: no limit]
    #[arg(long, value_name = "N")]
    max_messages: Option<u64>,
    /// The largest message, such as 64KiB [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    max_size: Option<ByteSize>,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    #[command(flatten)]
    at: At,
    /// The group whose dead letters go back
    #[arg(long)]
    group: String,
    /// At most so many, oldest first
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    at: At,
    /// Only this group
    #[arg(long)]
    group: Option<String>,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

/// `None` keeps for ever. (A plain `Option` would mean an optional argument to clap.)
#[derive(Debug, Clone, Copy)]
struct Retention(Option<Duration>);

fn retention(text: &str) -> Result<Retention, String> {
    match text {
        "none" => Ok(Retention(None)),
        age => duration(age).map(|age| Retention(Some(age))),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a duration such as 250ms, 30s or 7d".into())
}

/// Reads `oldest`, `newest`, `PARTITION/OFFSET`, an age such as `2h`, or a time.
fn start(text: &str) -> Result<Start, String> {
    match text {
        "oldest" => return Ok(Start::Oldest),
        "newest" => return Ok(Start::Newest),
        _ => {}
    }
    if let Some((partition, offset)) = text.split_once('/')
        && let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse())
    {
        return Ok(Start::At(Position::new(partition, offset)));
    }
    if let Ok(age) = humantime::parse_duration(text) {
        return Timestamp::now().checked_sub(age).map(Start::Time).map_err(|e| e.to_string());
    }
    time(text).map(Start::Time).ok_or_else(|| {
        "expected oldest, newest, PARTITION/OFFSET such as 3/1200, an age such as 2h, or a time such as \
         2026-11-20T08:00:00Z"
            .into()
    })
}

/// A time with its offset, or one in the system's time zone.
fn time(text: &str) -> Option<Timestamp> {
    let local = || {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp())
    };
    text.parse().ok().or_else(local)
}

/// Runs one of them.
///
/// # Errors
/// What the engine says.
pub(crate) async fn run(command: Command, json: bool) -> Result<ExitCode> {
    match command {
        Command::Create(args) => admin::create(args, json).await?,
        Command::Ls { url } => admin::ls(&url, json).await?,
        Command::Stat { at } => admin::stat(&at, json).await?,
        Command::Send(args) => return send::send(args, json).await,
        Command::Tail(args) => tail::tail(args).await?,
        Command::Copy(args) => return copy::copy(args, json).await,
        Command::Move(args) => return copy::move_(args, json).await,
        Command::Redrive(args) => admin::redrive(args, json).await?,
        Command::Rm(args) => admin::rm(args, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_in_every_spelling() {
        assert_eq!(start("oldest"), Ok(Start::Oldest));
        assert_eq!(start("newest"), Ok(Start::Newest));
        assert_eq!(start("3/1200"), Ok(Start::At(Position::new(3, 1200))));
        let time = "2026-11-20T08:00:00Z".parse().unwrap();
        assert_eq!(start("2026-11-20T08:00:00Z"), Ok(Start::Time(time)));
        assert!(matches!(start("2026-11-20"), Ok(Start::Time(_))));
        assert!(matches!(start("2h"), Ok(Start::Time(t)) if t < Timestamp::now()));
        for wrong in ["", "3/", "/3", "-1/4", "soon", "5 apples"] {
            assert!(start(wrong).is_err(), "{wrong:?}");
        }
    }
}
