//! The live table on a terminal, and every way out of it.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, SpecialCodeIndex, Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};

use crate::fake::{Fake, command, ok, page, vm};

/// How long the program may take for anything.
const LIMIT: Duration = Duration::from_secs(20);

const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// A terminal that shows the live table.
struct Terminal {
    keyboard: std::fs::File,
    line: OwnedFd,
    before: Termios,
    child: Child,
    output: mpsc::Receiver<Vec<u8>>,
    shown: String,
    daemon: Fake,
}

impl Terminal {
    fn new() -> Self {
        Self::with(vec![vm("web")])
    }

    /// With these VMs to watch.
    fn with(vms: Vec<Value>) -> Self {
        Self::of(Fake::new(move |asked| match asked.line.as_str() {
            list if list.starts_with("GET /vms?") => ok(page(&vms)),
            events if events.starts_with("GET /events?") => {
                (200, "text/event-stream", ": nothing happens\n\n".to_owned())
            }
            _ => ok(json!({"agent": "connected", "age_s": 2.0, "facts": {}, "boot": [],
                "dropped": {}})),
        }))
    }

    fn of(daemon: Fake) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let line = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        tcsetwinsize(&line, size(80)).unwrap();
        let before = tcgetattr(&line).unwrap();
        let end = || Stdio::from(line.try_clone().unwrap());
        let child = command(&daemon.socket())
            .arg("watch")
            .env("NO_COLOR", "1")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let keyboard = std::fs::File::from(master);
        let mut screen = keyboard.try_clone().unwrap();
        let (tell, output) = mpsc::sync_channel(64);
        // Ends with the terminal: the last descriptor of it goes with the test.
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut piece) {
                if tell.send(piece[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let shown = String::new();
        let mut terminal = Self { keyboard, line, before, child, output, shown, daemon };
        terminal.wait_for("HEARD");
        let during = tcgetattr(&terminal.line).unwrap();
        assert!(!during.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO));
        terminal
    }

    fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        while !self.shown.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            let piece = self.output.recv_timeout(left);
            let piece = piece.unwrap_or_else(|_| panic!("{text:?} was not shown"));
            self.shown.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    /// Everything is as it was before.
    fn assert_left(mut self) {
        self.wait_for(LEAVE);
        assert!(self.child.wait().unwrap().success());
        let after = tcgetattr(&self.line).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        for code in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT, SpecialCodeIndex::VMIN] {
            assert_eq!(after.special_codes[code], self.before.special_codes[code]);
        }
    }
}

fn size(columns: u16) -> Winsize {
    Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[test]
fn q_leaves_the_terminal_as_it_was() {
    let mut terminal = Terminal::new();
    terminal.keyboard.write_all(b"q").unwrap();
    terminal.assert_left();
}

#[test]
fn signals_leave_the_terminal_as_it_was() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let terminal = Terminal::new();
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        terminal.assert_left();
    }
}

#[test]
fn a_wider_terminal_shows_more() {
    let mut terminal = Terminal::new();
    assert!(!terminal.shown.contains("RECEIVING"));
    tcsetwinsize(&terminal.line, size(160)).unwrap();
    // Without a controlling terminal nobody but this test tells it.
    kill_process(Pid::from_child(&terminal.child), Signal::WINCH).unwrap();
    terminal.wait_for("RECEIVING");
    terminal.keyboard.write_all(b"q").unwrap();
    terminal.assert_left();
}

/// `count` VMs, of which the last failed.
fn many(count: usize) -> Vec<Value> {
    (0..count)
        .map(|number| {
            let mut each = vm(&format!("vm-{number:05}"));
            each["id"] = json!(format!("0193f1c2-0000-7000-8000-{number:012}"));
            if number == count - 1 {
                each["state"] = json!("failed");
            }
            each
        })
        .collect()
}

#[test]
fn more_vms_than_rows_are_counted_and_scrolled_problems_first() {
    let mut terminal = Terminal::with(many(10_000));
    terminal.wait_for("1–20 of 10,000");
    let first = terminal.shown.clone();
    assert!(first.contains("10,000 VMs  9,999 running  1 failed"), "{first}");
    let places = ["vm-09999", "vm-00000", "vm-00018"].map(|name| first.find(name).unwrap());
    assert!(places.is_sorted(), "the failed one comes first: {first}");
    assert!(!first.contains("vm-00019"), "{first}");
    for (key, shown, part) in [
        ("\x1b[6~", "vm-00019", "21–40 of 10,000"),
        ("\x1b[B", "vm-00039", "22–41 of 10,000"),
        ("\x1b[F", "vm-09998", "9,981–10,000 of 10,000"),
        ("\x1b[H", "vm-00000", "1–20 of 10,000"),
    ] {
        terminal.shown.clear();
        terminal.keyboard.write_all(key.as_bytes()).unwrap();
        terminal.wait_for(part);
        assert!(terminal.shown.contains(shown), "{part}: {}", terminal.shown);
    }
    // Of ten thousand guests only those were asked that were to be seen.
    let asked = terminal.daemon.lines();
    let guests: BTreeSet<&String> = asked.iter().filter(|line| line.ends_with("/guest")).collect();
    assert!((19..=80).contains(&guests.len()), "{}", guests.len());
    assert!(
        asked.iter().any(|line| line
            == "GET /events?kind=created%2Cchanged%2Cdeleted%2Cstate%2Cagent%2Clifecycle")
    );
    terminal.keyboard.write_all(b"q").unwrap();
    terminal.assert_left();
}

#[test]
fn a_name_is_found_and_q_is_a_letter_of_it() {
    let mut vms = many(60);
    vms[50]["spec"]["name"] = json!("quiet-one");
    let mut terminal = Terminal::with(vms);
    terminal.wait_for("1–20 of 60");
    terminal.keyboard.write_all(b"/qui\r").unwrap();
    terminal.wait_for("names like *qui*");
    assert!(terminal.shown.contains("1–1 of 1"), "{}", terminal.shown);
    assert!(terminal.shown.contains("quiet-one"), "{}", terminal.shown);
    terminal.shown.clear();
    terminal.keyboard.write_all(b"\x1b").unwrap();
    terminal.wait_for("1–20 of 60");
    terminal.keyboard.write_all(b"q").unwrap();
    terminal.assert_left();
}

#[test]
fn what_was_missed_is_read_anew() {
    let lists = AtomicUsize::new(0);
    let mut terminal = Terminal::of(Fake::new(move |asked| {
        if asked.line.starts_with("GET /events?") {
            let missed = json!({"at": "2026-01-01T00:00:08Z", "kind": "missed", "count": 3});
            let stream = format!("id: e-5\nevent: missed\ndata: {missed}\n\n");
            return (200, "text/event-stream", stream);
        }
        if !asked.line.starts_with("GET /vms?") {
            return ok(json!({"agent": "absent", "facts": {}, "boot": [], "dropped": {}}));
        }
        // Nothing but another reading shows that it failed.
        let mut web = vm("web");
        if lists.fetch_add(1, Ordering::Relaxed) > 0 {
            web["state"] = json!("failed");
        }
        ok(page(&[web]))
    }));
    terminal.wait_for("1 failed");
    terminal.keyboard.write_all(b"q").unwrap();
    terminal.assert_left();
}
