//! Embeddings: the decoder's last hidden states, averaged over the text and scaled to length one.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use falaj_protocol::embeddings::{Embedding, EmbeddingRequest, EmbeddingResponse, Encoding, Vector};
use falaj_protocol::usage::Usage;
use futures_util::{StreamExt, TryStreamExt};

use crate::app::App;
use crate::auth::Caller;
use crate::body::Raw;
use crate::convert;
use crate::error::ApiError;
use crate::ids;
use crate::registry::Served;

pub(crate) async fn embed(State(app): State<App>, caller: Caller, body: Raw) -> Result<Response, ApiError> {
    let request = body.parse(EmbeddingRequest::parse)?;
    let served = app.registry.find(&request.model, app.deadline(request.arrived)).await?;
    let (model, dimensions, encoding) = (request.model.clone(), request.dimensions, request.encoding);
    let timeout_ms = app.settings.request_timeout_ms;
    let deadline = app.deadline(request.arrived);
    let inputs = convert::inputs(&app, &served, request).await?;
    let prompt_tokens = inputs.iter().map(|tokens| tokens.len() as u64).sum();
    app.metrics.prompt_tokens.add(prompt_tokens);
    // A few at a time: one request with two thousand inputs must not fill the queue by itself.
    let vectors = futures_util::stream::iter(inputs)
        .map(|tokens| one(&served, tokens, caller.cache_salt, dimensions))
        .buffered(AT_ONCE);
    let vectors: Vec<Vec<f32>> = tokio::time::timeout_at(deadline, vectors.try_collect())
        .await
        .unwrap_or(Err(ApiError::TookTooLong { timeout_ms }))?;
    let data = vectors.into_iter().enumerate().map(|(index, vector)| Embedding::new(index, encode(vector, encoding)));
    Ok(Json(EmbeddingResponse {
        id: ids::unique("embd-"),
        object: "list",
        data: data.collect(),
        model,
        usage: Usage::new(prompt_tokens, 0, 0),
    })
    .into_response())
}

const AT_ONCE: usize = 8;

async fn one(served: &Served, tokens: Vec<u32>, salt: u64, dimensions: Option<u32>) -> Result<Vec<f32>, ApiError> {
    let pending = served.engine.embed(tokens, salt, served.adapter.as_ref())?;
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
    Ok(vector)
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
