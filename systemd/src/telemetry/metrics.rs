//! `/metrics` for Prometheus, `/livez` and `/readyz` for whoever watches over a daemon.

use std::fmt::Write as _;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::header::{CACHE_CONTROL, ContentType};
use actix_web::web::ServiceConfig;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, Route, guard, web};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::listen::{self, Address, Mode};

/// Upper bounds of the histograms whose name ends in `_seconds`: from a cached decision (tens of
/// microseconds) over a signature of a slow token (73 ms) to a deadline.
const SECONDS: [f64; 15] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0,
    30.0,
];

/// Connections at a time: a scraper or two, and people.
const CONNECTIONS_MAX: usize = 64;

/// How often histograms are folded together, so that what is recorded between two scrapes, or
/// when nobody scrapes, does not pile up in memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder behind the `metrics` macros of this process.
#[derive(Clone, Debug)]
pub struct Metrics {
    recorder: PrometheusHandle,
}

/// How a daemon is, as `/readyz` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether it can do its work now.
    pub ready: bool,
    /// What that rests on, by name: a dependency and its state, an age, a reason. Public values.
    pub detail: Vec<(String, String)>,
    /// What `/readyz?verbose` answers: JSON, if the daemon has more to tell.
    pub verbose: Option<String>,
}

impl Metrics {
    /// Installs the recorder of the process and the gauge `<daemon>_build_info`.
    pub fn install(daemon: &'static str) -> Result<Self, Error> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|source| Error::Install { source })?;
        let version = env!("CARGO_PKG_VERSION");
        metrics::gauge!(format!("{}_build_info", daemon.replace('-', "_")), "version" => version).set(1.0);
        Ok(Self { recorder })
    }

    /// Serves `/metrics`, `/livez` and `/readyz` at `address` from one thread, until the handle
    /// stops it or the process ends. `health` is asked at each request and must not block.
    ///
    /// To be called inside the runtime.
    pub fn serve<H>(self, address: &Address, health: H) -> Result<ServerHandle, Error>
    where
        H: Fn() -> Health + Send + Sync + Clone + 'static,
    {
        let failed = |source| Error::Serve { address: address.clone(), source };
        let socket = address.bind_with(Mode::GROUP).map_err(Error::Listen)?;
        let recorder = self.recorder.clone();
        let app = move || App::new().configure(routes(recorder.clone(), health.clone()));
        let server = HttpServer::new(app).workers(1).max_connections(CONNECTIONS_MAX).disable_signals();
        let server = listen::attach(server, socket).map_err(failed)?.run();
        let handle = server.handle();
        tokio::spawn(server);
        tokio::spawn(self.upkeep());
        Ok(handle)
    }

    /// What `/metrics` answers.
    pub fn render(&self) -> String {
        self.recorder.render()
    }

    async fn upkeep(self) {
        let mut interval = tokio::time::interval(UPKEEP);
        loop {
            interval.tick().await;
            self.recorder.run_upkeep();
        }
    }
}

/// Why metrics cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another recorder is installed already.
    #[error("cannot install the metrics recorder: install it once per process")]
    Install {
        /// What the recorder said.
        source: BuildError,
    },
    /// The address is not to be had.
    #[error("cannot serve metrics")]
    Listen(#[source] listen::Error),
    /// The server cannot start.
    #[error("cannot serve metrics on `{address}`")]
    Serve {
        /// The address.
        address: Address,
        /// What the system said.
        source: std::io::Error,
    },
}

fn routes(
    recorder: PrometheusHandle,
    health: impl Fn() -> Health + Clone + 'static,
) -> impl FnOnce(&mut ServiceConfig) {
    move |config| {
        config.route("/livez", read().to(async || text(true, "alive\n".to_owned())));
        config.route(
            "/metrics",
            read().to(move || {
                let page = recorder.render();
                async move { text(true, page) }
            }),
        );
        config.route(
            "/readyz",
            read().to(move |request: HttpRequest| {
                let health = health();
                async move {
                    match health.verbose.as_ref().filter(|_| request.query_string() == "verbose") {
                        Some(json) => page(health.ready, ContentType::json(), json.clone()),
                        None => text(health.ready, describe(&health)),
                    }
                }
            }),
        );
    }
}

/// GET, and HEAD for what looks at the status alone.
fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

fn text(good: bool, body: String) -> HttpResponse {
    page(good, ContentType::plaintext(), body)
}

fn page(good: bool, kind: ContentType, body: String) -> HttpResponse {
    let mut response = if good { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    // An old answer says nothing of how the daemon is.
    response.insert_header(kind).insert_header((CACHE_CONTROL, "no-store")).body(body)
}

/// `ready` or `not ready`, then one `name: value` a line.
fn describe(health: &Health) -> String {
    let mut page = String::from(if health.ready { "ready\n" } else { "not ready\n" });
    for (name, value) in &health.detail {
        // Writing to a string cannot fail.
        let _infallible = writeln!(page, "{name}: {}", value.replace('\n', " "));
    }
    page
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use super::*;

    fn ask(stream: impl std::io::Read + std::io::Write, path: &str) -> String {
        send(stream, "GET", path)
    }

    fn send(mut stream: impl std::io::Read + std::io::Write, method: &str, path: &str) -> String {
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn health() -> Health {
        let detail = vec![("token".into(), "gone\nready".into())];
        Health { ready: false, detail, verbose: Some("{\"ready\":false}".to_owned()) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_counted_is_served_over_a_unix_socket_and_over_tcp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.sock");
        let metrics = Metrics::install("hsm-publisher").unwrap();
        assert!(matches!(Metrics::install("second"), Err(Error::Install { .. })));
        metrics::counter!("published_total").increment(3);
        metrics::histogram!("publish_duration_seconds").record(0.002);

        let unix = metrics.clone().serve(&Address::Unix(path.clone()), health).unwrap();
        let tcp = "127.0.0.1:0".parse::<Address>().unwrap().bind().unwrap().tcp_address().unwrap();
        let tcp_server = metrics.serve(&Address::Tcp(tcp), health).unwrap();
        let answers = tokio::task::spawn_blocking(move || {
            let unix = |path: &Path, route: &str| ask(UnixStream::connect(path).unwrap(), route);
            [
                unix(&path, "/metrics"),
                unix(&path, "/livez"),
                unix(&path, "/readyz"),
                unix(&path, "/readyz?verbose"),
                ask(TcpStream::connect(tcp).unwrap(), "/metrics"),
                send(TcpStream::connect(tcp).unwrap(), "HEAD", "/readyz"),
            ]
        });
        let [page, live, ready, verbose, over_tcp, head] = answers.await.unwrap();
        for page in [&page, &over_tcp] {
            assert!(page.starts_with("HTTP/1.1 200"), "{page}");
            assert!(page.contains("hsm_publisher_build_info{version="), "{page}");
            assert!(page.contains("published_total 3"), "{page}");
            assert!(page.contains("publish_duration_seconds_bucket{le=\"0.0025\"} 1"), "{page}");
        }
        assert!(live.starts_with("HTTP/1.1 200") && live.ends_with("alive\n"), "{live}");
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        assert!(ready.ends_with("not ready\ntoken: gone ready\n"), "{ready}");
        assert!(head.starts_with("HTTP/1.1 503") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        assert!(verbose.starts_with("HTTP/1.1 503") && verbose.ends_with("{\"ready\":false}"), "{verbose}");
        unix.stop(true).await;
        tcp_server.stop(true).await;
    }
}
