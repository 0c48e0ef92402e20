//! Ids on real engines: tables made here and tables made by others, outages, and answers that get lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod auto;
mod outage;
mod place;
mod redis;
mod segments;
