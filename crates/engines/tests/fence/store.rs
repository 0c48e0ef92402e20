//! What a lock protects: a row or a hash with a fence, and one without.

use linchpin_core::Result;
use linchpin_core::coord::Rev;
use linchpin_core::coord::fence::{self, Marks};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use sqlx::{AssertSqlSafe, MySqlPool, PgPool};

pub(crate) enum Store {
    Postgres(PgPool),
    MySql(MySqlPool),
    Redis(MultiplexedConnection),
}

const MAKE: [&str; 3] = [
    "CREATE TABLE stock (id INT PRIMARY KEY, amount VARCHAR(20) NOT NULL, fence BIGINT NOT NULL DEFAULT 0)",
    "CREATE TABLE unfenced (id INT PRIMARY KEY, amount VARCHAR(20) NOT NULL)",
    "INSERT INTO stock (id, amount) VALUES (1, '')",
];
const MAKE_UNFENCED: &str = "INSERT INTO unfenced (id, amount) VALUES (1, '')";
const READ: &str = "SELECT stock.amount, unfenced.amount, stock.fence FROM stock, unfenced";

impl Store {
    pub(crate) async fn open(url: &str) -> Self {
        match url.split_once(':').unwrap().0 {
            "postgres" => Self::Postgres(PgPool::connect(url).await.unwrap()),
            "mysql" => Self::MySql(MySqlPool::connect(url).await.unwrap()),
            _ => {
                let client = redis::Client::open(url).unwrap();
                Self::Redis(client.get_multiplexed_async_connection().await.unwrap())
            }
        }
    }

    pub(crate) async fn make(&self) {
        for statement in MAKE.into_iter().chain([MAKE_UNFENCED]) {
            match self {
                Self::Postgres(pool) => _ = sqlx::query(statement).execute(pool).await.unwrap(),
                Self::MySql(pool) => _ = sqlx::query(statement).execute(pool).await.unwrap(),
                Self::Redis(_) => {}
            }
        }
    }

    /// Writes what isn't fenced, and then what is.
    pub(crate) async fn write(&self, amount: &str, token: Rev) -> Result<()> {
        let (unfenced, number) = ("UPDATE unfenced SET amount = ", fence::sql(token)?);
        let rows = match self {
            Self::Postgres(pool) => {
                let unfenced = sqlx::query(AssertSqlSafe(format!("{unfenced} $1"))).bind(amount);
                unfenced.execute(pool).await.unwrap();
                let update = fence::update("stock", &["amount"], "id", Marks::Dollar)?;
                let update =
                    sqlx::query(AssertSqlSafe(update)).bind(amount).bind(number).bind(1).bind(number);
                update.execute(pool).await.unwrap().rows_affected()
            }
            Self::MySql(pool) => {
                let unfenced = sqlx::query(AssertSqlSafe(format!("{unfenced} ?"))).bind(amount);
                unfenced.execute(pool).await.unwrap();
                let update = fence::update("stock", &["amount"], "id", Marks::Question)?;
                let update =
                    sqlx::query(AssertSqlSafe(update)).bind(amount).bind(number).bind(1).bind(number);
                update.execute(pool).await.unwrap().rows_affected()
            }
            Self::Redis(connection) => {
                let mut connection = connection.clone();
                let () = connection.hset("unfenced", "amount", amount).await.unwrap();
                let script = redis::Script::new(fence::REDIS);
                let mut call = script.key("stock");
                call.arg(token.0).arg("amount").arg(amount);
                call.invoke_async(&mut connection).await.unwrap()
            }
        };
        fence::check(rows, token)
    }

    /// What is fenced, what isn't, and the fence.
    pub(crate) async fn read(&self) -> (String, String, u64) {
        let (fenced, unfenced, fence): (String, String, i64) = match self {
            Self::Postgres(pool) => sqlx::query_as(READ).fetch_one(pool).await.unwrap(),
            Self::MySql(pool) => sqlx::query_as(READ).fetch_one(pool).await.unwrap(),
            Self::Redis(connection) => {
                let mut connection = connection.clone();
                let (fenced, fence) = connection.hmget("stock", &["amount", "fence"]).await.unwrap();
                (fenced, connection.hget("unfenced", "amount").await.unwrap(), fence)
            }
        };
        (fenced, unfenced, u64::try_from(fence).unwrap())
    }
}
