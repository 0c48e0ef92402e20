//! `linchpin kv …`

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use linchpin::coord::{Change, Entry, Rev, Watched, When};
use linchpin::{Error, Kind, Result};
use serde_json::{Map, Value, json};

use crate::{Interrupts, check_there, open_coord, out};

/// What can be done to keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the value of a key
    #[command(after_help = GET)]
    Get {
        #[command(flatten)]
        at: At,
    },
    /// Write a key, and print the revision of that
    #[command(after_help = PUT)]
    Put(PutArgs),
    /// Remove a key
    #[command(after_help = DEL)]
    Del {
        #[command(flatten)]
        at: At,
        /// Only if its last change had this revision
        #[arg(long, value_name = "REVISION")]
        if_rev: Option<u64>,
    },
    /// List keys with their revisions and values
    Ls {
        /// The engine, for example sqlite:shop.db
        url: String,
        /// How the keys begin
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Print what is there, and then what changes, until interrupted
    #[command(after_help = WATCH)]
    Watch {
        /// The engine, for example sqlite:shop.db
        url: String,
        /// How the keys begin
        #[arg(default_value = "")]
        prefix: String,
        /// End after so many changes
        #[arg(short = 'n', long = "count", value_name = "N")]
        count: Option<u64>,
    },
}

const GET: &str = "\
Examples:
  linchpin kv get sqlite:shop.db shop/limits
  linchpin kv get etcd://127.0.0.1:2379 shop/limits --json

The value goes to standard output as it is, without a newline of its own. A key that isn't there is an
error, exit code 1.";

const PUT: &str = "\
Examples:
  linchpin kv put sqlite:shop.db shop/limits 10
  linchpin kv put sqlite:shop.db shop/limits 20 --if-rev 17
  linchpin kv put redis://127.0.0.1 shop/logo < logo.png

Without VALUE it is read from standard input. Revisions rise with every change, across delete and
re-create: a write under --if-rev fails if somebody else came first.";

const DEL: &str = "\
That the key wasn't there is no error; it is said on standard error.";

const WATCH: &str = "\
Examples:
  linchpin kv watch sqlite:shop.db shop/
  linchpin kv watch etcd://127.0.0.1:2379 shop/ --json | jq -r .key

A line for each key that is there, then one for each change: put or del, revision, key and value. Of
several changes of one key in a short time the last alone may be told; the last one always is, also
across lost connections.";

const MAKES_IT: &str = "kv put URL KEY VALUE";

/// A key on an engine.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The engine, for example sqlite:shop.db
    url: String,
    /// The key: text, divided by '/' if need be
    key: String,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    at: At,
    /// The value; without it, standard input
    value: Option<String>,
    /// Only if the key isn't there
    #[arg(long, conflicts_with = "if_rev")]
    if_absent: bool,
    /// Only if the key's last change had this revision
    #[arg(long, value_name = "REVISION")]
    if_rev: Option<u64>,
}

pub(crate) async fn run(command: Command, json: bool) -> Result<ExitCode> {
    match &command {
        Command::Put(_) => {}
        Command::Get { at } | Command::Del { at, .. } => check_there(&at.url, MAKES_IT)?,
        Command::Ls { url, .. } | Command::Watch { url, .. } => check_there(url, MAKES_IT)?,
    }
    match command {
        Command::Get { at } => get(at, json).await?,
        Command::Put(args) => put(args, json).await?,
        Command::Del { at, if_rev } => delete(at, if_rev, json).await?,
        Command::Ls { url, prefix } => list(&url, &prefix, json).await?,
        Command::Watch { url, prefix, count } => {
            let mut interrupts = Interrupts::listen()?;
            tokio::select! {
                watched = watch(&url, &prefix, count, json) => watched?,
                () = interrupts.next() => {}
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(at: At, json: bool) -> Result<()> {
    let entry = open_coord(&at.url).await?.get(&at.key).await?;
    let entry = entry.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("there is no key {:?}", at.key))
            .help(format!("`linchpin kv ls {} PREFIX` lists those that there are", at.url))
    })?;
    if json { out::line(fields(&entry)) } else { out::data(&entry.value).map(drop) }
}

async fn put(args: PutArgs, json: bool) -> Result<()> {
    let value = match args.value {
        Some(value) => value.into_bytes(),
        None => tokio::task::spawn_blocking(read_input)
            .await
            .map_err(|e| Error::new(Kind::Unexpected, "reading standard input failed").source(e))??,
    };
    let when = match args.if_rev {
        Some(rev) => When::Is(Rev(rev)),
        None if args.if_absent => When::Absent,
        None => When::Always,
    };
    let rev = open_coord(&args.at.url).await?.put(&args.at.key, value, when).await?;
    out::line(if json { json!({"key": args.at.key, "rev": rev}) } else { Value::from(rev.0) })
}

fn read_input() -> Result<Vec<u8>> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut value);
    read.map_err(|e| Error::new(Kind::Invalid, "can't read the value from standard input").source(e))?;
    Ok(value)
}

async fn delete(at: At, if_rev: Option<u64>, json: bool) -> Result<()> {
    let when = if_rev.map_or(When::Always, |rev| When::Is(Rev(rev)));
    let deleted = open_coord(&at.url).await?.delete(&at.key, when).await?;
    if json {
        return out::line(json!({"key": at.key, "deleted": deleted}));
    }
    if !deleted {
        out::say(format_args!("{} wasn't there", at.key));
    }
    Ok(())
}

async fn list(url: &str, prefix: &str, json: bool) -> Result<()> {
    let entries = open_coord(url).await?.list(prefix).await?;
    if json {
        return entries.iter().try_for_each(|entry| out::line(fields(entry)));
    }
    let rows: Vec<_> =
        entries.iter().map(|e| [e.key.clone(), e.rev.to_string(), leased(e).to_owned(), shown(e)]).collect();
    out::data(out::table(["KEY", "REVISION", "LEASE", "VALUE"], &rows).as_bytes()).map(drop)
}

async fn watch(url: &str, prefix: &str, count: Option<u64>, json: bool) -> Result<()> {
    let coord = open_coord(url).await?;
    let Watched { snapshot, mut changes } = coord.watch(prefix).await?;
    for entry in snapshot {
        tell(&Change::Put(entry), json)?;
    }
    let (mut told, mut failing) = (0, false);
    while count.is_none_or(|count| told < count) {
        match changes.next(Duration::from_secs(30)).await {
            Ok(news) => {
                failing = false;
                for change in &news {
                    tell(change, json)?;
                }
                told += news.len() as u64;
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    out::say(format_args!("waiting for the engine: {error}"));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    Ok(())
}

fn tell(change: &Change, json: bool) -> Result<()> {
    match change {
        Change::Put(entry) if json => out::line(fields(entry)),
        Change::Put(entry) => out::line(format_args!("put {:>8} {} {}", entry.rev, entry.key, shown(entry))),
        Change::Delete { key, rev } if json => out::line(json!({"key": key, "rev": rev, "deleted": true})),
        Change::Delete { key, rev } => out::line(format_args!("del {rev:>8} {key}")),
    }
}

fn leased(entry: &Entry) -> &str {
    entry.lease.as_ref().map_or("-", |lease| lease.0.as_str())
}

/// One line of it, so that a list stays a list.
fn shown(entry: &Entry) -> String {
    match std::str::from_utf8(&entry.value) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("{} bytes", entry.value.len()),
    }
}

fn fields(entry: &Entry) -> Value {
    let mut fields = Map::new();
    fields.insert("key".into(), entry.key.as_str().into());
    fields.insert("created".into(), entry.created.0.into());
    fields.insert("rev".into(), entry.rev.0.into());
    match std::str::from_utf8(&entry.value) {
        Ok(text) => fields.insert("value".into(), text.into()),
        Err(_) => fields.insert("value_base64".into(), STANDARD.encode(&entry.value).into()),
    };
    if let Some(lease) = &entry.lease {
        fields.insert("lease".into(), lease.0.as_str().into());
    }
    fields.into()
}
