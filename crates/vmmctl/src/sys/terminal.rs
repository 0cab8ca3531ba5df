//! The terminal: its size, a whole screen to draw on, and keys as they are
//! pressed. Written with rustix alone: what is needed of a terminal here are
//! five escape sequences and two flags.

#![expect(unsafe_code, reason = "waiting for a descriptor asks for a promise to keep it open")]

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Alternate screen, cursor hidden.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";

/// Cursor shown, the screen as it was.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// What a terminal is taken for that does not say how large it is.
const UNKNOWN_SIZE: Size = Size { columns: 80, rows: 24 };

/// The terminal's settings from before, while a [`Screen`] lives. Static, for
/// the panic hook has to find them.
static BEFORE: Mutex<Option<Before>> = Mutex::new(None);

/// What has to be restored.
struct Before {
    /// Absent when input is no terminal and was left alone.
    settings: Option<Termios>,
}

/// How large the terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// The size of the terminal that output or error goes to, if one does.
pub(crate) fn size() -> Option<Size> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stderr())).ok()?;
    let (columns, rows) = (usize::from(size.ws_col), usize::from(size.ws_row));
    // A serial line says 0 by 0: unknown.
    (columns > 0 && rows > 0).then_some(Size { columns, rows })
}

/// The whole screen, until this is dropped or the program panics.
pub(crate) struct Screen {}

impl Screen {
    pub(crate) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let tell = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                tell(panic);
            }));
        });
        let mut settings = None;
        if io::stdin().is_terminal() {
            let before = tcgetattr(io::stdin())?;
            tcsetattr(io::stdin(), OptionalActions::Flush, &unbuffered(before.clone()))?;
            settings = Some(before);
        }
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Before { settings });
        let screen = Self {};
        write(ENTER)?;
        Ok(screen)
    }

    pub(crate) fn size(&self) -> Size {
        size().unwrap_or(UNKNOWN_SIZE)
    }

    /// Replaces what is shown. Lines must not be wider than the screen.
    pub(crate) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        // Held back by the terminal until the frame is whole, where it can.
        let mut frame = String::from("\x1b[?2026h\x1b[H");
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                frame.push_str("\r\n");
            }
            // Cleared first: after a full line the cursor stands upon its last
            // character, which clearing to the end would take away.
            frame.push_str("\x1b[2K");
            frame.push_str(line);
        }
        if lines.len() < self.size().rows {
            frame.push_str("\r\n\x1b[J");
        }
        frame.push_str("\x1b[?2026l");
        write(&frame)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Keys at once and unseen. Ctrl-C still interrupts; what would stop or kill
/// the program without a chance to restore the screen does nothing.
fn unbuffered(mut settings: Termios) -> Termios {
    settings.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    settings.special_codes[SpecialCodeIndex::VSUSP] = 0;
    settings.special_codes[SpecialCodeIndex::VQUIT] = 0;
    // A read returns at once with what there is, if only nothing.
    settings.special_codes[SpecialCodeIndex::VMIN] = 0;
    settings.special_codes[SpecialCodeIndex::VTIME] = 0;
    settings
}

/// Puts the terminal back as it was. Idempotent; when it fails the terminal is
/// gone.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(before) = before else { return };
    let _ = write(LEAVE);
    if let Some(settings) = before.settings {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &settings);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What somebody says to a program that fills the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Ctrl-C, a signal that asks to end, or the terminal's end.
    Leave,
    /// The terminal has another size.
    Resized,
    /// A key.
    Key(Key),
}

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "what the keys are called")]
pub(crate) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    Character(char),
}

/// Keys and signals.
pub(crate) struct Input {
    keys: Option<AsyncFd<OwnedFd>>,
    /// Pressed and not yet handed out.
    pressed: VecDeque<Key>,
    resized: Signal,
    endings: [Signal; 3],
}

impl Input {
    pub(crate) fn new() -> io::Result<Self> {
        let keys = if io::stdin().is_terminal() {
            Some(watched(io::stdin().as_fd().try_clone_to_owned()?)?)
        } else {
            None
        };
        Ok(Self {
            keys,
            pressed: VecDeque::new(),
            resized: signal(SignalKind::window_change())?,
            endings: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ],
        })
    }

    /// Waits for what is said next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Said> {
        let [interrupt, terminate, hangup] = &mut self.endings;
        loop {
            if let Some(key) = self.pressed.pop_front() {
                return Ok(Said::Key(key));
            }
            tokio::select! {
                _ = interrupt.recv() => return Ok(Said::Leave),
                _ = terminate.recv() => return Ok(Said::Leave),
                _ = hangup.recv() => return Ok(Said::Leave),
                _ = self.resized.recv() => return Ok(Said::Resized),
                keys = pressed(self.keys.as_ref()) => match keys? {
                    Some(keys) => self.pressed.extend(keys),
                    None => return Ok(Said::Leave),
                },
            }
        }
    }
}

fn watched(input: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what it is put into, which nobody
    // takes it out of: it stays open and the same until that is dropped.
    unsafe { AsyncFd::register_with_interest(input, Interest::READABLE) }
        .map_err(|refused| refused.into_parts().1)
}

/// Waits for keys; `None` is the terminal's end.
async fn pressed(keys: Option<&AsyncFd<OwnedFd>>) -> io::Result<Option<Vec<Key>>> {
    let Some(keys) = keys else { return std::future::pending().await };
    loop {
        let mut ready = keys.readable().await?;
        let mut bytes = [0; 256];
        match rustix::io::read(keys.get_ref(), &mut bytes) {
            // The terminal is gone; what is asked again would say so for ever.
            Ok(0) if ready.ready().is_read_closed() => return Ok(None),
            Err(rustix::io::Errno::IO) => return Ok(None),
            Ok(0) | Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Ok(count) => return Ok(Some(keys_of(&bytes[..count]))),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The keys that a terminal sent. A key's sequence comes in one piece; of one
/// that is not known nothing is taken for a character.
fn keys_of(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let text = String::from_utf8_lossy(bytes);
    let mut rest = &*text;
    while let Some(first) = rest.chars().next() {
        let (key, length) = match first {
            '\x1b' => sequence(rest),
            '\r' | '\n' => (Some(Key::Enter), 1),
            '\x08' | '\x7f' => (Some(Key::Backspace), 1),
            other => ((!other.is_control()).then_some(Key::Character(other)), other.len_utf8()),
        };
        keys.extend(key);
        rest = &rest[length..];
    }
    keys
}

/// The key of a sequence that begins with ESC, and how long it is.
fn sequence(text: &str) -> (Option<Key>, usize) {
    let Some(body) = text.strip_prefix("\x1b[").or_else(|| text.strip_prefix("\x1bO")) else {
        return (Some(Key::Escape), 1);
    };
    // Parameters, then one letter or `~`.
    let Some(end) = body.find(|c: char| c.is_ascii_alphabetic() || c == '~') else {
        return (None, text.len());
    };
    let key = match &body[..=end] {
        "A" => Some(Key::Up),
        "B" => Some(Key::Down),
        "H" | "1~" | "7~" => Some(Key::Home),
        "F" | "4~" | "8~" => Some(Key::End),
        "5~" => Some(Key::PageUp),
        "6~" => Some(Key::PageDown),
        _ => None,
    };
    (key, 2 + end + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn keys_come_until_their_end() {
        let (keys, mut person) = io::pipe().unwrap();
        let keys = watched(keys.into()).unwrap();
        let soon = Duration::from_millis(50);
        // A pipe has no read that returns at once with nothing, as the terminal
        // is told to have.
        rustix::io::ioctl_fionbio(keys.get_ref(), true).unwrap();
        assert!(timeout(soon, pressed(Some(&keys))).await.is_err());
        person.write_all(b"q").unwrap();
        assert_eq!(pressed(Some(&keys)).await.unwrap(), Some(vec![Key::Character('q')]));
        drop(person);
        assert_eq!(pressed(Some(&keys)).await.unwrap(), None);
    }

    #[test]
    fn sequences_are_keys_and_never_characters() {
        let typed = "\x1b[A\x1b[B\x1bOH\x1b[4~\x1b[5~\x1b[6~\x1b[1;5Cj\r\x7f\x1b";
        let expected = [
            Key::Up,
            Key::Down,
            Key::Home,
            Key::End,
            Key::PageUp,
            Key::PageDown,
            Key::Character('j'),
            Key::Enter,
            Key::Backspace,
            Key::Escape,
        ];
        assert_eq!(keys_of(typed.as_bytes()), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_some_keys(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for key in keys_of(&bytes) {
                if let Key::Character(character) = key {
                    prop_assert!(!character.is_control());
                }
            }
        }
    }
}
