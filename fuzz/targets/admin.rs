//! What a stranger sends to the admin interface: every answer is HTTP, and only the token changes anything.
#![no_main]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};

use lbd::admin::status::{EventLog, Status};
use lbd::admin::{Control, InMemoryAdmin, Refusal};
use lbd::config::Token;
use lbd::pool::desired::DesiredServer;
use lbd::pool::order::Order;
use libfuzzer_sys::fuzz_target;

const TOKEN: &str = "0123456789abcdef";

/// Whether the bytes contain the token.
static KNOWS: AtomicBool = AtomicBool::new(false);

#[derive(Default)]
struct Fake {
    status: Arc<Status>,
    events: EventLog,
}

fn is_allowed() -> Result<(), Refusal> {
    assert!(KNOWS.load(SeqCst), "a change without the token");
    Ok(())
}

impl Control for Fake {
    fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    fn events(&self) -> &EventLog {
        &self.events
    }

    fn order(&self, _: Option<&str>, _: u32, order: Order) -> Result<(), Refusal> {
        assert!(order.check().is_ok());
        is_allowed()
    }

    fn set_servers(&self, _: &str, _: Vec<DesiredServer>) -> Result<(), Refusal> {
        is_allowed()
    }

    fn reload(&self) -> Result<String, Refusal> {
        is_allowed().map(|()| "nothing changed".into())
    }
}

static ADMIN: LazyLock<InMemoryAdmin> = LazyLock::new(|| {
    let token = Token::new(TOKEN).expect("16 characters");
    let local = SocketAddr::from(([127, 0, 0, 1], 55_080));
    InMemoryAdmin::new(Arc::new(Fake::default()), token, local).expect("a runtime")
});

fuzz_target!(|data: &[u8]| {
    KNOWS.store(data.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), SeqCst);
    let answers = ADMIN.answer(data);
    assert!(answers.is_empty() || answers.starts_with(b"HTTP/1."), "{answers:?}");
    // Over the loopback only a request with a plain Host gets the status and the metrics.
    if !data.windows(5).any(|window| window.eq_ignore_ascii_case(b"host:")) {
        let is_data = |window: &[u8]| window == b"lbd_pool" || window == b"\"version";
        assert!(!answers.windows(8).any(is_data), "{answers:?}");
    }
});
