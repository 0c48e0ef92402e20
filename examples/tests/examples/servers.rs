//! The same programs, told to use a server.

use linchpin_harness::find;

use crate::{booked, changed, heard, landed, registered, run, shared_out, shaved, squared};

type Example = (&'static str, fn(&str));

const OF_THE_BUS: [Example; 5] = [
    (env!("CARGO_BIN_EXE_hello_topic"), heard),
    (env!("CARGO_BIN_EXE_registration"), registered),
    (env!("CARGO_BIN_EXE_sum_of_squares"), squared),
    (env!("CARGO_BIN_EXE_log_collection"), landed),
    (env!("CARGO_BIN_EXE_peak_shaving"), shaved),
];
const OF_COORDINATION: [Example; 3] = [
    (env!("CARGO_BIN_EXE_room_booking"), booked),
    (env!("CARGO_BIN_EXE_live_config"), changed),
    (env!("CARGO_BIN_EXE_time_servers"), shared_out),
];

/// Twice: what one run leaves behind doesn't disturb the next.
fn all(engine: &str, examples: &[&[Example]]) {
    let server = find(engine).unwrap().start().unwrap();
    for (program, check) in examples.iter().flat_map(|some| some.iter()) {
        for _ in 0..2 {
            check(&run(program, &[server.url()]));
        }
    }
}

#[test]
fn redis() {
    all("redis", &[&OF_THE_BUS, &OF_COORDINATION]);
}

#[test]
fn redis_cluster() {
    all("redis-cluster", &[&OF_THE_BUS, &OF_COORDINATION]);
}

#[test]
fn postgres() {
    all("postgres", &[&OF_THE_BUS, &OF_COORDINATION]);
}

#[test]
fn mysql() {
    all("mariadb", &[&OF_THE_BUS, &OF_COORDINATION]);
}

#[test]
fn kafka() {
    all("kafka", &[&OF_THE_BUS]);
}

#[test]
fn nats() {
    all("nats", &[&OF_THE_BUS]);
}

#[test]
fn rabbitmq() {
    all("rabbitmq", &[&OF_THE_BUS]);
}

#[test]
fn etcd() {
    all("etcd", &[&OF_COORDINATION]);
}

#[test]
fn zookeeper() {
    all("zookeeper", &[&OF_COORDINATION]);
}
