//! Small records under subjects, each written only over the revision it was read at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::jetstream::message::PublishMessage as Publish;
use async_nats::jetstream::stream::{Config as StreamConfig, Info, RawMessage};
use bytes::Bytes;
use linchpin_core::{Kind, Result, Timestamp};
use serde::Deserialize;
use serde_json::json;

use super::error;
use super::link::Link;
use super::message::{raw, time};
use super::names::Names;

/// Subjects that one request about a stream may list.
const PAGE: usize = 100_000;

/// The stream of rosters and ledgers.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) link: Arc<Link>,
    pub(super) names: Names,
    replicas: usize,
    created: AtomicBool,
}

/// A record as it was read.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) rev: u64,
    pub(super) bytes: Bytes,
    pub(super) time: Timestamp,
}

#[derive(Deserialize)]
struct Got {
    message: RawMessage,
}

#[derive(Deserialize)]
struct Subjects {
    state: Counts,
}

#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    subjects: Option<std::collections::BTreeMap<String, u64>>,
}

impl Store {
    pub(super) fn new(link: Arc<Link>, names: Names, replicas: usize) -> Self {
        Self { link, names, replicas, created: AtomicBool::new(false) }
    }

    /// [`Store::create`], unless this process saw them there.
    pub(super) async fn create_once(&self) -> Result<()> {
        if !self.created.load(Ordering::Acquire) {
            self.create().await?;
            self.created.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Creates the streams that Linchpin keeps its own things in. They may be there.
    pub(super) async fn create(&self) -> Result<()> {
        let (state, delayed) = (self.names.state(), self.names.delayed());
        let common = |name: &str, subjects: Vec<String>, description: &str| StreamConfig {
            name: name.to_owned(),
            subjects,
            num_replicas: self.replicas,
            description: Some(description.to_owned()),
            ..StreamConfig::default()
        };
        let rosters = StreamConfig {
            max_messages_per_subject: 1,
            ..common(&state, vec![format!("{state}.>")], "Linchpin: groups, their members and progress")
        };
        let waiting = common(&delayed, vec![format!("{delayed}.*")], "Linchpin: delayed messages");
        for config in [rosters, waiting] {
            let subject = format!("STREAM.CREATE.{}", config.name);
            match self.link.call::<Info>(&subject, &config).await {
                Err(e) if e.kind() != Kind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// The record under a subject.
    pub(super) async fn get(&self, subject: &str) -> Result<Option<Record>> {
        let body = json!({ "last_by_subj": subject });
        let got = self.link.ask::<Got>(&format!("STREAM.MSG.GET.{}", self.names.state()), &body).await?;
        record(got)
    }

    /// The record of a revision, if it is still there.
    pub(super) async fn at(&self, rev: u64) -> Result<Option<Record>> {
        let body = json!({ "seq": rev });
        let got = self.link.ask::<Got>(&format!("STREAM.MSG.GET.{}", self.names.state()), &body).await?;
        record(got)
    }

    /// Writes over the revision `over` (0: none is there). `None`: another was there.
    pub(super) async fn put(&self, subject: &str, bytes: Bytes, over: u64) -> Result<Option<u64>> {
        let publish = || Publish::build().payload(bytes.clone()).expected_last_subject_sequence(over);
        let mut stored = self.link.store(subject.to_owned(), publish()).await;
        if matches!(stored, Ok(None)) {
            self.create().await?;
            stored = self.link.store(subject.to_owned(), publish()).await;
        }
        match stored {
            Ok(Some(rev)) => Ok(Some(rev)),
            Ok(None) => Err(error::unanswered()),
            Err(e) if e.kind() == Kind::Conflict => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes, whatever is there.
    pub(super) async fn set(&self, subject: &str, bytes: Bytes) -> Result<u64> {
        let publish = || Publish::build().payload(bytes.clone());
        if let Some(rev) = self.link.store(subject.to_owned(), publish()).await? {
            return Ok(rev);
        }
        self.create().await?;
        self.link.store(subject.to_owned(), publish()).await?.ok_or_else(error::unanswered)
    }

    /// Removes the records that a subject or pattern names.
    pub(super) async fn purge(&self, subjects: &str) -> Result<()> {
        let subject = format!("STREAM.PURGE.{}", self.names.state());
        let purged = self.link.call::<serde_json::Value>(&subject, &json!({ "filter": subjects })).await;
        match purged {
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// How many messages a stream holds under each subject of a pattern.
    pub(super) async fn subjects(&self, stream: &str, pattern: &str) -> Result<Vec<(String, u64)>> {
        let mut all = Vec::new();
        loop {
            let body = json!({ "subjects_filter": pattern, "offset": all.len() });
            let page = self.link.call::<Subjects>(&format!("STREAM.INFO.{stream}"), &body).await;
            let page = match page {
                Err(e) if e.kind() == Kind::NotFound => return Ok(all),
                page => page?.state.subjects.unwrap_or_default(),
            };
            let last = page.len() < PAGE;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }
}

fn record(got: Result<Got, async_nats::jetstream::Error>) -> Result<Option<Record>> {
    let message = match got {
        Ok(got) => raw(got.message)?,
        Err(said) if error::said(&said).kind() == Kind::NotFound => return Ok(None),
        Err(said) => return Err(error::said(&said)),
    };
    Ok(Some(Record { rev: message.sequence, bytes: message.payload, time: time(message.time) }))
}
