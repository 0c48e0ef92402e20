//! TLS with an authority of one's own.

use linchpin_core::coord::When;
use linchpin_core::{Kind, Status};
use linchpin_engines::etcd::examine;
use linchpin_harness::certificates;

use crate::server::{Server, open, said};

fn url(server: &Server, files: &[(&str, &str)]) -> String {
    let mut url = format!("etcd+tls://127.0.0.1:{}?timeout=5s", server.port);
    for (option, file) in files {
        url += &format!("&{option}={}", server.folder().join(file).display());
    }
    url
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_if_it_is_named() {
    let server = Server::encrypted(certificates().unwrap(), &[]);
    let trusted = url(&server, &[("tls_ca", "ca.pem")]);
    let coord = open(&trusted).await.unwrap();
    coord.put("a", "1", When::Absent).await.unwrap();
    let report = examine(trusted.parse().unwrap()).await;
    assert!(report.iter().all(|finding| finding.status != Status::Wrong), "{report:?}");
    open(&trusted.replace("etcd+tls://", "etcd://").replace('?', "?tls=true&")).await.unwrap();

    for files in [&[][..], &[("tls_ca", "other.pem")]] {
        let error = open(&url(&server, files)).await.unwrap_err();
        said(&error, Kind::Config, "certificate");
        assert!(error.remedy().unwrap().contains("tls_ca"), "{error}");
    }
    for file in ["nowhere.pem", "openssl.cnf"] {
        said(&open(&url(&server, &[("tls_ca", file)])).await.unwrap_err(), Kind::Config, file);
    }
    let plain = open(&format!("etcd://127.0.0.1:{}?timeout=1s", server.port)).await.unwrap_err();
    assert!(matches!(plain.kind(), Kind::Unavailable | Kind::Timeout), "{plain}");
    let unencrypted = Server::start(&[]);
    let error = open(&format!("etcd+tls://127.0.0.1:{}?timeout=2s", unencrypted.port)).await.unwrap_err();
    // As from a server that goes down in the middle of it, so that it may be tried again.
    said(&error, Kind::Unavailable, "has TLS");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_it() {
    let server =
        Server::encrypted(certificates().unwrap(), &["--client-cert-auth", "--trusted-ca-file", "ca.pem"]);
    let mine = [("tls_ca", "ca.pem"), ("tls_cert", "client.pem"), ("tls_key", "client.key")];
    open(&url(&server, &mine)).await.unwrap().put("a", "1", When::Absent).await.unwrap();
    let error = open(&url(&server, &mine[..1])).await.unwrap_err();
    said(&error, error.kind(), "etcd");
    assert!(matches!(error.kind(), Kind::Config | Kind::Unavailable), "{error}");
}
