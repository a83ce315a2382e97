//! Signing in and out, and who one is: what browsers ask. The flow itself is in `sign_in.rs`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use falaj_govern::{Action, Target};
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::auth::{self, Caller, SignedIn};
use crate::error::ApiError;
use crate::operations::files::bad_query;
use crate::sign_in::SignInError;

#[derive(Deserialize)]
pub(crate) struct Begun {
    /// A path of this site.
    return_to: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Returned {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
    iss: Option<String>,
}

/// Sends the browser to the provider.
pub(crate) async fn login(
    State(app): State<App>,
    headers: HeaderMap,
    asked: Result<Query<Begun>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| bad_query(&error))?;
    let language = auth::spoken(&headers);
    let begun = app.sign_in()?.begin(app.site()?, asked.return_to.as_deref()).await;
    let (location, cookie) = begun.map_err(|error| ApiError::SignIn(error, language))?;
    let mut response = elsewhere(&location)?;
    response.headers_mut().append(header::SET_COOKIE, cookie);
    Ok(response)
}

/// Where the provider sends it back: the one place where a session begins. Signing in is reading one's own workspace, to the gate.
pub(crate) async fn callback(
    State(app): State<App>,
    headers: HeaderMap,
    asked: Result<Query<Returned>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| bad_query(&error))?;
    let language = auth::spoken(&headers);
    let failed = |error| ApiError::SignIn(error, language);
    let (sign_in, site) = (app.sign_in()?, app.site()?);
    let (state, code) = match (asked.state, asked.code, asked.error) {
        (Some(state), Some(code), None) => (state, code),
        (_, _, Some(_)) => return Err(failed(SignInError::Refused)),
        _ => return Err(failed(SignInError::State)),
    };
    let finished = sign_in.finish(site, &headers, &state, &code, asked.iss.as_deref()).await;
    let (claims, back) = finished.map_err(failed)?;
    let user = sign_in.user(&site.store, claims).await.map_err(|error| error.spoken(language))?;
    // They may be new, or somebody else in another process's eyes.
    app.reload().await?;
    let person = app.governance.person(&user.id, None).ok_or_else(|| failed(SignInError::Nowhere))?;
    let caller = auth::caller_of(&person, &headers)?;
    let target = Target::Workspace(std::sync::Arc::clone(&caller.workspace));
    app.governance.decide(&caller, Action::Read, target)?;
    let (_, secret) = site.store.begin_session(&user.id, sign_in.session_s()).await?;
    tracing::info!(user = user.id, "signed in");
    let mut response = elsewhere(&back)?;
    for cookie in [sign_in.session_cookie(secret.expose()), sign_in.no_sign_in()] {
        response.headers_mut().append(header::SET_COOKIE, cookie.map_err(failed)?);
    }
    Ok(response)
}

pub(crate) async fn logout(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    let language = auth::spoken(&headers);
    let failed = |error| ApiError::SignIn(error, language);
    let sign_in = app.sign_in()?;
    let secret = sign_in.session(&headers).ok_or_else(|| failed(SignInError::Ended))?;
    app.site()?.store.end_session(secret).await?;
    let mut response = Json(json!({ "signed_out": true })).into_response();
    response.headers_mut().append(header::SET_COOKIE, sign_in.no_session().map_err(failed)?);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Who the caller is, by a session or by a key.
pub(crate) async fn me(caller: Caller, signed_in: Option<axum::Extension<SignedIn>>) -> Response {
    let (organisation, workspace) = (&*caller.organisation, &*caller.workspace);
    let told = match signed_in {
        None => json!({ "object": "key", "id": &*caller.id, "organisation": organisation, "workspace": workspace }),
        Some(axum::Extension(SignedIn { person, expires_s })) => {
            let places = person.workspaces.iter();
            let places: Vec<_> = places.map(|it| json!({ "id": it.id, "name": it.name, "roles": it.roles })).collect();
            json!({
                "object": "user",
                "id": person.user.id,
                "email": person.user.email,
                "name": person.user.name,
                "organisation": organisation,
                "workspace": workspace,
                "workspaces": places,
                "expires_at": expires_s,
            })
        }
    };
    let mut response = Json(told).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn elsewhere(location: &str) -> Result<Response, ApiError> {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let location = HeaderValue::from_str(location).map_err(|_| ApiError::Internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The code in the address is nobody else's to know.
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}
