use std::ops::Range;
use std::time::Duration;

use linchpin_core::bus::{
    Bus, MemoryBus, Message, MessageId, Order, Position, Start, SubscribeOptions, TopicOptions, dead_topic,
};
use linchpin_core::pipe::{Pipe, Row, Value, Write};
use linchpin_core::time::from_millis;
use tempfile::TempDir;

use super::*;

const CHAT: Table = Table { name: "chat", columns: &["id", "text"], key: 1, write: Write::Replace };
const TOTAL: Table = Table { name: "total", columns: &["room", "n"], key: 1, write: Write::Add };
const TABLES: &[Table] = &[CHAT, TOTAL];

struct Shop {
    folder: TempDir,
    conn: Connection,
}

impl Shop {
    fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let conn = Connection::open(folder.path().join("shop.db")).unwrap();
        conn.execute_batch(sql).unwrap();
        Self { folder, conn }
    }

    fn with_chat() -> Self {
        Self::new(
            "CREATE TABLE chat (id INTEGER PRIMARY KEY, text TEXT NOT NULL CHECK (text <> 'bad')) STRICT;
             CREATE TABLE total (room TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT;",
        )
    }

    async fn open(&self, tables: &[Table]) -> Result<Arc<SqliteSink>> {
        let file = self.folder.path().join("shop.db");
        SqliteSink::open(file.to_str().unwrap(), "chat", tables).await
    }

    async fn sink(&self) -> Arc<SqliteSink> {
        self.open(TABLES).await.unwrap()
    }

    fn one<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        self.conn.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Rows of `chat`, and the sum of `total`.
    fn state(&self) -> (i64, i64) {
        (self.one("SELECT count(*) FROM chat"), self.one("SELECT coalesce(sum(n), 0) FROM total"))
    }
}

fn item(offset: u64, fence: u64, text: &str) -> Item {
    let id = i64::try_from(offset).unwrap();
    Item {
        position: Position::new(0, offset),
        time: from_millis(id),
        fence,
        message: Message::new(text.to_owned()).id(format!("m{offset}").as_str()),
        rows: vec![Row::new("total", ["lobby".into(), 1.into()]), Row::new("chat", [id.into(), text.into()])],
    }
}

fn items(offsets: Range<u64>, fence: u64) -> Vec<Item> {
    offsets.map(|offset| item(offset, fence, "hello")).collect()
}

fn count(landed: &[Landed], like: impl Fn(&Landed) -> bool) -> usize {
    landed.iter().filter(|landed| like(landed)).count()
}

fn all(landed: &[Landed], verdict: &Landed) -> bool {
    landed.iter().all(|landed| landed == verdict)
}

#[tokio::test]
async fn what_is_delivered_again_lands_once() {
    let shop = Shop::with_chat();
    let sink = shop.sink().await;
    assert!(all(&sink.write("t", &items(0..1000, 1)).await.unwrap(), &Landed::Applied));
    // The process died between commit and settle; a new one gets the batch again, and some more.
    let sink = shop.sink().await;
    let landed = sink.write("t", &items(500..1500, 2)).await.unwrap();
    assert!(all(&landed[..500], &Landed::Repeat) && all(&landed[500..], &Landed::Applied));
    assert_eq!(shop.state(), (1500, 1500));
    // Topics, partitions and sinks are apart.
    let mut elsewhere = item(7, 1, "hello");
    elsewhere.position.partition = 1;
    assert!(all(&sink.write("t", &[elsewhere]).await.unwrap(), &Landed::Applied));
    assert!(all(&sink.write("u", &items(0..1, 1)).await.unwrap(), &Landed::Applied));
    assert_eq!(shop.state(), (1500, 1502));
}

#[tokio::test]
async fn a_former_owner_lands_nothing() {
    let shop = Shop::with_chat();
    let (old, new) = (shop.sink().await, shop.sink().await);
    old.write("t", &items(0..10, 3)).await.unwrap();
    // The new owner begins with a repeat: its token is kept all the same.
    assert!(all(&new.write("t", &items(9..10, 4)).await.unwrap(), &Landed::Repeat));
    assert!(all(&old.write("t", &items(8..20, 3)).await.unwrap(), &Landed::Fenced));
    assert!(all(&new.write("t", &items(10..20, 4)).await.unwrap(), &Landed::Applied));
    assert_eq!(shop.state(), (20, 20));
}

#[tokio::test]
async fn two_bad_of_a_thousand_are_found_and_stay_dead() {
    let shop = Shop::with_chat();
    let sink = shop.sink().await;
    let mut batch = items(0..1000, 1);
    batch[100] = item(100, 1, "bad");
    batch[777].rows[1].values[1] = Value::Blob("not text".into());
    let landed = sink.write("t", &batch).await.unwrap();
    assert_eq!(count(&landed, |l| *l == Landed::Applied), 998);
    let Landed::Dead(check) = &landed[100] else { panic!("{:?}", landed[100]) };
    assert!(check.contains("CHECK constraint failed"), "{check}");
    let Landed::Dead(strict) = &landed[777] else { panic!("{:?}", landed[777]) };
    assert!(strict.contains("cannot store BLOB value in TEXT column chat.text"), "{strict}");
    // All rows of an item land or none: the totals don't count the dead.
    assert_eq!(shop.state(), (998, 998));

    let again = sink.write("t", &batch).await.unwrap();
    assert_eq!(count(&again, |l| *l == Landed::Repeat), 998);
    assert_eq!((&again[100], &again[777]), (&landed[100], &landed[777]));
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM lp_sink_dead"), 2);
    let kept = "SELECT id || ' ' || payload FROM lp_sink_dead WHERE sink = 'chat' AND topic = 't'
        AND partition = 0 AND offset = 100 AND abs(time - unixepoch() * 1000) < 60000";
    assert_eq!(shop.one::<String>(kept), "m100 bad");
}

#[tokio::test]
async fn a_batch_of_nothing_but_bad_items_is_dead_and_moves_on() {
    let shop = Shop::with_chat();
    let sink = shop.sink().await;
    let mut batch: Vec<_> = (0..64).map(|n| item(n, 1, "bad")).collect();
    batch[5].rows = vec![Row::new("nowhere", [])];
    batch[6].rows = vec![Row::new("chat", [1.into()])];
    let landed = sink.write("t", &batch).await.unwrap();
    assert_eq!(count(&landed, |l| matches!(l, Landed::Dead(_))), 64);
    assert!(matches!(&landed[5], Landed::Dead(reason) if reason.contains("nowhere")));
    assert!(matches!(&landed[6], Landed::Dead(reason) if reason.contains("1 values for the 2 columns")));
    assert!(all(&sink.write("t", &items(64..65, 1)).await.unwrap(), &Landed::Applied));
    assert_eq!(shop.state(), (1, 1));
}

#[tokio::test]
async fn without_order_the_message_id_is_the_key() {
    let shop = Shop::with_chat();
    let sink = shop.sink().await;
    let mut batch = items(0..10, 0);
    batch[3] = item(3, 0, "bad");
    batch[4].message.id = MessageId::new();
    batch[5].position.offset = None;
    batch.push(batch[3].clone());
    batch.push(batch[4].clone());
    let first = sink.write("t", &batch).await.unwrap();
    assert_eq!(count(&first, |l| *l == Landed::Applied), 9);
    assert!(matches!(&first[3], Landed::Dead(_)));
    assert_eq!((&first[10], &first[11]), (&first[3], &Landed::Repeat));
    batch.reverse();
    let again = sink.write("t", &batch).await.unwrap();
    assert_eq!(count(&again, |l| *l == Landed::Repeat), 10);
    assert_eq!(count(&again, |l| l == &first[3]), 2);
    assert_eq!(shop.state(), (9, 9));
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM lp_sink"), 0);
}

#[tokio::test]
async fn each_way_of_writing_over_batches() {
    let shop = Shop::new("CREATE TABLE a (k TEXT PRIMARY KEY, v) STRICT;".replace("v)", "v ANY)").as_str());
    shop.conn
        .execute_batch(
            "CREATE TABLE b AS SELECT * FROM a; CREATE UNIQUE INDEX bk ON b (k);
             CREATE TABLE c (k TEXT COLLATE NOCASE PRIMARY KEY, v);
             CREATE TABLE d (v, k INTEGER PRIMARY KEY);",
        )
        .unwrap();
    let table = |name, write| Table { name, columns: &["k", "v"], key: 1, write };
    let tables = [
        table("a", Write::Ignore),
        table("b", Write::Add),
        table("c", Write::Replace),
        table("d", Write::Refuse),
    ];
    let sink = shop.open(&tables).await.unwrap();
    let of = |offset, rows| Item { rows, ..item(offset, 1, "") };
    let batch = |at| {
        vec![
            of(at, vec![Row::new("a", ["x".into(), 1.into()]), Row::new("a", ["x".into(), 2.into()])]),
            of(at + 1, vec![Row::new("b", ["x".into(), 0.5.into()]), Row::new("b", ["x".into(), 1.into()])]),
            of(at + 2, vec![Row::new("c", ["X".into(), 1.into()]), Row::new("c", ["x".into(), 2.into()])]),
            of(at + 3, vec![Row::new("d", [7.into(), 1.into()])]),
            of(at + 4, vec![Row::new("d", [7.into(), 2.into()])]),
            of(at + 5, vec![Row::new("d", [Value::Null, 3.into()])]),
            of(at + 6, Vec::new()),
        ]
    };
    let landed = sink.write("t", &batch(0)).await.unwrap();
    assert!(matches!(&landed[4], Landed::Dead(reason) if reason.contains("UNIQUE constraint failed: d.k")));
    assert_eq!(count(&landed, |l| *l == Landed::Applied), 6);
    let landed = sink.write("t", &batch(10)).await.unwrap();
    assert_eq!(count(&landed, |l| *l == Landed::Applied), 5);
    assert_eq!(shop.one::<i64>("SELECT v FROM a"), 1);
    assert_eq!(shop.one::<f64>("SELECT v FROM b"), 3.0);
    // NOCASE makes one key of two: the last one still wins.
    assert_eq!(shop.one::<String>("SELECT group_concat(k || v) FROM c"), "X2");
    assert_eq!(shop.one::<String>("SELECT group_concat(v) FROM d"), "1,3,3");
}

#[tokio::test]
async fn mistakes_are_told_at_open() {
    let shop = Shop::with_chat();
    shop.conn
        .execute_batch(
            "CREATE TABLE wide (a, b, c NOT NULL, d AS (a)); CREATE UNIQUE INDEX part ON wide (a) WHERE b = 1;
             CREATE VIEW seen AS SELECT * FROM chat;",
        )
        .unwrap();
    let wide = |columns, key| Table { name: "wide", columns, key, write: Write::Ignore };
    for (table, parts) in [
        (Table { name: "chats", ..CHAT }, ["table chats", "create it"]),
        (Table { name: "seen", ..CHAT }, ["table seen", "create it"]),
        (Table { columns: &["id", "txt"], ..CHAT }, ["column chat.txt", "id, text"]),
        (Table { columns: &["id", "ID"], ..CHAT }, ["column chat.ID", "once"]),
        (Table { key: 0, ..CHAT }, ["table chat", "key of 0"]),
        (Table { key: 3, ..CHAT }, ["table chat", "key of 3"]),
        (Table { columns: &["id"], ..CHAT }, ["column chat.text", "NOT NULL"]),
        (Table { key: 2, ..CHAT }, ["(id, text)", "CREATE UNIQUE INDEX \"chat_id_text\" ON \"chat\""]),
        (wide(&["a", "c"], 1), ["no unique index", "(\"a\")"]),
        (wide(&["c", "d"], 1), ["column wide.d", "generated"]),
    ] {
        let error = shop.open(&[table]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{error}");
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    assert_eq!(shop.open(&[]).await.unwrap_err().kind(), Kind::Config);
    assert_eq!(shop.open(&[CHAT, CHAT]).await.unwrap_err().kind(), Kind::Config);
    for place in ["nowhere.db", "sqlite::memory:", "sqlite:nowhere.db?snyc=off"] {
        assert_eq!(SqliteSink::open(place, "s", TABLES).await.unwrap_err().kind(), Kind::Config, "{place}");
    }
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'lp_%'"), 0);
}

#[tokio::test]
async fn a_full_disk_is_limited_and_leaves_nothing() {
    let shop = Shop::with_chat();
    let sink = shop.sink().await;
    let limit = |pages: i64| {
        let writer = sink.writer.lock().unwrap();
        writer.conn.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(())).unwrap();
    };
    sink.write("t", &items(0..10, 1)).await.unwrap();
    limit(1);
    let batch: Vec<_> = (10..1000).map(|n| item(n, 1, &"x".repeat(500))).collect();
    let error = sink.write("t", &batch).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Limited, "{error}");
    assert_eq!(shop.state(), (10, 10));
    limit(100_000);
    assert!(all(&sink.write("t", &batch).await.unwrap(), &Landed::Applied));
    assert_eq!(shop.state(), (1000, 1000));
}

#[tokio::test]
async fn a_locked_file_is_unavailable() {
    let shop = Shop::with_chat();
    let url = format!("sqlite://{}?busy=10ms", shop.folder.path().join("shop.db").display());
    let sink = SqliteSink::open(&url, "chat", TABLES).await.unwrap();
    shop.conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = sink.write("t", &items(0..10, 1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    shop.conn.execute_batch("ROLLBACK").unwrap();
    assert!(all(&sink.write("t", &items(0..10, 1)).await.unwrap(), &Landed::Applied));
}

#[tokio::test]
async fn tables_that_end_the_transaction_stop_the_pipe() {
    let shop = Shop::new(
        "CREATE TABLE chat (id INTEGER PRIMARY KEY, text TEXT NOT NULL ON CONFLICT ROLLBACK);
         CREATE TABLE room (name TEXT PRIMARY KEY);
         CREATE TABLE total (room TEXT PRIMARY KEY REFERENCES room DEFERRABLE INITIALLY DEFERRED, n);",
    );
    let sink = shop.sink().await;
    let row = |row| [Item { rows: vec![row], ..item(0, 1, "") }];
    for (rows, part) in [
        (row(Row::new("chat", [1.into(), Value::Null])), "instead of ROLLBACK"),
        (row(Row::new("total", ["lobby".into(), 1.into()])), "without DEFERRED"),
    ] {
        let error = sink.write("t", &rows).await.unwrap_err();
        assert!(error.kind() == Kind::Config && error.to_string().contains(part), "{error}");
    }
    assert_eq!((shop.state(), shop.one::<i64>("SELECT count(*) FROM lp_sink")), ((0, 0), 0));
}

#[tokio::test]
async fn a_pipe_moves_a_topic_once_across_a_crash() {
    let shop = Shop::with_chat();
    let bus = Bus::new(MemoryBus::new());
    bus.ensure("t", &TopicOptions::default()).await.unwrap();
    for n in 0..2000 {
        let text = if n == 1234 { "bad".to_owned() } else { n.to_string() };
        bus.publish("t", Message::new(text).key(format!("k{}", n % 7))).await.unwrap();
    }
    let pipe = Pipe::new(&bus, "t", "g").batch(100).map(|delivery| {
        let text = String::from_utf8_lossy(&delivery.message.payload).into_owned();
        let id = text.parse().unwrap_or(-1);
        Ok(vec![Row::new("total", ["lobby".into(), 1.into()]), Row::new("chat", [id.into(), text.into()])])
    });
    let running = pipe.clone().run(shop.sink().await).await.unwrap();
    while running.totals().applied < 500 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(running);
    bus.seek("t", "g", Start::Oldest).await.unwrap();
    let running = pipe.run(shop.sink().await).await.unwrap();
    while {
        let totals = running.totals();
        totals.applied + totals.repeats + totals.dead < 2000
    } {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let totals = running.stop().await.unwrap();
    assert!(totals.repeats >= 500, "{totals:?}");
    assert_eq!(shop.state(), (1999, 1999));
    let dead = SubscribeOptions { order: Order::None, ..SubscribeOptions::group("look") };
    let dead = bus.subscribe(&dead_topic("t", "g"), &dead).await.unwrap();
    let letters = dead.next(10, Duration::from_secs(1)).await.unwrap();
    assert!(!letters.is_empty() && letters.iter().all(|letter| letter.message.payload == "bad"));
}

#[tokio::test]
async fn a_topic_made_anew_is_refused_and_nothing_of_it_is_taken_for_a_repeat() {
    let shop = Shop::with_chat();
    let sink = shop.sink().await;
    sink.write("t", &[item(0, 3, "a"), item(1, 3, "b")]).await.unwrap();
    let later = |offset, fence| Item { time: from_millis(1_000), ..item(offset, fence, "new") };
    for batch in [[later(0, 1)], [later(1, 4)]] {
        let error = sink.write("t", &batch).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("another name"), "{error}");
    }
    assert_eq!(
        sink.write("t", &[item(1, 3, "b"), item(2, 3, "c")]).await.unwrap(),
        [Landed::Repeat, Landed::Applied]
    );
    assert_eq!(shop.state().0, 3);
}
