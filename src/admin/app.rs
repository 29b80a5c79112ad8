//! Shared parts of the admin interface's routes: their state, and error answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::bodies::Problem;
use super::live::Live;
use super::{Control, Refusal};
use crate::config::Token;

/// Maximum wait of an answer for an operation. The operation itself continues.
const ORDER_TIME_MAX: Duration = Duration::from_secs(10);

/// The state of every route.
#[derive(Clone)]
pub(super) struct AppState {
    pub control: Arc<dyn Control>,
    /// The token that changes over HTTP need; `None` without HTTP.
    pub token: Option<Arc<Token>>,
    pub live: Arc<Live>,
}

impl AppState {
    pub fn new(control: Arc<dyn Control>, token: Option<Token>, live: Arc<Live>) -> Self {
        AppState { control, token: token.map(Arc::new), live }
    }

    /// Runs an operation that may wait for the data path, on a thread that may block.
    pub async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&dyn Control) -> Result<T, Refusal> + Send + 'static,
    ) -> Answer<T> {
        let control = Arc::clone(&self.control);
        let asked = tokio::task::spawn_blocking(move || what(&*control));
        match tokio::time::timeout(ORDER_TIME_MAX, asked).await {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(_)) => Err(failure(StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the log")),
            Err(_) => Err(failure(
                StatusCode::GATEWAY_TIMEOUT,
                "no response in time; the order may still take effect",
            )),
        }
    }
}

/// An error answer.
#[derive(Debug)]
pub(super) struct Failure(pub StatusCode, pub String);

/// The result of a route.
pub(super) type Answer<T = Response> = Result<T, Failure>;

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(status, error) = self;
        (status, Json(Problem { error })).into_response()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let status = match refusal {
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::Failed(_) => StatusCode::CONFLICT,
        };
        Failure(status, refusal.to_string())
    }
}

pub(super) fn failure(status: StatusCode, error: impl Into<String>) -> Failure {
    Failure(status, error.into())
}
