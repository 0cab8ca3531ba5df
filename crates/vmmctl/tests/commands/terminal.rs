//! The live table on a terminal, and every way out of it.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, SpecialCodeIndex, Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;

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
    _daemon: Fake,
}

impl Terminal {
    fn new() -> Self {
        let daemon = Fake::new(|asked| match asked.line.as_str() {
            "GET /vms" => ok(page(&[vm("web")])),
            "GET /events" => (200, "text/event-stream", ": nothing happens\n\n".to_owned()),
            _ => ok(json!({"agent": "connected", "age_s": 2.0, "facts": {}, "boot": [],
                "dropped": {}})),
        });
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let line = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        tcsetwinsize(&line, size(80)).unwrap();
        let before = tcgetattr(&line).unwrap();
        let end = || Stdio::from(line.try_clone().unwrap());
        let child = command(&daemon.socket())
            .arg("watch")
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
        let mut terminal = Self { keyboard, line, before, child, output, shown, _daemon: daemon };
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
