//! `linchpin id …` and `linchpin ids …`

#[cfg(feature = "serve")]
mod serve;

use std::fmt::Write;

use clap::{Args, Subcommand, value_parser};
use linchpin::id::{self, Id, Ids, Layout, MAX_IDS, Parts};
use linchpin::url::EngineUrl;
use linchpin::{Open, Result};
use serde_json::{Value, json};

use crate::out;

/// What can be done with single ids.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print new ids
    #[command(after_help = NEXT)]
    Next(NextArgs),
    /// Show what an id is made of
    #[command(after_help = PARSE)]
    Parse {
        /// Where it comes from: snowflake://, with the layout if it isn't the usual one, or uuid://
        url: String,
        /// The id as it prints
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
}

/// What can be done with sources of ids.
#[derive(Debug, Subcommand)]
pub(crate) enum Source {
    /// Give out ids over HTTP
    #[cfg(feature = "serve")]
    #[command(after_help = SERVE)]
    Serve(serve::ServeArgs),
    /// Give out ids over HTTP (not in this build: build with the cargo feature `serve`)
    #[cfg(not(feature = "serve"))]
    #[command(hide = true)]
    Serve {
        /// What would be served
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
}

const NEXT: &str = "\
Examples:
  linchpin id next uuid://v7 -n 3
  linchpin id next 'uuid://v5?namespace=dns' --name example.org
  linchpin id next 'snowflake://?worker=3&state=/var/lib/shop/worker-3'
  linchpin id next 'sqlite:shop.db?biz_type=orders&create=true' -n 10

Of a counter each run takes a segment and loses what it doesn't print.";

const PARSE: &str = "\
Examples:
  linchpin id parse snowflake:// 1130593418632916992
  linchpin id parse 'snowflake://?epoch=0&worker_bits=10&datacenter_bits=0' 7209600123456789
  linchpin id parse uuid:// 018f3c1e-7b1a-7cc3-98c4-dc0c0c07398f";

#[cfg(feature = "serve")]
const SERVE: &str = "\
Examples:
  linchpin ids serve --url 'mysql://app@db/shop' --url 'snowflake://?worker=3'
  curl http://127.0.0.1:8650/segmentsid/orders      # {\"biz_type\":\"orders\",\"min_id\":1001,\"max_id\":2000}
  curl http://127.0.0.1:8650/snowflake?n=2          # {\"ids\":[…],\"ids_str\":[\"…\"]}

A segment belongs to whoever asked for it, both ends included. Snowflakes are larger than the numbers
of JavaScript are exact: read ids_str there. It ends on Ctrl-C or SIGTERM, once every answer is out.";

#[derive(Debug, Args)]
pub(crate) struct NextArgs {
    /// What makes them, for example uuid://v7
    url: String,
    /// How many
    #[arg(short, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..))]
    n: u64,
    /// The name, for UUIDs of a name; the counter, where the URL names none
    #[arg(long)]
    name: Option<String>,
}

pub(crate) async fn run(command: Command, json: bool) -> Result<()> {
    match command {
        Command::Next(args) => next(args, json).await,
        Command::Parse { url, id } => parse(&url, &id, json),
    }
}

pub(crate) async fn source(command: Source, json: bool) -> Result<()> {
    match command {
        #[cfg(feature = "serve")]
        Source::Serve(args) => serve::serve(args, json).await,
        #[cfg(not(feature = "serve"))]
        Source::Serve { .. } => {
            let _json = json;
            let error = linchpin::Error::new(linchpin::Kind::Config, "this build can't serve ids");
            Err(error.help("build with the cargo feature `serve`"))
        }
    }
}

async fn next(args: NextArgs, json: bool) -> Result<()> {
    let mut ids = <Ids as Open>::open(&args.url).await?;
    let mut named = None;
    match &args.name {
        Some(name) if ids.info().engine == "uuid" => named = Some(ids.of_name(name)?),
        Some(name) => ids = ids.counter(name)?,
        None => {}
    }
    let done = match named {
        Some(id) => print([id].into_iter(), json).map(drop),
        None => print_many(&ids, args.n, json).await,
    };
    ids.close().await;
    done
}

async fn print_many(ids: &Ids, count: u64, json: bool) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(MAX_IDS).min(MAX_IDS);
        if !print(ids.next_n(now).await?, json)? {
            break;
        }
        left -= now as u64;
    }
    Ok(())
}

/// One per line, with `--json` as JSON values; `false` once nobody reads any more.
fn print(ids: impl Iterator<Item = Id>, json: bool) -> Result<bool> {
    let mut text = String::new();
    for id in ids {
        // Writing to a string can't fail.
        let _written = match json {
            true => writeln!(text, "{}", json!(id)),
            false => writeln!(text, "{id}"),
        };
    }
    out::data(text.as_bytes())
}

fn parse(url: &str, id: &str, json: bool) -> Result<()> {
    let parsed: EngineUrl = url.parse()?;
    if parsed.scheme() == "uuid" {
        let time = id::uuid_time(id)?;
        return match (json, time) {
            (true, time) => out::line(json!({ "time": time.map(|time| time.to_string()) })),
            (false, Some(time)) => out::line(format_args!("time  {time}")),
            (false, None) => {
                out::say("this UUID has no time in it");
                Ok(())
            }
        };
    }
    let layout = Layout::from_url(&parsed)?;
    let wrong = |e: std::num::ParseIntError| {
        let error = linchpin::Error::new(linchpin::Kind::Invalid, format!("{id:?} isn't a number"));
        error.help("give a snowflake as it prints: digits alone").source(e)
    };
    let parts = layout.parse(id.trim().parse().map_err(wrong)?)?;
    if json {
        return out::line(Value::from_iter(fields(parts)));
    }
    let mut text = String::new();
    for (name, value) in fields(parts) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _written = writeln!(text, "{name:<10}  {value}");
    }
    out::data(text.as_bytes()).map(drop)
}

fn fields(parts: Parts) -> [(&'static str, Value); 4] {
    [
        ("time", parts.time.to_string().into()),
        ("datacenter", parts.datacenter.into()),
        ("worker", parts.worker.into()),
        ("sequence", parts.sequence.into()),
    ]
}
