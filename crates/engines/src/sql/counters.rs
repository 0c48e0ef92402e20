//! The table of counters: whether it is there, and making what is missing.

use super::dialect::Dialect;
use super::schema::lock;
use super::tx::{Step, Tx};
use crate::relational::ids::{IdOptions, no_table};

#[cfg(feature = "postgres")]
const POSTGRES: &str = "
CREATE TABLE {table}(
    id bigserial PRIMARY KEY, max_id bigint NOT NULL DEFAULT 0, step bigint NOT NULL DEFAULT 1000,
    biz_type varchar(128) NOT NULL, version bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP, deleted_at timestamptz);
CREATE UNIQUE INDEX ON {table}(biz_type) WHERE deleted_at IS NULL;";

#[cfg(feature = "mysql")]
const MYSQL: &str = "
CREATE TABLE IF NOT EXISTS {table}(
    id bigint AUTO_INCREMENT PRIMARY KEY, max_id bigint NOT NULL DEFAULT 0, step bigint NOT NULL DEFAULT 1000,
    biz_type varchar(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, version bigint NOT NULL DEFAULT 0,
    created_at datetime(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    updated_at datetime(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3), deleted_at datetime(3) NULL,
    KEY biz_type(biz_type)) ENGINE = InnoDB;";

/// Whether a table of that name is to be seen.
pub(super) async fn is_there(tx: &mut Tx, table: &str) -> Step<bool> {
    let quoted = tx.dialect().quoted(table);
    let (sql, name) = match tx.dialect() {
        Dialect::Postgres => ("SELECT count(*) FROM pg_class WHERE oid = to_regclass(?)", quoted.as_str()),
        Dialect::MySql => (
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = database() AND table_name = ?",
            table,
        ),
    };
    Ok(tx.one(sql, &[name.into()]).await?.int(0)? > 0)
}

/// Sees to it that the table is there. Of several that open at once, one makes it and the others wait for it.
pub(super) async fn prepare(tx: &mut Tx, schema: &str, options: &IdOptions) -> Step<()> {
    if is_there(tx, &options.table).await? {
        return Ok(());
    }
    if !options.create {
        return Err(no_table(&options.table).into());
    }
    let table = tx.dialect().quoted(&options.table);
    match tx.dialect() {
        #[cfg(feature = "postgres")]
        Dialect::Postgres => {
            begin_in_schema(tx, schema).await?;
            if !is_there(tx, &options.table).await? {
                tx.script(POSTGRES.replace("{table}", &table)).await?;
            }
        }
        #[cfg(feature = "mysql")]
        Dialect::MySql => {
            // PostgreSQL alone has schemas.
            let _ = schema;
            tx.script(MYSQL.replace("{table}", &table)).await?;
        }
        #[cfg(not(all(feature = "postgres", feature = "mysql")))]
        _ => {}
    }
    Ok(())
}

/// Begins the transaction that makes what is missing in PostgreSQL's schema, and the schema itself. Others wait for it.
pub(super) async fn begin_in_schema(tx: &mut Tx, schema: &str) -> Step<()> {
    tx.begin().await?;
    tx.script(lock(Dialect::Postgres, schema)).await?;
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname = ?";
    if tx.one(there, &[schema.into()]).await?.int(0)? == 0 {
        tx.script(format!("CREATE SCHEMA IF NOT EXISTS {}", Dialect::Postgres.quoted(schema))).await?;
    }
    Ok(())
}

/// Makes the row, unless another is faster. It goes on where soft-deleted ones of its name ended.
pub(super) async fn create(tx: &mut Tx, options: &IdOptions, name: &str) -> Step<()> {
    let dialect = tx.dialect();
    let table = dialect.quoted(&options.table);
    let sql = format!(
        "INSERT INTO {table}(max_id, step, biz_type, version, created_at, updated_at)
         SELECT coalesce(max(max_id), 0), {}, {}, 0, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP FROM {table}
         WHERE biz_type = ? HAVING count(CASE WHEN deleted_at IS NULL THEN 1 END) = 0",
        options.step,
        // The type of a placeholder alone is unknown.
        if dialect == Dialect::Postgres { "CAST(? AS varchar)" } else { "?" },
    );
    if dialect == Dialect::Postgres {
        tx.begin().await?;
    }
    tx.script(lock(dialect, &options.table)).await?;
    let made = tx.run(&sql, &[name.into(), name.into()]).await;
    // A session that ends lets go by itself.
    if dialect == Dialect::MySql {
        tx.script("DO RELEASE_LOCK(concat('linchpin.', database()))").await?;
    } else if made.is_ok() {
        tx.commit().await?;
    }
    made.map(drop)
}
