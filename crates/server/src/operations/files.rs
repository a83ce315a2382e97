//! Files that clients upload for jobs, and what jobs give back. Uploads stream to disk: no file is ever whole in memory.

mod content;

use std::time::Duration;

use axum::extract::multipart::{Field, Multipart, MultipartError, MultipartRejection};
use axum::extract::{Extension, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, extract::rejection::QueryRejection};
use falaj_protocol::files::{DeletedFile, FileList, FileObject, MistralFile, SignedUrl};
use falaj_protocol::jobs::openai::List;
use falaj_protocol::{Dialect, Problem};
use falaj_store::{FileFilter, NewFile, Page, StoredFile, Upload};
use serde::Deserialize;

use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::ids;
use crate::site::Site;

/// Purposes that either vendor's clients name.
const PURPOSES: [&str; 7] = ["fine-tune", "batch", "ocr", "assistants", "vision", "user_data", "evals"];

pub(crate) async fn upload(
    State(app): State<App>,
    caller: Caller,
    Extension(dialect): Extension<Dialect>,
    multipart: Result<Multipart, MultipartRejection>,
) -> Result<Response, ApiError> {
    let site = app.site()?;
    let multipart = multipart.map_err(|error| ApiError::BodyBroken { reason: error.body_text() })?;
    let Form { upload, mut file, look } = read(&app, site, multipart).await?;
    let purpose_given = !file.purpose.is_empty();
    if !purpose_given && dialect == Dialect::OpenAi {
        return Err(invalid("missing", "purpose", "Field required"));
    }
    if !purpose_given {
        file.purpose = "fine-tune".to_owned();
    }
    file.lines = Some(look.lines());
    file.sample_type = look.sample_type(&file.purpose).to_owned();
    let stored = site.store.add_file(&caller.workspace, &file, upload).await?;
    Ok(Json(object(&stored, dialect)).into_response())
}

#[derive(Deserialize)]
pub(crate) struct Asked {
    page: Option<u64>,
    page_size: Option<u32>,
    after: Option<String>,
    limit: Option<u32>,
    order: Option<String>,
    purpose: Option<String>,
    sample_type: Option<String>,
    search: Option<String>,
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Extension(dialect): Extension<Dialect>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let site = app.site()?;
    let Query(asked) = asked.map_err(|error| bad_query(&error))?;
    let page = page(asked.page, asked.page_size, asked.after, asked.limit, asked.order.as_deref());
    let filter = FileFilter {
        purpose: asked.purpose,
        // A client that knows several sample types sends the name several times; the last one counts.
        sample_type: asked.sample_type,
        search: asked.search,
    };
    let part = site.store.files(&caller.workspace, &filter, &page).await?;
    let data: Vec<FileObject> = part.rows.iter().map(|file| object(file, dialect)).collect();
    Ok(match dialect {
        Dialect::OpenAi => Json(List::new(data, part.has_more, |file| &file.id)).into_response(),
        _ => Json(FileList { data, object: "list", total: Some(part.total) }).into_response(),
    })
}

/// The file that a path names, where it is the caller's.
pub(crate) struct Named {
    app: App,
    workspace: std::sync::Arc<str>,
    file: StoredFile,
}

impl FromRequestParts<App> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Caller { workspace, .. } = Caller::from_request_parts(parts, app).await?;
        // A path whose escapes are no UTF-8 names nothing.
        let Path(id) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|_| ApiError::UnknownPath { path: parts.uri.path().to_owned() })?;
        let file = app.site()?.store.file(&workspace, &id).await?;
        Ok(Self { app: app.clone(), workspace, file })
    }
}

pub(crate) async fn retrieve(named: Named, Extension(dialect): Extension<Dialect>) -> Json<FileObject> {
    Json(object(&named.file, dialect))
}

pub(crate) async fn delete(named: Named) -> Result<Json<DeletedFile>, ApiError> {
    let Named { app, workspace, file } = named;
    app.site()?.store.remove_file(&workspace, &file.id).await?;
    Ok(Json(DeletedFile { id: file.id, object: "file", deleted: true }))
}

pub(crate) async fn content(named: Named, headers: HeaderMap) -> Result<Response, ApiError> {
    content::send(named.app.site()?, &named.file, &headers).await
}

#[derive(Deserialize)]
pub(crate) struct Expiry {
    /// Hours.
    expiry: Option<u64>,
}

/// A link that needs no key, until it expires or this site stops.
pub(crate) async fn signed_url(
    named: Named,
    asked: Result<Query<Expiry>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<SignedUrl>, ApiError> {
    let Query(Expiry { expiry }) = asked.map_err(|error| bad_query(&error))?;
    let Named { app, workspace, file: StoredFile { id, .. } } = &named;
    let hours = expiry.unwrap_or(24).clamp(1, 168);
    let expires_s = ids::now_s() + hours * 3600;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let scheme = headers.get("x-forwarded-proto").and_then(|scheme| scheme.to_str().ok()).unwrap_or("http");
    let signature = app.site()?.sign(&link(workspace, id, expires_s));
    let url = format!("{scheme}://{host}/signed/files/{workspace}/{id}?expires={expires_s}&signature={signature}");
    Ok(Json(SignedUrl { url }))
}

#[derive(Deserialize)]
pub(crate) struct Signed {
    expires: u64,
    signature: String,
}

pub(crate) async fn signed(
    State(app): State<App>,
    Path((workspace, id)): Path<(String, String)>,
    asked: Result<Query<Signed>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(Signed { expires, signature }) = asked.map_err(|error| bad_query(&error))?;
    let site = app.site()?;
    if expires < ids::now_s() || !site.signed(&link(&workspace, &id, expires), &signature) {
        return Err(ApiError::WrongKey);
    }
    let file = site.store.file(&workspace, &id).await?;
    content::send(site, &file, &headers).await
}

fn link(workspace: &str, id: &str, expires_s: u64) -> String {
    format!("file\n{workspace}\n{id}\n{expires_s}")
}

/// What a form brought.
struct Form {
    upload: Upload,
    file: NewFile,
    look: Look,
}

/// More fields than any client sends.
const FIELD_LIMIT: usize = 16;
const TEXT_LIMIT_BYTES: usize = 4 << 10;

async fn read(app: &App, site: &Site, mut multipart: Multipart) -> Result<Form, ApiError> {
    let timeout_ms = app.settings.body_timeout_ms;
    let patience = Duration::from_millis(timeout_ms);
    let in_time = |_| ApiError::BodyTooSlow { timeout_ms };
    let (mut file, mut upload) = (NewFile::default(), None);
    let mut seconds = None;
    let mut look = Look::default();
    for _ in 0..FIELD_LIMIT {
        let next = tokio::time::timeout(patience, multipart.next_field()).await.map_err(in_time)?;
        let Some(mut field) = next.map_err(|error| broken(site, &error))? else { break };
        match field.name().unwrap_or_default() {
            "file" if upload.is_none() => {
                file.name = field.file_name().unwrap_or("file").chars().take(255).collect();
                let mut bytes = site.store.blobs().begin(site.file_limit_bytes).await?;
                loop {
                    let piece = tokio::time::timeout(patience, field.chunk()).await.map_err(in_time)?;
                    let Some(piece) = piece.map_err(|error| broken(site, &error))? else { break };
                    look.at(&piece);
                    bytes.write(&piece).await?;
                }
                upload = Some(bytes);
            }
            "purpose" => {
                let purpose = tokio::time::timeout(patience, text(site, field)).await.map_err(in_time)??;
                if !PURPOSES.contains(&purpose.as_str()) {
                    let known = falaj_protocol::check::one_of(PURPOSES.into_iter());
                    return Err(invalid("enum", "purpose", &known));
                }
                file.purpose = purpose;
            }
            // Mistral's: hours from now. OpenAI's: seconds after creation.
            name @ ("expiry" | "expires_after[seconds]") => {
                let unit = if name == "expiry" { 3600 } else { 1 };
                let name = name.to_owned();
                let number = tokio::time::timeout(patience, text(site, field)).await.map_err(in_time)??;
                let number: u64 =
                    number.parse().map_err(|_| invalid("int_parsing", &name, "Input should be a valid integer"))?;
                seconds = Some(number.saturating_mul(unit));
            }
            _ => {
                while tokio::time::timeout(patience, field.chunk()).await.map_err(in_time)?.is_ok_and(|c| c.is_some()) {
                }
            }
        }
    }
    file.expires_s = seconds.map(|seconds| ids::now_s().saturating_add(seconds));
    let upload = upload.ok_or_else(|| invalid("missing", "file", "Field required"))?;
    Ok(Form { upload, file, look })
}

async fn text(site: &Site, mut field: Field<'_>) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|error| broken(site, &error))? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > TEXT_LIMIT_BYTES {
            return Err(ApiError::BodyTooLarge { limit_bytes: TEXT_LIMIT_BYTES });
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::BodyBroken { reason: "a field is not UTF-8".to_owned() })
}

fn broken(site: &Site, error: &MultipartError) -> ApiError {
    match error.status() {
        axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::BodyTooLarge { limit_bytes: usize::try_from(site.file_limit_bytes).unwrap_or(usize::MAX) }
        }
        _ => ApiError::BodyBroken { reason: error.body_text() },
    }
}

fn invalid(kind: &'static str, field: &str, msg: &str) -> ApiError {
    ApiError::Invalid(vec![Problem::new(kind, &["body", field], msg)])
}

pub(crate) fn bad_query(error: &QueryRejection) -> ApiError {
    ApiError::Invalid(vec![Problem::new("value_error", &["query"], error.body_text())])
}

/// A page as either vendor's clients ask for one: Mistral's count from 0.
pub(crate) fn page(
    number: Option<u64>,
    size: Option<u32>,
    after: Option<String>,
    limit: Option<u32>,
    order: Option<&str>,
) -> Page {
    let take = size.or(limit).unwrap_or(100).min(1000);
    let skip = number.unwrap_or(0).saturating_mul(u64::from(take));
    Page { after, skip, take, newest_first: order != Some("asc") }
}

fn object(file: &StoredFile, dialect: Dialect) -> FileObject {
    FileObject {
        id: file.id.clone(),
        object: "file",
        bytes: file.bytes,
        created_at: file.created_s,
        filename: file.name.clone(),
        purpose: file.purpose.clone(),
        status: "processed",
        expires_at: file.expires_s,
        mistral: (dialect != Dialect::OpenAi).then(|| MistralFile {
            sample_type: file.sample_type.clone(),
            num_lines: file.lines,
            mimetype: if file.name.ends_with(".jsonl") { "application/jsonl" } else { "application/octet-stream" },
            source: "upload",
            signature: file.digest.to_string(),
            visibility: "workspace",
            deleted: false,
        }),
    }
}

/// What can be told of a file while it passes: how many lines it has, and what its first one looks like.
#[derive(Default)]
struct Look {
    newlines: u64,
    /// Behind the last newline there was something.
    open: bool,
    first: Vec<u8>,
    first_whole: bool,
}

const FIRST_LINE_BYTES: usize = 1 << 20;

impl Look {
    fn at(&mut self, piece: &[u8]) {
        self.newlines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        if let Some(last) = piece.last() {
            self.open = *last != b'\n';
        }
        if !self.first_whole {
            let end = piece.iter().position(|byte| *byte == b'\n');
            let line = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
            let room = FIRST_LINE_BYTES.saturating_sub(self.first.len());
            self.first.extend_from_slice(line.get(..room.min(line.len())).unwrap_or_default());
            self.first_whole = end.is_some();
        }
    }

    fn lines(&self) -> u64 {
        self.newlines + u64::from(self.open)
    }

    /// Mistral's word for what the lines are.
    fn sample_type(&self, purpose: &str) -> &'static str {
        if purpose == "batch" {
            return "batch_request";
        }
        let first: Option<serde_json::Value> = serde_json::from_slice(&self.first).ok();
        match first {
            Some(line) if line.get("text").is_some() => "pretrain",
            _ => "instruct",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pieces: &[&str]) -> Look {
        let mut look = Look::default();
        pieces.iter().for_each(|piece| look.at(piece.as_bytes()));
        look
    }

    #[test]
    fn lines_are_counted_across_pieces() {
        assert_eq!(look(&[]).lines(), 0);
        assert_eq!(look(&["a", "b\nc\n", "", "d"]).lines(), 3);
        assert_eq!(look(&["a\n", "b\n"]).lines(), 2);
    }

    #[test]
    fn the_first_line_tells_what_the_others_are() {
        assert_eq!(look(&["{\"te", "xt\":\"x\"}\n{}"]).sample_type("fine-tune"), "pretrain");
        assert_eq!(look(&["{\"messages\":[]}\n{\"text\":1}"]).sample_type("fine-tune"), "instruct");
        assert_eq!(look(&["{}"]).sample_type("batch"), "batch_request");
    }
}
