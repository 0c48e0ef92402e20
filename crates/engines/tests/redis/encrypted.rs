//! TLS with an authority of one's own.

use linchpin_core::bus::{Message, SubscribeOptions};
use linchpin_core::{Kind, Status};
use linchpin_engines::redis::examine;
use linchpin_harness::certificates;

use crate::server::{Server, one, open, said, topic};

fn url(server: &Server, files: &[(&str, &str)]) -> String {
    let mut url = format!("rediss://127.0.0.1:{}?timeout=5s", server.port);
    for (option, file) in files {
        url += &format!("&{option}={}", server.folder().join(file).display());
    }
    url
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_if_it_is_named() {
    let server = Server::encrypted(certificates().unwrap(), &["--tls-auth-clients", "no"]);
    let trusted = url(&server, &[("tls_ca", "ca.pem")]);
    let bus = open(&trusted).await.unwrap();
    bus.ensure("t", &topic(1)).await.unwrap();
    let sub = bus.subscribe("t", &SubscribeOptions::group("g")).await.unwrap();
    bus.publish("t", Message::new("x")).await.unwrap();
    assert_eq!(one(&sub).await.message.payload, "x");
    let report = examine(trusted.parse().unwrap()).await;
    assert!(report.iter().all(|finding| finding.status != Status::Wrong), "{report:?}");
    open(&trusted.replace("rediss://", "redis://").replace('?', "?tls=true&")).await.unwrap();

    for files in [&[][..], &[("tls_ca", "other.pem")]] {
        let error = open(&url(&server, files)).await.unwrap_err();
        said(&error, Kind::Config, "certificate");
        assert!(error.remedy().unwrap().contains("tls_ca"), "{error}");
    }
    for (file, part) in [("nowhere.pem", "nowhere.pem"), ("server.key", "has no certificate")] {
        said(&open(&url(&server, &[("tls_ca", file)])).await.unwrap_err(), Kind::Config, part);
    }
    let plain = open(&format!("redis://127.0.0.1:{}?timeout=5s", server.port)).await.unwrap_err();
    said(&plain, Kind::Unavailable, "connection");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_it() {
    let server = Server::encrypted(certificates().unwrap(), &["--tls-auth-clients", "yes"]);
    let mine = [("tls_ca", "ca.pem"), ("tls_cert", "client.pem"), ("tls_key", "client.key")];
    open(&url(&server, &mine)).await.unwrap().ensure("t", &topic(1)).await.unwrap();
    let error = open(&url(&server, &mine[..1])).await.unwrap_err();
    said(&error, error.kind(), "redis");
    assert!(matches!(error.kind(), Kind::Config | Kind::Unavailable), "{error}");
}
