//! The tables of coordination.

use crate::relational::coord::VERSION;
use crate::sql::schema::Tables;

/// See [`crate::relational::coord`] for what a row of each is. Times are milliseconds since 1970, by the database's clock.
///
/// Names are bytes: they compare and sort the same whatever collation the database has, and an end in spaces counts. `lp_keys`
/// is for people and other programs.
pub(in crate::sql) const TABLES: Tables = Tables {
    mark: "lp_rev",
    version: VERSION,
    #[cfg(feature = "postgres")]
    postgres: "
CREATE TABLE lp_key(
    name bytea PRIMARY KEY, value bytea NOT NULL, created bigint NOT NULL, rev bigint NOT NULL, lease bigint);
CREATE INDEX lp_key_rev ON lp_key(rev);
CREATE INDEX lp_key_lease ON lp_key(lease) WHERE lease IS NOT NULL;
CREATE TABLE lp_gone(rev bigint PRIMARY KEY, name bytea NOT NULL);
CREATE TABLE lp_lease(id bigint PRIMARY KEY, ttl bigint NOT NULL, due bigint NOT NULL) WITH (fillfactor = 50);
CREATE INDEX lp_lease_due ON lp_lease(due);
CREATE VIEW lp_keys AS SELECT convert_from(name, 'UTF8') AS name, value, created, rev, lease FROM lp_key;
CREATE TABLE lp_rev(
    id bigint PRIMARY KEY, version bigint NOT NULL, rev bigint NOT NULL, forgotten bigint NOT NULL)
    WITH (fillfactor = 20);",
    #[cfg(feature = "mysql")]
    mysql: "
CREATE TABLE lp_key(
    name varbinary(700) PRIMARY KEY, value longblob NOT NULL, created bigint NOT NULL, rev bigint NOT NULL,
    lease bigint, KEY lp_key_rev(rev), KEY lp_key_lease(lease)) ENGINE = InnoDB;
CREATE TABLE lp_gone(rev bigint PRIMARY KEY, name varbinary(700) NOT NULL) ENGINE = InnoDB;
CREATE TABLE lp_lease(id bigint PRIMARY KEY, ttl bigint NOT NULL, due bigint NOT NULL, KEY lp_lease_due(due))
    ENGINE = InnoDB;
CREATE VIEW lp_keys AS SELECT convert(name USING utf8mb4) AS name, value, created, rev, lease FROM lp_key;
CREATE TABLE lp_rev(
    id bigint PRIMARY KEY, version bigint NOT NULL, rev bigint NOT NULL, forgotten bigint NOT NULL)
    ENGINE = InnoDB;",
    row: "INSERT INTO lp_rev(id, version, rev, forgotten) VALUES (1, {version}, 0, 0)",
};
