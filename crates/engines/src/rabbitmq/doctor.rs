//! What `linchpin doctor` looks at.

use std::time::Duration;

use lapin::types::FieldTable;
use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Finding, Kind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::admin::Admin;
use super::error;
use super::link::Link;
use super::send::{To, prove, store};
use super::url::Config;

/// The queue that is made to see whether one can be, and removed.
const TRIAL: &str = "~doctor";
/// Quorum queues count what they take back, and expire messages, since this version.
const OLDEST: (u32, u32) = (3, 10);

/// Looks at the server: whether it answers, its version, whether it takes messages, what the user may do.
pub async fn examine(url: EngineUrl) -> Vec<Finding> {
    let config = match Config::from_url(&url) {
        Ok(config) => config,
        Err(error) => return vec![Finding::wrong("url", &error)],
    };
    let mut report = Vec::new();
    if let Some(found) = version(&config).await {
        report.push(found);
    }
    let link = Link::new(config.clone(), 10);
    match link.channel().await {
        Err(error) => {
            report.push(Finding::wrong("server", &error));
            return report;
        }
        Ok(_) => report.push(Finding::well("server", "answers, and knows the user")),
    }
    if config.user == "guest" && config.password == "guest" {
        report
            .push(Finding::look("access", "the user guest with its first password: make a user of your own"));
    }
    report.push(match tried(&config, &link).await {
        Ok(()) => Finding::well("queues", "quorum queues can be made, written and read"),
        Err(_) if link.is_blocked().await => Finding::wrong("alarm", &error::blocked()),
        Err(error) => Finding::wrong("queues", &error),
    });
    link.close().await;
    report
}

/// Makes what a bus is made of, uses it, and removes it.
async fn tried(config: &Config, link: &Link) -> Result<()> {
    let mut admin = Admin::new(link, config.timeout);
    let name = format!("{}{TRIAL}", config.prefix);
    admin.quorum(&name, FieldTable::default()).await?;
    let worked = async {
        admin.exchange(&name, lapin::ExchangeKind::Direct).await?;
        admin.bind(&name, &name, "0").await?;
        let (channel, to) = (admin.channel().await?, To { exchange: name.clone(), key: "0".to_owned() });
        store(&channel, config.timeout, vec![(to, Vec::new(), Default::default())]).await?;
        let got = admin.get(&name).await?;
        let tag = got.map(|got| got.delivery.delivery_tag).ok_or_else(|| {
            let help = "is another doctor at work under this prefix?";
            error::error(Kind::Unexpected, "a message that was stored isn't there").help(help)
        })?;
        prove(&channel, config.timeout, &name, Some(tag), &[]).await
    };
    let worked = worked.await;
    let removed = admin.delete_queue(&name).await.and(admin.delete_exchange(&name).await);
    worked.and(removed)
}

/// The version, as the server greets with it. Under TLS it isn't asked for.
async fn version(config: &Config) -> Option<Finding> {
    let (host, port) = config.hosts.first()?;
    if config.tls {
        return None;
    }
    let greeting = timeout(config.timeout.min(Duration::from_secs(5)), greeting(host, *port)).await;
    let version = text_behind(&greeting.ok()?.ok()?, b"\x07versionS")?;
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = (numbers.next()?, numbers.next().unwrap_or(0));
    if (major, minor) >= OLDEST {
        return Some(Finding::well("version", version));
    }
    let old = Error::new(Kind::Unsupported, format!("version {version}"));
    Some(Finding::wrong("version", &old.help("RabbitMQ 3.10 or later is needed")))
}

async fn greeting(host: &str, port: u16) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    let mut greeting = vec![0; 4096];
    let read = stream.read(&mut greeting).await?;
    greeting.truncate(read);
    Ok(greeting)
}

/// The long string behind its name in a table.
fn text_behind(bytes: &[u8], name: &[u8]) -> Option<String> {
    let at = bytes.windows(name.len()).position(|part| part == name)? + name.len();
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let text = rest.get(..u32::from_be_bytes(*length) as usize)?;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_a_greeting() {
        let greeting = b"\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x063.10.8\x01aS";
        assert_eq!(text_behind(greeting, b"\x07versionS").as_deref(), Some("3.10.8"));
        assert_eq!(text_behind(b"\x07versionS\0\0\0\xff3", b"\x07versionS"), None);
    }
}
