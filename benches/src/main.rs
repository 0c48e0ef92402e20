//! Linchpin beside what it is compared with, both in one go: `cargo run --release -p linchpin-benches -- [CLAIM]…`.
//!
//! Without a name every claim is measured. Each prints a ratio and writes its row into `docs/performance.json`, from which
//! `docs/performance.md` is made; rows of other claims stay. A claim is a file here, and [`harness`] does the rest.

mod apalis;
mod harness;
mod machine;
mod naive;
mod nats;
mod sqlite_consume;
mod sqlite_publish;
mod work;

use harness::{Claim, Result};

const CLAIMS: &[&Claim] = &[
    &sqlite_publish::CLAIM,
    &sqlite_consume::CLAIM,
    &sqlite_consume::AWAITING,
    &nats::PUBLISH,
    &nats::CONSUME,
    &naive::PUBLISH,
    &naive::CONSUME,
    &apalis::ENQUEUE,
    &apalis::RUN,
];

#[tokio::main]
async fn main() -> Result {
    let words: Vec<String> = std::env::args().skip(1).collect();
    harness::main(CLAIMS, &words).await
}
