//! One connection that speaks HTTP/2.
//!
//! Its bounds: streams at a time, header fields of one request, bytes on their way in and out, and how long it may be
//! idle, or refuse to take an answer. When the server ends, it is told so, and requests under way are answered.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::{BoxedPayloadStream, Payload, Request, Response};
use actix_service::Service;
use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::error::PayloadError;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::uri::PathAndQuery;
use actix_web::http::{Method, Uri, Version};
use actix_web::rt::net::TcpStream;
use actix_web::web::Bytes;
use futures_util::stream;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::http;
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, MissedTickBehavior};

/// How ALPN names it.
pub(super) const PROTOCOL: &[u8] = b"h2";

/// Streams at a time: each may be sending a body. A device has one or two requests under way.
const STREAMS_MAX: u32 = 32;

/// Header fields of one request, in bytes: an honest one has some 500.
const HEADERS_MAX: u32 = 16 * 1024;

/// Bytes of bodies on their way in, of one stream and of all of a connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Bytes of an answer that wait to be sent.
const WAITING_MAX: usize = 64 * 1024;

/// How often a connection is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long a peer may take no byte of an answer.
const STALL_MAX: Duration = Duration::from_secs(30);

/// How long a connection may take to end once its peer was told that it ends.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Serves one connection to its end: that of its peer, that of its idleness, or `ending`.
pub(super) async fn serve<S, B>(
    stream: TlsStream<TcpStream>,
    peer: Option<SocketAddr>,
    app: Rc<S>,
    idle_max: Duration,
    ending: impl Future<Output = ()>,
) where
    S: Service<Request> + 'static,
    S::Response: Into<Response<B>>,
    S::Error: Into<Response<BoxBody>>,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    let traffic = Rc::new(Traffic::new());
    let counted = Rc::clone(&traffic);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (app, traffic) = (Rc::clone(&app), Rc::clone(&counted));
        async move {
            let asked = traffic.asked();
            let is_head = request.method() == http::Method::HEAD;
            let answer = match app.call(incoming(request, peer)).await {
                Ok(answer) => answer.into().map_into_boxed_body(),
                Err(error) => error.into(),
            };
            Ok::<_, Infallible>(outgoing(answer, is_head, asked))
        }
    });
    let mut builder = Builder::new(OnThisThread);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(WAITING_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection, ending);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Instant> = None;
    loop {
        tokio::select! {
            // How a peer ended its connection, or broke the protocol, concerns nobody else.
            _ended = &mut connection => return,
            () = &mut ending, if told.is_none() => {
                told = Some(Instant::now());
                connection.as_mut().graceful_shutdown();
            }
            _ = looks.tick() => match traffic.judge(Instant::now(), told, idle_max) {
                Verdict::GoOn => {}
                Verdict::Tell => {
                    told = Some(Instant::now());
                    connection.as_mut().graceful_shutdown();
                }
                Verdict::Cut => return,
            },
        }
    }
}

/// Tasks of a connection stay on the thread of its worker, as all of an app does.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future + 'static> Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        actix_web::rt::spawn(async {
            task.await;
        });
    }
}

/// What goes on over a connection.
#[derive(Debug)]
struct Traffic {
    /// Requests that are not answered whole.
    open: Cell<usize>,
    /// Those of them whose answers are on their way out.
    answering: Cell<usize>,
    /// When something last moved.
    moved: Cell<Instant>,
}

/// What becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    GoOn,
    /// The peer is told to use another one.
    Tell,
    Cut,
}

impl Traffic {
    fn new() -> Self {
        Self { open: Cell::new(0), answering: Cell::new(0), moved: Cell::new(Instant::now()) }
    }

    fn asked(self: &Rc<Self>) -> Asked {
        self.open.set(self.open.get().saturating_add(1));
        self.moved.set(Instant::now());
        Asked { traffic: Rc::clone(self), is_answering: false }
    }

    fn judge(&self, now: Instant, told: Option<Instant>, idle_max: Duration) -> Verdict {
        let still = now.saturating_duration_since(self.moved.get());
        if self.answering.get() > 0 && still > STALL_MAX {
            return Verdict::Cut;
        }
        match told {
            _ if self.open.get() > 0 => Verdict::GoOn,
            Some(told) if now.saturating_duration_since(told) > CLOSE_MAX => Verdict::Cut,
            None if still > idle_max => Verdict::Tell,
            _ => Verdict::GoOn,
        }
    }
}

/// A request under way, until it is dropped.
#[derive(Debug)]
struct Asked {
    traffic: Rc<Traffic>,
    is_answering: bool,
}

impl Asked {
    fn answering(mut self) -> Self {
        self.is_answering = true;
        self.traffic.answering.set(self.traffic.answering.get().saturating_add(1));
        self.moved();
        self
    }

    fn moved(&self) {
        self.traffic.moved.set(Instant::now());
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.moved();
        self.traffic.open.set(self.traffic.open.get().saturating_sub(1));
        if self.is_answering {
            self.traffic.answering.set(self.traffic.answering.get().saturating_sub(1));
        }
    }
}

/// A request as an app takes it: of its address, path and query alone, as in HTTP/1.1.
fn incoming(request: http::Request<Incoming>, peer: Option<SocketAddr>) -> Request {
    let (parts, body) = request.into_parts();
    let chunks = stream::unfold(body, |mut body| async move { Some((chunk(&mut body).await?, body)) });
    let payload: BoxedPayloadStream = Box::pin(chunks);
    let mut request = Request::with_payload(Payload::Stream { payload });
    let head = request.head_mut();
    head.version = Version::HTTP_2;
    head.peer_addr = peer;
    // Both libraries know the same methods; no route takes the other one.
    head.method = Method::from_bytes(parts.method.as_str().as_bytes()).unwrap_or(Method::CONNECT);
    let place = parts.uri.path_and_query().and_then(|place| PathAndQuery::try_from(place.as_str()).ok());
    head.uri = place.map_or_else(Uri::default, Uri::from);
    for (name, value) in &parts.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            head.headers.append(name, value);
        }
    }
    request
}

/// The next bytes of a body. Returns `None` at its end.
async fn chunk(body: &mut Incoming) -> Option<Result<Bytes, PayloadError>> {
    loop {
        match std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await? {
            // Trailers say nothing here.
            Ok(frame) => match frame.into_data() {
                Ok(bytes) => return Some(Ok(bytes)),
                Err(_trailers) => {}
            },
            Err(_broken) => return Some(Err(PayloadError::Incomplete(None))),
        }
    }
}

/// An app's answer as it is sent. That to HEAD has the length of the body and no body.
fn outgoing(answer: Response<BoxBody>, is_head: bool, asked: Asked) -> http::Response<Outgoing> {
    let (head, body) = answer.into_parts();
    let length = body.size();
    let body = if is_head { BoxBody::new(()) } else { body };
    let mut answer = http::Response::new(Outgoing { body, asked: asked.answering() });
    if let (true, BodySize::Sized(length)) = (is_head, length) {
        answer.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    *answer.status_mut() =
        http::StatusCode::from_u16(head.status().as_u16()).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in head.headers() {
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_bytes(value.as_bytes())) {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}

/// The body of an answer. Its request is under way until it is dropped.
struct Outgoing {
    body: BoxBody,
    asked: Asked,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let chunk = ready!(Pin::new(&mut self.body).poll_next(context));
        self.asked.moved();
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data).map_err(|error| error.to_string())))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.body.size(), BodySize::None | BodySize::Sized(0))
    }

    fn size_hint(&self) -> SizeHint {
        match self.body.size() {
            BodySize::None => SizeHint::with_exact(0),
            BodySize::Sized(length) => SizeHint::with_exact(length),
            BodySize::Stream => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_ends_and_a_stalled_one_is_cut() {
        let idle_max = Duration::from_mins(1);
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let traffic = |open: usize, answering: usize| Traffic {
            open: Cell::new(open),
            answering: Cell::new(answering),
            moved: Cell::new(begun),
        };
        for (open, answering, now, told, verdict) in [
            (0, 0, 60, None, Verdict::GoOn),
            (0, 0, 61, None, Verdict::Tell),
            (0, 0, 66, Some(61), Verdict::GoOn),
            (0, 0, 67, Some(61), Verdict::Cut),
            // An app may take its time, and a peer that takes the answer too.
            (1, 0, 300, None, Verdict::GoOn),
            (1, 0, 300, Some(1), Verdict::GoOn),
            (1, 1, 30, None, Verdict::GoOn),
            (1, 1, 31, None, Verdict::Cut),
            (2, 1, 31, Some(30), Verdict::Cut),
        ] {
            let found = traffic(open, answering).judge(at(now), told.map(at), idle_max);
            assert_eq!(found, verdict, "{open} {answering} {now} {told:?}");
        }
    }

    #[test]
    fn a_request_is_open_until_its_answer_is_sent() {
        let traffic = Rc::new(Traffic::new());
        let count = || (traffic.open.get(), traffic.answering.get());
        let (first, second) = (traffic.asked(), traffic.asked());
        assert_eq!(count(), (2, 0));
        let first = outgoing(Response::ok().set_body(BoxBody::new("x")), false, first);
        assert_eq!((count(), first.body().size_hint().exact()), ((2, 1), Some(1)));
        drop(second);
        assert_eq!(count(), (1, 1));
        drop(first);
        assert_eq!(count(), (0, 0));
    }
}
