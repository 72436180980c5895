//! HTTP, in a thread of its own: `/metrics` and `/healthz`.
//!
//! Nobody who asks can hold up anybody else, and least of all the event loop: that only leaves a [`Snapshot`] here. A
//! page is written once for each snapshot, however often it is asked for; a client that sends or takes nothing is
//! cut off in time, and before that if others come.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{Format, Snapshot, text};

/// So many connections at once; one more, and the oldest is cut off.
const CONNECTIONS: usize = 16;

/// A client has so long to send a request, and to come back with the next one.
const REQUEST: Duration = Duration::from_secs(10);

/// A connection lasts so long at most.
const LIFE: Duration = Duration::from_secs(60);

/// Bytes of a request's head.
const HEAD: usize = 16 << 10;

/// After an error of the listener, such as no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// The event loop is well if it left a snapshot so recently.
const WELL: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
pub enum Error {
    #[error("--metrics {0}: the port is taken; name another one, or end who has it (`ss -ltnp 'sport = :{port}'`)", port = .0.port())]
    Taken(SocketAddr),
    #[error("--metrics {0}: this host has no such address; 127.0.0.1 is always there")]
    Address(SocketAddr),
    #[error("--metrics {0}: {1}")]
    Other(SocketAddr, io::Error),
}

impl Error {
    fn of(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::Taken(address),
            io::ErrorKind::AddrNotAvailable => Self::Address(address),
            _ => Self::Other(address, error),
        }
    }
}

/// The port is ours, though nobody is answered yet.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    listener: StdListener,
}

/// Where the event loop leaves its snapshots. The thread ends with it.
#[derive(Debug)]
pub struct Publisher(watch::Sender<Option<Latest>>);

#[derive(Clone, Debug)]
struct Latest {
    snapshot: Arc<Snapshot>,
    at: Instant,
}

impl Publisher {
    /// Never waits.
    pub fn publish(&self, snapshot: Snapshot) {
        let latest = Latest {
            snapshot: Arc::new(snapshot),
            at: Instant::now(),
        };
        self.0.send_replace(Some(latest));
    }
}

impl Listener {
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        let listener = StdListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.map_err(|error| Error::of(address, error))?;
        Ok(Self { address, listener })
    }

    /// With the port that the kernel chose, should 0 have been asked for.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.address)
    }

    /// Answers from now on.
    pub fn serve(self) -> Result<Publisher, Error> {
        let address = self.address;
        let (sender, latest) = watch::channel(None);
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::of(address, error))?;
        let thread = thread::Builder::new().name("metrics".into());
        let served = thread.spawn(move || {
            if let Err(error) = runtime.block_on(serve(self.listener, latest)) {
                log::error!(
                    "{}: metrics are not served any more",
                    Error::of(address, error)
                );
            }
        });
        served.map_err(|error| Error::of(address, error))?;
        Ok(Publisher(sender))
    }
}

/// Until the publisher has gone.
async fn serve(
    listener: StdListener,
    mut latest: watch::Receiver<Option<Latest>>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let pages = Arc::new(Pages::new(latest.clone()));
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.map(|(stream, _)| stream),
            ended = latest.wait_for(|_| false) => match ended {
                Ok(_) => continue,
                Err(_) => return Ok(()),
            },
        };
        match stream {
            Ok(stream) => {
                open.retain(|connection| !connection.is_finished());
                open.push_back(tokio::spawn(converse(stream, pages.clone())).abort_handle());
            }
            Err(error) => {
                log::debug!("metrics: {error}");
                sleep(PAUSE).await;
            }
        }
        if open.len() > CONNECTIONS {
            open.pop_front().iter().for_each(AbortHandle::abort);
        }
    }
}

async fn converse(stream: TcpStream, pages: Arc<Pages>) {
    let answer = service_fn(|request| {
        let answer = pages.answer(&request);
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), answer);
    match timeout(LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("metrics: {error}"),
        Err(_) => log::debug!("metrics: a connection lasted for too long"),
    }
}

/// What is answered.
struct Pages {
    latest: watch::Receiver<Option<Latest>>,
    written: Mutex<Vec<Written>>,
}

/// A page that is known already.
struct Written {
    of: Arc<Snapshot>,
    format: Format,
    text: Bytes,
}

type Answer = Response<Full<Bytes>>;

impl Pages {
    fn new(latest: watch::Receiver<Option<Latest>>) -> Self {
        Self {
            latest,
            written: Mutex::default(),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics(accepted(request)),
            (&Method::GET | &Method::HEAD, "/healthz") => self.health(),
            (&Method::GET | &Method::HEAD, _) => {
                plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz")
            }
            _ => {
                let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
                let allowed = header::HeaderValue::from_static("GET, HEAD");
                answer.headers_mut().insert(header::ALLOW, allowed);
                answer
            }
        }
    }

    fn metrics(&self, format: Format) -> Answer {
        let Some(latest) = self.latest.borrow().clone() else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "tracer is starting");
        };
        let Some(text) = self.text(&latest.snapshot, format) else {
            return plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the page can't be written",
            );
        };
        let mut answer = Response::new(Full::new(text));
        let kind = header::HeaderValue::from_static(format.content_type());
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer
    }

    /// Written at most once for each snapshot.
    fn text(&self, snapshot: &Arc<Snapshot>, format: Format) -> Option<Bytes> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|page| Arc::ptr_eq(&page.of, snapshot));
        if let Some(page) = written.iter().find(|page| page.format == format) {
            return Some(page.text.clone());
        }
        let text = Bytes::from(text(snapshot, format).ok()?);
        written.push(Written {
            of: snapshot.clone(),
            format,
            text: text.clone(),
        });
        Some(text)
    }

    fn health(&self) -> Answer {
        let age = self
            .latest
            .borrow()
            .as_ref()
            .map(|latest| latest.at.elapsed());
        match age {
            None => plain(StatusCode::SERVICE_UNAVAILABLE, "tracer is starting"),
            Some(age) if age < WELL => plain(StatusCode::OK, "ok"),
            Some(age) => {
                let said = format!("the event loop has not moved for {} s", age.as_secs());
                plain(StatusCode::SERVICE_UNAVAILABLE, &said)
            }
        }
    }
}

fn accepted(request: &Request<Incoming>) -> Format {
    let accept = request.headers().get(header::ACCEPT);
    Format::accepted(
        accept
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default(),
    )
}

fn plain(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
