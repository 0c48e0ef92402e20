//! The least of a client for each engine: something is stored, durably, and found again.

use std::io::Write;
use std::process::{Command, Stdio};

use linchpin_harness::Running;
use linchpin_harness::wire::{ask, connect, contains, exchange, http};

pub(crate) struct Client {
    pub(crate) store: fn(&Running) -> Result<(), String>,
    pub(crate) find: fn(&Running) -> Result<(), String>,
}

const VALUE: &str = "kept";

pub(crate) fn of(engine: &str) -> Client {
    match engine.split('-').next().unwrap() {
        "redis" if engine == "redis" => Client { store: redis_store, find: redis_find },
        "redis" => Client { store: redis_cluster_store, find: redis_cluster_find },
        "nats" => Client { store: nats_store, find: nats_find },
        "postgres" => Client { store: postgres_store, find: postgres_find },
        "mariadb" => Client { store: mariadb_store, find: mariadb_find },
        "etcd" => Client { store: etcd_store, find: etcd_find },
        "consul" => Client { store: consul_store, find: consul_find },
        "zookeeper" => Client { store: zookeeper_store, find: zookeeper_find },
        "rabbitmq" => Client { store: rabbitmq_store, find: rabbitmq_find },
        "kafka" => Client { store: kafka_store, find: kafka_find },
        "influxdb" => Client { store: influxdb_store, find: influxdb_find },
        "activemq" => Client { store: activemq_store, find: activemq_find },
        "nginx" => Client { store: nginx_find, find: nginx_find },
        _ => panic!("no client for {engine}"),
    }
}

fn first(running: &Running) -> u16 {
    running.nodes()[0].port()
}

fn last(running: &Running) -> u16 {
    running.nodes().last().unwrap().port()
}

/// What it wrote to standard output, if it ended well.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|failure| format!("{command:?}: {failure}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{command:?}: {out}{err}")) }
}

fn expect(found: &str) -> Result<(), String> {
    if found.contains(VALUE) { Ok(()) } else { Err(format!("found {found:?} instead of {VALUE:?}")) }
}

fn redis_store(running: &Running) -> Result<(), String> {
    ask(first(running), b"SET key kept\r\n", |answer| answer.starts_with(b"+OK\r\n")).map(drop)
}

fn redis_find(running: &Running) -> Result<(), String> {
    ask(first(running), b"GET key\r\n", |answer| answer == b"$4\r\nkept\r\n").map(drop)
}

/// Ten keys, so that every primary has some; each is on its replica before the next.
fn redis_cluster_store(running: &Running) -> Result<(), String> {
    (0..10).try_for_each(|n| expect_ok(&redis_cli(running, &["SET", &format!("key-{n}"), VALUE])?))
}

fn redis_cluster_find(running: &Running) -> Result<(), String> {
    (0..10).try_for_each(|n| expect(&redis_cli(running, &["GET", &format!("key-{n}")])?))
}

fn expect_ok(answer: &str) -> Result<(), String> {
    if answer.trim() == "OK" { Ok(()) } else { Err(format!("answers {answer:?}")) }
}

fn redis_cli(running: &Running, words: &[&str]) -> Result<String, String> {
    run(Command::new("redis-cli").args(["-c", "-p", &first(running).to_string()]).args(words))
}

const NATS_OPEN: &[u8] = b"CONNECT {\"verbose\":false}\r\nSUB answer 1\r\n";

fn nats_store(running: &Running) -> Result<(), String> {
    let mut stream = connect(first(running))?;
    let stream_config = r#"{"name":"KEYS","subjects":["keys"],"storage":"file"}"#;
    let create =
        format!("PUB $JS.API.STREAM.CREATE.KEYS answer {}\r\n{stream_config}\r\n", stream_config.len());
    let open = [NATS_OPEN, create.as_bytes()].concat();
    exchange(&mut stream, &open, |answer| contains(answer, b"\"did_create\":true"))?;
    exchange(&mut stream, b"PUB keys answer 4\r\nkept\r\n", |answer| contains(answer, b"\"seq\":1")).map(drop)
}

fn nats_find(running: &Running) -> Result<(), String> {
    let get = r#"{"seq":1}"#;
    let get = format!("PUB $JS.API.STREAM.MSG.GET.KEYS answer {}\r\n{get}\r\n", get.len());
    // `kept` in base64.
    let open = [NATS_OPEN, get.as_bytes()].concat();
    ask(first(running), &open, |answer| contains(answer, b"\"data\":\"a2VwdA==\"")).map(drop)
}

fn postgres_store(running: &Running) -> Result<(), String> {
    psql(running, "CREATE TABLE keys AS SELECT 'kept' AS value").map(drop)
}

fn postgres_find(running: &Running) -> Result<(), String> {
    expect(&psql(running, "SELECT value FROM keys")?)
}

fn psql(running: &Running, statement: &str) -> Result<String, String> {
    run(Command::new("psql").args(["--no-psqlrc", "-At", running.url(), "-c", statement]))
}

/// Written to the primary, read from the replica if there is one.
fn mariadb_store(running: &Running) -> Result<(), String> {
    mariadb(first(running), "CREATE TABLE kept_keys AS SELECT 'kept' AS value").map(drop)
}

fn mariadb_find(running: &Running) -> Result<(), String> {
    expect(&mariadb(last(running), "SELECT value FROM kept_keys")?)
}

fn mariadb(port: u16, statement: &str) -> Result<String, String> {
    let port = port.to_string();
    let place = ["--no-defaults", "-h", "127.0.0.1", "-P", &port, "-u", "root", "linchpin"];
    run(Command::new("mariadb").args(place).args(["-N", "-e", statement]))
}

/// Through one node, read back through another; key and value in base64.
fn etcd_store(running: &Running) -> Result<(), String> {
    http(first(running), "POST", "/v3/kv/put", r#"{"key":"a2V5","value":"a2VwdA=="}"#).map(drop)
}

fn etcd_find(running: &Running) -> Result<(), String> {
    let found = http(last(running), "POST", "/v3/kv/range", r#"{"key":"a2V5"}"#)?;
    if found.contains("a2VwdA==") { Ok(()) } else { Err(format!("found {found}")) }
}

fn consul_store(running: &Running) -> Result<(), String> {
    http(first(running), "PUT", "/v1/kv/key", VALUE).map(drop)
}

fn consul_find(running: &Running) -> Result<(), String> {
    expect(&http(first(running), "GET", "/v1/kv/key?raw", "")?)
}

fn zookeeper_store(running: &Running) -> Result<(), String> {
    zookeeper(first(running), &["create", "/key", VALUE]).map(drop)
}

fn zookeeper_find(running: &Running) -> Result<(), String> {
    expect(&zookeeper(last(running), &["get", "/key"])?)
}

fn zookeeper(port: u16, words: &[&str]) -> Result<String, String> {
    const JARS: [&str; 3] = ["zookeeper", "commons-cli", "slf4j-nop"];
    let classes = JARS.map(|jar| format!("/usr/share/java/{jar}.jar")).join(":");
    let server = format!("127.0.0.1:{port}");
    let main = "org.apache.zookeeper.ZooKeeperMain";
    run(Command::new("java").args(["-cp", &classes, main, "-server", &server]).args(words))
}

fn rabbitmq_store(running: &Running) -> Result<(), String> {
    let mut stream = amqp::open(first(running))?;
    amqp::declare_and_publish(&mut stream, VALUE)
}

fn rabbitmq_find(running: &Running) -> Result<(), String> {
    let mut stream = amqp::open(first(running))?;
    amqp::get(&mut stream, VALUE)
}

/// AMQP 0-9-1, to the letter of what one durable queue and one confirmed message take.
mod amqp {
    use std::net::TcpStream;

    use super::{connect, contains, exchange};

    const METHOD: u8 = 1;
    const HEADER: u8 = 2;
    const BODY: u8 = 3;

    fn frame(kind: u8, channel: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, channel], &length[..], payload, &[0xCE]].concat()
    }

    fn method(channel: u8, class: u8, id: u8, arguments: &[u8]) -> Vec<u8> {
        frame(METHOD, channel, &[&[0, class, 0, id], arguments].concat())
    }

    fn ends_a_frame(answer: &[u8]) -> bool {
        answer.ends_with(&[0xCE])
    }

    pub(super) fn open(port: u16) -> Result<TcpStream, String> {
        let mut stream = connect(port)?;
        exchange(&mut stream, b"AMQP\0\0\x09\x01", ends_a_frame)?;
        let start_ok = b"\0\0\0\0\x05PLAIN\0\0\0\x0C\0guest\0guest\x05en_US";
        exchange(&mut stream, &method(0, 10, 11, start_ok), ends_a_frame)?;
        let tune_ok = method(0, 10, 31, b"\0\x08\0\x02\0\0\0\0");
        let open = method(0, 10, 40, b"\x01/\0\0");
        exchange(&mut stream, &[tune_ok, open].concat(), ends_a_frame)?;
        exchange(&mut stream, &method(1, 20, 10, b"\0"), ends_a_frame)?;
        Ok(stream)
    }

    pub(super) fn declare_and_publish(stream: &mut TcpStream, value: &str) -> Result<(), String> {
        const DURABLE: u8 = 2;
        let declare = [&b"\0\0\x04keys"[..], &[DURABLE], b"\0\0\0\0"].concat();
        exchange(stream, &method(1, 50, 10, &declare), |answer| contains(answer, b"\0\x32\0\x0B"))?;
        exchange(stream, &method(1, 85, 10, b"\0"), |answer| contains(answer, b"\0\x55\0\x0B"))?;
        let length = u64::try_from(value.len()).unwrap().to_be_bytes();
        // With the property `delivery mode`, and that 2, persistent.
        let header = [b"\0\x3C\0\0", &length[..], b"\x10\0\x02"].concat();
        let publish = method(1, 60, 40, b"\0\0\0\x04keys\0");
        let message = [publish, frame(HEADER, 1, &header), frame(BODY, 1, value.as_bytes())].concat();
        exchange(stream, &message, |answer| contains(answer, b"\0\x3C\0\x50")).map(drop)
    }

    /// Without acknowledging it: it is there for the next.
    pub(super) fn get(stream: &mut TcpStream, value: &str) -> Result<(), String> {
        assert_eq!(value, "kept");
        exchange(stream, &method(1, 60, 70, b"\0\0\x04keys\0"), |answer| contains(answer, b"kept\xCE"))
            .map(drop)
    }
}

fn kafka_store(running: &Running) -> Result<(), String> {
    run(kafka(running, "TopicCommand").args(["--create", "--topic", "keys"]))?;
    let mut send = kafka(running, "ConsoleProducer");
    send.args(["--topic", "keys", "--sync"]).stdin(Stdio::piped());
    let mut send = send.stdout(Stdio::null()).spawn().map_err(|failure| failure.to_string())?;
    writeln!(send.stdin.take().unwrap(), "{VALUE}").map_err(|failure| failure.to_string())?;
    let status = send.wait().map_err(|failure| failure.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("the producer failed: {status}")) }
}

fn kafka_find(running: &Running) -> Result<(), String> {
    let mut receive = kafka(running, "consumer.ConsoleConsumer");
    let from_the_start = ["--topic", "keys", "--partition", "0", "--offset", "earliest"];
    expect(&run(receive.args(from_the_start).args(["--max-messages", "1", "--timeout-ms", "20000"]))?)
}

fn kafka(running: &Running, tool: &str) -> Command {
    let mut command = Command::new("java");
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-XX:TieredStopAtLevel=1", "-cp"]);
    command.arg(linchpin_harness::jars("kafka").unwrap().join("*"));
    command.arg(format!("org.apache.kafka.tools.{tool}"));
    command.args(["--bootstrap-server", running.url().trim_start_matches("kafka://")]);
    command
}

fn influxdb_store(running: &Running) -> Result<(), String> {
    http(first(running), "POST", "/query?q=CREATE+DATABASE+kept", "")?;
    http(first(running), "POST", "/write?db=kept", "kept_keys value=\"kept\"").map(drop)
}

fn influxdb_find(running: &Running) -> Result<(), String> {
    expect(&http(first(running), "GET", "/query?db=kept&q=SELECT+value+FROM+kept_keys", "")?)
}

fn nginx_find(running: &Running) -> Result<(), String> {
    expect(&http(first(running), "GET", "/", "")?)
}

const STOMP_CONNECT: &[u8] = b"CONNECT\naccept-version:1.2\nhost:localhost\n\n\0";

fn activemq_store(running: &Running) -> Result<(), String> {
    let mut stream = connect(first(running))?;
    exchange(&mut stream, STOMP_CONNECT, |answer| answer.starts_with(b"CONNECTED"))?;
    let send = b"SEND\ndestination:/queue/keys\npersistent:true\nreceipt:1\n\nkept\0";
    exchange(&mut stream, send, |answer| contains(answer, b"receipt-id:1")).map(drop)
}

/// Without acknowledging it: it is there for the next.
fn activemq_find(running: &Running) -> Result<(), String> {
    let subscribe = b"SUBSCRIBE\nid:1\ndestination:/queue/keys\nack:client\n\n\0";
    let mut stream = connect(first(running))?;
    exchange(&mut stream, STOMP_CONNECT, |answer| answer.starts_with(b"CONNECTED"))?;
    exchange(&mut stream, subscribe, |answer| contains(answer, b"kept\0")).map(drop)
}
