//! Text to tokens and back, for programs that send tokens. They follow vLLM's routes, which name no model: where several are in
//! memory, one must be named, since another's tokens would give wrong results silently.

use axum::Json;
use axum::extract::State;
use falaj_govern::Action;
use falaj_protocol::tokenize::{DetokenizeRequest, Detokenized, TokenizeRequest, Tokenized, TokenizerInfo};
use falaj_text::Special;
use tokio::time::Instant;

use crate::app::App;
use crate::auth::Caller;
use crate::body::Raw;
use crate::error::ApiError;
use crate::registry::Loan;

pub(crate) async fn tokenize(State(app): State<App>, caller: Caller, body: Raw) -> Result<Json<Tokenized>, ApiError> {
    let request = body.parse(TokenizeRequest::parse)?;
    let served = model(&app, &caller, request.model.as_deref(), app.deadline(request.arrived)).await?;
    let tokenizer = &served.text.tokenizer;
    let bos = tokenizer.bos().filter(|_| request.add_special_tokens && tokenizer.add_bos());
    // Names of control tokens are read as such, as vLLM does: who may send tokens may send these.
    let tokens: Vec<u32> = bos.into_iter().chain(tokenizer.encode(&request.prompt, Special::Parse)).collect();
    Ok(Json(Tokenized { count: tokens.len(), max_model_len: served.engine.context_tokens(), tokens }))
}

pub(crate) async fn detokenize(
    State(app): State<App>,
    caller: Caller,
    body: Raw,
) -> Result<Json<Detokenized>, ApiError> {
    let request = body.parse(DetokenizeRequest::parse)?;
    let served = model(&app, &caller, request.model.as_deref(), app.deadline(request.arrived)).await?;
    Ok(Json(Detokenized { prompt: served.text.tokenizer.decode(&request.tokens) }))
}

pub(crate) async fn info(State(app): State<App>, caller: Caller) -> Result<Json<TokenizerInfo>, ApiError> {
    let served = model(&app, &caller, None, Instant::now()).await?;
    let tokenizer = &served.text.tokenizer;
    let name =
        |token: Option<u32>| token.map(|token| String::from_utf8_lossy(tokenizer.token_bytes(token)).into_owned());
    let (bos_token, eos_token) = (name(tokenizer.bos()), name(tokenizer.eos()));
    Ok(Json(TokenizerInfo { tokenizer_class: "Falaj", bos_token, eos_token }))
}

async fn model(
    app: &App,
    caller: &Caller,
    name: Option<&str>,
    deadline: Instant,
) -> Result<std::sync::Arc<Loan>, ApiError> {
    if let Some(name) = name {
        app.governance.model(&app.registry, caller, Action::Read, name)?;
        return app.registry.find(name, deadline).await;
    }
    let mut loaded = app.registry.loaded();
    loaded.retain(|loan| app.governance.sees(&app.registry, caller, &loan.facts.id));
    match (loaded.pop(), loaded.len()) {
        (Some(only), 0) => Ok(std::sync::Arc::new(only)),
        (_, others) => {
            let count = if others == 0 { 0 } else { others + 1 };
            let reason = format!("{count} models are in memory, so that one must be named: send `model`");
            Err(ApiError::Unsupported { param: "model", reason })
        }
    }
}
