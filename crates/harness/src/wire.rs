//! A few bytes back and forth over TCP: enough to ask a server whether it is there.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_BYTES: usize = 64 * 1024;

/// Connects to a port of 127.0.0.1; reads and writes fail after 2 s.
///
/// # Errors
/// What the operating system said.
pub fn connect(port: u16) -> Result<TcpStream, String> {
    let open = || {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    open().map_err(|failure: std::io::Error| format!("can't connect: {failure}"))
}

/// Sends a request, and reads until the answer is `enough`, or the other side is done, or 64 KiB came.
///
/// # Errors
/// What the operating system said, or that the answer ended too early, and what it was.
pub fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    enough: fn(&[u8]) -> bool,
) -> Result<Vec<u8>, String> {
    stream.write_all(request).map_err(|failure| format!("can't send: {failure}"))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !enough(&answer) && answer.len() < ANSWER_BYTES {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend(buffer.iter().take(read)),
            Err(failure) => return Err(format!("no answer: {failure}")),
        }
    }
    if enough(&answer) { Ok(answer) } else { Err(format!("answers {:?}", String::from_utf8_lossy(&answer))) }
}

/// Connects, and exchanges.
///
/// # Errors
/// As [`connect`] and [`exchange`].
pub fn ask(port: u16, request: &[u8], enough: fn(&[u8]) -> bool) -> Result<Vec<u8>, String> {
    exchange(&mut connect(port)?, request, enough)
}

/// The body of what an HTTP server answers, if its status is 2xx.
///
/// # Errors
/// As [`ask`]; and any other status, with the body.
pub fn http(port: u16, method: &str, path: &str, body: &str) -> Result<String, String> {
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = connect(port)?;
    stream.write_all(request.as_bytes()).map_err(|failure| format!("can't send: {failure}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|failure| format!("no answer: {failure}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("answers {answer:?}"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status.starts_with('2') { Ok(body.to_owned()) } else { Err(format!("answers {status}: {body}")) }
}

/// Whether `needle` occurs in `bytes`.
#[must_use]
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
