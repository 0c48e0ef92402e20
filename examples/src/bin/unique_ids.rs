//! Fifty processes draw ids at once, and no id comes twice.
//!
//! ```console
//! $ cargo run -p linchpin-examples --bin unique_ids
//! $ cargo run -p linchpin-examples --features full --bin unique_ids -- \
//!     'postgres://postgres@127.0.0.1/shop?biz_type=orders&create=true'
//! ```
//!
//! Without a URL it does so for UUIDs, snowflakes, and numbers from a table in a SQLite file. In a URL, `{n}` stands for the
//! number of the process: snowflakes with fixed worker numbers need it.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::{Command, Stdio};

use linchpin::{Error, Ids, Kind, Open, Result};
use tokio::task::JoinSet;

const PROCESSES: usize = 50;
const EACH: usize = 10_000;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [url, number] => draw(&url.replace("{n}", number)).await,
        [url] => count(url).await,
        _ => {
            let folder = tempfile::tempdir().map_err(|e| failed("can't make a temporary folder", e))?;
            let file = folder.path().join("ids.db");
            let counter = format!("sqlite://{}?biz_type=orders&create=true", file.display());
            let snowflake = "snowflake://?datacenter_bits=0&worker_bits=10&worker={n}";
            for url in ["uuid://v1", "uuid://v4", "uuid://v7", snowflake, &counter] {
                count(url).await?;
            }
            Ok(())
        }
    }
}

fn failed(what: &str, source: std::io::Error) -> Error {
    Error::new(Kind::Unexpected, what).source(source)
}

/// One of the processes.
async fn draw(url: &str) -> Result<()> {
    let ids = Ids::open(url).await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    // One by one, and many at a time.
    for _ in 0..EACH / 2 {
        writeln!(out, "{}", ids.next().await?).map_err(|e| failed("can't write", e))?;
    }
    for id in ids.next_n(EACH / 2).await? {
        writeln!(out, "{id}").map_err(|e| failed("can't write", e))?;
    }
    out.flush().map_err(|e| failed("can't write", e))?;
    ids.close().await;
    Ok(())
}

/// Runs the processes, all at once, and counts what they drew.
async fn count(url: &str) -> Result<()> {
    let mut drawing = JoinSet::new();
    for number in 0..PROCESSES {
        let url = url.to_owned();
        drawing.spawn_blocking(move || run(&url, number));
    }
    let (mut all, mut twice) = (HashSet::new(), 0);
    while let Some(drawn) = drawing.join_next().await {
        let drawn = drawn.map_err(|e| Error::new(Kind::Unexpected, "a task was lost").source(e))??;
        twice += drawn.into_iter().filter(|id| !all.insert(id.clone())).count();
    }
    println!("{} ids of {PROCESSES} processes, {twice} came twice: {url}", all.len());
    match twice {
        0 => Ok(()),
        _ => Err(Error::new(Kind::Unexpected, format!("{twice} ids came twice"))),
    }
}

fn run(url: &str, number: usize) -> Result<Vec<String>> {
    let program = std::env::current_exe().map_err(|e| failed("can't find this program", e))?;
    let mut process = Command::new(program);
    process.args([url, &number.to_string()]).stdout(Stdio::piped());
    let mut process = process.spawn().map_err(|e| failed("can't start a process", e))?;
    let out = process.stdout.take().ok_or_else(|| Error::new(Kind::Unexpected, "a process has no output"))?;
    let ids = BufReader::new(out).lines().collect::<Result<Vec<_>, _>>();
    let status = process.wait().map_err(|e| failed("a process was lost", e))?;
    let ids = ids.map_err(|e| failed("can't read from a process", e))?;
    if !status.success() || ids.len() != EACH {
        return Err(Error::new(Kind::Unexpected, format!("{} ids, and then {status}", ids.len())));
    }
    Ok(ids)
}
