//! Keys and values that do on every engine, checked once.

use std::time::Duration;

use crate::{Error, Kind, Result};

/// The longest key, in bytes: what Consul takes, so that keys travel between engines.
pub const MAX_KEY: usize = 512;

/// Refuses a key that wouldn't do on every engine.
///
/// # Errors
/// [`Kind::Invalid`] unless it is 1 to 512 bytes of UTF-8 without control characters, in segments divided by `/` that
/// are neither empty nor `.` nor `..`: ZooKeeper's rule for paths.
pub fn check_key(key: &str) -> Result<()> {
    let problem = match key {
        "" => "is empty".to_owned(),
        _ if key.len() > MAX_KEY => format!("is {} bytes long", key.len()),
        _ if key.chars().any(char::is_control) => format!("{key:?} has a control character"),
        _ if key.split('/').any(|segment| matches!(segment, "" | "." | "..")) => {
            format!("{key:?} has a segment that is empty, '.' or '..'")
        }
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Invalid, format!("the key {problem}"))
        .help(format!("use 1 to {MAX_KEY} bytes of text, divided by '/' if need be: shop/limits")))
}

/// Refuses a value that is larger than the engine takes.
///
/// # Errors
/// [`Kind::Invalid`] with both sizes.
pub fn check_value(value: &[u8], max: usize) -> Result<()> {
    if value.len() <= max {
        return Ok(());
    }
    let problem = format!("a value of {} bytes is over the engine's limit of {max}", value.len());
    Err(Error::new(Kind::Invalid, problem).help("store it elsewhere, and a reference to it here"))
}

/// Refuses a lease that is shorter than the engine's shortest.
///
/// # Errors
/// [`Kind::Invalid`] with both times.
pub fn check_ttl(ttl: Duration, min: Duration) -> Result<()> {
    if ttl >= min {
        return Ok(());
    }
    let (ttl, min) = (humantime::format_duration(ttl), humantime::format_duration(min));
    Err(Error::new(Kind::Invalid, format!("a lease of {ttl}"))
        .help(format!("the engine's shortest is {min}: ask for that or more")))
}

/// Begins the last segment of keys that are made up here, so that `orders` and `orders/42` don't mix.
const OWN: char = '~';
/// The longest that follows it: a UUID with its dashes.
const OWN_LENGTH: usize = 36;

/// What all keys of `name` begin with, by kind: `lock/orders/42/~`. No key of another name begins with it.
///
/// # Errors
/// [`Kind::Invalid`] for a name that makes no key, or has a segment that begins with `~`.
pub(super) fn own_keys(kind: &str, name: &str) -> Result<String> {
    if name.split('/').any(|segment| segment.starts_with(OWN)) {
        return Err(Error::new(Kind::Invalid, format!("{name:?} has a segment that begins with '{OWN}'"))
            .help("choose another name: such segments are for keys that are made up"));
    }
    check_key(name)?;
    let prefix = format!("{kind}/{name}/{OWN}");
    let longest = MAX_KEY - OWN_LENGTH - (prefix.len() - name.len());
    if name.len() > longest {
        return Err(Error::new(Kind::Invalid, format!("the name of a {kind} is {} bytes long", name.len()))
            .help(format!("use up to {longest} bytes: what is kept under it needs the rest")));
    }
    Ok(prefix)
}
