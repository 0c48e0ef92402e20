//! `linchpin demo`: real orders through the bus while workers are killed, then an audit.

mod audit;
mod crew;
mod data;
mod feed;
mod place;
mod report;
mod run;
mod screen;
mod shop;
mod wire;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use linchpin::{Bus, Error, Kind, Result, TopicOptions};

use self::audit::{Audit, Expected, Findings};
use self::crew::Crew;
use self::data::Source;
use self::place::Place;
use self::screen::Screen;
use self::worker::{Job, Role};
use crate::{Interrupts, open};

pub(crate) use self::worker::work;

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct DemoArgs {
    /// The bus; any engine that several processes can share [default: a fresh SQLite file]
    #[arg(long, value_name = "URL")]
    bus: Option<String>,
    /// The orders: the CSV of Online Retail, plain or in xz [default: December 2010, shipped with this tool]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// How many workers are killed with SIGKILL while it runs
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1000))]
    kills: u32,
    /// Worker processes of each of the two groups
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    workers: u32,
    /// Messages fed per second; 0 for as fast as it goes
    #[arg(long, value_name = "N", default_value_t = 300)]
    rate: u32,
    /// Keep the databases in this folder, instead of a temporary one that is removed
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

const HELP: &str = "\
Replays the invoices of a real shop, each an order keyed by its customer. Two groups of worker
processes consume them: `stock` books each order once into stock balances, `tables` lands orders
and order lines through a pipe. Rows that are no sale become dead letters. Workers are killed with
SIGKILL in the middle of their work. In the end the tables are held against the input file.

Data: Online Retail, Daqing Chen, UCI Machine Learning Repository, 2015, doi:10.24432/C5BW33,
CC BY 4.0.

Examples:
  linchpin demo
  linchpin demo --kills 20 --rate 0
  linchpin demo --keep ./demo && linchpin topic stat sqlite:demo/bus.db orders

Exit code 1 if the audit finds anything.";

/// Runs it.
///
/// # Errors
/// A wrong file or URL, a folder in use, an interruption; what the engine says otherwise.
pub(crate) async fn demo(args: DemoArgs, json: bool) -> Result<ExitCode> {
    let source = args.data.clone().map_or(Source::Shipped, Source::File);
    let expected = Expected::read(&source)?;
    let place = Place::prepare(args.bus.as_deref(), args.keep.as_deref())?;
    let bus = open(&place.url).await?;
    if !bus.caps().shared {
        let message = format!("the demo runs several processes, and {} lives in one", bus.info().url);
        return Err(Error::new(Kind::Unsupported, message).help("leave --bus out, or name a sqlite: file"));
    }
    shop::create(&place.shop)?;
    bus.ensure(&place.topic, &TopicOptions { partitions: 8, ..TopicOptions::default() }).await?;
    report::opening(&args, &source, &expected, &place, &bus);
    let screen = Screen::new(expected.messages(), args.kills);
    drop(expected);
    let mut interrupts = Interrupts::listen()?;
    let outcome = tokio::select! {
        outcome = run_and_audit(&args, &source, &place, &bus, &screen) => outcome,
        () = interrupts.next() => {
            Err(Error::new(Kind::Closed, "interrupted").help("the workers were killed, temporary files removed"))
        }
    };
    screen.finish();
    place.clean(&bus).await;
    let closed = bus.close().await;
    let findings = outcome.and_then(|findings| closed.map(|()| findings))?;
    report::closing(&findings, &place, json)?;
    Ok(if findings.audit.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_and_audit(
    args: &DemoArgs,
    source: &Source,
    place: &Place,
    bus: &Bus,
    screen: &Screen,
) -> Result<Findings> {
    let job = Job::new(Role::Stock, place);
    let crew = Crew::start(job, args.workers, screen.clone()).await?;
    let mut run = run::Run::new(bus, place, crew, args.kills, screen)?;
    run.gather().await?;
    let started = Instant::now();
    let feed = run::Feed::start(bus, &place.topic, source, args.rate);
    run.watch(feed).await?;
    let seconds = started.elapsed().as_secs_f64();
    let (kills, redelivered) = run.stop().await;
    let mut letters = Vec::new();
    for role in Role::ALL {
        letters.push((role, audit::letters(bus, &place.topic, role).await?));
    }
    let mut findings = audit::audit(Expected::read(source)?, &shop::connect(&place.shop)?, &letters)?;
    findings.audit = Audit { seconds, kills, redelivered, ..findings.audit };
    Ok(findings)
}
