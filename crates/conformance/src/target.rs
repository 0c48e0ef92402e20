//! Targets: the engines the cases run on.

use std::path::Path;
use std::time::Duration;

use crate::case::Need;

/// One engine, in one way of running it.
pub(crate) struct Target {
    /// As it is called in the matrix.
    pub(crate) name: &'static str,
    /// What the harness starts for it; `None` for an engine that lives in the process that opens it, and dies with it.
    pub(crate) server: Option<&'static str>,
    /// What the harness starts for the cases in which one server of several dies.
    pub(crate) cluster: Option<&'static str>,
    /// Whether all traffic goes through the one address of the URL, so that it can be cut.
    pub(crate) one_address: bool,
    /// The shortest lease it has.
    pub(crate) lease: Duration,
    /// URLs for one cell of each capability, on which the cell has the engine to itself; `None` where it has no such mapping.
    pub(crate) bus: Option<MakeUrl>,
    pub(crate) coord: Option<MakeUrl>,
    pub(crate) ids: Option<Source>,
}

/// A way to get ids.
pub(crate) struct Source {
    /// Where they come from; of leased worker numbers, the URL of the coordination they are leased from. `{n}` stands for the
    /// number of the process.
    pub(crate) url: MakeUrl,
    /// What can be said of them. They have no `Caps`: a URL of another kind is another promise.
    pub(crate) can: &'static [Need],
    /// What passes to the server when numbers are taken for good.
    pub(crate) commit: &'static str,
}

pub(crate) type MakeUrl = fn(&Place<'_>) -> String;

/// What a URL is made of.
pub(crate) struct Place<'a> {
    /// An empty folder of the cell's own.
    pub(crate) dir: &'a Path,
    /// A name that no other cell has: letters, digits and `_`.
    pub(crate) cell: &'a str,
    /// The server's URL; empty if there is none.
    pub(crate) server: &'a str,
}

impl Place<'_> {
    /// The server's URL under this scheme, with one more option.
    pub(crate) fn with(&self, scheme: &str, option: &str) -> String {
        let (_, rest) = self.server.split_once("://").unwrap();
        let mark = if rest.contains('?') { '&' } else { '?' };
        format!("{scheme}://{rest}{mark}{option}")
    }

    /// The server's URL under this scheme, and a prefix that keeps cells apart.
    pub(crate) fn prefixed(&self, scheme: &str) -> String {
        self.with(scheme, &format!("prefix={}-", self.cell))
    }

    /// The server's URL, and a database that keeps cells apart.
    pub(crate) fn database(&self) -> String {
        let (url, options) = self.server.split_once('?').unwrap_or((self.server, ""));
        let (server, _) = url.rsplit_once('/').unwrap();
        format!("{server}/{}?{options}", self.cell)
    }

    /// The server's URL, and a path that keeps cells apart.
    pub(crate) fn path(&self) -> String {
        let (url, options) = self.server.split_once('?').unwrap_or((self.server, ""));
        format!("{url}/{}?{options}", self.cell)
    }
}

pub(crate) const EMBEDDED: Target = Target {
    name: "",
    server: None,
    cluster: None,
    one_address: false,
    lease: Duration::from_secs(1),
    bus: None,
    coord: None,
    ids: None,
};
pub(crate) const SERVER: Target = Target { one_address: true, ..EMBEDDED };

/// Every target of the bus and of coordination.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "memory",
        bus: Some(|place| format!("memory://{}", place.cell)),
        coord: Some(|place| format!("memory://{}", place.cell)),
        ..EMBEDDED
    },
    Target {
        name: "sqlite",
        bus: Some(|place| format!("sqlite://{}/bus.db", place.dir.display())),
        coord: Some(|place| format!("sqlite://{}/coord.db", place.dir.display())),
        ..EMBEDDED
    },
    Target {
        name: "sqlite-memory",
        bus: Some(|_| "sqlite::memory:".to_owned()),
        coord: Some(|_| "sqlite::memory:".to_owned()),
        ..EMBEDDED
    },
    Target {
        name: "postgres",
        server: Some("postgres"),
        bus: Some(|place| place.with("postgres", &format!("schema={}", place.cell))),
        coord: Some(|place| place.with("postgres", &format!("schema={}", place.cell))),
        ..SERVER
    },
    Target {
        name: "mysql",
        server: Some("mariadb"),
        bus: Some(|place| place.database()),
        coord: Some(|place| place.database()),
        ..SERVER
    },
    Target {
        name: "redis",
        server: Some("redis"),
        bus: Some(|place| place.prefixed("redis")),
        coord: Some(|place| place.prefixed("redis")),
        ..SERVER
    },
    Target {
        name: "redis-cluster",
        server: Some("redis-cluster"),
        cluster: Some("redis-cluster"),
        bus: Some(|place| place.prefixed("redis-cluster")),
        coord: Some(|place| place.prefixed("redis-cluster")),
        ..EMBEDDED
    },
    Target {
        name: "redis-list",
        server: Some("redis"),
        bus: Some(|place| place.prefixed("redis-list")),
        ..SERVER
    },
    Target {
        name: "redis-pubsub",
        server: Some("redis"),
        bus: Some(|place| place.prefixed("redis-pubsub")),
        ..SERVER
    },
    Target {
        name: "kafka",
        server: Some("kafka"),
        cluster: Some("kafka-3"),
        bus: Some(|place| place.prefixed("kafka")),
        ..EMBEDDED
    },
    Target { name: "nats", server: Some("nats"), bus: Some(|place| place.prefixed("nats")), ..SERVER },
    Target {
        name: "rabbitmq",
        server: Some("rabbitmq"),
        lease: Duration::from_secs(3),
        bus: Some(|place| place.prefixed("amqp")),
        ..SERVER
    },
    Target {
        name: "etcd",
        server: Some("etcd"),
        cluster: Some("etcd-3"),
        lease: Duration::from_secs(2),
        coord: Some(|place| place.prefixed("etcd")),
        ..SERVER
    },
    Target {
        name: "consul",
        server: Some("consul"),
        lease: Duration::from_secs(10),
        coord: Some(|place| place.prefixed("consul")),
        ..SERVER
    },
    Target {
        name: "zookeeper",
        server: Some("zookeeper"),
        cluster: Some("zookeeper-3"),
        coord: Some(|place| place.path()),
        ..SERVER
    },
];
