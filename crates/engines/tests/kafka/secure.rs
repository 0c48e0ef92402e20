//! TLS and logins, on a broker that insists on them.

use std::fs::write;
use std::path::Path;

use linchpin_core::{Error, Kind};
use linchpin_harness::{Port, Running, certificates, find};

use crate::{Message, SOON, open, publish, tool, topic};

/// Beside the plain listener of the harness: one for users, one for who shows a certificate.
fn secure(files: &Path, users: &Port, certified: &Port) -> Running {
    let path = |file: &str| files.join(file).display().to_string();
    let pem = ["server.key", "server.pem"].map(|file| std::fs::read_to_string(path(file)).unwrap());
    write(path("store.pem"), pem.concat()).unwrap();
    let listeners =
        format!("USERS://127.0.0.1:{},CERTIFIED://127.0.0.1:{}", users.number(), certified.number());
    let module = "org.apache.kafka.common.security";
    let settings = [
        format!("listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{peers}},{listeners}"),
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{peers}},{listeners}"),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,USERS:SASL_SSL,CERTIFIED:SSL".into(),
        format!("ssl.keystore.location={}", path("store.pem")),
        format!("ssl.truststore.location={}", path("ca.pem")),
        "ssl.keystore.type=PEM".into(),
        "ssl.truststore.type=PEM".into(),
        "listener.name.certified.ssl.client.auth=required".into(),
        "listener.name.users.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".into(),
        format!(
            "listener.name.users.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_ada=\"s3cret\";"
        ),
        format!("listener.name.users.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;"),
        format!("listener.name.users.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;"),
    ];
    let words: Vec<&str> = settings.iter().flat_map(|setting| ["--override", setting]).collect();
    let server = find("kafka").unwrap().start_with(&words).unwrap();
    let broker = format!("127.0.0.1:{}", server.ports()[0]);
    for scram in ["SCRAM-SHA-256=[password=s3cret]", "SCRAM-SHA-512=[password=s3cret]"] {
        let words =
            ["--bootstrap-server", &broker, "--alter", "--entity-type", "users", "--entity-name", "ada"];
        let words = [&words[..], &["--add-config", scram]].concat();
        let added = tool("kafka.admin.ConfigCommand", &words).output().unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    }
    server
}

/// A message goes there and comes back.
async fn works(url: &str, name: &str) {
    let bus = open(url).await.unwrap();
    topic(&bus, name, 1).await;
    let reader = bus.subscribe(name, &linchpin_core::bus::SubscribeOptions::group("g")).await.unwrap();
    publish(&bus, name, Message::new("x")).await.unwrap();
    assert_eq!(reader.next(1, SOON).await.unwrap().remove(0).message.payload, "x");
    reader.close(SOON).await.unwrap();
    bus.close().await.unwrap();
}

/// It says so before long, and what to do, and no password.
async fn refuses(url: &str, kind: Kind) -> Error {
    let error = tokio::time::timeout(SOON, open(url)).await.expect("an answer").unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.remedy().is_some(), "{error}");
    assert!(!format!("{error} {error:?}").contains("wr0ng"), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_logins() {
    let files = certificates().unwrap();
    let (users, certified) = (Port::free().unwrap(), Port::free().unwrap());
    let _server = secure(files.path(), &users, &certified);
    let file = |name: &str| files.path().join(name).display().to_string();
    let ca = |name: &str| format!("timeout=5s&tls_ca={}", file(name));
    let user = |password: &str, options: &str| {
        format!("kafka://ada:{password}@127.0.0.1:{}?{options}", users.number())
    };
    for sasl in ["plain", "scram-sha-256", "scram-sha-512"] {
        works(&user("s3cret", &format!("{}&sasl={sasl}", ca("ca.pem"))), sasl).await;
        refuses(&user("wr0ng", &format!("{}&sasl={sasl}", ca("ca.pem"))), Kind::Denied).await;
    }
    refuses(&user("s3cret", &ca("other.pem")), Kind::Config).await;
    refuses(&user("s3cret", &ca("nowhere.pem")), Kind::Config).await;
    refuses(&user("s3cret", "timeout=5s&tls=true"), Kind::Config).await;

    let holder = |options: &str| format!("kafka://127.0.0.1:{}?{options}", certified.number());
    let ours = format!("{}&tls_cert={}&tls_key={}", ca("ca.pem"), file("client.pem"), file("client.key"));
    works(&holder(&ours), "certified").await;
    // Such a broker says nothing, it hangs up.
    let without = refuses(&holder(&ca("ca.pem")), Kind::Unavailable).await;
    assert!(without.remedy().unwrap().contains("tls_cert"), "{without}");
}
