//! Ids on real engines: what is of one engine alone. What all of them promise is proven by the conformance suite.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod auto;
mod place;
mod redis;
mod segments;
