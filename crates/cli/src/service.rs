//! `linchpin service …`

use std::collections::BTreeMap;
use std::io::stderr;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use linchpin::coord::{
    Balance, DEFAULT_TTL, Endpoint, Endpoints, EndpointsOptions, Health, Instance, Picked,
};
use linchpin::{Error, Kind, Result};
use serde_json::{Value, json};
use tokio::process::Command as Program;

use crate::{Interrupts, check_there, open_coord, out};

/// What can be done with services.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register an instance for as long as this runs
    #[command(after_help = REGISTER)]
    Register(RegisterArgs),
    /// List services, or the instances of one
    Ls {
        /// The engine, for example sqlite:shop.db
        url: String,
        /// The service
        service: Option<String>,
    },
    /// Print the instances that take calls, and again whenever that changes, until interrupted
    Watch {
        #[command(flatten)]
        at: At,
        /// End after so many lists
        #[arg(short = 'n', long = "count", value_name = "N")]
        count: Option<u64>,
    },
    /// Run a command for an instance that a balancer picks
    #[command(after_help = CALL)]
    Call(CallArgs),
}

const REGISTER: &str = "\
Examples:
  linchpin service register etcd://10.0.0.5:2379 time 10.0.0.7:7001
  linchpin service register sqlite:shop.db time 127.0.0.1:7001 --weight 50 --meta version=3

When it is interrupted it takes leave; when it is killed, or its machine dies, the instance goes when the lease has
ended. It registers again after its lease was lost and after its key was deleted.";

const CALL: &str = "\
Examples:
  linchpin service call sqlite:shop.db time -- curl -sf http://{}/now
  linchpin service call sqlite:shop.db time -n 100 --balance round-robin -- nc -z {}

{} stands for the address of the instance. A command that fails is tried on another pick, --tries times in all. The exit
code is 1 if a call failed for good.";

const MAKES_IT: &str = "service register URL SERVICE ADDRESS";

/// A service on an engine.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The engine, for example sqlite:shop.db
    url: String,
    /// The service
    service: String,
}

#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    #[command(flatten)]
    at: At,
    /// Where the instance is called
    address: String,
    /// What tells it from the others. Default: made from the address
    #[arg(long)]
    id: Option<String>,
    /// Its share of the calls
    #[arg(long, default_value_t = 100)]
    weight: u32,
    /// Where it stands
    #[arg(long, default_value = "")]
    zone: String,
    /// Anything else
    #[arg(long = "meta", value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// How long it is listed after this process or its machine died; at least the engine's shortest lease
    #[arg(long, default_value_t = DEFAULT_TTL.into())]
    ttl: humantime::Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    #[command(flatten)]
    at: At,
    /// How the instance is picked
    #[arg(long, value_enum, default_value_t)]
    balance: How,
    /// What instances are picked by under consistent-hash. Default: at random
    #[arg(long)]
    key: Option<String>,
    /// How many calls, one after the other
    #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 1)]
    count: u64,
    /// How often a call is tried
    #[arg(long, default_value_t = 2)]
    tries: u32,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum How {
    Random,
    RoundRobin,
    Weighted,
    LeastConnections,
    #[default]
    PowerOfTwo,
    ConsistentHash,
}

impl From<How> for Balance {
    fn from(how: How) -> Self {
        match how {
            How::Random => Self::Random,
            How::RoundRobin => Self::RoundRobin,
            How::Weighted => Self::Weighted,
            How::LeastConnections => Self::LeastConnections,
            How::PowerOfTwo => Self::PowerOfTwo,
            How::ConsistentHash => Self::ConsistentHash(1.25),
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

pub(crate) async fn run(command: Command, json: bool) -> Result<ExitCode> {
    match command {
        Command::Register(args) => register(args, json).await.map(|()| ExitCode::SUCCESS),
        Command::Ls { url, service } => {
            check_there(&url, MAKES_IT)?;
            list(&url, service.as_deref(), json).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Watch { at, count } => {
            check_there(&at.url, MAKES_IT)?;
            let mut interrupts = Interrupts::listen()?;
            let watched = tokio::select! {
                watched = watch(&at, count, json) => watched,
                () = interrupts.next() => Ok(()),
            };
            watched.map(|()| ExitCode::SUCCESS)
        }
        Command::Call(args) => {
            check_there(&args.at.url, MAKES_IT)?;
            call(args, json).await
        }
    }
}

async fn register(args: RegisterArgs, json: bool) -> Result<()> {
    let mut instance = Instance::new(&args.address);
    instance.id = args.id.unwrap_or(instance.id);
    (instance.weight, instance.zone) = (args.weight, args.zone);
    instance.metadata = args.metadata.into_iter().collect();
    let coord = open_coord(&args.at.url).await?;
    let mut interrupts = Interrupts::listen()?;
    let registration = coord.register_for(&args.at.service, instance, args.ttl.into()).await?;
    let instance = registration.instance();
    if json {
        out::line(json!({ "service": args.at.service, "instance": instance }))?;
    } else {
        out::say(format_args!("registered {} of {:?}; Ctrl-C takes it out", instance.id, args.at.service));
    }
    interrupts.next().await;
    registration.deregister().await
}

async fn list(url: &str, service: Option<&str>, json: bool) -> Result<()> {
    let mut services = open_coord(url).await?.services().await?;
    let Some(service) = service else {
        if json {
            return out::line(json!(services));
        }
        let up = |all: &[Instance]| all.iter().filter(|instance| instance.health == Health::Up).count();
        let row = |(name, all): (&String, &Vec<Instance>)| {
            [name.clone(), all.len().to_string(), up(all).to_string()]
        };
        let rows: Vec<_> = services.iter().map(row).collect();
        return out::data(out::table(["SERVICE", "INSTANCES", "UP"], &rows).as_bytes()).map(drop);
    };
    let instances = services.remove(service).unwrap_or_default();
    if json {
        return out::line(json!(instances));
    }
    let rows: Vec<_> = instances.iter().map(row).collect();
    out::data(out::table(["ID", "ADDRESS", "WEIGHT", "ZONE", "HEALTH"], &rows).as_bytes()).map(drop)
}

fn row(instance: &Instance) -> [String; 5] {
    let Instance { id, address, weight, zone, health, .. } = instance;
    let health = format!("{health:?}").to_lowercase();
    [id.clone(), address.clone(), weight.to_string(), zone.clone(), health]
}

async fn watch(at: &At, count: Option<u64>, json: bool) -> Result<()> {
    let mut endpoints = open_coord(&at.url).await?.endpoints(&at.service).await?;
    let mut told = 0;
    loop {
        out::line(shown(&endpoints, json))?;
        told += 1;
        if count.is_some_and(|count| told >= count) {
            return Ok(());
        }
        endpoints.changed().await;
    }
}

/// One line for one list.
fn shown(endpoints: &Endpoints, json: bool) -> String {
    let (stale, list) = (endpoints.is_stale(), endpoints.list());
    if json {
        let one =
            |Endpoint { instance, suspect }: &Endpoint| json!({ "instance": instance, "suspect": suspect });
        return json!({ "stale": stale, "endpoints": Value::from_iter(list.iter().map(one)) }).to_string();
    }
    let one = |Endpoint { instance, suspect }: &Endpoint| {
        format!("{}{}", instance.address, if *suspect { "?" } else { "" })
    };
    let all: Vec<_> = list.iter().map(one).collect();
    format!("{}{}", if stale { "stale: " } else { "" }, all.join(" "))
}

async fn call(args: CallArgs, json: bool) -> Result<ExitCode> {
    let options = EndpointsOptions { balance: args.balance.into(), ..EndpointsOptions::default() };
    let endpoints = open_coord(&args.at.url).await?.endpoints_with(&args.at.service, options).await?;
    let mut interrupts = Interrupts::listen()?;
    let (mut failed, mut by_address) = (0, BTreeMap::<String, u64>::new());
    for _ in 0..args.count {
        let called = tokio::select! {
            called = one_call(&args, &endpoints, json) => called?,
            () = interrupts.next() => break,
        };
        match called {
            Some(address) => *by_address.entry(address).or_default() += 1,
            None => failed += 1,
        }
    }
    if json {
        let calls = by_address.values().sum::<u64>() + failed;
        out::line(json!({ "calls": calls, "failed": failed, "by_address": by_address }))?;
    } else if args.count > 1 {
        by_address.iter().for_each(|(address, calls)| out::say(format_args!("{address}  {calls}")));
        out::say(format_args!("{} failed", out::count(failed, "call")));
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The address that answered; none if all tries failed.
async fn one_call(args: &CallArgs, endpoints: &Endpoints, json: bool) -> Result<Option<String>> {
    for _ in 0..args.tries.max(1) {
        let picked = match &args.key {
            Some(key) => endpoints.pick_for(key.as_bytes()),
            None => endpoints.pick(),
        };
        let picked = picked.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("no instance of {:?} takes calls", args.at.service)).help(
                format!("`linchpin service ls {} {}` shows what there is", args.at.url, args.at.service),
            )
        })?;
        let address = picked.address().to_owned();
        if ran(&args.command, picked, json).await? {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

async fn ran(command: &[String], picked: Picked, json: bool) -> Result<bool> {
    let mut words = command.iter().map(|word| word.replace("{}", picked.address()));
    let program = words.next().unwrap_or_default();
    let mut run = Program::new(&program);
    run.args(words).env("LINCHPIN_ADDRESS", picked.address()).stdin(Stdio::null()).kill_on_drop(true);
    if json {
        // Standard output is for the JSON.
        run.stdout(stderr());
    }
    let begun = Instant::now();
    let status = run.status().await.map_err(|e| {
        Error::new(Kind::Invalid, format!("can't run {program:?}")).help("name a program after --").source(e)
    })?;
    if status.success() {
        picked.succeeded(begun.elapsed().max(Duration::from_nanos(1)));
    } else {
        picked.failed();
    }
    Ok(status.success())
}
