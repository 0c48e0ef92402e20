//! Three servers tell the time, each a process on a port of its own. A hundred calls are spread over them. One is killed;
//! once that is noticed, no call fails.
//!
//! ```console
//! $ cargo run -p linchpin-examples --bin time_servers [URL]
//! ```

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use linchpin::coord::{Balance, Coord, Endpoints, EndpointsOptions, Instance};
use linchpin::{Error, Kind, Result, Timestamp};
use linchpin_examples::Meeting;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

const SERVERS: usize = 3;
const CALLS: usize = 100;
/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let meeting = Meeting::open().await?;
    if let Some(service) = std::env::args().nth(2) {
        return serve(meeting.coord, &service).await;
    }
    if !meeting.coord.caps().shared {
        let help = "name an engine that processes share, such as sqlite:time.db";
        return Err(Error::new(Kind::Unsupported, "the servers are processes").help(help));
    }
    let service = format!("time-{}", std::process::id());
    let mut servers = (0..SERVERS).map(|_| start(&meeting.url, &service)).collect::<Result<Vec<_>>>()?;
    let options = EndpointsOptions { balance: Balance::RoundRobin, ..EndpointsOptions::default() };
    let mut endpoints = meeting.coord.endpoints_with(&service, options).await?;
    until(&mut endpoints, SERVERS).await?;

    let calls = call_often(&endpoints).await;
    println!("{CALLS} calls: {}", calls.shown());
    let Some(mut victim) = servers.pop() else { return Ok(()) };
    let killed = Instant::now();
    victim.kill().await.map_err(|e| Error::new(Kind::Unexpected, "can't kill a server").source(e))?;
    until(&mut endpoints, SERVERS - 1).await?;
    println!("one was killed, which was noticed after {:.1?}", killed.elapsed());
    let calls = call_often(&endpoints).await;
    println!("{CALLS} calls: {}", calls.shown());
    Ok(())
}

fn start(url: &str, service: &str) -> Result<Child> {
    let failed = |e| Error::new(Kind::Unexpected, "can't run a server").source(e);
    let program = std::env::current_exe().map_err(failed)?;
    let mut server = Command::new(program);
    server.args([url, service]).stdin(Stdio::null()).kill_on_drop(true).spawn().map_err(failed)
}

/// Waits until so many are there.
async fn until(endpoints: &mut Endpoints, count: usize) -> Result<()> {
    let there = async {
        while endpoints.list().len() != count {
            endpoints.changed().await;
        }
    };
    let late = |_| Error::new(Kind::Timeout, format!("there aren't {count} servers after {PATIENCE:?}"));
    timeout(PATIENCE, there).await.map_err(late)
}

#[derive(Debug, Default)]
struct Calls {
    by_address: BTreeMap<String, usize>,
    failed: usize,
}

impl Calls {
    fn shown(&self) -> String {
        let shares: Vec<String> = self.by_address.values().map(usize::to_string).collect();
        format!("{} by the servers, {} failed", shares.join(" + "), self.failed)
    }
}

async fn call_often(endpoints: &Endpoints) -> Calls {
    let mut calls = Calls::default();
    for _ in 0..CALLS {
        let Some(server) = endpoints.pick() else {
            calls.failed += 1;
            continue;
        };
        let address = server.address().to_owned();
        let begun = Instant::now();
        match timeout(Duration::from_secs(1), ask(&address)).await {
            Ok(Ok(_time)) => {
                server.succeeded(begun.elapsed());
                *calls.by_address.entry(address).or_default() += 1;
            }
            _ => {
                server.failed();
                calls.failed += 1;
            }
        }
    }
    calls
}

async fn ask(address: &str) -> std::io::Result<String> {
    let mut time = String::new();
    TcpStream::connect(address).await?.read_to_string(&mut time).await?;
    Ok(time)
}

async fn serve(coord: Coord, service: &str) -> Result<()> {
    let failed = |e| Error::new(Kind::Unexpected, "can't listen").source(e);
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    let ttl = coord.caps().min_ttl.max(Duration::from_secs(2));
    let _registration = coord.register_for(service, Instance::new(address), ttl).await?;
    loop {
        let (mut caller, _) = listener.accept().await.map_err(failed)?;
        // That a caller went away is no reason to stop.
        let _ = caller.write_all(Timestamp::now().to_string().as_bytes()).await;
    }
}
