//! TLS with an authority of one's own, on a server that asks for a certificate and on one that doesn't.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::bus::{BusEngine, Message};
use linchpin_core::{Error, Kind, Status};
use linchpin_engines::rabbitmq::examine;
use linchpin_harness::{Port, Running, certificates, find};

use crate::{SOON, open, publish, topic};

/// A server that is encrypted at this port besides the one it says.
fn start(folder: &Path, port: u16, asks: bool) -> Running {
    let file = |name: &str| format!("\"{}\"", folder.join(name).display());
    let (ca, cert, key) = (file("ca.pem"), file("server.pem"), file("server.key"));
    let files = format!("{{cacertfile,{ca}}},{{certfile,{cert}}},{{keyfile,{key}}}");
    let options = format!("[{files},{{verify,verify_peer}},{{fail_if_no_peer_cert,{asks}}}]");
    let listeners = format!("[{{\"127.0.0.1\",{port}}}]");
    let words = ["-rabbit", "ssl_listeners", &listeners, "-rabbit", "ssl_options", &options];
    find("rabbitmq").unwrap().start_with(&words).unwrap()
}

fn url(login: &str, port: u16, folder: &Path, files: &[(&str, &str)]) -> String {
    let file = |(option, file): &(&str, &str)| format!("&{option}={}", folder.join(file).display());
    let files: String = files.iter().map(file).collect();
    format!("amqps://{login}127.0.0.1:{port}?timeout=5s{files}")
}

/// Its encrypted port may open a moment after the other.
async fn until_up(url: &str) -> Arc<dyn BusEngine> {
    let started = Instant::now();
    loop {
        match open(url).await {
            Ok(bus) => return bus,
            Err(error) => assert!(started.elapsed() < SOON, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn refused(url: &str) -> Error {
    let error = tokio::time::timeout(SOON, open(url)).await.expect("an answer").unwrap_err();
    assert!(error.remedy().is_some(), "{error}");
    error
}

async fn encrypted(asks: bool) {
    let files = certificates().unwrap();
    let held = Port::free().unwrap();
    let port = held.number();
    let _server = start(files.path(), port, asks);
    let mine = [("tls_ca", "ca.pem"), ("tls_cert", "client.pem"), ("tls_key", "client.key")];
    let mine = if asks { &mine[..] } else { &mine[..1] };
    let url = |login: &str, names: &[_]| url(login, port, files.path(), names);
    let bus = until_up(&url("", mine)).await;
    topic(&bus, "t", 1).await;
    publish(&bus, "t", vec![Message::new("x")]).await.remove(0).unwrap();
    assert_eq!(bus.stats(Some("t")).await.unwrap()[0].messages, 1);
    bus.close().await.unwrap();
    let well = examine(url("", mine).parse().unwrap()).await;
    assert!(well.iter().all(|finding| finding.status != Status::Wrong), "{well:?}");

    let password = refused(&url("guest:s3cret@", mine)).await;
    assert_eq!(password.kind(), Kind::Denied, "{password}");
    assert!(!format!("{password:?}").contains("s3cret"));
    let other = [&[("tls_ca", "other.pem")], &mine[1..]].concat();
    let error = refused(&url("", &other)).await;
    assert_eq!(error.kind(), Kind::Config, "{error:?}");
    assert!(error.remedy().unwrap().contains("tls_ca"), "{error:?}");
    assert_eq!(refused(&url("", &[("tls_ca", "nowhere.pem")])).await.kind(), Kind::Config);
    if asks {
        let error = refused(&url("", &mine[..1])).await;
        assert!(matches!(error.kind(), Kind::Denied | Kind::Unavailable | Kind::Config), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own_is_trusted_if_it_is_named() {
    encrypted(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_its_certificate_to_a_server_that_asks() {
    encrypted(true).await;
}
