//! Every way to get ids.

use std::time::Duration;

use crate::case::Need;
use crate::target::{EMBEDDED, MakeUrl, SERVER, Source, Target};

const UUID: &[Need] = &[Need::Shared, Need::Durable];
const SORTED_UUID: &[Need] = &[Need::Shared, Need::Durable, Need::Rising];
const IN_MEMORY: &[Need] = &[Need::Rising, Need::Counted];
const FIXED: &[Need] = &[Need::Shared, Need::Durable, Need::Rising, Need::Timed, Need::Filed];
const LEASED_IN_MEMORY: &[Need] = &[Need::Rising, Need::Timed, Need::Leased];
const LEASED: &[Need] = &[Need::Shared, Need::Durable, Need::Rising, Need::Timed, Need::Leased];
/// From several servers of which one may die; a Redis that takes over may have forgotten what the other answered.
const LEASED_SAFELY: &[Need] =
    &[Need::Shared, Need::Durable, Need::Rising, Need::Timed, Need::Leased, Need::Failover];
const SEGMENT: &[Need] = &[Need::Shared, Need::Durable, Need::Rising, Need::Counted, Need::Tabled];
const COUNTER: &[Need] = &[Need::Shared, Need::Durable, Need::Rising, Need::Counted];

const SEGMENTS: &str = "biz_type=orders&create=true&step=100";
const AUTO: &str = "kind=auto&name=tickets&create=true&block=100";
const BLOCKS: &str = "counter=orders&block=100";

const fn from(url: MakeUrl, can: &'static [Need], commit: &'static str) -> Option<Source> {
    Some(Source { url, can, commit })
}

/// Worker numbers leased from this coordination. They take nothing for good at a single moment.
const fn leased(name: &'static str, server: &'static str, one_address: bool, url: MakeUrl) -> Target {
    Target { name, server: Some(server), one_address, ids: from(url, LEASED, ""), ..SERVER }
}

/// Numbers of a counter on this server.
const fn counted(
    name: &'static str,
    server: &'static str,
    url: MakeUrl,
    can: &'static [Need],
    commit: &'static str,
) -> Target {
    Target { name, server: Some(server), ids: from(url, can, commit), ..SERVER }
}

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "memory",
        ids: from(|p| format!("memory://{}?{BLOCKS}", p.cell), IN_MEMORY, ""),
        ..EMBEDDED
    },
    Target { name: "uuid-v1", ids: from(|_| "uuid://v1".to_owned(), UUID, ""), ..EMBEDDED },
    Target { name: "uuid-v4", ids: from(|_| "uuid://v4".to_owned(), UUID, ""), ..EMBEDDED },
    Target { name: "uuid-v7", ids: from(|_| "uuid://v7".to_owned(), SORTED_UUID, ""), ..EMBEDDED },
    Target {
        name: "snowflake",
        ids: from(|p| format!("snowflake://?worker={{n}}&state={}/state-{{n}}", p.dir.display()), FIXED, ""),
        ..EMBEDDED
    },
    Target {
        name: "snowflake-memory",
        ids: from(|p| format!("memory://{}", p.cell), LEASED_IN_MEMORY, ""),
        ..EMBEDDED
    },
    Target {
        name: "snowflake-sqlite",
        ids: from(|p| format!("sqlite://{}/coord.db", p.dir.display()), LEASED, ""),
        ..EMBEDDED
    },
    leased("snowflake-postgres", "postgres", true, |p| p.with("postgres", &format!("schema={}", p.cell))),
    leased("snowflake-mysql", "mariadb", true, |p| p.database()),
    leased("snowflake-redis", "redis", true, |p| p.prefixed("redis")),
    Target {
        cluster: Some("redis-cluster"),
        ..leased("snowflake-redis-cluster", "redis-cluster", false, |p| p.prefixed("redis-cluster"))
    },
    Target {
        lease: Duration::from_secs(2),
        cluster: Some("etcd-3"),
        ids: from(|p| p.prefixed("etcd"), LEASED_SAFELY, ""),
        ..leased("snowflake-etcd", "etcd", true, |p| p.prefixed("etcd"))
    },
    Target {
        lease: Duration::from_secs(10),
        ..leased("snowflake-consul", "consul", true, |p| p.prefixed("consul"))
    },
    Target {
        cluster: Some("zookeeper-3"),
        ids: from(|p| p.path(), LEASED_SAFELY, ""),
        ..leased("snowflake-zookeeper", "zookeeper", true, |p| p.path())
    },
    Target {
        name: "segment-sqlite",
        ids: from(|p| format!("sqlite://{}/ids.db?{SEGMENTS}", p.dir.display()), SEGMENT, ""),
        ..EMBEDDED
    },
    counted(
        "segment-postgres",
        "postgres",
        |p| p.with("postgres", &format!("schema={}&{SEGMENTS}", p.cell)),
        SEGMENT,
        "COMMIT",
    ),
    counted("segment-mysql", "mariadb", |p| format!("{}&{SEGMENTS}", p.database()), SEGMENT, "COMMIT"),
    counted("counter-redis", "redis", |p| format!("{}&{BLOCKS}", p.prefixed("redis")), COUNTER, "INCRBY"),
    Target {
        one_address: false,
        ..counted(
            "counter-redis-cluster",
            "redis-cluster",
            |p| format!("{}&{BLOCKS}", p.prefixed("redis-cluster")),
            COUNTER,
            "INCRBY",
        )
    },
    Target {
        name: "auto-sqlite",
        ids: from(|p| format!("sqlite://{}/ids.db?{AUTO}", p.dir.display()), COUNTER, ""),
        ..EMBEDDED
    },
    counted(
        "auto-postgres",
        "postgres",
        |p| p.with("postgres", &format!("schema={}&{AUTO}", p.cell)),
        COUNTER,
        "COMMIT",
    ),
    counted("auto-mysql", "mariadb", |p| format!("{}&{AUTO}", p.database()), COUNTER, "COMMIT"),
];
