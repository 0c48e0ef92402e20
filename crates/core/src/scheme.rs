//! The table of engines: what each URL scheme opens.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::bus::BusEngine;
use crate::coord::CoordEngine;
use crate::finding::Finding;
use crate::id::IdEngine;
use crate::url::EngineUrl;
use crate::{Error, Kind, Result};

/// Opens what a URL names.
pub type Open<T> = fn(EngineUrl) -> BoxFuture<'static, Result<Arc<T>>>;

/// Looks at an engine from outside the contracts: its settings, its privileges, its clock.
pub type Examine = fn(EngineUrl) -> BoxFuture<'static, Vec<Finding>>;

/// One line of the table of engines.
#[derive(Debug, Clone, Copy)]
pub struct Scheme {
    /// The URL scheme.
    pub name: &'static str,
    /// The cargo feature that brings it; empty if it is always there.
    pub feature: &'static str,
    /// What this build can do with it; `None` if it lacks the feature.
    pub ways: Option<Ways>,
}

/// What an engine can be opened as. `None` is what it has no mapping for.
#[derive(Debug, Clone, Copy)]
pub struct Ways {
    /// How its bus is opened.
    pub bus: Option<Open<dyn BusEngine>>,
    /// How it is opened for coordination.
    pub coord: Option<Open<dyn CoordEngine>>,
    /// How its ids are opened.
    pub ids: Option<Open<dyn IdEngine>>,
    /// What `linchpin doctor` asks of it beyond what every engine is asked.
    pub examine: Option<Examine>,
}

impl Ways {
    /// Nothing yet: the start of a line that names what it has.
    pub const NONE: Self = Self { bus: None, coord: None, ids: None, examine: None };
}

/// What an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The engine's name, as in errors and in the matrix: `sqlite`.
    pub engine: &'static str,
    /// Where it is, without secrets.
    pub url: String,
    /// What "stored" means here, in a sentence.
    pub durability: &'static str,
}

/// How the scheme of `url` is opened as a `capability`, by the table.
pub(crate) fn find<T>(
    url: &EngineUrl,
    schemes: &[Scheme],
    capability: &str,
    way: impl Fn(Ways) -> Option<T>,
) -> Result<T> {
    let has_it = |scheme: &&Scheme| scheme.ways.is_none_or(|ways| way(ways).is_some());
    let known = || {
        let name = |scheme: &Scheme| match scheme.ways {
            Some(_) => format!("{}:", scheme.name),
            None => format!("{}: (cargo feature `{}`)", scheme.name, scheme.feature),
        };
        schemes.iter().filter(has_it).map(name).collect::<Vec<_>>().join(", ")
    };
    let Some(scheme) = schemes.iter().find(|scheme| scheme.name == url.scheme()) else {
        return Err(Error::new(Kind::Config, format!("unknown scheme {:?}", url.scheme()))
            .help(format!("known schemes are {}", known())));
    };
    let Some(ways) = scheme.ways else {
        return Err(Error::new(Kind::Config, format!("this build has no engine for {}:", scheme.name))
            .help(format!("build with the cargo feature `{}`", scheme.feature)));
    };
    way(ways).ok_or_else(|| {
        Error::new(Kind::Config, format!("{}: has no {capability}", scheme.name))
            .help(format!("schemes that have one are {}", known()))
    })
}
