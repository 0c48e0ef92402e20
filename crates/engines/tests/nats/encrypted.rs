//! TLS with an authority of one's own, on servers that ask for a certificate and on such that don't.

use std::path::Path;

use linchpin_core::Kind;
use linchpin_core::bus::{Message, TopicOptions};
use linchpin_harness::certificates;

use crate::server::{Server, open};

/// The URL with these files of the folder.
fn url(server: &Server, folder: &Path, files: &[(&str, &str)]) -> String {
    let file = |(option, file): &(&str, &str)| format!("&{option}={}", folder.join(file).display());
    server.url(&files.iter().map(file).collect::<String>())
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_if_it_is_named() {
    let files = certificates().unwrap();
    let file = |name: &str| files.path().join(name).display().to_string();
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let mine = [("tls_ca", "ca.pem"), ("tls_cert", "client.pem"), ("tls_key", "client.key")];
    for verify in ["--tls", "--tlsverify"] {
        let server = Server::start(&[verify, "--tlscert", &cert, "--tlskey", &key, "--tlscacert", &ca]);
        let encrypted = |names: &[_]| url(&server, files.path(), names).replace("nats://", "nats+tls://");
        let asks = verify == "--tlsverify";
        let bus = server.until_up(&encrypted(if asks { &mine } else { &mine[..1] })).await;
        bus.ensure("t", &TopicOptions::default()).await.unwrap();
        bus.publish("t", Message::new("x")).await.unwrap();
        assert_eq!(bus.stats(Some("t")).await.unwrap()[0].messages, 1);
        open(&url(&server, files.path(), &mine).replace('?', "?tls=true&")).await.unwrap();

        let wrong = [("tls_ca", "other.pem"), mine[1], mine[2]];
        for (names, kind) in [(&wrong[..], Kind::Unavailable), (&[("tls_ca", "nowhere.pem")], Kind::Config)] {
            let error = open(&encrypted(names)).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.remedy().is_some(), "{error}");
        }
        if asks {
            let error = open(&encrypted(&mine[..1])).await.unwrap_err();
            assert!(matches!(error.kind(), Kind::Denied | Kind::Unavailable | Kind::Config), "{error}");
        }
    }
}
