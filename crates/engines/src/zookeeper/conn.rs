//! One connection: a session is begun or taken up, requests are answered in their order, and what is watched is told.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use linchpin_core::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::error::{self, Code};
use super::hub::Hub;
use super::op::{self, Op, Request};
use super::wire::{Put, Take, frame, framed};

/// What requests and answers go over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What isn't the answer to a request has a number of its own.
const EVENT: i32 = -1;
const PING: i32 = -2;
const AUTH: i32 = -4;

/// Room for what is read in one go.
const ROOM: usize = 16 * 1024;

/// A session, as a server knows it again.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) id: i64,
    pub(super) password: Bytes,
    /// How long it lives after the server heard of it last.
    pub(super) timeout: Duration,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:x}, {:?})", self.id, self.timeout)
    }
}

impl Session {
    /// One that isn't there yet.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { id: 0, password: Bytes::from_static(&[0; 16]), timeout }
    }
}

/// What a connection is for.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    /// A connection that leaves a request unanswered for so long is given up.
    pub(super) silence: Duration,
    /// How often a connection that is idle shows that it is there; that keeps its session alive, too. `None`: the session
    /// ends unless something is asked.
    pub(super) ping: Option<Duration>,
    /// Who is told what changes. The session is closed with the connection if there is one.
    pub(super) hub: Option<Arc<Hub>>,
}

/// What is said to a request.
#[derive(Debug)]
pub(super) struct Reply {
    /// The last transaction the server had applied then.
    pub(super) zxid: i64,
    pub(super) code: Code,
    pub(super) body: Bytes,
}

impl Reply {
    /// The answer, unless it is no.
    pub(super) fn body(self) -> Result<Bytes> {
        if self.code == Code(0) { Ok(self.body) } else { Err(error::said(self.code)) }
    }
}

struct Call {
    request: Request,
    reply: oneshot::Sender<Result<Reply>>,
}

/// A connection. Dropping the last clone ends it.
#[derive(Debug)]
pub(super) struct Conn {
    calls: mpsc::UnboundedSender<Call>,
    pub(super) session: Session,
    dead: Arc<AtomicBool>,
}

impl Conn {
    /// Begins `session`, or takes it up again.
    ///
    /// # Errors
    /// `NotFound` if the session has ended.
    pub(super) async fn open(
        mut stream: Box<dyn Stream>,
        session: Session,
        auth: Option<Request>,
        manner: Manner,
    ) -> Result<Self> {
        let session = begin(&mut stream, &session).await?;
        if let Some(auth) = auth {
            authenticate(&mut stream, &auth).await?;
        }
        let (calls, queue) = mpsc::unbounded_channel();
        let dead = Arc::new(AtomicBool::new(false));
        let (reader, writer) = tokio::io::split(stream);
        let actor = Actor {
            reader,
            writer,
            read: BytesMut::new(),
            out: BytesMut::new(),
            waiting: VecDeque::new(),
            next: 1,
            heard: Instant::now(),
            asked: Instant::now(),
            manner,
        };
        let flag = dead.clone();
        tokio::spawn(async move { actor.run(queue, &flag).await });
        Ok(Self { calls, session, dead })
    }

    /// Whether it is of no more use.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Asks at once; what comes back waits for the answer. So several are asked in one go, and in this order.
    pub(super) fn ask(&self, request: Request) -> impl Future<Output = Result<Reply>> + Send + use<> {
        let wrote = request.op.writes();
        let (reply, answer) = oneshot::channel();
        let sent = self.calls.send(Call { request, reply });
        async move {
            if sent.is_err() {
                return Err(error::disconnected());
            }
            answer.await.unwrap_or_else(|_| Err(error::lost(wrote)))
        }
    }

    /// Asks for several things at once.
    ///
    /// # Errors
    /// Why the multi as such got no answer. Why a part failed is in its answer.
    pub(super) async fn multi(&self, request: Request) -> Result<(Vec<op::Said>, i64)> {
        let reply = self.ask(request).await?;
        let zxid = reply.zxid;
        Ok((op::answers(reply.body()?)?, zxid))
    }
}

/// The first exchange of a connection.
async fn begin(stream: &mut Box<dyn Stream>, session: &Session) -> Result<Session> {
    let mut record = BytesMut::new();
    record.put_i32(0);
    record.put_i64(0);
    record.put_i32(i32::try_from(session.timeout.as_millis()).unwrap_or(i32::MAX));
    record.put_i64(session.id);
    record.put_buffer(&session.password);
    record.put_bool(false);
    let mut body = exchange(stream, &record).await?;
    let (_version, timeout, id, password) = (body.int()?, body.int()?, body.long()?, body.buffer()?);
    if timeout <= 0 || id == 0 {
        return Err(if session.id == 0 { error::unreachable(None) } else { error::ended() });
    }
    Ok(Session { id, password, timeout: Duration::from_millis(timeout.unsigned_abs().into()) })
}

async fn authenticate(stream: &mut Box<dyn Stream>, auth: &Request) -> Result<()> {
    let mut record = BytesMut::new();
    record.put_i32(AUTH);
    record.put_i32(auth.op.number());
    record.put_slice(&auth.record);
    let mut body = exchange(stream, &record).await?;
    let (_number, _zxid, code) = (body.int()?, body.long()?, Code(body.int()?));
    if code == Code(0) { Ok(()) } else { Err(error::said(code)) }
}

/// Says something and waits for the answer, before there is anything else to be heard.
async fn exchange(stream: &mut Box<dyn Stream>, record: &[u8]) -> Result<Bytes> {
    let mut out = BytesMut::new();
    framed(record, &mut out);
    let broken = |cause: io::Error| error::unreachable(Some(cause));
    stream.write_all(&out).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut read = BytesMut::new();
    loop {
        if let Some(body) = frame(&mut read)? {
            return Ok(body);
        }
        if stream.read_buf(&mut read).await.map_err(broken)? == 0 {
            // So says a server that has no majority.
            return Err(error::unreachable(None));
        }
    }
}

/// Who waits for an answer: none for a ping.
struct Waiting {
    number: i32,
    wrote: bool,
    reply: Option<oneshot::Sender<Result<Reply>>>,
}

/// What owns the connection.
struct Actor {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    read: BytesMut,
    out: BytesMut,
    waiting: VecDeque<Waiting>,
    next: i32,
    /// When something came last.
    heard: Instant,
    /// When something was asked last.
    asked: Instant,
    manner: Manner,
}

impl Actor {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Call>, dead: &AtomicBool) {
        if let Err(failure) = self.serve(&mut queue).await {
            tracing::debug!(error = %failure, "a connection to ZooKeeper ended");
        }
        // In this order: who sees that the connection is dead finds that the watches were told.
        if let Some(hub) = &self.manner.hub {
            hub.lost();
        }
        dead.store(true, Ordering::Release);
        queue.close();
        for waiting in self.waiting.drain(..) {
            answer(waiting.reply, Err(error::lost(waiting.wrote)));
        }
        while let Some(call) = queue.recv().await {
            answer(Some(call.reply), Err(error::disconnected()));
        }
    }

    async fn serve(&mut self, queue: &mut mpsc::UnboundedReceiver<Call>) -> Result<()> {
        let broken = |cause: io::Error| error::unreachable(Some(cause));
        let mut tick = interval((self.manner.silence / 8).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.read.capacity() - self.read.len() < ROOM {
                self.read.reserve(ROOM);
            }
            tokio::select! {
                read = self.reader.read_buf(&mut self.read) => match read.map_err(broken)? {
                    0 => return Err(error::unreachable(None)),
                    _ => self.hear()?,
                },
                written = self.writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                    written.map_err(broken)?;
                    self.writer.flush().await.map_err(broken)?;
                }
                call = queue.recv() => match call {
                    Some(call) => self.take(call),
                    None => return self.leave().await.map_err(broken),
                },
                _ = tick.tick() => self.look()?,
            }
        }
    }

    fn write(&mut self, number: i32, request: &Request) {
        let mut record = BytesMut::with_capacity(8 + request.record.len());
        record.put_i32(number);
        record.put_i32(request.op.number());
        record.put_slice(&request.record);
        framed(&record, &mut self.out);
        if self.waiting.is_empty() {
            self.heard = Instant::now();
        }
        self.asked = Instant::now();
    }

    fn take(&mut self, call: Call) {
        let number = if call.request.op == Op::Ping { PING } else { self.next };
        self.next = self.next.checked_add(1).unwrap_or(1);
        self.write(number, &call.request);
        self.waiting.push_back(Waiting { number, wrote: call.request.op.writes(), reply: Some(call.reply) });
    }

    /// Takes what was read apart.
    fn hear(&mut self) -> Result<()> {
        self.heard = Instant::now();
        while let Some(mut body) = frame(&mut self.read)? {
            let (number, zxid, code) = (body.int()?, body.long()?, Code(body.int()?));
            match number {
                EVENT => {
                    let (_kind, _state, path) = (body.int()?, body.int()?, body.text()?);
                    if let Some(hub) = &self.manner.hub {
                        hub.event(&path);
                    }
                }
                _ => self.answer(number, Reply { zxid, code, body })?,
            }
        }
        Ok(())
    }

    fn answer(&mut self, number: i32, reply: Reply) -> Result<()> {
        let waiting = self.waiting.pop_front().filter(|waiting| waiting.number == number);
        let Some(waiting) = waiting else { return Err(error::garbled()) };
        answer(waiting.reply, Ok(reply));
        Ok(())
    }

    /// Gives up a server that is silent, and shows one that isn't asked that this end is there.
    fn look(&mut self) -> Result<()> {
        if !self.waiting.is_empty() && self.heard.elapsed() > self.manner.silence {
            return Err(error::unanswered(false));
        }
        if self.manner.ping.is_some_and(|every| self.asked.elapsed() >= every) {
            self.write(PING, &op::ping());
            self.waiting.push_back(Waiting { number: PING, wrote: false, reply: None });
        }
        Ok(())
    }

    /// Writes what is left, and ends the session if nobody takes it up again.
    async fn leave(&mut self) -> io::Result<()> {
        if self.manner.hub.is_some() {
            self.write(self.next, &op::close());
        }
        let last = async {
            self.writer.write_all_buf(&mut self.out).await?;
            self.writer.flush().await
        };
        tokio::time::timeout(self.manner.silence, last).await.unwrap_or(Ok(()))
    }
}

fn answer(to: Option<oneshot::Sender<Result<Reply>>>, reply: Result<Reply>) {
    // Nobody waits for it if the call was cancelled.
    let _ = to.map(|to| to.send(reply));
}
