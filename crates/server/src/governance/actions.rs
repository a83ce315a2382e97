//! What each route does, as the gate knows it. A route that is not here is refused: the table is the list of what may be asked.

use axum::http::Method;
use falaj_govern::Action;

/// Of what the action is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A model that the body or the path names: the handler asks the gate once it knows which.
    Model,
    /// Files, jobs, receipts: those of the caller's workspace.
    Workspace,
    Site,
}

/// `path` as the router matched it, in any dialect.
pub(crate) fn of_route(method: &Method, path: &str) -> Option<(Action, Kind)> {
    let path = path.strip_prefix("/openai").unwrap_or(path);
    let read = *method == Method::GET || *method == Method::HEAD;
    let what = match path {
        "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/fim/completions"
        | "/v1/embeddings"
        | "/v1/messages"
        | "/v1/messages/count_tokens" => (Action::Infer, Kind::Model),
        "/tokenize" | "/detokenize" | "/tokenizer_info" => (Action::Read, Kind::Model),
        "/v1/models" => (Action::Read, Kind::Model),
        "/v1/models/{*id}" if read => (Action::Read, Kind::Model),
        "/v1/models/{*id}" => (Action::Delete, Kind::Workspace),
        "/v1/files" | "/v1/fine_tuning/jobs" if !read => (Action::Create, Kind::Workspace),
        "/v1/receipts" if *method == Method::DELETE => (Action::Administer, Kind::Workspace),
        "/v1/files/{id}" if *method == Method::DELETE => (Action::Delete, Kind::Workspace),
        "/v1/fine_tuning/jobs/{id}/cancel"
        | "/v1/fine_tuning/jobs/{id}/start"
        | "/v1/fine_tuning/jobs/{id}/pause"
        | "/v1/fine_tuning/jobs/{id}/resume"
        | "/v1/fine_tuning/models/{id}"
        | "/v1/fine_tuning/models/{id}/archive" => (Action::Change, Kind::Workspace),
        "/v1/files"
        | "/v1/files/{id}"
        | "/v1/files/{id}/content"
        | "/v1/files/{id}/url"
        | "/v1/fine_tuning/jobs"
        | "/v1/fine_tuning/jobs/{id}"
        | "/v1/fine_tuning/jobs/{id}/events"
        | "/v1/fine_tuning/jobs/{id}/checkpoints"
        | "/v1/receipts"
        | "/v1/receipts/{id}"
            if read =>
        {
            (Action::Read, Kind::Workspace)
        }
        // Whoever could sign in may know as whom, and leave.
        "/auth/me" if read => (Action::Read, Kind::Workspace),
        "/auth/logout" if !read => (Action::Read, Kind::Workspace),
        "/v1/usage" if read => (Action::Audit, Kind::Workspace),
        "/v1/ledger/{*path}" if read => (Action::Audit, Kind::Site),
        _ => return None,
    };
    Some(what)
}

/// Whether it leaves something changed, so that the ledger takes note of it.
pub(crate) fn changes(action: Action) -> bool {
    !matches!(action, Action::Read | Action::Audit | Action::Search)
}
