//! From engine to engine on servers, killed on the way.

use linchpin_harness::find;

use crate::audit::{Audit, MESSAGES, fill, open};
use crate::{file, kill_and_finish};

const KILLS: usize = 2;
/// Each hands on to the next what it got from the one before.
/// The last keeps nothing for who comes later.
const CHAIN: [&str; 7] = ["kafka", "redis", "postgres", "nats", "redis-cluster", "mariadb", "rabbitmq"];

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_goes_round_the_engines_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut from = file(&folder.path().join("from.db"));
    fill(&open(&from).await, "orders").await;
    let mut running = Vec::new();
    for engine in CHAIN {
        let server = find(engine).unwrap().start().unwrap();
        let to = server.url().to_owned();
        let target = open(&to).await;
        let audit = Audit::start(&target, "orders").await;
        let args = ["topic", "copy", &from, "orders", &to];
        let (result, repeats) = kill_and_finish(folder.path(), &args, audit, KILLS).await;
        assert_eq!((&result["complete"], &result["ordered"]), (&true.into(), &true.into()), "{engine}");
        // A batch for each kill, and for each lease that ends because the machine is busy.
        assert!(repeats <= MESSAGES / 10, "{engine}: {repeats} repeats");
        target.close().await.unwrap();
        running.push(server);
        from = to;
    }
}
