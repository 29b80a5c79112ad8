//! The screen of `lbd top`: a pure function of its state and of the size of the terminal.

use std::collections::VecDeque;

use lbd::admin::status::{EventEntry, EventKind};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table, TableState};

use super::model::{App, Column, LinkState, ServerRow};
use crate::units::{count, latency, span};

/// Minimum height of a screen with sparklines, in lines.
const SPARKS_FROM: u16 = 18;
/// Minimum height of a screen with events, in lines.
const EVENTS_FROM: u16 = 12;
/// Height of the sparklines with their titles, in lines.
const SPARKS_HEIGHT: u16 = 4;
/// Maximum number of lines for events.
const EVENTS_SHOWN: u16 = 8;
/// Columns in the order in which a narrow screen leaves them out.
const LEAST_WANTED: [Column; 5] = [Column::P50, Column::Failed, Column::Pool, Column::P99, Column::Rate];
/// Maximum width of a queue's bar, in cells.
const BAR_MAX: u16 = 20;

/// Draws the screen.
pub fn render(app: &App, frame: &mut Frame) {
    let area = frame.area();
    let sparks = if area.height >= SPARKS_FROM { SPARKS_HEIGHT } else { 0 };
    let events = match area.height {
        EVENTS_FROM.. => (area.height / 4).min(EVENTS_SHOWN).min(app.events.len() as u16 + 1),
        _ => 0,
    };
    let [title, totals, spark_area, table, event_area, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(sparks),
        Constraint::Min(1),
        Constraint::Length(events),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(title_line(app)), title);
    frame.render_widget(Paragraph::new(totals_line(app)), totals);
    if sparks > 0 {
        let [rate, servers] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(2).areas(spark_area);
        spark(frame, rate, "answers per second", app.history.iter().map(|point| point.0));
        spark(frame, servers, "servers up", app.history.iter().map(|point| point.1));
    }
    servers(app, frame, table);
    if events > 0 {
        happened(app, frame, event_area);
    }
    frame.render_widget(Paragraph::new(foot_line(app)), foot);
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn title_line(app: &App) -> Line<'_> {
    let link = match &app.link {
        LinkState::Connecting => Span::styled("connecting", Color::Yellow),
        LinkState::Live => Span::styled("live", Color::Green),
        LinkState::Silent(why) => {
            Span::styled(format!("NO RESPONSE, retrying: {why}"), bold().fg(Color::Red))
        }
    };
    Line::from(vec![Span::styled("lbd top ", bold()), link, Span::raw(format!("  {}", app.target))])
}

fn totals_line(app: &App) -> Line<'static> {
    let t = &app.totals;
    let waiting = if t.waiting > 0 { format!(" + {} queued", count(t.waiting)) } else { String::new() };
    Line::from(format!(
        "{}/s  p50 {}  p99 {}  up {} of {}  queue {}{waiting}  answered {}  failed {}",
        count(t.rate.max(0.0).round() as u64),
        latency(t.p50_us),
        latency(t.p99_us),
        t.up,
        t.servers,
        count(t.queue),
        count(t.answered),
        count(t.failed)
    ))
}

/// Draws a sparkline; the newest value is at the right end.
fn spark(frame: &mut Frame, area: Rect, name: &str, figures: impl DoubleEndedIterator<Item = u64>) {
    let mut shown = VecDeque::new();
    for figure in figures.rev().take(usize::from(area.width)) {
        shown.push_front(figure);
    }
    let top = shown.iter().max().copied().unwrap_or(0);
    let title = format!("{name}: {}, max {}", count(shown.back().copied().unwrap_or(0)), count(top));
    let missing = usize::from(area.width).saturating_sub(shown.len());
    let data = std::iter::repeat_n(None, missing).chain(shown.into_iter().map(Some));
    let line = Sparkline::default()
        .block(Block::new().borders(Borders::TOP).title(title))
        .data(data.collect::<Vec<Option<u64>>>())
        .max(top.max(1))
        .style(Color::Cyan);
    frame.render_widget(line, area);
}

/// Minimum width of a column, in cells.
fn width(column: Column) -> u16 {
    match column {
        Column::Pool => 10,
        Column::Server | Column::Queue => 7,
        Column::State => 10,
        Column::Rate | Column::Failed => 8,
        Column::P50 | Column::P99 => 9,
    }
}

/// The columns that fit, and the cells that remain for the bars.
fn fitting(room: u16) -> (Vec<Column>, u16) {
    let mut columns = Column::ALL.to_vec();
    let needed = |columns: &[Column]| columns.iter().map(|&column| width(column) + 1).sum::<u16>();
    for out in LEAST_WANTED {
        if needed(&columns) <= room {
            break;
        }
        columns.retain(|&column| column != out);
    }
    let bar = room.saturating_sub(needed(&columns)).min(BAR_MAX);
    (columns, if bar < 4 { 0 } else { bar })
}

fn servers(app: &App, frame: &mut Frame, area: Rect) {
    let (columns, bar) = fitting(area.width);
    let longest = app.rows.iter().map(|row| row.queue).max().unwrap_or(0).max(1);
    let heads = columns.iter().map(|&column| {
        let arrow = match (app.sort == column, app.is_reversed) {
            (false, _) => "",
            (true, false) => "^",
            (true, true) => "v",
        };
        let at = Column::ALL.iter().position(|&one| one == column).unwrap_or(0);
        Cell::from(aligned(column, format!("{}{}{arrow}", at + 1, column.name())))
    });
    let head = Row::new(heads).style(bold().add_modifier(Modifier::UNDERLINED));
    let rows = app.rows.iter().map(|row| {
        Row::new(columns.iter().map(|&column| match column {
            Column::Queue if bar > 0 => queue(row.queue, longest, bar),
            column => cell(column, row),
        }))
    });
    let widths = columns.iter().map(|&column| match column {
        Column::Queue if bar > 0 => Constraint::Length(width(column) + bar),
        Column::Pool => Constraint::Min(width(column)),
        column => Constraint::Length(width(column)),
    });
    let chosen = Style::new().add_modifier(Modifier::REVERSED);
    let table = Table::new(rows, widths).header(head).column_spacing(1).row_highlight_style(chosen);
    let mut state = TableState::new().with_selected(app.selected());
    frame.render_stateful_widget(table, area, &mut state);
}

fn aligned(column: Column, text: String) -> Line<'static> {
    match column {
        Column::Pool | Column::State => Line::from(text),
        _ => Line::from(text).right_aligned(),
    }
}

fn cell(column: Column, row: &ServerRow) -> Cell<'static> {
    let text = match column {
        Column::Pool => row.pool.clone(),
        Column::Server => row.id.to_string(),
        Column::State => row.state.clone(),
        Column::Queue => count(row.queue),
        Column::Rate => count(row.rate.max(0.0).round() as u64),
        Column::P50 => latency(row.p50_us),
        Column::P99 => latency(row.p99_us),
        Column::Failed => count(row.failed),
    };
    let color = match (column, row.state.as_str()) {
        (Column::State, "up") => Color::Green,
        (Column::State, "joining" | "suspect" | "draining") => Color::Yellow,
        (Column::State, _) => Color::Red,
        _ => Color::Reset,
    };
    Cell::from(aligned(column, text)).style(color)
}

/// A bar and its number.
fn queue(len: u64, longest: u64, cells: u16) -> Cell<'static> {
    let full = (len as f64 / longest as f64 * f64::from(cells)).round() as usize;
    let bar = format!("{:<width$}", "#".repeat(full), width = usize::from(cells));
    let number = format!("{:>width$}", count(len), width = usize::from(width(Column::Queue)));
    Cell::from(Line::from(vec![Span::styled(bar, Color::Blue), Span::raw(number)]))
}

fn happened(app: &App, frame: &mut Frame, area: Rect) {
    let block = Block::new().borders(Borders::TOP).title("events");
    let shown = usize::from(area.height.saturating_sub(1));
    let lines: Vec<Line> =
        app.events.iter().rev().take(shown).map(|entry| event_line(app.unix_ms, entry)).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn event_line(unix_ms: u64, entry: &EventEntry) -> Line<'_> {
    let ago = span(Some(unix_ms.saturating_sub(entry.unix_ms) as f64 / 1e3));
    let about = match (entry.pool.as_str(), entry.server) {
        ("", _) => String::new(),
        (pool, None) => format!("{pool}: "),
        (pool, Some(id)) => format!("{pool} {id}: "),
    };
    let style = match entry.kind {
        EventKind::Scaling => bold().fg(Color::Magenta),
        _ => Style::new(),
    };
    Line::from(vec![Span::raw(format!("{ago:>8} ago  {about}")), Span::styled(entry.text.as_str(), style)])
}

fn foot_line(app: &App) -> Line<'_> {
    if let Some(ask) = &app.question {
        let text =
            format!("{} server {} of {}? y: yes, any other key: no", ask.order.name(), ask.id, ask.pool);
        return Line::styled(text, bold().fg(Color::Yellow));
    }
    match &app.message {
        Some((text, is_bad)) => Line::styled(text.as_str(), if *is_bad { Color::Red } else { Color::Green }),
        None => Line::styled("q quit  up/down select  d drain  e enable  1-8 sort or reverse", Modifier::DIM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::model::Ask;
    use crate::top::samples::{NOW_MS, status};
    use lbd::admin::status::{ServerStatus, Status};
    use lbd::pool::order::Order;
    use proptest::prelude::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    fn app() -> App {
        let mut app = App::new("127.0.0.1:55080".to_owned());
        app.unix_ms = NOW_MS;
        app.on_status(Ok(status()));
        app
    }

    fn drawn(app: &App, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| render(app, frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let lines = buffer.content.chunks(usize::from(width.max(1)));
        lines
            .map(|line| {
                line.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned() + "\n"
            })
            .collect()
    }

    #[test]
    fn on_80_by_24_everything_is_there() {
        let mut app = app();
        app.on_key(KeyEvent::new(KeyCode::Char('4'), KeyModifiers::NONE));
        let blank = "\n".repeat(7);
        let expected = format!(
            "\
lbd top live  127.0.0.1:55080
5900/s  p50 300 us  p99 2.10 ms  up 4 of 6  queue 64  answered 1.23M  failed 50
answers per second: 5900, max 5900─────  servers up: 4, max 4───────────────────
                                      █                                        █
                                      █                                        █
                                      █                                        █
1pool       2server 3state         4queuev   5per s      6p50      7p99  8failed
dns               0 up         ####     40     3000    280 us   1.96 ms        0
dns               1 up         #        12     2000    310 us   2.17 ms        3
native            1 up         #         7      400   3.00 ms   12.0 ms        1
native            0 up                   4      500   2.25 ms   9.00 ms        0
dns               2 down                 1        0         -         -       37
native            2 draining             0        0         -         -        2
{blank}events──────────────────────────────────────────────────────────────────────────
      4s ago  native: scale up 2 -> 3: load 9.1 a server for 3s
  1m 15s ago  dns 2: suspect -> down: 3 checks unanswered
q quit  up/down select  d drain  e enable  1-8 sort or reverse
"
        );
        let shown = drawn(&app, 80, 24);
        assert_eq!(shown, expected, "{shown}");
    }

    #[test]
    fn on_40_by_10_the_servers_have_the_room() {
        let shown = drawn(&app(), 40, 10);
        for word in ["2server", "3state", "4queue", "5per s", "draining", "down", "q quit"] {
            assert!(shown.contains(word), "{word} is missing:\n{shown}");
        }
        for word in ["6p50", "8failed", "events", "max "] {
            assert!(!shown.contains(word), "{word} takes room:\n{shown}");
        }
        assert_eq!(shown.lines().filter(|line| line.contains(" up ")).count(), 4 + 1, "{shown}");
    }

    #[test]
    fn on_200_by_60_queues_have_bars() {
        let shown = drawn(&app(), 200, 60);
        let bar = |id: &str, pool: &str| {
            let line = shown.lines().find(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some(pool) && words.next() == Some(id)
            });
            line.unwrap().matches('#').count()
        };
        assert_eq!((bar("0", "dns"), bar("1", "dns"), bar("2", "native")), (20, 6, 0), "{shown}");
    }

    #[test]
    fn who_waits_in_the_balancer_is_said_beside_the_queues() {
        let mut waiting = status();
        waiting.pools[0].decisions.waiting = 3;
        waiting.pools[1].decisions.waiting = 2;
        let mut app = app();
        assert!(!drawn(&app, 80, 24).contains("queued"));
        app.on_status(Ok(waiting));
        assert!(drawn(&app, 80, 24).contains("queue 64 + 5 queued  answered"));
    }

    #[test]
    fn a_silent_balancer_is_said_first_and_the_last_figures_stay() {
        let mut app = app();
        app.on_status(Err("connection refused".to_owned()));
        let shown = drawn(&app, 80, 24);
        assert!(shown.starts_with("lbd top NO RESPONSE, retrying: connection refused"), "{shown}");
        assert!(shown.contains("3000"), "{shown}");
        app.on_status(Ok(status()));
        assert!(drawn(&app, 80, 24).starts_with("lbd top live"));
        let fresh = App::new("x".to_owned());
        assert!(drawn(&fresh, 80, 24).starts_with("lbd top connecting"));
    }

    #[test]
    fn the_foot_asks_and_tells() {
        let mut app = app();
        app.question = Some(Ask { pool: "dns".to_owned(), id: 1, order: Order::Drain });
        assert!(drawn(&app, 80, 24).contains("drain server 1 of dns? y: yes, any other key: no"));
        app.question = None;
        app.message = Some(("it was refused".to_owned(), true));
        assert!(drawn(&app, 80, 24).ends_with("it was refused\n"));
    }

    #[test]
    fn the_cursor_is_always_in_sight() {
        let mut many = status();
        let first = many.pools[0].servers[0].clone();
        many.pools[0].servers = (0..500).map(|id| ServerStatus { id, ..first.clone() }).collect();
        many.pools.truncate(1);
        let mut app = app();
        app.on_status(Ok(many));
        app.on_key(KeyEvent::new(KeyCode::End, KeyModifiers::NONE));
        for (width, height) in [(80, 24), (40, 10)] {
            assert!(drawn(&app, width, height).contains("499"), "{width} x {height}");
        }
    }

    #[test]
    fn what_the_balancer_says_cannot_move_the_cursor_of_the_terminal() {
        let mut app = app();
        app.events[0].text = "\u{1b}[2J\u{7}\r\nboo".to_owned();
        app.events.truncate(1);
        let shown = drawn(&app, 80, 24);
        assert!(shown.contains("boo") && !shown.contains(['\u{1b}', '\u{7}', '\r']), "{shown:?}");
    }

    proptest! {
        #[test]
        fn no_size_makes_it_panic(
            width in 0u16..260,
            height in 0u16..70,
            keys in "[de1-8yn]{0,6}",
            empty: bool,
        ) {
            let mut app = app();
            if empty {
                app.on_status(Ok(Status::default()));
            }
            for key in keys.chars() {
                app.on_key(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE));
                app.on_key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
            }
            drawn(&app, width, height);
        }
    }
}
