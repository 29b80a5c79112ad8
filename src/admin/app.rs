//! What the routes of the admin interface share: the state that they reach, and answers that say what is
//! wrong.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::bodies::Problem;
use super::live::Live;
use super::{Control, Refusal};
use crate::config::Token;

/// How long an answer waits for what was asked for; it goes on beyond that.
const ORDER_TIME_MAX: Duration = Duration::from_secs(10);

/// What every route can reach.
#[derive(Clone)]
pub(super) struct App {
    pub control: Arc<dyn Control>,
    pub token: Arc<Token>,
    pub live: Arc<Live>,
}

impl App {
    pub fn new(control: Arc<dyn Control>, token: Token, live: Arc<Live>) -> Self {
        App { control, token: Arc::new(token), live }
    }

    /// Does what may wait for the data path, where waiting is allowed.
    pub async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&dyn Control) -> Result<T, Refusal> + Send + 'static,
    ) -> Answer<T> {
        let control = Arc::clone(&self.control);
        let asked = tokio::task::spawn_blocking(move || what(&*control));
        match tokio::time::timeout(ORDER_TIME_MAX, asked).await {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(_)) => Err(failure(StatusCode::INTERNAL_SERVER_ERROR, "this failed; the log has more")),
            Err(_) => Err(failure(StatusCode::GATEWAY_TIMEOUT, "no answer in time; it may still be done")),
        }
    }
}

/// An answer that says what is wrong.
#[derive(Debug)]
pub(super) struct Failure(pub StatusCode, pub String);

/// What a route gives.
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
