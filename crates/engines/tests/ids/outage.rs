//! The database goes away with none, one and two segments at hand; and a commit whose answer is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use linchpin_core::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::place::{Place, numbers, open};

/// Long enough for a segment to be fetched.
const MOMENT: Duration = Duration::from_millis(500);

async fn outages(engine: &str) {
    let place = Place::new(engine);
    let server = place.server.as_ref().unwrap();
    let seeded =
        if engine == "redis" { "counter=orders&block=100" } else { "biz_type=orders&create=true&step=100" };
    let url = place.with(&format!("{seeded}&timeout=2s"));
    let mut last = 0;
    for (at_hand, before, after) in [("one", 10, 90), ("two", 30, 270)] {
        let ids = open(&url).await.unwrap();
        let first = numbers(&ids, before).await;
        assert!(first[0] > last);
        sleep(MOMENT).await;
        server.kill().unwrap();
        let rest = numbers(&ids, after).await;
        assert!(rest[0] > *first.last().unwrap() && rest.is_sorted(), "{at_hand} at hand");
        last = *rest.last().unwrap();
        for _ in 0..3 {
            let error = timeout(Duration::from_secs(8), ids.next()).await.expect("never a hang").unwrap_err();
            assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout), "{error}");
        }
        // None at hand: told when it is opened.
        let error = timeout(Duration::from_secs(8), open(&url)).await.expect("never a hang").unwrap_err();
        assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout), "{error}");
        server.restart().unwrap();
        // The handle comes back by itself.
        let next = timeout(Duration::from_secs(20), async {
            loop {
                match ids.next().await {
                    Ok(id) => return id.number().unwrap(),
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        });
        let next = next.await.expect("it comes back");
        assert!(next > last);
        last = next;
    }
}

/// A link that cuts a connection when a `COMMIT` has passed, before its answer does.
async fn cut_at_commit(server: u16) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let cuts = Arc::new(AtomicU64::new(0));
    let left = cuts.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let left = left.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                pass(client, server, &left).await;
            });
        }
    });
    (port, cuts)
}

async fn pass(mut client: TcpStream, mut server: TcpStream, cuts: &AtomicU64) {
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(n @ 1..) = read else { return };
                server.write_all(&asked[..n]).await.unwrap();
                let commit = asked[..n].windows(6).any(|word| word == b"COMMIT");
                if commit && cuts.load(Ordering::SeqCst) > 0 {
                    cuts.fetch_sub(1, Ordering::SeqCst);
                    // The server commits; nobody hears of it.
                    sleep(MOMENT).await;
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(n @ 1..) = read else { return };
                if client.write_all(&answered[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn lost_commits(engine: &str) {
    let place = Place::new(engine);
    let port = place.server.as_ref().unwrap().ports()[0];
    let (link, cuts) = cut_at_commit(port).await;
    let url = place.with("biz_type=orders&create=true&step=10&timeout=3s");
    let ids = open(&url.replace(&format!(":{port}"), &format!(":{link}"))).await.unwrap();
    assert_eq!(ids.next().await.unwrap().number(), Some(1));
    sleep(MOMENT).await;
    // 11 to 30 are at hand by now: the step was doubled.
    assert_eq!(numbers(&ids, 11).await.last(), Some(&12));
    cuts.store(1, Ordering::SeqCst);
    let more = numbers(&ids, 40).await;
    assert_eq!(cuts.load(Ordering::SeqCst), 0, "a commit was cut");
    let lost: Vec<_> = (13..more[39]).filter(|number| !more.contains(number)).collect();
    assert!(lost.len() >= 10 && more.is_sorted(), "the segment of the lost answer is thrown away: {more:?}");
    // Said so to whoever asks for one segment: it may have been taken. First, nothing is fetched in the background.
    sleep(2 * MOMENT).await;
    cuts.store(1, Ordering::SeqCst);
    let before: i64 = place.sql("SELECT max_id FROM id_generator").parse().unwrap();
    let error = ids.segment("orders", None).await.unwrap_err();
    assert_eq!(error.retry(), linchpin_core::Retry::Unknown, "{error}");
    let after: i64 = place.sql("SELECT max_id FROM id_generator").parse().unwrap();
    assert_eq!(after, before + 10, "and it was");
    assert_eq!(ids.segment("orders", None).await.unwrap().first, after + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    outages("postgres").await;
    lost_commits("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    outages("mariadb").await;
    lost_commits("mariadb").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis() {
    outages("redis").await;
}
