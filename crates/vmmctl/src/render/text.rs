//! Text with styles: what every table cell and every line is made of.
//!
//! It cannot hold what would act on a terminal: every piece goes through
//! [`sanitize`] on its way in, and escape sequences for colours appear only
//! when it is written out.

use unicode_width::UnicodeWidthChar as _;

use super::sanitize::{self, sanitize};

/// What a piece of text means, which decides how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// As the terminal shows text.
    Plain,
    /// What the eye should find first.
    Strong,
    /// Labels, headers and what is absent.
    Faint,
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong.
    Bad,
    /// On its way from one state to another.
    Moving,
}

impl Style {
    /// The parameters of "select graphic rendition". Only the sixteen colours
    /// that the terminal's owner has chosen himself.
    fn parameters(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Strong => Some("1"),
            Self::Faint => Some("2"),
            Self::Good => Some("32"),
            Self::Warning => Some("33"),
            Self::Bad => Some("31"),
            Self::Moving => Some("36"),
        }
    }
}

/// One line of styled text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text {
    pieces: Vec<(Style, String)>,
}

impl Text {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::styled(Style::Plain, text)
    }

    pub(crate) fn styled(style: Style, text: impl AsRef<str>) -> Self {
        Self::default().and(style, text)
    }

    /// What stands where there is nothing to tell.
    pub(crate) fn absent() -> Self {
        Self::styled(Style::Faint, "–")
    }

    pub(crate) fn and(mut self, style: Style, text: impl AsRef<str>) -> Self {
        let text = sanitize(text.as_ref(), sanitize::MAX_CHARS);
        if !text.is_empty() {
            self.pieces.push((style, text));
        }
        self
    }

    pub(crate) fn append(mut self, other: Self) -> Self {
        self.pieces.extend(other.pieces);
        self
    }

    /// Without spaces at its end.
    pub(crate) fn trimmed(mut self) -> Self {
        while let Some((_, last)) = self.pieces.last_mut() {
            last.truncate(last.trim_end_matches(' ').len());
            if !last.is_empty() {
                break;
            }
            self.pieces.pop();
        }
        self
    }

    /// Columns on a terminal.
    pub(crate) fn width(&self) -> usize {
        self.pieces.iter().flat_map(|(_, text)| text.chars()).map(columns).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// At most `width` columns of it, the last one `…` when something is
    /// missing.
    pub(crate) fn cut(self, width: usize) -> Self {
        if self.width() <= width {
            return self;
        }
        let mut left = width.saturating_sub(1);
        let mut cut = Self::default();
        for (style, text) in self.pieces {
            let mut kept = String::new();
            let mut whole = true;
            for character in text.chars() {
                if columns(character) > left {
                    whole = false;
                    break;
                }
                left -= columns(character);
                kept.push(character);
            }
            if !whole && width > 0 {
                kept.push('…');
            }
            if !kept.is_empty() {
                cut.pieces.push((style, kept));
            }
            if !whole {
                break;
            }
        }
        cut
    }

    /// The line as it goes to the terminal or the pipe, without a line feed.
    pub(crate) fn to_line(&self, colour: bool) -> String {
        let mut line = String::new();
        for (style, text) in &self.pieces {
            match style.parameters() {
                Some(parameters) if colour => {
                    line.push_str("\x1b[");
                    line.push_str(parameters);
                    line.push('m');
                    line.push_str(text);
                    line.push_str("\x1b[0m");
                }
                _ => line.push_str(text),
            }
        }
        line
    }
}

fn columns(character: char) -> usize {
    character.width().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writes_colours_only_when_asked() {
        let text = Text::new("a ").and(Style::Bad, "b");
        assert_eq!(text.to_line(false), "a b");
        assert_eq!(text.to_line(true), "a \x1b[31mb\x1b[0m");
    }

    #[test]
    fn cuts_by_columns() {
        assert_eq!(Text::new("日本語").cut(6).to_line(false), "日本語");
        assert_eq!(Text::new("日本語").cut(5).to_line(false), "日本…");
        assert_eq!(Text::new("ab").and(Style::Bad, "cd").cut(3).to_line(false), "ab…");
        assert_eq!(Text::new("ab").cut(0).to_line(false), "");
    }

    proptest! {
        #[test]
        fn a_cut_fits(pieces in proptest::collection::vec("\\PC{0,12}", 0..5), width in 0usize..40) {
            let text = pieces.iter().fold(Text::default(), |text, piece| text.and(Style::Good, piece));
            prop_assert!(text.cut(width).width() <= width);
        }
    }
}
