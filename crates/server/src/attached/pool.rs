//! Connections to one engine, kept open between requests. A connection has no task of its own: whoever waits for an answer drives it,
//! so that no request wakes another thread; whoever drops an answer closes it, which is how engines learn that nobody waits any more.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Bytes, HttpBody};
use axum::http::response::Parts;
use axum::http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub(super) struct Pool {
    host: String,
    port: u16,
    idle: Mutex<Vec<Line>>,
}

/// One connection.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    connection: Pin<Box<Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
    open: bool,
    idle_since: Instant,
}

/// The head of an answer, and the rest of it as it comes.
pub(super) struct Answer {
    pub head: Parts,
    body: Incoming,
    line: Option<Line>,
    pool: Arc<Pool>,
}

impl Pool {
    pub(super) fn new(host: String, port: u16) -> Self {
        Self { host, port, idle: Mutex::default() }
    }

    /// Asks on a connection that is there, or on a new one.
    ///
    /// # Errors
    /// Why nothing was answered.
    pub(super) async fn ask(self: &Arc<Self>, request: impl Fn() -> Request<Full<Bytes>>) -> Result<Answer, String> {
        if let Some(mut line) = self.take() {
            match line.ask(request()).await {
                Ok(response) => return Ok(self.answer(response, line)),
                // Engines close what was idle for long, just when it is used: not a byte was answered, so ask again.
                Err(error) => tracing::debug!(%error, "a kept connection was gone"),
            }
        }
        let mut line = self.connect().await?;
        match line.ask(request()).await {
            Ok(response) => Ok(self.answer(response, line)),
            Err(error) => Err(error.to_string()),
        }
    }

    fn answer(self: &Arc<Self>, response: Response<Incoming>, line: Line) -> Answer {
        let (head, body) = response.into_parts();
        Answer { head, body, line: Some(line), pool: Arc::clone(self) }
    }

    async fn connect(&self) -> Result<Line, String> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(stream) => stream.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("no connection within {} s", CONNECT_WITHIN.as_secs())),
        };
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let handshake = http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| error.to_string())?;
        Ok(Line { sender, connection: Box::pin(connection), open: true, idle_since: Instant::now() })
    }

    /// The one that was used last, if it is still open.
    fn take(&self) -> Option<Line> {
        loop {
            let mut line = self.idle().pop()?;
            if line.idle_since.elapsed() > IDLE_FOR {
                self.idle().clear();
                return None;
            }
            let mut context = Context::from_waker(std::task::Waker::noop());
            if line.connection.as_mut().poll(&mut context).is_pending() && line.sender.is_ready() {
                return Some(line);
            }
        }
    }

    fn keep(&self, mut line: Line) {
        line.idle_since = Instant::now();
        let mut idle = self.idle();
        if idle.len() < KEPT {
            idle.push(line);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Line>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        let Self { sender, connection, open, .. } = self;
        let mut asked = std::pin::pin!(sender.send_request(request));
        std::future::poll_fn(move |context| {
            if let Poll::Ready(response) = asked.as_mut().poll(context) {
                return Poll::Ready(response);
            }
            if *open && connection.as_mut().poll(context).is_ready() {
                *open = false;
            }
            asked.as_mut().poll(context)
        })
        .await
    }
}

impl Answer {
    /// More of the body, as it came.
    pub(super) fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        let mut driven = false;
        loop {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(Ok(data))),
                    // Trailers say nothing that is passed on.
                    Err(_) => continue,
                },
                Poll::Ready(Some(Err(error))) => {
                    self.line = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => {
                    self.give_back(context);
                    return Poll::Ready(None);
                }
                Poll::Pending if driven => return Poll::Pending,
                Poll::Pending => {
                    driven = true;
                    if let Some(line) = self.line.as_mut().filter(|line| line.open) {
                        line.open = line.connection.as_mut().poll(context).is_pending();
                    }
                }
            }
        }
    }

    fn give_back(&mut self, context: &mut Context<'_>) {
        let Some(mut line) = self.line.take() else { return };
        if line.open && line.connection.as_mut().poll(context).is_pending() && line.sender.is_ready() {
            self.pool.keep(line);
        }
    }
}

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Most servers close what was silent for longer.
const IDLE_FOR: Duration = Duration::from_secs(30);
const KEPT: usize = 256;
const BUFFER_BYTES: usize = 64 << 10;
