//! Embeddings: the decoder's last hidden states, averaged over the text and scaled to length one.

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use falaj_engine::CpuTime;
use falaj_protocol::Dialect;
use falaj_protocol::embeddings::{Embedding, EmbeddingRequest, EmbeddingResponse, Encoding, Vector};
use falaj_protocol::usage::Usage;
use futures_util::{StreamExt, TryStreamExt};

use crate::app::App;
use crate::attached::{Call, Errand};
use crate::auth::Caller;
use crate::body::Raw;
use crate::convert;
use crate::edge::RequestId;
use crate::error::ApiError;
use crate::governance::{Outcome, Running};
use crate::ids;
use crate::registry::Served;
use crate::sse;

pub(crate) async fn embed(
    State(app): State<App>,
    caller: Caller,
    Extension(dialect): Extension<Dialect>,
    Extension(request_id): Extension<RequestId>,
    body: Raw,
) -> Result<Response, ApiError> {
    if let Some(errand) = Errand::of(&app, &body) {
        return errand.run(app, caller, dialect, request_id, Call::Embedding, body).await;
    }
    let request = body.parse(EmbeddingRequest::parse)?;
    let (served, passage) = app.enter(&caller, &request.model, &request).await?;
    let (model, dimensions, encoding) = (request.model.clone(), request.dimensions, request.encoding);
    let timeout_ms = app.settings.request_timeout_ms;
    let deadline = app.deadline(request.arrived);
    let inputs = convert::inputs(&app, &served, request).await?;
    let prompt_tokens = inputs.iter().map(|tokens| tokens.len() as u64).sum();
    let identity = served.identity.clone();
    let sampling = falaj_ledger::Sampling::default();
    let energy_uj = app.power.expect(&served.facts.id, prompt_tokens);
    let running = Running { identity, seed: 0, sampling, prompt_tokens, completion_tokens: 0, energy_uj };
    let mut admitted = app.governance.admit(passage, running)?;
    admitted.durable().await?;
    app.metrics.prompt_tokens.add(prompt_tokens);
    // A few at a time: one request with two thousand inputs must not fill the queue by itself.
    let vectors =
        futures_util::stream::iter(inputs).map(|tokens| one(&served, tokens, &caller, dimensions)).buffered(AT_ONCE);
    let vectors: Vec<(Vec<f32>, CpuTime)> = tokio::time::timeout_at(deadline, vectors.try_collect())
        .await
        .unwrap_or(Err(ApiError::TookTooLong { timeout_ms }))?;
    vectors.iter().flat_map(|(vector, _)| vector).for_each(|x| admitted.output(&x.to_le_bytes()));
    let cpu_ns = vectors.iter().map(|(_, cpu)| cpu.ns()).sum();
    let energy = app.power.charge(&served.facts.id, cpu_ns, prompt_tokens);
    let receipt = match admitted.finish(Outcome { prompt_tokens, energy, ..Outcome::default() }) {
        Some(signed) => signed.ready().await,
        None => None,
    };
    let data =
        vectors.into_iter().enumerate().map(|(index, (vector, _))| Embedding::new(index, encode(vector, encoding)));
    let response = Json(EmbeddingResponse {
        id: ids::unique("embd-"),
        object: "list",
        data: data.collect(),
        model,
        usage: Usage::new(prompt_tokens, 0, 0),
    });
    Ok(sse::with_receipt(response.into_response(), receipt))
}

const AT_ONCE: usize = 8;

async fn one(
    served: &Served,
    tokens: Vec<u32>,
    caller: &Caller,
    dimensions: Option<u32>,
) -> Result<(Vec<f32>, CpuTime), ApiError> {
    let pending = served.engine.embed(tokens, caller.cache_salt, caller.tenant, served.adapter.as_ref())?;
    let cpu = pending.cpu_time();
    let reply = pending.await.map_err(|_| ApiError::Stopping)?;
    let mut vector = reply.map_err(|reason| ApiError::Engine { reason })?;
    if let Some(dimensions) = dimensions {
        if dimensions as usize > vector.len() {
            let reason = format!("this model's embeddings have {} dimensions; ask for at most that", vector.len());
            return Err(ApiError::Unsupported { param: "dimensions", reason });
        }
        vector.truncate(dimensions as usize);
    }
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    Ok((vector, cpu))
}

fn encode(vector: Vec<f32>, encoding: Encoding) -> Vector {
    match encoding {
        Encoding::Float => Vector::Float(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    }
}
