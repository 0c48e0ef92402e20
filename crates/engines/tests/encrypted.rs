//! TLS with an authority of one's own, and clients that show a certificate, on servers that really ask for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use linchpin_core::bus::{Bus, Message, SubscribeOptions, TopicOptions};
use linchpin_core::{Error, Kind, Result, Scheme};
use linchpin_engines::{MYSQL, POSTGRES};
use linchpin_harness::{Running, certificates, find};

const SCHEMES: &[Scheme] = &[POSTGRES, MYSQL];

async fn open(url: &str) -> Result<Bus> {
    Bus::open_with(url, SCHEMES).await
}

/// The URL with these options; files are those of the folder.
fn with(url: &str, folder: &Path, options: &[(&str, &str)]) -> String {
    let file = |(option, file): &(&str, &str)| match *option {
        "tls" => format!("&tls={file}"),
        _ => format!("&{option}={}", folder.join(file).display()),
    };
    format!("{url}?timeout=5s{}", options.iter().map(file).collect::<String>())
}

/// A message goes there and comes back.
async fn works(url: &str) {
    let bus = open(url).await.unwrap();
    bus.ensure("t", &TopicOptions::default()).await.unwrap();
    let sub = bus.subscribe("t", &SubscribeOptions::group("g")).await.unwrap();
    bus.publish("t", Message::new("x")).await.unwrap();
    let came = sub.next(1, Duration::from_secs(10)).await.unwrap().remove(0);
    assert_eq!(came.message.payload, "x");
    sub.ack(came).await.unwrap();
    bus.close().await.unwrap();
}

/// It says so, soon, and what to do.
async fn refuses(url: &str, kinds: &[Kind]) -> Error {
    let error =
        tokio::time::timeout(Duration::from_secs(15), open(url)).await.expect("an answer").unwrap_err();
    assert!(kinds.contains(&error.kind()), "{:?}: {error}", error.kind());
    assert!(error.remedy().is_some(), "{error}");
    error
}

/// `tls` is how the URL asks for it; a certificate of the client's is asked for if `mutual`.
async fn encrypted(url: &str, folder: &Path, mutual: bool) {
    let client: &[_] = if mutual { &[("tls_cert", "client.pem"), ("tls_key", "client.key")] } else { &[] };
    let options = |ca| [&[("tls", "true"), ("tls_ca", ca)], client].concat();
    works(&with(url, folder, &options("ca.pem"))).await;
    refuses(&with(url, folder, &options("other.pem")), &[Kind::Config, Kind::Unavailable]).await;
    refuses(&with(url, folder, &options("nowhere.pem")), &[Kind::Config]).await;
    refuses(&with(url, folder, &[("tls", "true")]), &[Kind::Config, Kind::Unavailable]).await;
    if mutual {
        let without = [("tls", "true"), ("tls_ca", "ca.pem")];
        refuses(&with(url, folder, &without), &[Kind::Config, Kind::Denied, Kind::Unavailable]).await;
    }
}

fn path(folder: &Path, file: &str) -> String {
    folder.join(file).display().to_string()
}

const CLIENT: &[(&str, &str)] =
    &[("tls_ca", "ca.pem"), ("tls_cert", "client.pem"), ("tls_key", "client.key")];

fn start(engine: &str, words: &[&str]) -> Running {
    find(engine).unwrap().start_with(words).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb() {
    let files = certificates().unwrap();
    let option = |name: &str, file| format!("--{name}={}", path(files.path(), file));
    let words =
        [option("ssl-cert", "server.pem"), option("ssl-key", "server.key"), option("ssl-ca", "ca.pem")];
    let server = start("mariadb", &words.each_ref().map(String::as_str));
    encrypted(server.url(), files.path(), false).await;
    let made = Command::new("mariadb")
        .args(["--no-defaults", "-h", "127.0.0.1", "-P", &server.ports()[0].to_string(), "-u", "root", "-e"])
        .arg("CREATE USER ada@'%' IDENTIFIED BY 's3cret' REQUIRE X509; GRANT ALL ON linchpin.* TO ada@'%'")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ada = server.url().replace("root@", "ada:s3cret@");
    encrypted(&ada, files.path(), true).await;
    let plain = refuses(&with(&ada, files.path(), &[]), &[Kind::Denied]).await;
    assert!(!plain.to_string().contains("s3cret"), "{plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let files = certificates().unwrap();
    // It reads no key that others may read.
    let key = path(files.path(), "server.key");
    for words in [["chown", "postgres", key.as_str()], ["chmod", "600", key.as_str()]] {
        assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success());
    }
    let setting = |name: &str, file| format!("--{name}={}", path(files.path(), file));
    let words = [
        setting("ssl_cert_file", "server.pem"),
        setting("ssl_key_file", "server.key"),
        setting("ssl_ca_file", "ca.pem"),
    ];
    let words: Vec<&str> = ["--ssl=on"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let server = start("postgres", &words);
    encrypted(server.url(), files.path(), false).await;

    let hba = server.folder().unwrap().join("data/pg_hba.conf");
    let rules = "hostssl all ada 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\nhost all postgres 127.0.0.1/32 trust\n";
    std::fs::write(&hba, rules).unwrap();
    let made = Command::new("psql")
        .args(["-h", "127.0.0.1", "-p", &server.ports()[0].to_string(), "-U", "postgres", "-X", "-c"])
        .arg("SET password_encryption = 'scram-sha-256'; CREATE ROLE ada LOGIN PASSWORD 's3cret'")
        .args(["-c", "GRANT CREATE ON DATABASE postgres TO ada", "-c", "SELECT pg_reload_conf()"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ada = server.url().replace("postgres@", "ada:s3cret@");
    works(&format!("{}&schema=ada", with(&ada, files.path(), &[&[("tls", "true")], CLIENT].concat()))).await;
    let wrong = ada.replace("s3cret", "wr0ng");
    let error =
        refuses(&with(&wrong, files.path(), &[&[("tls", "true")], CLIENT].concat()), &[Kind::Denied]).await;
    assert!(!error.to_string().contains("wr0ng"), "{error}");
    let without = with(&ada, files.path(), &[("tls", "true"), ("tls_ca", "ca.pem")]);
    refuses(&without, &[Kind::Config, Kind::Denied, Kind::Unavailable]).await;
    refuses(&with(&ada, files.path(), &[]), &[Kind::Denied, Kind::Config]).await;
}
