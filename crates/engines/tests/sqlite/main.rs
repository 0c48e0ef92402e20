//! The SQLite bus, by itself: what the conformance suite can't see from outside.

#[cfg(test)]
mod basic;
#[cfg(test)]
mod fault;
#[cfg(test)]
mod help;
#[cfg(test)]
mod manage;
#[cfg(test)]
mod order;
