//! What the engines on relational databases share, free of drivers.

pub mod sink;
