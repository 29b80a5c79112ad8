//! The state of `lbd top`, and the effect of keys on it. Pure: no terminal, no clock.

use std::cmp::Ordering;
use std::collections::VecDeque;

use lbd::admin::status::{EventEntry, PoolStatus, ServerStatus, Status};
use lbd::pool::order::Order;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Maximum number of points of a sparkline.
const HISTORY_MAX: usize = 600;
/// Rows that PgUp and PgDn move the cursor.
const PAGE: isize = 10;

/// One server as a row.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerRow {
    pub pool: String,
    pub id: u32,
    pub state: String,
    pub queue: u64,
    pub rate: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    /// Requests that were lost, or not answered in time.
    pub failed: u64,
}

/// The columns that rows are sorted by; the digit of a column is its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Pool,
    Server,
    State,
    Queue,
    Rate,
    P50,
    P99,
    Failed,
}

impl Column {
    pub const ALL: [Column; 8] = [
        Column::Pool,
        Column::Server,
        Column::State,
        Column::Queue,
        Column::Rate,
        Column::P50,
        Column::P99,
        Column::Failed,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Column::Pool => "pool",
            Column::Server => "server",
            Column::State => "state",
            Column::Queue => "queue",
            Column::Rate => "per s",
            Column::P50 => "p50",
            Column::P99 => "p99",
            Column::Failed => "failed",
        }
    }

    fn compare(self, a: &ServerRow, b: &ServerRow) -> Ordering {
        let by = match self {
            Column::Pool => a.pool.cmp(&b.pool),
            Column::Server => a.id.cmp(&b.id),
            Column::State => a.state.cmp(&b.state),
            Column::Queue => a.queue.cmp(&b.queue),
            Column::Rate => a.rate.total_cmp(&b.rate),
            Column::P50 => a.p50_us.cmp(&b.p50_us),
            Column::P99 => a.p99_us.cmp(&b.p99_us),
            Column::Failed => a.failed.cmp(&b.failed),
        };
        // Pool and id make every order total, so rows never swap without a reason.
        by.then_with(|| a.pool.cmp(&b.pool)).then_with(|| a.id.cmp(&b.id))
    }

    /// Whether the first press sorts the largest first.
    fn is_largest_first(self) -> bool {
        !matches!(self, Column::Pool | Column::Server | Column::State)
    }
}

/// The state of the connection to the balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// No response yet.
    Connecting,
    /// The last query was answered.
    Live,
    /// The last query failed, and why.
    Silent(String),
}

/// An order about a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub pool: String,
    pub id: u32,
    pub order: Order,
}

/// The action that a key causes.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Quit,
    Send(Ask),
}

/// Totals of all pools together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SystemTotals {
    pub rate: f64,
    /// Latencies of the pool with the highest rate: percentiles do not add up.
    pub p50_us: u64,
    pub p99_us: u64,
    pub up: usize,
    pub servers: usize,
    pub queue: u64,
    /// Requests in the pending queues.
    pub waiting: u64,
    pub answered: u64,
    /// Requests that were refused, dropped, lost or not answered in time.
    pub failed: u64,
}

/// The state of the screen.
pub struct App {
    /// The balancer's address, as text.
    pub target: String,
    pub link: LinkState,
    pub rows: Vec<ServerRow>,
    pub totals: SystemTotals,
    /// Events, the newest last.
    pub events: Vec<EventEntry>,
    pub sort: Column,
    pub is_reversed: bool,
    /// Responses per second and servers up, the newest last.
    pub history: VecDeque<(u64, u64)>,
    /// An order that waits for confirmation.
    pub question: Option<Ask>,
    /// The last message, and whether it is an error.
    pub message: Option<(String, bool)>,
    /// Milliseconds since 1970, for the age of events.
    pub unix_ms: u64,
    selected: Option<(String, u32)>,
}

impl App {
    pub fn new(target: String) -> App {
        App {
            target,
            link: LinkState::Connecting,
            rows: vec![],
            totals: SystemTotals::default(),
            events: vec![],
            sort: Column::Pool,
            is_reversed: false,
            history: VecDeque::with_capacity(HISTORY_MAX),
            question: None,
            message: None,
            unix_ms: 0,
            selected: None,
        }
    }

    /// Takes a new status, or an error; with an error the last values stay.
    pub fn on_status(&mut self, answer: Result<Status, String>) {
        let status = match answer {
            Ok(status) => status,
            Err(why) => {
                self.link = LinkState::Silent(why);
                return;
            }
        };
        self.link = LinkState::Live;
        self.rows = rows(&status.pools);
        self.totals = totals(&status.pools, &self.rows);
        self.events = status.events;
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back((self.totals.rate.max(0.0).round() as u64, self.totals.up as u64));
        self.sort_rows();
        if self.question.as_ref().is_some_and(|ask| self.place(&ask.pool, ask.id).is_none()) {
            self.question = None;
            self.message = Some(("the server has left".to_owned(), true));
        }
    }

    /// Takes the result of an order.
    pub fn on_answer(&mut self, ask: &Ask, result: Result<(), String>) {
        let (word, Ask { pool, id, .. }) = (ask.order.name(), ask);
        self.message = Some(match result {
            Ok(()) => (format!("{word} of server {id} of {pool}: accepted"), false),
            Err(why) => (format!("{word} of server {id} of {pool} refused: {why}"), true),
        });
    }

    /// The row that the cursor is on.
    pub fn selected(&self) -> Option<usize> {
        let (pool, id) = self.selected.as_ref()?;
        self.place(pool, *id)
    }

    pub fn on_key(&mut self, key: KeyEvent) -> Option<Action> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return matches!(key.code, KeyCode::Char('c' | 'd')).then_some(Action::Quit);
        }
        self.message = None;
        if let Some(ask) = self.question.take() {
            return matches!(key.code, KeyCode::Char('y' | 'Y') | KeyCode::Enter)
                .then_some(Action::Send(ask));
        }
        match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Some(Action::Quit),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(PAGE),
            KeyCode::PageUp => self.step(-PAGE),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Char('d') => self.ask(Order::Drain),
            KeyCode::Char('e') => self.ask(Order::Enable),
            KeyCode::Char(digit @ '1'..='8') => self.sort_by(Column::ALL[digit as usize - '1' as usize]),
            _ => {}
        }
        None
    }

    fn place(&self, pool: &str, id: u32) -> Option<usize> {
        self.rows.iter().position(|row| row.id == id && row.pool == pool)
    }

    fn step(&mut self, by: isize) {
        let Some(last) = self.rows.len().checked_sub(1) else { return };
        let place = self.selected().map_or(0, |at| at.saturating_add_signed(by).min(last));
        let row = &self.rows[if by == isize::MAX { last } else { place }];
        self.selected = Some((row.pool.clone(), row.id));
    }

    fn ask(&mut self, order: Order) {
        match self.selected() {
            Some(at) => {
                let row = &self.rows[at];
                self.question = Some(Ask { pool: row.pool.clone(), id: row.id, order });
            }
            None => self.message = Some(("select a server first, with the arrow keys".to_owned(), true)),
        }
    }

    fn sort_by(&mut self, column: Column) {
        self.is_reversed = if self.sort == column { !self.is_reversed } else { column.is_largest_first() };
        self.sort = column;
        self.sort_rows();
    }

    fn sort_rows(&mut self) {
        let (column, reversed) = (self.sort, self.is_reversed);
        self.rows.sort_by(|a, b| {
            let order = column.compare(a, b);
            if reversed { order.reverse() } else { order }
        });
    }
}

fn rows(pools: &[PoolStatus]) -> Vec<ServerRow> {
    let row = |pool: &PoolStatus, server: &ServerStatus| ServerRow {
        pool: pool.name.clone(),
        id: server.id,
        state: server.state.clone(),
        queue: server.queue,
        rate: server.rate,
        p50_us: server.latency_us_recent.p50,
        p99_us: server.latency_us_recent.p99,
        failed: server.failed(),
    };
    pools.iter().flat_map(|pool| pool.servers.iter().map(move |server| row(pool, server))).collect()
}

fn totals(pools: &[PoolStatus], rows: &[ServerRow]) -> SystemTotals {
    let busiest = pools.iter().max_by(|a, b| a.rate.total_cmp(&b.rate));
    let latency = busiest.map(|pool| pool.latency_us_recent).unwrap_or_default();
    SystemTotals {
        rate: pools.iter().map(|pool| pool.rate).sum(),
        p50_us: latency.p50,
        p99_us: latency.p99,
        up: pools.iter().map(PoolStatus::up).sum(),
        servers: rows.len(),
        queue: rows.iter().map(|row| row.queue).sum(),
        waiting: pools.iter().map(|pool| pool.decisions.waiting).sum(),
        answered: pools.iter().map(|pool| pool.answered).sum(),
        failed: pools.iter().map(|pool| pool.failed() + pool.all_dropped()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::samples::status;

    fn app() -> App {
        let mut app = App::new("127.0.0.1:55080".to_owned());
        app.on_status(Ok(status()));
        app
    }

    fn press(app: &mut App, code: KeyCode) -> Option<Action> {
        app.on_key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn ids(app: &App) -> Vec<(&str, u32)> {
        app.rows.iter().map(|row| (row.pool.as_str(), row.id)).collect()
    }

    #[test]
    fn every_column_sorts_and_a_second_press_reverses() {
        let mut app = app();
        press(&mut app, KeyCode::Char('8'));
        for (digit, column) in ('1'..='8').zip(Column::ALL) {
            press(&mut app, KeyCode::Char(digit));
            assert_eq!(app.sort, column);
            let first = ids(&app).into_iter().map(|(pool, id)| (pool.to_owned(), id)).collect::<Vec<_>>();
            let orders = app.rows.windows(2).map(|pair| column.compare(&pair[0], &pair[1]));
            let wanted = if column.is_largest_first() { Ordering::Greater } else { Ordering::Less };
            assert!(orders.into_iter().all(|order| order == wanted), "{column:?}: {:?}", app.rows);
            press(&mut app, KeyCode::Char(digit));
            let back: Vec<(&str, u32)> = first.iter().rev().map(|(pool, id)| (pool.as_str(), *id)).collect();
            assert_eq!(ids(&app), back, "{column:?}");
        }
        press(&mut app, KeyCode::Char('4'));
        assert_eq!(app.rows[0].queue, app.rows.iter().map(|row| row.queue).max().unwrap());
    }

    #[test]
    fn the_cursor_stays_on_its_server_whatever_the_order() {
        let mut app = app();
        assert_eq!(app.selected(), None);
        press(&mut app, KeyCode::End);
        press(&mut app, KeyCode::Up);
        let chosen = app.rows[app.selected().unwrap()].clone();
        for digit in '1'..='8' {
            press(&mut app, KeyCode::Char(digit));
            assert_eq!(app.rows[app.selected().unwrap()], chosen);
        }
        app.on_status(Ok(Status::default()));
        assert_eq!((app.selected(), app.rows.len()), (None, 0));
        for code in [KeyCode::Down, KeyCode::Up, KeyCode::Home, KeyCode::End, KeyCode::PageUp] {
            assert_eq!(press(&mut app, code), None);
        }
        app.on_status(Ok(status()));
        press(&mut app, KeyCode::Home);
        assert_eq!(app.selected(), Some(0));
        press(&mut app, KeyCode::PageUp);
        assert_eq!(app.selected(), Some(0));
        press(&mut app, KeyCode::PageDown);
        assert_eq!(app.selected(), Some(app.rows.len() - 1));
    }

    #[test]
    fn an_order_is_sent_after_a_yes_only() {
        let mut app = app();
        press(&mut app, KeyCode::Char('d'));
        assert!(app.question.is_none() && app.message.as_ref().unwrap().0.contains("select a server"));
        press(&mut app, KeyCode::Home);
        press(&mut app, KeyCode::Char('d'));
        assert_eq!(press(&mut app, KeyCode::Char('n')), None);
        assert!(app.question.is_none());
        press(&mut app, KeyCode::Char('e'));
        assert_eq!(press(&mut app, KeyCode::Esc), None, "Esc takes the question away and does not quit");
        press(&mut app, KeyCode::Char('d'));
        let row = app.rows[0].clone();
        let ask = Ask { pool: row.pool, id: row.id, order: Order::Drain };
        assert_eq!(press(&mut app, KeyCode::Char('y')), Some(Action::Send(ask.clone())));
        app.on_answer(&ask, Err("the token is wrong".to_owned()));
        assert!(app.message.as_ref().unwrap().0.ends_with("refused: the token is wrong"));
        press(&mut app, KeyCode::Char('d'));
        app.on_status(Ok(Status::default()));
        assert_eq!(press(&mut app, KeyCode::Char('y')), None, "the server has gone");
    }

    #[test]
    fn three_keys_quit() {
        for (code, modifiers) in [
            (KeyCode::Char('q'), KeyModifiers::NONE),
            (KeyCode::Esc, KeyModifiers::NONE),
            (KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert_eq!(app().on_key(KeyEvent::new(code, modifiers)), Some(Action::Quit));
        }
        let mut app = app();
        press(&mut app, KeyCode::Home);
        press(&mut app, KeyCode::Char('d'));
        let stop = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(app.on_key(stop), Some(Action::Quit), "also while something is asked");
    }

    #[test]
    fn figures_stay_while_the_balancer_is_silent_and_go_on_afterwards() {
        let mut app = app();
        let rows = app.rows.clone();
        app.on_status(Err("connection refused".to_owned()));
        assert_eq!((&app.link, &app.rows), (&LinkState::Silent("connection refused".to_owned()), &rows));
        for _ in 0..2 * HISTORY_MAX {
            app.on_status(Ok(status()));
        }
        assert_eq!((&app.link, app.history.len()), (&LinkState::Live, HISTORY_MAX));
    }

    #[test]
    fn totals_are_of_all_pools() {
        let app = app();
        let totals = &app.totals;
        assert_eq!((totals.up, totals.servers), (4, 6));
        assert_eq!(totals.rate, 900.0 + 5_000.0);
        assert_eq!((totals.p50_us, totals.p99_us), (300, 2_100), "of the busier pool");
        assert_eq!(totals.failed, 2 + 3 + 40 + 5);
        assert_eq!(*app.history.back().unwrap(), (5_900, 4));
    }
}
