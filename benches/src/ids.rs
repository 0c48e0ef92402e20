//! Ids, beside what is written by hand.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use linchpin::{Ids, Open};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::harness::{Claim, Job, Result, Side};

/// Those who draw at once.
const DRAWERS: usize = 4;
const SNOWFLAKES: usize = 8_000_000;
const NUMBERS: usize = 400_000_000;
const REQUESTS: usize = 200_000;
const CONNECTIONS: usize = 32;

pub(crate) const SNOWFLAKE: Claim = Claim {
    name: "ids_snowflake",
    what: "snowflakes of one worker number, drawn one by one by 4 threads; the layout allows 4,096,000 per second",
    unit: "ids/s",
    goal: 0.95,
    ours: Side {
        what: "`Ids::next` on `snowflake://?worker=1`",
        messages: SNOWFLAKES,
        settings: &[0],
        run: |job| Box::pin(ours_snowflake(job)),
    },
    theirs: Side {
        what: "the usual mutex around time and sequence, spinning when a millisecond is full; no memory of restarts",
        messages: SNOWFLAKES,
        settings: &[0],
        run: |job| Box::pin(hand_snowflake(job)),
    },
    needs: None,
    memory: false,
    floor: 4_000_000.0,
    cost: false,
};

pub(crate) const SEGMENTS: Claim = Claim {
    name: "ids_segments",
    what: "numbers from warm segments, looked at one by one; 100 million per second at least",
    unit: "ids/s",
    goal: 1.0,
    ours: Side {
        what: "`Ids::next_n(1000)` on a counter in memory that gives 1,000,000 at a time",
        messages: NUMBERS,
        settings: &[0],
        run: |job| Box::pin(ours_numbers(job)),
    },
    theirs: Side {
        what: "a counter behind a mutex, locked for each number",
        messages: NUMBERS / 8,
        settings: &[0],
        run: |job| Box::pin(async move { Ok(hand_numbers(&job)) }),
    },
    needs: None,
    memory: false,
    floor: 100_000_000.0,
    cost: false,
};

/// What this program is told to be the server that Linchpin's is held against.
pub(crate) const BARE: &str = "--serve-constant";

pub(crate) const SERVE: Claim = Claim {
    name: "ids_serve",
    what: "one snowflake per HTTP request, 32 connections kept alive",
    unit: "requests/s",
    goal: 0.9,
    ours: Side {
        what: "`linchpin ids serve --url 'snowflake://?worker=1'`, `GET /snowflake` (built with \
               `cargo build --release -p linchpin-cli --features serve`)",
        messages: REQUESTS,
        settings: &[0],
        run: |job| Box::pin(ours_serve(job)),
    },
    theirs: Side {
        what: "a bare axum handler that returns a constant of the same length, in a process of its own, too",
        messages: REQUESTS,
        settings: &[0],
        run: |job| Box::pin(bare(job)),
    },
    needs: None,
    memory: false,
    floor: 0.0,
    cost: false,
};

async fn ours_snowflake(job: Job) -> Result<Duration> {
    let ids = Ids::open("snowflake://?worker=1").await?;
    let start = Instant::now();
    let drawing: Vec<_> = (0..DRAWERS)
        .map(|_| {
            let ids = ids.clone();
            tokio::spawn(async move {
                let mut last = None;
                for _ in 0..job.messages / DRAWERS {
                    let id = ids.next().await?;
                    if last >= Some(id) {
                        return Err(linchpin::Error::new(linchpin::Kind::Unexpected, "an id fell"));
                    }
                    last = Some(id);
                }
                Ok(())
            })
        })
        .collect();
    for drawn in drawing {
        drawn.await??;
    }
    Ok(start.elapsed())
}

async fn hand_snowflake(job: Job) -> Result<Duration> {
    let state = Arc::new(Mutex::new((0_u64, 0_u64)));
    let start = Instant::now();
    let drawing: Vec<_> = (0..DRAWERS)
        .map(|_| {
            let state = state.clone();
            tokio::task::spawn_blocking(move || {
                let mut last = 0;
                for _ in 0..job.messages / DRAWERS {
                    let id = by_hand(&state);
                    assert!(id > last, "an id fell");
                    last = id;
                }
            })
        })
        .collect();
    for drawn in drawing {
        drawn.await?;
    }
    Ok(start.elapsed())
}

fn by_hand(state: &Mutex<(u64, u64)>) -> u64 {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX) - 1_525_705_533_000
    };
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut time = now().max(state.0);
    let mut sequence = if time == state.0 { state.1 + 1 } else { 0 };
    if sequence > 4095 {
        while time <= state.0 {
            time = now();
        }
        sequence = 0;
    }
    *state = (time, sequence);
    (time << 22) | (1 << 12) | sequence
}

async fn ours_numbers(job: Job) -> Result<Duration> {
    let ids = Ids::open("memory://?counter=orders&block=1000000").await?;
    ids.next().await?;
    let start = Instant::now();
    let mut sum = 0_i64;
    for _ in 0..job.messages / 1000 {
        for id in ids.next_n(1000).await? {
            sum = sum.wrapping_add(id.number().unwrap_or(0));
        }
    }
    std::hint::black_box(sum);
    Ok(start.elapsed())
}

fn hand_numbers(job: &Job) -> Duration {
    let counter = Mutex::new(0_i64);
    let start = Instant::now();
    let mut sum = 0_i64;
    for _ in 0..job.messages {
        let mut counter = counter.lock().unwrap_or_else(PoisonError::into_inner);
        *counter += 1;
        sum = sum.wrapping_add(std::hint::black_box(*counter));
    }
    std::hint::black_box(sum);
    start.elapsed()
}

async fn ours_serve(job: Job) -> Result<Duration> {
    let program = std::env::current_exe()?.with_file_name("linchpin");
    let words = ["ids", "serve", "--json", "--listen", "127.0.0.1:0", "--url", "snowflake://?worker=1"];
    let (_server, address) = serve(&program, &words).await.map_err(|e| {
        format!(
            "{}: {e}; build it: cargo build --release -p linchpin-cli --features serve",
            program.display()
        )
    })?;
    load(&address, job.messages).await
}

async fn serve(program: &Path, words: &[&str]) -> Result<(Child, String)> {
    let mut command = Command::new(program);
    command.args(words);
    let mut server = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let out = server.stdout.take().ok_or("no output")?;
    let line = BufReader::new(out).lines().next_line().await?.ok_or("it ended at once")?;
    let said: serde_json::Value = serde_json::from_str(&line)?;
    let address = said.get("listen").and_then(serde_json::Value::as_str).ok_or("it says no address")?;
    Ok((server, address.to_owned()))
}

async fn bare(job: Job) -> Result<Duration> {
    let (_server, address) = serve(&std::env::current_exe()?, &[BARE]).await?;
    load(&address, job.messages).await
}

/// The server of that, until it is killed.
pub(crate) async fn serve_constant() -> Result {
    const ANSWER: &str = r#"{"ids":[1130593418632916992],"ids_str":["1130593418632916992"]}"#;
    let answer = || async { ([("content-type", "application/json")], ANSWER) };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", serde_json::json!({ "listen": listener.local_addr()?.to_string() }));
    let listener = listener.tap_io(|stream| {
        let _set = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, Router::new().route("/snowflake", get(answer))).await?)
}

/// Asks, on each connection one request after another.
async fn load(address: &str, requests: usize) -> Result<Duration> {
    let mut asking = Vec::new();
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        asking.push(tokio::spawn(async move {
            let mut answer = vec![0; 4096];
            for _ in 0..requests / CONNECTIONS {
                stream.write_all(b"GET /snowflake HTTP/1.1\r\nhost: bench\r\n\r\n").await?;
                let mut got = 0;
                // The answer is one line of JSON.
                while !answer.get(..got).is_some_and(|text| text.ends_with(b"]}")) {
                    let room = answer.get_mut(got..).unwrap_or_default();
                    match stream.read(room).await? {
                        0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                        n => got += n,
                    }
                }
            }
            Ok::<_, std::io::Error>(())
        }));
    }
    for asked in asking {
        asked.await??;
    }
    Ok(start.elapsed())
}
