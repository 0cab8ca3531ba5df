//! The table that redraws, until somebody wants to leave.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, OptionFuture};
use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use uuid::Uuid;
use vmm_api::client::{Client, Error, EventStream, Next};
use vmm_api::event::Event;

use super::ask::{Answer, Ask, ask, take};
use crate::failure::Failure;
use crate::fleet::{Change, Fleet, Member};
use crate::output::Output;
use crate::render::clock::Clock;
use crate::render::text::{Style, Text};
use crate::render::watch::{self, Part};
use crate::sys::terminal::{Input, Key, Said, Screen, Size};

/// How often ages are drawn anew.
const TICK: Duration = Duration::from_secs(1);

/// The least time between two drawings, however much happens: nobody reads
/// five tables a second.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);

/// How often the guests that are shown are asked what they tell. Agents report
/// every few seconds.
const GUEST_INTERVAL: Duration = Duration::from_secs(1);

/// How often all VMs are asked for although nothing says that they should.
const ALL_INTERVAL: Duration = Duration::from_secs(60);

/// The least time between two askings for all VMs, which for ten thousand is
/// half a second of work.
const ALL_GAP: Duration = Duration::from_secs(3);

/// From how many new VMs on the list is asked for instead of each of them.
const MANY: usize = 32;

/// How many events are remembered while all VMs are asked for. When there are
/// more, they are asked for once more.
const MAX_MEANWHILE: usize = 4096;

/// The lines above the rows: how the fleet stands, an empty one, the titles.
const LINES_ABOVE: usize = 3;

pub(super) struct Live<'a> {
    client: &'a Client,
    output: Output,
    fleet: Fleet,
    /// How many rows there are at most.
    limit: usize,
    screen: Screen,
    input: Input,
    /// The first row that is shown.
    top: usize,
    /// What is being typed as the name to find.
    typed: Option<String>,
    /// The daemon is away.
    gone: bool,
    /// Not all that happened was heard of.
    stale: bool,
    /// Whether the daemon has to be asked for all VMs.
    ask_all: bool,
    /// The earliest and the latest time for that.
    all_between: (Instant, Instant),
    /// New VMs to ask for.
    new: BTreeSet<Uuid>,
    ask_at: Instant,
    asking: Option<BoxFuture<'a, Result<Answer, Error>>>,
    /// What happened while all VMs are asked for: the answer may be older.
    meanwhile: Option<Vec<Event>>,
    draw_at: Instant,
    drawn_at: Instant,
}

impl<'a> Live<'a> {
    pub(super) fn new(
        client: &'a Client,
        output: Output,
        fleet: Fleet,
        limit: usize,
    ) -> Result<Self, Failure> {
        let now = Instant::now();
        Ok(Self {
            client,
            output,
            fleet,
            limit,
            input: Input::new()?,
            screen: Screen::enter()?,
            top: 0,
            typed: None,
            gone: false,
            stale: false,
            ask_all: false,
            all_between: (now + ALL_GAP, now + ALL_INTERVAL),
            new: BTreeSet::new(),
            ask_at: now,
            asking: None,
            meanwhile: None,
            draw_at: now,
            drawn_at: now,
        })
    }

    /// Draws and listens until somebody wants to leave. The screen is restored
    /// when this value goes, however that comes about.
    pub(super) async fn run(mut self, events: EventStream) -> Result<(), Failure> {
        let mut events = pin!(stream::unfold(events, |mut events| async move {
            let next = events.next().await;
            Some((next, events))
        }));
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            if self.asking.is_none() && self.ask_at <= Instant::now() {
                self.begin_to_ask();
            }
            let idle = self.asking.is_none();
            let asking = OptionFuture::from(self.asking.as_mut());
            tokio::select! {
                said = self.input.next() => match said? {
                    Said::Leave => return Ok(()),
                    Said::Resized => self.draw_soon(),
                    Said::Key(key) => {
                        if self.pressed(key) {
                            return Ok(());
                        }
                        self.draw_soon();
                    }
                },
                next = events.next() => {
                    let Some(next) = next else { return Ok(()) };
                    if self.heard(next?) {
                        self.draw_soon();
                    }
                }
                Some(answer) = asking => {
                    self.asking = None;
                    self.answered(answer)?;
                    self.draw_soon();
                }
                _ = tick.tick() => self.draw_soon(),
                () = sleep_until(self.draw_at) => {
                    self.draw()?;
                    self.drawn_at = Instant::now();
                    // Until there is a reason.
                    self.draw_at = self.drawn_at + 2 * TICK;
                }
                () = sleep_until(self.ask_at), if idle => {}
            }
        }
    }

    /// Not sooner than the rate of drawings allows.
    fn draw_soon(&mut self) {
        self.draw_at = self.draw_at.min(self.drawn_at + DRAW_INTERVAL);
    }

    fn begin_to_ask(&mut self) {
        let now = Instant::now();
        self.ask_at = now + GUEST_INTERVAL;
        self.ask_all |= self.new.len() > MANY || self.all_between.1 <= now;
        let mut asked = Ask::default();
        if self.ask_all && self.all_between.0 <= now {
            asked = Ask::all(&self.fleet);
            self.ask_all = false;
            self.new.clear();
            self.meanwhile = Some(Vec::new());
            self.all_between = (now + ALL_GAP, now + ALL_INTERVAL);
        } else if !self.ask_all {
            asked.vms = std::mem::take(&mut self.new).into_iter().collect();
        }
        let shown = self.shown(self.screen.size()).to_vec();
        let at = Timestamp::now();
        let before = at.checked_sub(GUEST_INTERVAL / 2).unwrap_or(at);
        asked.guests = self.fleet.unasked(&shown, before, at);
        if !asked.is_empty() {
            self.asking = Some(ask(self.client, asked).boxed());
        }
    }

    /// Whether there is something new to see.
    fn heard(&mut self, next: Next) -> bool {
        let change = match next {
            Next::Event(received) => {
                let change = self.fleet.happened(&received.event);
                self.remember(received.event);
                change
            }
            Next::Unknown { .. } => Change::None,
            Next::Disconnected(_) => {
                self.gone = true;
                Change::Visible
            }
            Next::Reconnected => {
                self.gone = false;
                Change::AskAll
            }
        };
        match change {
            Change::None => return false,
            Change::Visible => {}
            Change::Ask(vm) => {
                self.new.insert(vm);
                self.ask_at = Instant::now();
            }
            Change::AskAll => {
                self.stale = true;
                self.ask_all = true;
                self.ask_at = Instant::now();
            }
        }
        true
    }

    fn remember(&mut self, event: Event) {
        let Some(meanwhile) = &mut self.meanwhile else { return };
        if meanwhile.len() < MAX_MEANWHILE {
            meanwhile.push(event);
        } else {
            self.ask_all = true;
        }
    }

    fn answered(&mut self, answer: Result<Answer, Error>) -> Result<(), Failure> {
        let meanwhile = self.meanwhile.take();
        match answer {
            Ok(answer) => {
                self.stale &= answer.all.is_none() || self.ask_all;
                take(&mut self.fleet, answer);
                for event in meanwhile.unwrap_or_default() {
                    if let Change::Ask(vm) = self.fleet.happened(&event) {
                        self.new.insert(vm);
                    }
                }
                Ok(())
            }
            // The stream of events notices too, and brings the daemon back.
            Err(error) if is_passing(&error) => {
                self.ask_all |= meanwhile.is_some();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the key leaves.
    fn pressed(&mut self, key: Key) -> bool {
        if let Some(mut typed) = self.typed.take() {
            match key {
                Key::Enter => self.find(&typed),
                Key::Escape => self.find(""),
                Key::Backspace => {
                    typed.pop();
                    self.typed = Some(typed);
                }
                Key::Character(character) => {
                    typed.push(character);
                    self.typed = Some(typed);
                }
                _ => self.typed = Some(typed),
            }
            return false;
        }
        let page = self.capacity(self.screen.size());
        self.top = match key {
            Key::Character('q' | 'Q') => return true,
            Key::Character('/') => {
                self.typed = Some(String::new());
                return false;
            }
            Key::Escape => {
                self.find("");
                return false;
            }
            Key::Up | Key::Character('k') => self.top.saturating_sub(1),
            Key::Down | Key::Character('j') => self.top.saturating_add(1),
            Key::PageUp | Key::Character('b') => self.top.saturating_sub(page),
            Key::PageDown | Key::Character(' ' | 'f') => self.top.saturating_add(page),
            Key::Home | Key::Character('g') => 0,
            Key::End | Key::Character('G') => usize::MAX,
            _ => self.top,
        };
        // Those that come into sight are asked for at once.
        self.ask_at = Instant::now();
        false
    }

    /// Shows VMs whose names hold `text`, or fit it as a pattern; all, when it
    /// is empty.
    fn find(&mut self, text: &str) {
        self.fleet.find(match text {
            "" => None,
            pattern if pattern.contains(['*', '?']) => Some(pattern.to_owned()),
            part => Some(format!("*{part}*")),
        });
        self.top = 0;
        self.ask_at = Instant::now();
    }

    fn rows(&mut self) -> usize {
        let limit = self.limit;
        self.fleet.rows().len().min(limit)
    }

    /// Whether a last line says which part is shown.
    fn has_footer(&mut self, size: Size) -> bool {
        self.typed.is_some()
            || self.fleet.found().is_some()
            || self.rows() > size.rows.saturating_sub(LINES_ABOVE)
    }

    /// How many rows there is room for.
    fn capacity(&mut self, size: Size) -> usize {
        let footer = usize::from(self.has_footer(size));
        size.rows.saturating_sub(LINES_ABOVE + footer).max(1)
    }

    /// The rows that are shown.
    fn shown(&mut self, size: Size) -> &[Uuid] {
        let (rows, capacity) = (self.rows(), self.capacity(size));
        self.top = self.top.min(rows.saturating_sub(capacity));
        let end = rows.min(self.top + capacity);
        let top = self.top;
        self.fleet.rows().get(top..end).unwrap_or_default()
    }

    fn draw(&mut self) -> Result<(), Failure> {
        let size = self.screen.size();
        let lines: Vec<String> = self
            .frame(size)
            .into_iter()
            .map(|line| line.cut(size.columns).to_line(self.output.colour()))
            .collect();
        self.screen.draw(&lines)?;
        Ok(())
    }

    fn frame(&mut self, size: Size) -> Vec<Text> {
        let clock = Clock::now();
        let totals = self.fleet.totals();
        let mut lines = vec![self.head(watch::summary(&totals), &clock, size.columns)];
        lines.push(Text::default());
        let shown = self.shown(size).to_vec();
        if shown.is_empty() {
            lines.push(Text::new(if totals.all == 0 && self.fleet.asks_for().is_empty() {
                "There are no VMs yet; `vmmctl create -f spec.toml` makes one."
            } else {
                "No VM fits."
            }));
        } else {
            let members: Vec<&Member> =
                shown.iter().filter_map(|id| self.fleet.member(*id)).collect();
            lines.extend(watch::table(&members, &clock, Some(size.columns)));
        }
        if self.has_footer(size) {
            lines.resize(size.rows.saturating_sub(1), Text::default());
            lines.push(self.footer(shown.len(), size.columns));
        }
        lines.truncate(size.rows);
        lines
    }

    fn footer(&mut self, shown: usize, columns: usize) -> Text {
        if let Some(typed) = &self.typed {
            let keys = Text::styled(Style::Faint, "Enter finds  Esc shows all");
            let left = Text::new("/").and(Style::Strong, typed).and(Style::Plain, "▏");
            return watch::between(left, &[keys, Text::default()], columns);
        }
        let (top, rows, sort) = (self.top, self.rows(), self.fleet.sort());
        let part = Part { top, shown, rows, sort, pattern: self.fleet.found() };
        watch::footer(&part, columns)
    }

    /// The first line: how the fleet stands, and at its right what there is
    /// room for.
    fn head(&self, left: Text, clock: &Clock, columns: usize) -> Text {
        let time = clock.time_of_day();
        // What is wrong is more important than what it displaces.
        let trouble = |text| vec![Text::styled(Style::Bad, text)];
        let right = match (self.gone, self.stale) {
            (true, _) => trouble("vmm-service is gone; waiting for it"),
            (false, true) => trouble("events were missed; reading all VMs anew"),
            (false, false) => [format!("{time}  q leaves"), time, String::new()]
                .map(|text| Text::styled(Style::Faint, text))
                .to_vec(),
        };
        watch::between(left, &right, columns)
    }
}

/// Whether the daemon may answer again by itself.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::NotReachable { .. } | Error::Lost(_) | Error::TimedOut(_))
        || error.status().is_some_and(|status| status >= 500)
}
