//! An agent that knows a script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use linchpin_core::coord::Coord;
use linchpin_core::{Error, Kind, Result};
use linchpin_engines::{CONSUL, CONSUL_TLS};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const SOON: Duration = Duration::from_secs(5);
pub(crate) const SESSION: &str = "adf4238a-882b-9ddc-4a9d-5b6758e4159e";
pub(crate) const OTHER: &str = "68a6c4e0-8c79-4d9b-8a3c-6d0d5b8f4e21";

/// A question that is expected, and its answer.
pub(crate) struct Step {
    /// `GET /v1/kv/shop/?recurse`; a `*` at the end stands for anything.
    asks: &'static str,
    body: Option<Value>,
    status: u16,
    index: Option<u64>,
    answer: String,
    /// Nothing is answered: the connection is closed, or stays open.
    silent: Option<bool>,
    takes: Duration,
}

pub(crate) fn step(asks: &'static str) -> Step {
    Step {
        asks,
        body: None,
        status: 200,
        index: None,
        answer: String::new(),
        silent: None,
        takes: Duration::ZERO,
    }
}

impl Step {
    pub(crate) fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    pub(crate) fn gives(self, answer: Value) -> Self {
        Self { answer: answer.to_string(), ..self }
    }

    pub(crate) fn says(self, status: u16, answer: &str) -> Self {
        Self { status, answer: answer.to_owned(), ..self }
    }

    pub(crate) fn at(self, index: u64) -> Self {
        Self { index: Some(index), ..self }
    }

    pub(crate) fn slow(self) -> Self {
        Self { takes: Duration::from_millis(450), ..self }
    }

    pub(crate) fn hangs_up(self) -> Self {
        Self { silent: Some(true), ..self }
    }

    pub(crate) fn hangs(self) -> Self {
        Self { silent: Some(false), ..self }
    }
}

/// A read of one key.
pub(crate) fn get(key: &str) -> Step {
    step("PUT /v1/txn?consistent").body(json!([{"KV": {"Verb": "get", "Key": key}}]))
}

pub(crate) fn absent(key: &str) -> Step {
    let what = format!("key \"{key}\" doesn't exist");
    get(key).says(409, &json!({"Results": null, "Errors": [{"OpIndex": 0, "What": what}]}).to_string())
}

pub(crate) fn present(pair: Value) -> Step {
    get(pair["Key"].as_str().unwrap()).gives(done([pair.clone()]))
}

/// A write that takes place at `index`.
pub(crate) fn write(ops: Value, key: &str, index: u64) -> Step {
    let clone = pair(key, index).as_object().unwrap().clone();
    let clone: serde_json::Map<_, _> =
        clone.into_iter().map(|(k, v)| if k == "Value" { (k, Value::Null) } else { (k, v) }).collect();
    step("PUT /v1/txn").body(ops).gives(done([Value::Object(clone)]))
}

/// A write that doesn't.
pub(crate) fn refused(ops: Value, what: &str) -> Step {
    let answer = json!({"Results": null, "Errors": [{"OpIndex": 0, "What": what}]});
    step("PUT /v1/txn").body(ops).says(409, &answer.to_string())
}

pub(crate) fn done(pairs: impl IntoIterator<Item = Value>) -> Value {
    let results: Vec<_> = pairs.into_iter().map(|pair| json!({"KV": pair})).collect();
    json!({"Results": results, "Errors": null})
}

/// With the value `test`.
pub(crate) fn pair(key: &str, index: u64) -> Value {
    json!({"CreateIndex": 100, "ModifyIndex": index, "LockIndex": 0, "Key": key, "Flags": 7, "Value": "dGVzdA=="})
}

pub(crate) fn held(key: &str, index: u64, session: &str) -> Value {
    let mut pair = pair(key, index);
    pair["Session"] = json!(session);
    pair
}

#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    steps: VecDeque<Step>,
    surprises: Vec<String>,
    tokens: Vec<Option<String>>,
}

impl Agent {
    pub(crate) async fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { steps: steps.into_iter().collect(), ..State::default() };
        let agent = Self { port, state: Arc::new(Mutex::new(state)) };
        let serving = agent.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let agent = serving.clone();
                tokio::spawn(async move { agent.serve(stream).await });
            }
        });
        agent
    }

    /// One that was opened with the prefix `shop/`, and then is asked these.
    pub(crate) async fn opened(steps: impl IntoIterator<Item = Step>) -> (Self, Coord) {
        let agent = Self::new([absent("shop/linchpin")].into_iter().chain(steps)).await;
        let coord = open(&agent.url("?prefix=shop/&timeout=2s")).await.unwrap();
        (agent, coord)
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("consul://127.0.0.1:{}{rest}", self.port)
    }

    /// Everything was asked, and nothing else.
    pub(crate) fn finish(&self) {
        let state = self.state.lock().unwrap();
        assert!(state.surprises.is_empty(), "{:#?}", state.surprises);
        let left: Vec<_> = state.steps.iter().map(|step| step.asks).collect();
        assert!(left.is_empty(), "never asked: {left:?}");
    }

    pub(crate) fn tokens(&self) -> Vec<Option<String>> {
        self.state.lock().unwrap().tokens.clone()
    }

    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some((asked, token, body)) = request(&mut stream).await {
            let step = self.next(&asked, token, &body);
            match step.silent {
                Some(true) => return,
                Some(false) => std::future::pending().await,
                None => {}
            }
            tokio::time::sleep(step.takes).await;
            let index = step.index.map(|index| format!("X-Consul-Index: {index}\r\n")).unwrap_or_default();
            let head =
                format!("HTTP/1.1 {} x\r\n{index}Content-Length: {}\r\n\r\n", step.status, step.answer.len());
            stream.write_all((head + &step.answer).as_bytes()).await.unwrap();
        }
    }

    fn next(&self, asked: &str, token: Option<String>, body: &[u8]) -> Step {
        let mut state = self.state.lock().unwrap();
        state.tokens.push(token);
        let Some(step) = state.steps.pop_front() else {
            state.surprises.push(format!("{asked} after everything"));
            return step("").says(400, "surprise");
        };
        let fits = match step.asks.strip_suffix('*') {
            Some(begin) => asked.starts_with(begin),
            None => asked == step.asks,
        };
        let sent = if body.is_empty() { None } else { Some(serde_json::from_slice::<Value>(body).unwrap()) };
        if !fits || sent != step.body {
            state.surprises.push(format!("{asked} {sent:?} instead of {} {:?}", step.asks, step.body));
        }
        step
    }
}

/// Method and path, token, body.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, Option<String>, Vec<u8>)> {
    let (mut line, mut asked, mut token, mut length) = (String::new(), None, None, 0);
    loop {
        line.clear();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        let Some(asked) = &asked else {
            asked = Some(line.strip_suffix(" HTTP/1.1")?.to_owned());
            continue;
        };
        match line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value)) {
            Some((name, value)) if name == "content-length" => length = value.parse().unwrap(),
            Some((name, value)) if name == "x-consul-token" => token = Some(value.to_owned()),
            Some(_) => {}
            None => {
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.ok()?;
                return Some((asked.clone(), token, body));
            }
        }
    }
}

pub(crate) async fn open(url: &str) -> Result<Coord> {
    Coord::open_with(url, &[CONSUL, CONSUL_TLS]).await
}

/// The error is of this kind, names the engine and the part, and knows a remedy.
pub(crate) fn said(error: &Error, kind: Kind, part: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(text.contains(part) && text.contains("consul"), "{text:?} names {part:?}");
    assert!(error.remedy().is_some(), "{text:?} names a remedy");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}
