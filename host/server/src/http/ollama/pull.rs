//! `POST /api/pull`: models that the node knows by name, and files of a model hub, as `dormouse model pull`
//! brings them. A caller names no other place: the node would go there in the caller's stead.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    super::{Code, Error, guard, openai::request as openai_request},
    LATEST, Refusal,
    lines::{self, line},
};
use crate::{
    deploy::admit,
    pull::{self, Limits, Progress, Puller, Request, Source},
    service::Service,
};

/// Lines that wait for a slow reader; then the pull waits.
const LINES_MAX: usize = 16;
/// Lines of a whole download.
const STEPS: u64 = 100;

#[derive(Debug, Deserialize)]
struct Pull {
    #[serde(alias = "name")]
    model: String,
    stream: Option<bool>,
}

/// What a pull tells, the last with its end.
type Told = Result<Value, Error>;

/// Brings a model in. It goes on when the caller leaves.
pub(super) async fn pull(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Refusal> {
    guard::allow_all("models")?;
    let bytes = openai_request::read(body, &service.config.http).await?;
    let Pull { model, stream } = openai_request::parse(&bytes)?;
    let wanted = model.strip_suffix(LATEST).unwrap_or(&model);
    let request = Request::new(wanted, None, None).map_err(refused)?;
    let is_known = pull::KNOWN.iter().any(|known| known.names.contains(&wanted));
    if !is_known && !matches!(request.source, Source::Hub { .. }) {
        let message = format!("\"{wanted}\" is neither known by name nor hf:OWNER/REPO/FILE");
        return Err(Refusal::new(message));
    }
    let (tell, mut told) = mpsc::channel(LINES_MAX);
    tokio::spawn(run(service, request, tell));
    if stream != Some(false) {
        let lines = stream::unfold(told, |mut told| async move { Some((told.recv().await?, told)) });
        return Ok(lines::response(lines.map(|told| match told {
            Ok(step) => line(&step),
            Err(error) => line(&json!({"error": error.message})),
        })));
    }
    let mut last = Err(Error::internal("a pull ended without a word"));
    while let Some(step) = told.recv().await {
        last = step;
    }
    Ok(Json(last?).into_response())
}

async fn run(service: Arc<Service>, request: Request, tell: mpsc::Sender<Told>) {
    let _place = match admit(&service) {
        Ok(place) => place,
        Err(full) => {
            let _ = tell.send(Err(full)).await;
            return;
        }
    };
    let (catalog, hub) = (service.catalog.clone(), service.config.hub.clone());
    let progress = tell.clone();
    let pulled = spawn_blocking(move || {
        let _ = progress.blocking_send(Ok(json!({"status": "pulling manifest"})));
        let digest =
            request.digest.as_ref().map_or("model".to_owned(), |digest| format!("sha256:{}", digest.hex()));
        let progress = Progress::told(STEPS, move |completed, total| {
            let short: String = digest.trim_start_matches("sha256:").chars().take(12).collect();
            let step = json!({
                "status": format!("pulling {short}"), "digest": digest, "total": total, "completed": completed,
            });
            // A caller who has left hears nothing.
            let _ = progress.blocking_send(Ok(step));
        });
        let limits = Limits::default();
        Puller { catalog: &catalog, hub: &hub, limits: &limits, progress: &progress }.pull(&request)
    });
    let last = match pulled.await {
        Ok(Ok(_)) => Ok(json!({"status": "success"})),
        Ok(Err(error)) => Err(Error::new(Code::ModelUnavailable, error.to_string())),
        Err(ended) => Err(Error::internal(ended)),
    };
    let _ = tell.send(last).await;
}

/// A name that leads nowhere.
fn refused(error: pull::Error) -> Refusal {
    let code = match error {
        pull::Error::UnknownName { .. } => Code::NotFound,
        _ => Code::InvalidRequest,
    };
    Error::new(code, error.to_string()).into()
}
