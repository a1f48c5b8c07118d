//! The dashboard: readable at 80 × 24, and better with more.
//!
//! Keys: q, Esc or Ctrl-C end it. The terminal is put back whatever happens, a panic included (`ratatui` sees to that).

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use holdfast_core::shutdown::Shutdown;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline};
use ratatui::{DefaultTerminal, Frame};

use super::alerts::{Notice, NoticeKind};
use super::sample::{Sample, TargetState};
use super::{Show, Watch};
use crate::checks::timing::shown;
use crate::failure::Failure;

/// How long a key may go unnoticed.
const KEY_POLL: Duration = Duration::from_millis(100);

pub(super) struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal over. A key that ends it throws the switch.
    pub(super) fn open(stop: &Shutdown) -> Result<Self, Failure> {
        let terminal = ratatui::try_init()?;
        let stop = stop.clone();
        // Ends with the switch, or with the process.
        std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || {
                while !stop.is_triggered() {
                    if asks_to_end() {
                        stop.trigger();
                    }
                }
            })?;
        Ok(Self { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn asks_to_end() -> bool {
    let pressed = event::poll(KEY_POLL).and_then(|pressed| {
        if pressed {
            event::read().map(Some)
        } else {
            Ok(None)
        }
    });
    match pressed {
        Ok(Some(Event::Key(key))) => {
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
        }
        Ok(_) => false,
        // A terminal that is gone has no keys: the signal that comes with it ends the run.
        Err(_) => {
            std::thread::sleep(KEY_POLL);
            false
        }
    }
}

impl Show for Screen {
    fn show(&mut self, watch: &Watch, _: &[Notice]) -> Result<(), Failure> {
        let drawn: io::Result<_> = self.terminal.draw(|frame| draw(frame, watch)).map(drop);
        Ok(drawn?)
    }
}

/// All of it: head, charts, queues and stores, timeline, alerts, foot.
fn draw(frame: &mut Frame<'_>, watch: &Watch) {
    let [head, upper, lower, timeline, alerts, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Fill(2),
        Constraint::Fill(2),
        Constraint::Length(3),
        Constraint::Length(5),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(headline(watch), head);
    let halves = |area: Rect| -> [Rect; 2] {
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area)
    };
    let [left, right] = halves(upper);
    chart(
        frame,
        left,
        watch,
        "jobs/s",
        |sample| sample.throughput,
        |value| format!("{value:.1}"),
        Color::Green,
    );
    chart(
        frame,
        right,
        watch,
        "/health",
        |sample| sample.latency_ms,
        shown,
        Color::Cyan,
    );
    let [left, right] = halves(lower);
    frame.render_widget(queues(watch, left), left);
    frame.render_widget(stores(watch, right), right);
    frame.render_widget(mode_strip(watch, timeline), timeline);
    frame.render_widget(alert_list(watch), alerts);
    let keys = "q ends   times are UTC";
    frame.render_widget(Paragraph::new(keys).style(Style::new().fg(Color::DarkGray)), foot);
}

fn colour(standing: TargetState) -> Color {
    match standing {
        TargetState::Healthy => Color::Green,
        TargetState::Degraded => Color::Yellow,
        TargetState::Unhealthy => Color::Red,
        TargetState::Down => Color::Magenta,
    }
}

fn headline(watch: &Watch) -> Paragraph<'_> {
    let Some(last) = watch.history.last() else {
        return Paragraph::new("looking …");
    };
    let strong = Style::new()
        .fg(Color::Black)
        .bg(colour(last.standing))
        .add_modifier(Modifier::BOLD);
    let word = format!(" {} ", last.standing.as_str().to_uppercase());
    let since = watch.history.spans().back().map_or(last.at, |span| span.from);
    let lines = vec![
        Line::from(vec![
            Span::styled(word, strong),
            Span::raw(format!(" since {}  {}", since.format("%H:%M:%S"), watch.target)),
        ]),
        Line::from(last.remark()).style(Style::new().fg(colour(last.standing))),
    ];
    Paragraph::new(lines)
}

fn chart(
    frame: &mut Frame<'_>,
    area: Rect,
    watch: &Watch,
    name: &str,
    value: impl Fn(&Sample) -> Option<f64>,
    text: impl Fn(f64) -> String,
    colour: Color,
) {
    let width = usize::from(area.width.saturating_sub(2));
    let values = recent(watch, width, value);
    let now = values.last().copied().flatten().map_or_else(unknown, &text);
    let most = values.iter().flatten().copied().fold(0.0, f64::max);
    let title = format!(" {name} {now}, most {} ", text(most));
    // Bars are whole numbers: thousandths of the highest.
    let scale = |value: f64| {
        if most > 0.0 {
            (value / most * 1_000.0) as u64
        } else {
            0
        }
    };
    let bars: Vec<Option<u64>> = values.into_iter().map(|value| value.map(scale)).collect();
    let line = Sparkline::default()
        .block(framed(title))
        .data(bars)
        .max(1_000)
        .style(Style::new().fg(colour))
        .absent_value_symbol("·");
    frame.render_widget(line, area);
}

fn framed<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    Block::new()
        .borders(Borders::ALL)
        .border_style(Style::new().fg(Color::DarkGray))
        .title(title)
}

/// The fullest queues, as many as there is room for.
fn queues(watch: &Watch, area: Rect) -> Paragraph<'_> {
    const NAME: usize = 14;
    const NUMBER: usize = 8;
    let none = BTreeMap::new();
    let depth = watch.history.last().map_or(&none, |last| &last.depth);
    let mut rows: Vec<(&String, &u64)> = depth.iter().collect();
    rows.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), name.as_str()));
    let most = rows.first().map_or(0, |(_, count)| **count).max(1);
    let room = usize::from(area.width).saturating_sub(NAME + NUMBER + 4);
    let line = |(name, count): (&String, &u64)| {
        let bar = (*count as f64 / most as f64 * room as f64).ceil() as usize;
        let name: String = name.chars().take(NAME).collect();
        Line::from(vec![
            Span::raw(format!("{name:<NAME$}{count:>NUMBER$} ")),
            Span::styled(
                "█".repeat(if *count == 0 { 0 } else { bar }),
                Style::new().fg(Color::Blue),
            ),
        ])
    };
    let lines: Vec<Line<'_>> = rows.into_iter().map(line).collect();
    let total = watch.history.last().and_then(Sample::total_depth);
    let total = total.map_or_else(unknown, |total| total.to_string());
    Paragraph::new(lines).block(framed(format!(" waiting {total} ")))
}

/// Workers and dead letters now; the database pool, Redis' memory and the cache's hits over time.
fn stores(watch: &Watch, area: Rect) -> Paragraph<'_> {
    const NAME: usize = 7;
    const VALUE: usize = 9;
    let last = watch.history.last();
    let count = |value: Option<u64>| value.map_or_else(unknown, |value| value.to_string());
    let percent = |value: f64| format!("{:.0} %", value * 100.0);
    let room = usize::from(area.width).saturating_sub(NAME + VALUE + 2);
    let row = |name: &str, values: Vec<Option<f64>>, most: f64, text: &dyn Fn(f64) -> String| {
        let now = values.last().copied().flatten().map_or_else(unknown, text);
        let line = values
            .into_iter()
            .map(|value| bar(value, most))
            .collect::<String>();
        Line::from(vec![
            Span::raw(format!("{name:<NAME$}{now:<VALUE$}")),
            Span::styled(line, Style::new().fg(Color::Blue)),
        ])
    };
    let memory = recent(watch, room, |sample| sample.memory_mb);
    let lines = vec![
        Line::from(format!(
            "workers {}, dead letters {}",
            count(last.and_then(|last| last.workers)),
            count(last.and_then(|last| last.dead_letters))
        )),
        row("pool", recent(watch, room, |sample| sample.pool), 1.0, &percent),
        row("memory", memory, most_memory(watch), &|mb| format!("{mb:.1} MB")),
        row(
            "hits",
            recent(watch, room, |sample| sample.hit_ratio),
            1.0,
            &percent,
        ),
    ];
    let redis = match last.and_then(|last| last.redis) {
        Some(serves) if serves > 0.5 => " redis serves ",
        Some(_) => " redis unavailable ",
        None => " redis unknown ",
    };
    Paragraph::new(lines).block(framed(redis))
}

/// What fills the chart: Redis' limit where it has one, else the most that was seen, in megabytes.
fn most_memory(watch: &Watch) -> f64 {
    let last = watch.history.last();
    let limit = last.and_then(|last| Some(last.memory_mb? / last.memory.filter(|share| *share > 0.0)?));
    let seen = watch
        .history
        .samples()
        .iter()
        .filter_map(|sample| sample.memory_mb);
    limit.unwrap_or_else(|| seen.fold(0.0, f64::max))
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// The last values, one for each cell there is room for.
fn recent(watch: &Watch, room: usize, value: impl Fn(&Sample) -> Option<f64>) -> Vec<Option<f64>> {
    let samples = watch.history.samples();
    samples
        .iter()
        .skip(samples.len().saturating_sub(room))
        .map(value)
        .collect()
}

/// One cell of a line of bars.
fn bar(value: Option<f64>, most: f64) -> char {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let Some(value) = value else {
        return '·';
    };
    let share = if most > 0.0 {
        (value / most).clamp(0.0, 1.0)
    } else {
        0.0
    };
    BARS[(share * (BARS.len() - 1) as f64).round() as usize]
}

/// One cell a look, the newest to the right.
fn mode_strip(watch: &Watch, area: Rect) -> Paragraph<'_> {
    let width = usize::from(area.width.saturating_sub(2));
    let samples = watch.history.samples();
    let recent = samples.iter().skip(samples.len().saturating_sub(width));
    let cells = recent.map(|sample| {
        let cell = match sample.standing {
            TargetState::Healthy => "▁",
            TargetState::Degraded => "▄",
            TargetState::Unhealthy => "▆",
            TargetState::Down => "█",
        };
        Span::styled(cell, Style::new().fg(colour(sample.standing)))
    });
    let title = " mode: ▁ healthy ▄ degraded ▆ unhealthy █ down ";
    Paragraph::new(Line::from(cells.collect::<Vec<_>>())).block(framed(title))
}

/// What fires now, then what was told last.
fn alert_list(watch: &Watch) -> Paragraph<'_> {
    const SHOWN: usize = 3;
    let firing: Vec<String> = watch
        .book
        .firing()
        .map(|(rule, since)| format!("! {} since {}", rule.name, since.format("%H:%M:%S")))
        .collect();
    let title = format!(" alerts: {} ", firing.len());
    let red = Style::new().fg(Color::Red);
    let past = watch
        .notices
        .iter()
        .rev()
        .filter(|notice| notice.kind == NoticeKind::Recovery);
    let past = past.filter_map(|notice| {
        let lasted = (notice.until? - notice.since).as_seconds_f64();
        let at = notice.at.format("%H:%M:%S");
        Some(Line::from(format!(
            "  {at} over: {}, after {lasted:.0} s",
            notice.rule
        )))
    });
    let lines = firing.into_iter().map(|text| Line::styled(text, red)).chain(past);
    Paragraph::new(lines.take(SHOWN).collect::<Vec<_>>()).block(framed(title))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::alerts::AlertBook;
    use super::super::history::History;
    use super::super::rules;
    use super::*;

    /// A minute: sound, then without Redis for twenty seconds, then sound again with a backlog.
    fn watch() -> Watch {
        let start: DateTime<Utc> = "2027-01-31T09:00:00Z".parse().unwrap();
        let rules = rules::parse(rules::DEFAULTS).unwrap();
        let target = "http://127.0.0.1:8080".to_owned();
        let mut watch = Watch {
            book: AlertBook::new(rules, target.clone(), Duration::from_hours(1)),
            target,
            history: History::default(),
            notices: Vec::new(),
        };
        for second in 0..60_i64 {
            let mut sample = Sample::down(start + TimeDelta::seconds(second), String::new());
            let away = (20..40).contains(&second);
            sample.standing = if away {
                TargetState::Degraded
            } else {
                TargetState::Healthy
            };
            sample.reason = away.then(|| "redis: it does not serve: refused".to_owned());
            sample.latency_ms = Some(2.0 + (second % 5) as f64);
            sample.throughput = Some(100.0 + second as f64);
            sample.depth = [
                ("default".to_owned(), 40),
                ("events".to_owned(), second as u64 * 2),
                ("ml".to_owned(), 0),
            ]
            .into();
            sample.workers = Some(2);
            sample.dead_letters = Some(3);
            sample.redis = Some(if away { 0.0 } else { 1.0 });
            sample.pool = Some(0.3);
            sample.memory_mb = (!away).then_some(12.5 + second as f64 / 2.0);
            sample.memory = sample.memory_mb.map(|used| used / 64.0);
            sample.hit_ratio = (!away).then_some(0.5 + second as f64 / 120.0);
            watch.history.push(sample);
            let news = watch.book.look(&watch.history);
            watch.remember(&news);
        }
        watch
    }

    fn drawn(width: u16, height: u16, watch: &Watch) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, watch)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| {
            (0..width)
                .map(|x| buffer[(x, y)].symbol())
                .collect::<String>()
                .trim_end()
                .to_owned()
        };
        (0..height).map(row).collect::<Vec<_>>().join("\n") + "\n"
    }

    #[test]
    fn everything_is_readable_in_eighty_by_twenty_four() {
        let screen = drawn(80, 24, &watch());
        let expected = include_str!("screen.txt");
        assert_eq!(screen, expected, "now:\n{screen}");
    }

    #[test]
    fn any_size_is_drawn() {
        let watch = watch();
        for (width, height) in [(1, 1), (20, 5), (40, 12), (200, 60)] {
            drawn(width, height, &watch);
        }
    }

    #[test]
    fn a_target_that_is_down_says_why() {
        let mut watch = watch();
        let at = watch.history.last().unwrap().at + TimeDelta::seconds(1);
        watch.history.push(Sample::down(
            at,
            "http://127.0.0.1:8080 cannot be connected to".to_owned(),
        ));
        let screen = drawn(80, 24, &watch);
        assert!(
            screen.contains(" DOWN ") && screen.contains("cannot be connected to"),
            "{screen}"
        );
        for unknown in [
            "jobs/s unknown",
            "waiting unknown",
            "redis unknown",
            "workers unknown",
        ] {
            assert!(screen.contains(unknown), "{unknown}: {screen}");
        }
    }
}
