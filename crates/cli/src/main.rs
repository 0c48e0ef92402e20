//! The `linchpin` command-line tool. Data goes to standard output, words to standard error.

#[cfg(feature = "sqlite")]
mod demo;
mod doctor;
mod hold;
mod id;
mod interrupts;
mod kv;
mod out;
mod service;
mod topic;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use linchpin::url::EngineUrl;
use linchpin::{Bus, Coord, Error, Kind, Open, Result};

use crate::interrupts::Interrupts;

/// One small API per job, the same guarantees on every engine; only the URL changes.
#[derive(Debug, Parser)]
#[command(name = "linchpin", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 it worked, 1 it didn't, 2 the command line is wrong.")]
struct Cli {
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, list, fill, read and clear topics
    #[command(subcommand)]
    Topic(topic::Command),
    /// Read, write and watch keys
    #[command(subcommand)]
    Kv(kv::Command),
    /// Run a command while holding a lock
    #[command(subcommand)]
    Lock(hold::LockCommand),
    /// Run a command as the leader of an election
    Elect(hold::ElectArgs),
    /// Print new ids, and show what ids are made of
    #[command(subcommand)]
    Id(id::Command),
    /// Give out ids to programs in other languages
    #[command(subcommand)]
    Ids(id::Source),
    /// Register, list, watch and call instances of services
    #[command(subcommand)]
    Service(service::Command),
    /// Tell what is wrong with engines
    Doctor(doctor::DoctorArgs),
    /// Replay real orders through the bus while workers are killed, then audit the result
    #[cfg(feature = "sqlite")]
    Demo(demo::DemoArgs),
    /// A worker of the demo
    #[cfg(feature = "sqlite")]
    #[command(hide = true)]
    DemoWorker,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Error::new(Kind::Unexpected, "no async runtime").source(error)),
    };
    let done = runtime.block_on(run(cli));
    // A thread may still wait for a line from the terminal.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| fail(&error))
}

async fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Topic(command) => topic::run(command, cli.json).await,
        Command::Kv(command) => kv::run(command, cli.json).await,
        Command::Lock(command) => hold::lock(command).await,
        Command::Elect(args) => hold::elect(args).await,
        Command::Id(command) => id::run(command, cli.json).await.map(|()| ExitCode::SUCCESS),
        Command::Ids(command) => id::source(command, cli.json).await.map(|()| ExitCode::SUCCESS),
        Command::Service(command) => service::run(command, cli.json).await,
        Command::Doctor(args) => doctor::doctor(args, cli.json).await,
        #[cfg(feature = "sqlite")]
        Command::Demo(args) => demo::demo(args, cli.json).await,
        #[cfg(feature = "sqlite")]
        Command::DemoWorker => demo::work().await.map(|()| ExitCode::SUCCESS),
    }
}

/// What is shown by default. lapin calls every refusal an error, those too by which it is learnt that a queue isn't there.
const LOGGED: &str = "warn,lapin=off";

/// Warnings of the library, to standard error; `LINCHPIN_LOG=debug` shows more.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LINCHPIN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOGGED));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}

fn fail(error: &Error) -> ExitCode {
    out::error(error);
    ExitCode::FAILURE
}

/// Opens a bus with every engine of this build.
async fn open(url: &str) -> Result<Bus> {
    <Bus as Open>::open(url).await
}

/// Opens coordination with every engine of this build.
async fn open_coord(url: &str) -> Result<Coord> {
    <Coord as Open>::open(url).await
}

/// Opens a bus that is there: of a mistyped file no empty one is made.
async fn open_existing(url: &str) -> Result<Bus> {
    check_there(url, "topic create URL NAME")?;
    open(url).await
}

/// Refuses a file that isn't there. `maker` is the command that makes one.
fn check_there(url: &str, maker: &str) -> Result<()> {
    let parsed: EngineUrl = url.parse()?;
    let file = parsed.file_path();
    if parsed.scheme() == "sqlite" && !file.is_empty() && file != ":memory:" && !Path::new(&file).exists() {
        let error = Error::new(Kind::NotFound, format!("there is no file {file:?}"));
        let maker = maker.replace("URL", &parsed.to_string());
        return Err(error.help(format!("`linchpin {maker}` makes it")));
    }
    Ok(())
}
