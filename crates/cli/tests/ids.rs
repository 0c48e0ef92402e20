//! `linchpin id` and `linchpin ids serve`, as a person or a script uses them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_linchpin"));
    let Output { status, stdout, stderr } = tool.args(args).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn ok(folder: &TempDir, args: &[&str]) -> String {
    let (code, out, err) = run(folder.path(), args);
    assert_eq!(code, 0, "{args:?}: {err}");
    out
}

fn fails(folder: &TempDir, args: &[&str], code: i32, what: &str) {
    let (is, _, err) = run(folder.path(), args);
    assert_eq!(is, code, "{args:?}: {err}");
    assert!(err.contains(what), "{args:?}: {err}");
}

#[test]
fn ids_of_every_kind_are_printed_and_taken_apart() {
    let folder = tempfile::tempdir().unwrap();
    let uuids = ok(&folder, &["id", "next", "uuid://v7", "-n", "3"]);
    assert!(uuids.lines().count() == 3 && uuids.lines().all(|line| line.len() == 36));
    let name = ["id", "next", "uuid://v5?namespace=dns", "--name", "www.example.com"];
    assert_eq!(ok(&folder, &name), "2ed6657d-e927-568b-95e1-2665a8aea6a2\n");
    let snowflake = ok(&folder, &["id", "next", "snowflake://?datacenter=2&worker=3"]);
    let parts = ok(&folder, &["id", "parse", "snowflake://", snowflake.trim(), "--json"]);
    let parts: Value = serde_json::from_str(&parts).unwrap();
    assert_eq!(parts["datacenter"], 2);
    assert_eq!(parts["worker"], 3);
    let words = ok(&folder, &["id", "parse", "snowflake://", snowflake.trim()]);
    assert!(words.contains("worker      3\n"), "{words}");
    let counter = ["id", "next", "sqlite:a.db?biz_type=orders&create=true&step=10", "-n", "2"];
    assert_eq!(ok(&folder, &counter), "1\n2\n");
    // The first run took two segments ahead of what it printed, at most.
    let again: i64 = ok(&folder, &counter).lines().next().unwrap().parse().unwrap();
    assert!([11, 31].contains(&again), "{again}");
    let json = ok(&folder, &["id", "next", "uuid://v4", "--json"]);
    assert!(serde_json::from_str::<Value>(&json).unwrap().is_string());
}

#[test]
fn mistakes_are_named_with_their_remedy() {
    let folder = tempfile::tempdir().unwrap();
    ok(&folder, &["id", "next", "sqlite:a.db?biz_type=orders&create=true"]);
    fails(&folder, &["id", "next", "sqlite:a.db?biz_type=orderz"], 1, "there are orders");
    fails(&folder, &["id", "next", "sqlite:b.db?biz_type=orders"], 1, "doesn't exist");
    assert!(!folder.path().join("b.db").exists());
    fails(&folder, &["id", "next", "snowflake://?worker=32"], 1, "use 0 to 31");
    fails(&folder, &["id", "next", "uuid://v4", "-n", "0"], 2, "0 is not in 1..");
    fails(&folder, &["id", "next", "uuid://v9"], 1, "uuid://v7");
    fails(&folder, &["id", "next", "kafka://x"], 1, "uuid: and snowflake:");
    fails(&folder, &["id", "parse", "snowflake://", "12x"], 1, "digits alone");
    fails(&folder, &["id", "parse", "snowflake://", "-1"], 1, "isn't a snowflake");
    fails(&folder, &["id", "parse", "uuid://", "12"], 1, "isn't a UUID");
}

/// A run that is killed has stored the time of its last ids ahead.
#[test]
fn a_killed_snowflake_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let url = "snowflake://?worker=1&state=worker-1";
    let mut all = std::collections::HashSet::new();
    for _ in 0..2 {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_linchpin"));
        tool.args(["id", "next", url, "-n", "100000000"]).current_dir(folder.path());
        let mut child = tool.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        for line in std::io::BufRead::lines(out).take(50_000) {
            assert!(all.insert(line.unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(folder.path().join("worker-1").exists());
    let last: i64 = all.iter().map(|id| id.parse().unwrap()).max().unwrap();
    let next: i64 = ok(&folder, &["id", "next", url]).trim().parse().unwrap();
    assert!(next > last);
}

#[cfg(feature = "serve")]
mod serve {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpStream;
    use std::process::{Child, Stdio};
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    struct Server {
        child: Child,
        address: String,
    }

    impl Server {
        fn start(folder: &TempDir, urls: &[&str]) -> Self {
            let mut tool = Command::new(env!("CARGO_BIN_EXE_linchpin"));
            tool.args(["ids", "serve", "--json", "--listen", "127.0.0.1:0"]).current_dir(folder.path());
            tool.args(urls.iter().flat_map(|url| ["--url", url]));
            let mut child = tool.stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            let said: Value = serde_json::from_str(&line).unwrap();
            Self { child, address: said["listen"].as_str().unwrap().to_owned() }
        }

        /// Status and body.
        fn get(&self, path: &str) -> (u16, Value) {
            let mut stream = TcpStream::connect(&self.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            (status, serde_json::from_str(body).unwrap())
        }

        fn end(mut self) {
            kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
            assert!(self.child.wait().unwrap().success());
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _gone = self.child.kill();
            let _gone = self.child.wait();
        }
    }

    #[test]
    fn segments_and_snowflakes_over_http() {
        let folder = tempfile::tempdir().unwrap();
        ok(&folder, &["id", "next", "sqlite:a.db?biz_type=orders&create=true&step=100"]);
        let server = Server::start(&folder, &["sqlite:a.db", "snowflake://?worker=9"]);
        let (status, one) = server.get("/segmentsid/orders");
        assert_eq!((status, &one["biz_type"]), (200, &Value::from("orders")));
        let ends =
            |segment: &Value| [segment["min_id"].as_i64().unwrap(), segment["max_id"].as_i64().unwrap()];
        let [min, max] = ends(&one);
        assert_eq!((max - min, one.as_object().unwrap().len()), (99, 3));
        assert_eq!(ends(&server.get("/segmentsid/orders").1), [max + 1, max + 100]);
        let (status, ids) = server.get("/snowflake?n=3");
        assert_eq!((status, ids["ids"].as_array().unwrap().len()), (200, 3));
        assert_eq!(ids["ids_str"][0], ids["ids"][0].to_string());
        let parts = ok(&folder, &["id", "parse", "snowflake://", ids["ids_str"][2].as_str().unwrap()]);
        assert!(parts.contains("worker      9"), "{parts}");
        for (path, code, what) in [
            ("/segmentsid/orderz", 404, "orderz"),
            ("/snowflake?n=0", 400, "n=0"),
            ("/snowflake?n=10001", 400, "10001"),
            ("/snowflake?m=1", 400, "m=1"),
            ("/nothing", 404, "/nothing"),
        ] {
            let (status, body) = server.get(path);
            assert_eq!(status, code, "{path}");
            assert!(body["error"].as_str().unwrap().contains(what) && body["help"].is_string(), "{body}");
        }
        server.end();
    }

    #[test]
    fn it_listens_on_this_machine_alone_unless_told_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let serve = ["ids", "serve", "--url", "snowflake://?worker=1", "--listen", "0.0.0.0:0"];
        fails(&folder, &serve, 1, "--insecure");
        fails(&folder, &["ids", "serve", "--url", "uuid://v4"], 1, "aren't served");
        fails(&folder, &["ids", "serve"], 2, "--url");
        let two = ["ids", "serve", "--url", "snowflake://?worker=1", "--url", "snowflake://?worker=2"];
        fails(&folder, &two, 1, "two snowflake URLs");
    }
}
