//! The admin interface without sockets and time: the bytes of a connection in, the bytes of the answers out.
//! The fuzz target drives it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::Control;
use super::app::AppState;
use super::guard::Way;
use super::live::Live;
use super::routes;
use super::server::BUFFER_SIZE;
use crate::config::Token;

/// The routes of an admin interface that is about to stop, so that no stream of events lasts.
#[derive(Debug)]
pub struct InMemoryAdmin {
    runtime: Runtime,
    router: Router,
}

impl InMemoryAdmin {
    /// An interface to `control` whose clients connect to the address `local`.
    pub fn new(control: Arc<dyn Control>, token: Token, local: SocketAddr) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (_, stopped) = watch::channel(true);
        let live = Arc::new(Live::new(Arc::clone(&control), Arc::default(), stopped));
        let router =
            routes::router(AppState::new(control, Some(token), live)).layer(Extension(Way::Http(local)));
        Ok(InMemoryAdmin { runtime, router })
    }

    /// All answers to a client that sends these bytes and then nothing more.
    pub fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let (mut near, far) = tokio::io::duplex(BUFFER_SIZE);
        let connection = http1::Builder::new()
            .max_buf_size(BUFFER_SIZE)
            .serve_connection(TokioIo::new(far), TowerToHyperService::new(self.router.clone()));
        let client = async {
            let (mut from, mut to) = tokio::io::split(&mut near);
            let mut answers = vec![];
            let sending = async {
                // A refusal may come, and the connection end, before all is written.
                let _ = to.write_all(bytes).await;
                let _ = to.shutdown().await;
            };
            let _ = tokio::join!(sending, from.read_to_end(&mut answers));
            answers
        };
        self.runtime.block_on(async { tokio::join!(connection, client).1 })
    }
}
