//! Fill in the middle: Mistral's operation for code editors. Answers in chat's shapes.

use axum::extract::{Extension, State};
use axum::response::Response;
use falaj_protocol::Dialect;
use falaj_protocol::completions::FimRequest;

use crate::app::App;
use crate::auth::Caller;
use crate::body::Raw;
use crate::convert;
use crate::edge::RequestId;
use crate::error::ApiError;
use crate::operations::chat::Reply;

pub(crate) async fn complete(
    State(app): State<App>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
    body: Raw,
) -> Result<Response, ApiError> {
    let request = body.parse(FimRequest::parse)?;
    let reply = Reply::new(Dialect::Mistral, &request.model, request_id.0);
    let stream = request.options.stream;
    let job = convert::fim(&app, &caller, request).await?;
    reply.answer(&app, job, stream).await
}
