//! `linchpin ids serve`

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use clap::Args;
use linchpin::id::{Batch, Ids};
use linchpin::{Error, Kind, Open, Result};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::{Interrupts, out};

/// The most snowflakes of one request.
const MAX: usize = 10_000;
/// How long requests that are under way may take once it is told to end.
const LAST: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// What is given out: counters of a database, snowflakes; may be given more than once
    #[arg(long = "url", value_name = "URL", required = true)]
    urls: Vec<String>,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8650")]
    listen: SocketAddr,
    /// Let other machines in: there is neither encryption nor a password
    #[arg(long)]
    insecure: bool,
}

/// What is given out.
#[derive(Debug, Default)]
struct Sources {
    counters: Vec<Ids>,
    snowflake: Option<Ids>,
}

pub(crate) async fn serve(args: ServeArgs, json: bool) -> Result<()> {
    if !args.listen.ip().is_loopback() && !args.insecure {
        let message = format!("{} is open to other machines", args.listen);
        return Err(Error::new(Kind::Config, message)
            .help("listen on 127.0.0.1, behind something that checks who asks, or say --insecure"));
    }
    let sources = Arc::new(open(&args.urls).await?);
    let failed = |e| {
        let error = Error::new(Kind::Config, format!("can't listen on {}", args.listen)).source(e);
        error.help("choose another port with --listen, or end who has this one")
    };
    let mut interrupts = Interrupts::listen()?;
    let listener = TcpListener::bind(args.listen).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    match json {
        true => out::line(json!({ "listen": at.to_string() }))?,
        false => out::say(format_args!("giving out ids on http://{at}; Ctrl-C ends it")),
    }
    let listener = listener.tap_io(|stream| {
        // Only slower without.
        let _set = stream.set_nodelay(true);
    });
    let (told, ending) = oneshot::channel();
    let until = async move {
        interrupts.next().await;
        let _gone = told.send(());
    };
    let running = axum::serve(listener, routes(sources.clone())).with_graceful_shutdown(until);
    let mut running = std::pin::pin!(running.into_future());
    let ended = tokio::select! {
        ended = &mut running => ended,
        _ = ending => timeout(LAST, running).await.unwrap_or(Ok(())),
    };
    for ids in sources.counters.iter().chain(&sources.snowflake) {
        ids.close().await;
    }
    ended.map_err(|e| Error::new(Kind::Unexpected, "the server ended").source(e))
}

async fn open(urls: &[String]) -> Result<Sources> {
    let mut sources = Sources::default();
    for url in urls {
        let ids = <Ids as Open>::open(url).await?;
        match ids.info().engine {
            "uuid" => {
                return Err(Error::new(Kind::Config, "UUIDs aren't served: every program makes its own")
                    .help("name counters (sqlite:, mysql:, postgres:, redis:) and a snowflake:"));
            }
            "snowflake" if sources.snowflake.is_some() => {
                return Err(Error::new(Kind::Config, "two snowflake URLs")
                    .help("name one: a worker number gives 4,096 ids per millisecond"));
            }
            "snowflake" => sources.snowflake = Some(ids),
            _ => sources.counters.push(ids),
        }
    }
    Ok(sources)
}

fn routes(sources: Arc<Sources>) -> Router {
    Router::new()
        .route("/segmentsid/{biz_type}", get(segment))
        .route("/snowflake", get(snowflake))
        .fallback(nothing)
        .with_state(sources)
}

async fn segment(State(sources): State<Arc<Sources>>, Path(biz_type): Path<String>) -> Response {
    let mut error = Error::new(Kind::NotFound, "no counters are served here")
        .help("start it with the URL of a database, too: --url");
    for ids in &sources.counters {
        match ids.segment(&biz_type, None).await {
            Ok(segment) => {
                let (name, [min, max]) = (json!(biz_type), [segment.first, segment.last]);
                let body = format!("{{\"biz_type\":{name},\"min_id\":{min},\"max_id\":{max}}}");
                return answer(StatusCode::OK, body);
            }
            Err(e) if e.kind() == Kind::NotFound => error = e,
            Err(e) => return refusal(&e),
        }
    }
    refusal(&error)
}

async fn snowflake(State(sources): State<Arc<Sources>>, RawQuery(query): RawQuery) -> Response {
    let Some(ids) = &sources.snowflake else {
        let error = Error::new(Kind::NotFound, "no snowflakes are served here");
        return refusal(&error.help("start it with a snowflake URL, too: --url 'snowflake://?worker=1'"));
    };
    let count = match count(query.as_deref().unwrap_or_default()) {
        Ok(count) => count,
        Err(error) => return refusal(&error),
    };
    match ids.next_n(count).await {
        Ok(batch) => answer(StatusCode::OK, listed(batch)),
        Err(error) => refusal(&error),
    }
}

fn count(query: &str) -> Result<usize> {
    let mut count = 1;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let n = pair.strip_prefix("n=").and_then(|n| n.parse().ok()).filter(|n| (1..=MAX).contains(n));
        count = n.ok_or_else(|| {
            Error::new(Kind::Invalid, format!("{pair:?} isn't a number of ids"))
                .help(format!("ask for 1 to {MAX}: /snowflake?n=10"))
        })?;
    }
    Ok(count)
}

/// `{"ids":[1,2],"ids_str":["1","2"]}`
fn listed(batch: Batch) -> String {
    let mut numbers = String::with_capacity(batch.len() * 44 + 24);
    let mut texts = String::with_capacity(batch.len() * 24);
    for id in batch {
        use std::fmt::Write;
        let mark = if texts.is_empty() { "" } else { "," };
        // Writing to a string can't fail.
        let _written = write!(numbers, "{mark}{id}").and_then(|()| write!(texts, "{mark}\"{id}\""));
    }
    format!("{{\"ids\":[{numbers}],\"ids_str\":[{texts}]}}")
}

async fn nothing(uri: Uri) -> Response {
    let error = Error::new(Kind::NotFound, format!("there is nothing at {:?}", uri.path()));
    refusal(&error.help("there are /segmentsid/{biz_type} and /snowflake?n=N"))
}

fn answer(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn refusal(error: &Error) -> Response {
    let status = match error.kind() {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Unavailable | Kind::Timeout | Kind::Closed | Kind::Limited | Kind::Conflict => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if status.is_server_error() {
        tracing::warn!(%error, "a request for ids failed");
    }
    let body = json!({ "error": error.message(), "help": error.remedy() });
    answer(status, body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_checked() {
        assert_eq!((count("").unwrap(), count("n=10000").unwrap()), (1, 10_000));
        for query in ["n=0", "n=10001", "n=x", "n", "m=1", "n=-1"] {
            let error = count(query).unwrap_err();
            assert!(error.kind() == Kind::Invalid && error.to_string().contains("1 to 10000"), "{error}");
        }
    }

    #[tokio::test]
    async fn ids_are_listed_as_numbers_and_as_text() {
        let ids = <Ids as Open>::open("memory://?counter=x").await.unwrap();
        let listed = listed(ids.next_n(2).await.unwrap());
        assert_eq!(listed, r#"{"ids":[1,2],"ids_str":["1","2"]}"#);
    }
}
