//! The tables, and their version.

use linchpin_core::{Error, Kind};

use super::dialect::Dialect;
use super::tx::{Step, Tx};
use crate::relational::VERSION;

/// See [`crate::relational`] for what a row of each is. Times are milliseconds since 1970.
///
/// * A place is `partition id << 40 | offset`: messages of a partition lie side by side, an append goes to the end of
///   its partition, and `lp_message` needs no second index. The ids of a topic's partitions follow each other from
///   `base` on; `lp_schema.next_part` is the next free one. No id is used twice.
/// * `lp_message.id` is the id's text. `headers` is a JSON object in the order the headers were added; a value that
///   isn't text is an array of its bytes.
/// * A partition whose topic is 0 is what a removed topic left; its messages are swept step by step.
/// * `lp_messages` is for people and other programs: messages with topic, partition and offset.
///
/// Rows that change all the time leave room beside them, so that PostgreSQL needs no new index entries for them.
#[cfg(feature = "postgres")]
const POSTGRES: &str = "
CREATE TABLE lp_topic(
    id bigserial PRIMARY KEY, name text NOT NULL UNIQUE, partitions bigint NOT NULL,
    base bigint NOT NULL, age bigint, length bigint, max_message bigint NOT NULL);
CREATE TABLE lp_partition(
    id bigint PRIMARY KEY, topic bigint NOT NULL, first bigint NOT NULL, next bigint NOT NULL,
    last bigint NOT NULL) WITH (fillfactor = 20);
CREATE INDEX lp_partition_topic ON lp_partition(topic);
CREATE TABLE lp_message(
    place bigint PRIMARY KEY, time bigint NOT NULL, id bytea NOT NULL, msg_key bytea, headers json,
    payload bytea NOT NULL);
CREATE TABLE lp_delayed(
    seq bigserial PRIMARY KEY, due bigint NOT NULL, part bigint NOT NULL, id bytea NOT NULL, msg_key bytea,
    headers json, payload bytea NOT NULL);
CREATE INDEX lp_delayed_due ON lp_delayed(due, seq);
CREATE TABLE lp_group(
    id bigserial PRIMARY KEY, topic bigint NOT NULL, name text NOT NULL, ephemeral bigint NOT NULL,
    ordered bigint NOT NULL, UNIQUE(topic, name));
CREATE TABLE lp_cursor(
    grp bigint NOT NULL, part bigint NOT NULL, next bigint NOT NULL, owner bigint NOT NULL, fence bigint NOT NULL,
    PRIMARY KEY(grp, part)) WITH (fillfactor = 20);
CREATE TABLE lp_claim(
    id bigserial PRIMARY KEY, grp bigint NOT NULL, part bigint NOT NULL, first bigint NOT NULL,
    last bigint NOT NULL, open_bits bytea, due bigint NOT NULL, attempt bigint NOT NULL, owner bigint NOT NULL)
    WITH (fillfactor = 50);
CREATE INDEX lp_claim_due ON lp_claim(grp, due);
CREATE TABLE lp_member(
    id bigserial PRIMARY KEY, grp bigint NOT NULL, due bigint NOT NULL, active bigint NOT NULL, wants text);
CREATE INDEX lp_member_grp ON lp_member(grp);
CREATE VIEW lp_messages AS
    SELECT t.name AS topic, p.id - t.base AS part, m.place & 1099511627775 AS pos,
        to_timestamp(m.time / 1000.0) AS time, convert_from(m.id, 'UTF8') AS id, m.msg_key, m.headers, m.payload
    FROM lp_message m JOIN lp_partition p ON p.id = m.place >> 40 JOIN lp_topic t ON t.id = p.topic;
CREATE TABLE lp_schema(version bigint NOT NULL, next_part bigint NOT NULL);
";

/// The same for MySQL and MariaDB. What is compared byte by byte has a binary type or collation.
#[cfg(feature = "mysql")]
const MYSQL: &str = "
CREATE TABLE lp_topic(
    id bigint AUTO_INCREMENT PRIMARY KEY, name varchar(400) CHARACTER SET ascii COLLATE ascii_bin NOT NULL UNIQUE,
    partitions bigint NOT NULL, base bigint NOT NULL, age bigint, length bigint, max_message bigint NOT NULL)
    ENGINE = InnoDB;
CREATE TABLE lp_partition(
    id bigint PRIMARY KEY, topic bigint NOT NULL, first bigint NOT NULL, next bigint NOT NULL, last bigint NOT NULL,
    KEY lp_partition_topic(topic)) ENGINE = InnoDB;
CREATE TABLE lp_message(
    place bigint PRIMARY KEY, time bigint NOT NULL, id blob NOT NULL, msg_key longblob,
    headers longtext CHARACTER SET utf8mb4, payload longblob NOT NULL) ENGINE = InnoDB;
CREATE TABLE lp_delayed(
    seq bigint AUTO_INCREMENT PRIMARY KEY, due bigint NOT NULL, part bigint NOT NULL, id blob NOT NULL,
    msg_key longblob, headers longtext CHARACTER SET utf8mb4, payload longblob NOT NULL,
    KEY lp_delayed_due(due, seq)) ENGINE = InnoDB;
CREATE TABLE lp_group(
    id bigint AUTO_INCREMENT PRIMARY KEY, topic bigint NOT NULL,
    name varchar(400) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, ephemeral bigint NOT NULL,
    ordered bigint NOT NULL, UNIQUE KEY lp_group_name(topic, name)) ENGINE = InnoDB;
CREATE TABLE lp_cursor(
    grp bigint NOT NULL, part bigint NOT NULL, next bigint NOT NULL, owner bigint NOT NULL, fence bigint NOT NULL,
    PRIMARY KEY(grp, part)) ENGINE = InnoDB;
CREATE TABLE lp_claim(
    id bigint AUTO_INCREMENT PRIMARY KEY, grp bigint NOT NULL, part bigint NOT NULL, first bigint NOT NULL,
    last bigint NOT NULL, open_bits blob, due bigint NOT NULL, attempt bigint NOT NULL, owner bigint NOT NULL,
    KEY lp_claim_due(grp, due)) ENGINE = InnoDB;
CREATE TABLE lp_member(
    id bigint AUTO_INCREMENT PRIMARY KEY, grp bigint NOT NULL, due bigint NOT NULL, active bigint NOT NULL,
    wants text CHARACTER SET ascii, KEY lp_member_grp(grp)) ENGINE = InnoDB;
CREATE VIEW lp_messages AS
    SELECT t.name AS topic, p.id - t.base AS part, m.place & 1099511627775 AS pos,
        from_unixtime(m.time / 1000.0) AS time, convert(m.id USING utf8mb4) AS id, m.msg_key, m.headers, m.payload
    FROM lp_message m JOIN lp_partition p ON p.id = m.place >> 40 JOIN lp_topic t ON t.id = p.topic;
CREATE TABLE lp_schema(version bigint NOT NULL, next_part bigint NOT NULL) ENGINE = InnoDB;
";

/// Tables that are made together, and have one version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tables {
    /// The table that is made last, and has the version in its only row.
    pub(super) mark: &'static str,
    pub(super) version: i64,
    /// All of them, the mark at the end.
    #[cfg(feature = "postgres")]
    pub(super) postgres: &'static str,
    #[cfg(feature = "mysql")]
    pub(super) mysql: &'static str,
    /// Inserts the row, with `{version}` in the place of the version.
    pub(super) row: &'static str,
}

/// The tables of the bus.
pub(super) const TABLES: Tables = Tables {
    mark: "lp_schema",
    version: VERSION,
    #[cfg(feature = "postgres")]
    postgres: POSTGRES,
    #[cfg(feature = "mysql")]
    mysql: MYSQL,
    row: "INSERT INTO lp_schema(version, next_part) VALUES ({version}, 1)",
};

/// Creates the tables if they aren't there, and refuses those of another version. Of several that open at once, one
/// creates and the others wait for it.
pub(super) async fn prepare(tx: &mut Tx, schema: &str, tables: &Tables) -> Step<()> {
    tx.look_at_clock().await?;
    if let Some(version) = version(tx, tables).await? {
        return check(version, tables);
    }
    let dialect = tx.dialect();
    if dialect == Dialect::Postgres {
        tx.begin().await?;
    }
    tx.script(lock(dialect, schema)).await?;
    let made = make(tx, schema, tables).await;
    // A session that ends lets go by itself.
    if dialect == Dialect::MySql {
        tx.script("DO RELEASE_LOCK(concat('linchpin.', database()))").await?;
    }
    made
}

#[cfg_attr(not(feature = "postgres"), allow(unused_variables))]
async fn make(tx: &mut Tx, schema: &str, tables: &Tables) -> Step<()> {
    // Another process may have been faster.
    if let Some(version) = version(tx, tables).await? {
        return check(version, tables);
    }
    let row = tables.row.replace("{version}", &tables.version.to_string());
    match tx.dialect() {
        #[cfg(feature = "postgres")]
        Dialect::Postgres => {
            let name = Dialect::Postgres.quoted(schema);
            // Somebody who may use the schema but not create one is fine as long as it is there.
            let there = "SELECT count(*) FROM pg_namespace WHERE nspname = ?";
            let create = match tx.one(there, &[schema.into()]).await?.int(0)? {
                0 => format!("CREATE SCHEMA IF NOT EXISTS {name};"),
                _ => String::new(),
            };
            tx.script(format!("{create} {} {row}", tables.postgres)).await?;
        }
        #[cfg(feature = "mysql")]
        Dialect::MySql => {
            // Each statement commits by itself here: what was cut short is begun again, and the version comes last.
            let again = tables
                .mysql
                .replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ")
                .replace("CREATE VIEW ", "CREATE OR REPLACE VIEW ");
            tx.script(format!("{again} {row}")).await?;
        }
        #[cfg(not(all(feature = "postgres", feature = "mysql")))]
        _ => {}
    }
    Ok(())
}

/// On PostgreSQL the lock goes with the transaction that creates everything, on MySQL, where there is no such
/// transaction, it is let go by hand.
pub(super) fn lock(dialect: Dialect, schema: &str) -> String {
    match dialect {
        Dialect::Postgres => {
            let name = schema.replace('\'', "''");
            format!("SELECT pg_advisory_xact_lock(hashtext('linchpin.' || '{name}'))")
        }
        Dialect::MySql => "DO GET_LOCK(concat('linchpin.', database()), 60)".into(),
    }
}

/// The version of the tables, if they are there.
pub(super) async fn version(tx: &mut Tx, tables: &Tables) -> Step<Option<i64>> {
    let here = match tx.dialect() {
        Dialect::Postgres => "SELECT count(*) FROM pg_class WHERE oid = to_regclass(?)",
        Dialect::MySql => {
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = database() AND table_name = ?"
        }
    };
    if tx.one(here, &[tables.mark.into()]).await?.int(0)? == 0 {
        return Ok(None);
    }
    let sql = format!("SELECT version FROM {}", tables.mark);
    Ok(tx.maybe(&sql, &[]).await?.map(|row| row.int(0)).transpose()?)
}

pub(super) fn check(version: i64, tables: &Tables) -> Step<()> {
    if version == tables.version {
        return Ok(());
    }
    let message = format!("the tables have version {version}, this build knows version {}", tables.version);
    Err(Error::new(Kind::Corrupt, message).help("upgrade Linchpin").into())
}
