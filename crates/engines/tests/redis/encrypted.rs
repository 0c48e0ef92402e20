//! TLS with an authority of one's own.

use std::path::Path;
use std::process::Command;

use linchpin_core::bus::{Message, SubscribeOptions};
use linchpin_core::{Kind, Status};
use linchpin_engines::redis::examine;
use tempfile::TempDir;

use crate::server::{Server, one, open, said, topic};

/// An authority, or a certificate that `ca` signed: `name.pem` and `name.key`.
fn certificate(folder: &Path, name: &str, ca: Option<&str>) {
    let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
    let subject = format!("/CN={name}");
    let config = format!(
        "[req]\ndistinguished_name=dn\n[dn]\n[own]\nbasicConstraints=critical,CA:{}\n{}",
        if ca.is_none() { "TRUE" } else { "FALSE" },
        if ca.is_none() { "" } else { "subjectAltName=IP:127.0.0.1\n" },
    );
    std::fs::write(folder.join("openssl.cnf"), config).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.current_dir(folder).args(["req", "-x509", "-config", "openssl.cnf", "-extensions", "own"]);
    openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", &subject, "-keyout", &key, "-out", &pem]);
    if let Some(ca) = ca {
        openssl.args(["-CA", &format!("{ca}.pem"), "-CAkey", &format!("{ca}.key")]);
    }
    let output = openssl.output().expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, ca) in [("ca", None), ("other", None), ("server", Some("ca")), ("client", Some("ca"))] {
        certificate(folder.path(), name, ca);
    }
    folder
}

fn url(server: &Server, files: &[(&str, &str)]) -> String {
    let mut url = format!("rediss://127.0.0.1:{}?timeout=5s", server.port);
    for (option, file) in files {
        url += &format!("&{option}={}", server.folder().join(file).display());
    }
    url
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_if_it_is_named() {
    let server = Server::encrypted(certificates(), &["--tls-auth-clients", "no"]);
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
    let server = Server::encrypted(certificates(), &["--tls-auth-clients", "yes"]);
    let mine = [("tls_ca", "ca.pem"), ("tls_cert", "client.pem"), ("tls_key", "client.key")];
    open(&url(&server, &mine)).await.unwrap().ensure("t", &topic(1)).await.unwrap();
    let error = open(&url(&server, &mine[..1])).await.unwrap_err();
    said(&error, error.kind(), "redis");
    assert!(matches!(error.kind(), Kind::Config | Kind::Unavailable), "{error}");
}
