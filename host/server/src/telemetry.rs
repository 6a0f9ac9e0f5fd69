//! Traces for a collector, by OTLP over HTTP: <https://opentelemetry.io/docs/specs/otlp/>.
//!
//! A request's span is one of the caller's trace where it names one. Spans wait in a bounded queue for a
//! thread that sends them; when it is full they are dropped, so a slow collector slows nobody.

use std::{future::Future, pin::Pin, time::Duration};

use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Level, Subscriber};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

/// Time of one message to the collector.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time for what is left when the service ends.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a collector's answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What sends spans.
pub(crate) struct Telemetry {
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// Starts to send to the collector whose root URL this is.
    pub(crate) fn start(collector: &str) -> Result<Self, String> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client(agent.build().into()))
            .with_endpoint(format!("{}/v1/traces", collector.trim_end_matches('/')))
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| error.to_string())?;
        let resource = Resource::builder().with_service_name("dormouse").build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Ok(Self { provider })
    }

    /// Takes this program's spans.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let own = Targets::new().with_target("dormouse", Level::INFO);
        tracing_opentelemetry::layer().with_tracer(self.provider.tracer("dormouse")).with_filter(own)
    }

    /// Sends what is left. Blocks.
    pub(crate) fn stop(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_TIMEOUT) {
            tracing::warn!(%error, "some spans did not reach the collector");
        }
    }
}

/// The client that the service sends webhooks with, too. It blocks the thread of the exporter, which has
/// nothing else to do.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let answer = self.0.run(Request::from_parts(head, body.to_vec()))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}

impl HttpClient for Client {
    // What `async fn` in the trait's own macro comes to.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { self.send(request) })
    }
}
