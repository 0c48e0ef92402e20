//! Names and limits that hold on every engine, checked once.

use std::time::Duration;

use super::{Start, SubscribeOptions, TopicOptions};
use crate::{Error, Kind, Result};

/// The longest topic or group name, in bytes: what Kafka allows, so that names travel between engines.
const MAX_NAME: usize = 249;
/// The most partitions of a topic.
const MAX_PARTITIONS: u32 = 1024;

/// Refuses a topic or group name that wouldn't do on every engine.
///
/// # Errors
/// [`Kind::Invalid`] unless it is 1 to 249 letters, digits, `.`, `_` and `-`, and neither `.` nor `..`: Kafka's rule.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let problem = match name {
        "" => "is empty".to_owned(),
        "." | ".." => format!("{name:?} is reserved"),
        _ if name.len() > MAX_NAME => format!("is {} bytes long", name.len()),
        _ if !name.chars().all(valid) => format!("{name:?} has a character that isn't allowed"),
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Invalid, format!("the {what} name {problem}"))
        .help(format!("use 1 to {MAX_NAME} ASCII letters, digits, '.', '_' or '-'")))
}

/// Refuses a size, a number of partitions or a retention that is out of range.
///
/// # Errors
/// [`Kind::Invalid`] that names the value and the range.
pub fn check_options(options: &TopicOptions) -> Result<()> {
    let wrong = |message: String, help: String| Err(Error::new(Kind::Invalid, message).help(help));
    if !(1..=MAX_PARTITIONS).contains(&options.partitions) {
        return wrong(format!("{} partitions", options.partitions), format!("use 1 to {MAX_PARTITIONS}"));
    }
    if options.max_message == 0 || options.max_message > 1 << 30 {
        return wrong(format!("a size limit of {} bytes", options.max_message), "use 1 byte to 1 GiB".into());
    }
    if options.retention_age == Some(Duration::ZERO) || options.retention_length == Some(0) {
        return wrong("a retention of zero".into(), "use a longer one, or none to keep everything".into());
    }
    Ok(())
}

impl SubscribeOptions {
    /// Refuses what is out of range for every engine, partitions the topic doesn't have included.
    ///
    /// # Errors
    /// [`Kind::Invalid`] that names the value and the range.
    pub fn check(&self, partitions: u32) -> Result<()> {
        if let Some(group) = &self.group {
            check_name("group", group)?;
        }
        let wrong = |message: String, help: &str| Err(Error::new(Kind::Invalid, message).help(help));
        let wait = self.ack_wait;
        if wait < Duration::from_secs(1) || wait > Duration::from_secs(12 * 3600) {
            return wrong(format!("an ack_wait of {}", humantime::format_duration(wait)), "use 1 s to 12 h");
        }
        if self.max_attempts == 0 || self.max_in_flight == 0 {
            return wrong("max_attempts or max_in_flight is 0".into(), "use at least 1");
        }
        if self.partitions.as_deref() == Some(&[]) {
            return wrong("an empty list of partitions".into(), "name at least one, or none for all");
        }
        let start = match self.start {
            Start::At(position) => Some(position.partition),
            _ => None,
        };
        match self.partitions.iter().flatten().copied().chain(start).find(|p| *p >= partitions) {
            Some(p) => wrong(
                format!("partition {p} doesn't exist"),
                &format!("the topic has {partitions}, numbered from 0"),
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rule() {
        for good in ["orders", "a.b_c-9", &"x".repeat(249)] {
            assert!(check_name("topic", good).is_ok());
        }
        for bad in ["", ".", "..", "a b", "ö", &"x".repeat(250)] {
            assert_eq!(check_name("topic", bad).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        let error = check_options(&TopicOptions { partitions: 0, ..TopicOptions::default() }).unwrap_err();
        assert!(error.to_string().contains("0 partitions; use 1 to 1024"));
        let mut options = SubscribeOptions::group("g");
        assert!(options.check(4).is_ok());
        options.partitions = Some(vec![4]);
        assert!(options.check(4).unwrap_err().to_string().contains("partition 4"));
        options.partitions = None;
        options.start = Start::At(crate::bus::Position::new(5, 0));
        assert!(options.check(4).unwrap_err().to_string().contains("partition 5"));
        options.ack_wait = Duration::from_millis(10);
        assert!(options.check(4).unwrap_err().to_string().contains("10ms"));
    }
}
