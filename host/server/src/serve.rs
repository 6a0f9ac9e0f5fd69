//! The service from start to drain: connections, and their bounds.

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use crate::{
    Config, Error, config, http, prewake, queue, residence,
    service::{Phase, Service},
    tls::Tls,
    webhook,
};

/// Pause after a connection could not be taken, as when the process has no file handles left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes that hyper's read buffer has at least; it panics below.
const HEADER_BYTES_MIN: usize = 8 << 10;

/// Runs the service until `shutdown` completes, then drains: new requests are refused, running
/// predictions get `http.drain_timeout` to finish and are then ended. `on_listening` is called once,
/// with the bound address, when requests are answered.
pub async fn serve(
    config: Config,
    shutdown: impl Future<Output = ()>,
    on_listening: impl FnOnce(SocketAddr),
) -> Result<(), Error> {
    let bounds = config.http.clone();
    let start = move || {
        let tls = config.tls.clone().map(Tls::open).transpose()?;
        Ok::<_, Error>((Service::start(config)?, tls.map(Arc::new)))
    };
    let started = tokio::task::spawn_blocking(start).await;
    let (service, tls) = started.expect("starting does not panic")?;
    let service = Arc::new(service);
    let address = service.tokens.listen();
    if address != service.config.listen {
        tracing::warn!(%address, "there is no token, so only this machine is listened to; `dormouse token create` makes one");
    }
    let listen = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    tracing::info!(%address, functions = service.store.registry.len(), "listening");
    if let Some(tls) = &tls {
        tls.clone().reload_at_hangup(service.clone()).map_err(listen)?;
    }
    on_listening(address);

    let graceful = GracefulShutdown::new();
    let queue = tokio::spawn(queue::work(service.clone()));
    tokio::spawn(webhook::collect(service.clone()));
    let told = service.clone();
    tokio::spawn(async move { residence::apply(&told).await });
    tokio::spawn(http::map_provisioned(service.clone()));
    tokio::spawn(prewake::work(service.clone()));
    tokio::select! {
        () = accept(listener, &service, tls, &graceful) => {}
        () = shutdown => {}
    }
    drain(&service, graceful, queue, &bounds).await;
    service.predictions.flush().await;
    service.store.close().await;
    service.engine.shutdown();
    tracing::info!("stopped");
    Ok(())
}

/// Takes connections for ever, as many at once as their bound.
async fn accept(
    listener: TcpListener,
    service: &Arc<Service>,
    tls: Option<Arc<Tls>>,
    graceful: &GracefulShutdown,
) {
    let router = http::router(service.clone());
    let connections = Arc::new(Semaphore::new(service.config.http.connections_max.max(1)));
    loop {
        let place = connections.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (service, router, watcher) = (service.clone(), router.clone(), graceful.watcher());
                let acceptor = tls.as_ref().map(|tls| tls.acceptor());
                tokio::spawn(connection(service, router, stream, acceptor, watcher, place));
            }
            Err(error) => {
                tracing::warn!(%error, "can't take a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers a connection's requests until either side closes it.
async fn connection(
    service: Arc<Service>,
    router: Router,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    watcher: Watcher,
    _place: OwnedSemaphorePermit,
) {
    // Answers are written whole; waiting for more to send with them only delays them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(service.config.http.write_timeout));
    let stream = Box::pin(stream);
    service.metrics.connections.inc();
    match tls {
        None => answer(&service, router, stream, watcher).await,
        Some(tls) => match timeout(service.config.http.header_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => answer(&service, router, stream, watcher).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS was agreed on"),
            Err(_) => tracing::debug!("TLS took too long"),
        },
    }
    service.metrics.connections.dec();
}

/// Answers what comes over a stream that both sides trust.
async fn answer<S>(service: &Arc<Service>, router: Router, stream: S, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let bounds = &service.config.http;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_headers(bounds.headers_max)
        .max_header_size(bounds.header_bytes_max)
        .max_buf_size(bounds.header_bytes_max.max(HEADER_BYTES_MIN));
    let router = tower::util::MapRequest::new(router, |request: hyper::Request<_>| request.map(Body::new));
    let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(serving).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// Lets running predictions finish, then ends them.
async fn drain(service: &Service, graceful: GracefulShutdown, queue: JoinHandle<()>, bounds: &config::Http) {
    let (running, queued) = service.permits.load();
    tracing::info!(running, queued, limit = ?bounds.drain_timeout, "draining");
    service.enter(Phase::Draining);
    let mut closed = pin!(async { tokio::join!(graceful.shutdown(), queue) });
    if timeout(bounds.drain_timeout, &mut closed).await.is_ok() {
        return;
    }
    let (running, queued) = service.permits.load();
    tracing::warn!(running, queued, "the drain took too long, ending what is left");
    service.enter(Phase::Stopping);
    // Whoever takes longer to be told is cut off by the process's end.
    let _ = timeout(bounds.flush_timeout, closed).await;
}
