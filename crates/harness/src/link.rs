//! A link to a server that can be cut.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Forwards the connections to a port of its own to a server's, until it is cut; for clients that are to lose their
/// server while the server lives. Cutting closes both sides of every connection; dropping cuts for good.
pub struct Link {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    cut: bool,
    closed: bool,
    streams: Vec<TcpStream>,
    /// The answer to the next request that contains this is lost.
    lose: Option<Vec<u8>>,
    /// How long a byte to the server takes.
    per_byte: Duration,
}

impl Link {
    /// A link to this port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn to(server: u16) -> io::Result<Link> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::<Mutex<State>>::default();
        let link = Link { port, state: Arc::clone(&state) };
        thread::Builder::new()
            .name(format!("link to {server}"))
            .spawn(move || accept(&listener, server, &state))?;
        Ok(link)
    }

    /// Where clients connect, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes every connection, and every new one, until [`mend`](Link::mend).
    pub fn cut(&self) {
        let mut state = lock(&self.state);
        state.cut = true;
        close_all(&mut state);
    }

    /// Lets new connections through.
    pub fn mend(&self) {
        lock(&self.state).cut = false;
    }

    /// From now on no client's bytes pass faster than this many per second.
    pub fn slow_down(&self, bytes: u32) {
        lock(&self.state).per_byte = Duration::from_secs(1) / bytes.max(1);
    }

    /// The next time a client sends something that contains `request`, the server gets it, and the client loses the
    /// connection before the answer comes. It is looked for in what arrives at once.
    pub fn lose_answer(&self, request: &[u8]) {
        lock(&self.state).lose = Some(request.to_vec());
    }

    /// Whether there is no answer left to lose.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        lock(&self.state).lose.is_none()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.closed = true;
        close_all(&mut state);
        drop(state);
        // Wakes the thread that accepts; that it is gone already is as good.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn accept(listener: &TcpListener, server: u16, state: &Arc<Mutex<State>>) {
    for client in listener.incoming() {
        if lock(state).closed {
            return;
        }
        // A client that went away, and a server that isn't there, look alike to the other side: closed.
        let _ = client.and_then(|client| forward(client, server, state));
    }
}

/// Registers the connection under the lock that `cut` takes, so that none slips through.
fn forward(client: TcpStream, server: u16, link: &Arc<Mutex<State>>) -> io::Result<()> {
    let server = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, server)))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut state = lock(link);
    if state.cut || state.closed {
        return Ok(());
    }
    state.streams.retain(|stream| stream.peer_addr().is_ok());
    state.streams.extend([client.try_clone()?, server.try_clone()?]);
    let (back, forth) = ((server.try_clone()?, client.try_clone()?), (client, server));
    let link = Arc::clone(link);
    thread::Builder::new().name("link forth".to_owned()).spawn(move || {
        copy(forth, |request| {
            let per_byte = lock(&link).per_byte;
            thread::sleep(per_byte * u32::try_from(request.len()).unwrap_or(u32::MAX));
            is_to_be_lost(&link, request)
        });
    })?;
    thread::Builder::new().name("link back".to_owned()).spawn(move || copy(back, |_| false))?;
    Ok(())
}

/// Whether the client isn't to hear the answer to this.
fn is_to_be_lost(state: &Mutex<State>, request: &[u8]) -> bool {
    let mut state = lock(state);
    let has_it = |lose: &mut Vec<u8>| request.windows(lose.len().max(1)).any(|part| part == lose.as_slice());
    state.lose.take_if(has_it).is_some()
}

/// Until one side ends; then the other side hears of it. After what `is_last` says nothing passes, either way.
fn copy((mut from, mut to): (TcpStream, TcpStream), is_last: impl Fn(&[u8]) -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let Some(bytes) = buffer.get(..read) else { break };
        let last = is_last(bytes);
        if last {
            // First: no answer is faster than this.
            let _ = from.shutdown(Shutdown::Both);
        }
        if to.write_all(bytes).is_err() || last {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn close_all(state: &mut State) {
    for stream in state.streams.drain(..) {
        // One that is closed already is as good.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo_server() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || copy((stream.try_clone().unwrap(), stream), |_| false));
            }
        });
        port
    }

    fn echoes(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 5];
        stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer)).is_ok()
            && &answer == b"hello"
    }

    #[test]
    fn a_cut_link_ends_connections_and_a_mended_one_takes_new_ones() {
        let link = Link::to(echo_server()).unwrap();
        let mut before = TcpStream::connect((Ipv4Addr::LOCALHOST, link.port())).unwrap();
        assert!(echoes(&mut before));
        link.cut();
        assert!(!echoes(&mut before));
        let mut during = TcpStream::connect((Ipv4Addr::LOCALHOST, link.port())).unwrap();
        assert!(!echoes(&mut during));
        link.mend();
        let mut after = TcpStream::connect((Ipv4Addr::LOCALHOST, link.port())).unwrap();
        assert!(echoes(&mut after));
        assert!(!echoes(&mut before));
    }

    #[test]
    fn one_answer_is_lost_with_its_connection_and_the_request_is_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let link = Link::to(listener.local_addr().unwrap().port()).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, link.port())).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        link.lose_answer(b"COMMIT");
        client.write_all(b"UPDATE").unwrap();
        let mut asked = [0; 6];
        server.read_exact(&mut asked).unwrap();
        assert!(!link.has_lost());
        client.write_all(b"COMMIT").unwrap();
        server.read_exact(&mut asked).unwrap();
        assert_eq!((&asked, link.has_lost()), (b"COMMIT", true));
        let _ = server.write_all(b"done");
        assert!(!matches!(client.read(&mut asked), Ok(1..)), "the answer is lost");
    }
}
