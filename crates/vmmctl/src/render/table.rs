//! Tables without borders that fit the terminal: first the least important
//! columns go, then the elastic ones shrink; nothing ever wraps.

use super::text::{Style, Text};

/// What lies between two columns.
const GAP: &str = "  ";

/// At which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A column.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    title: &'static str,
    align: Align,
    importance: u8,
    shrinks_to: Option<usize>,
    at_least: usize,
}

impl Column {
    pub(crate) fn left(title: &'static str) -> Self {
        Self { title, align: Align::Left, importance: u8::MAX, shrinks_to: None, at_least: 0 }
    }

    pub(crate) fn right(title: &'static str) -> Self {
        Self { align: Align::Right, ..Self::left(title) }
    }

    /// Leaves the table when it is too wide, the smallest number first, and
    /// also when it has nothing to show.
    pub(crate) fn importance(mut self, importance: u8) -> Self {
        self.importance = importance;
        self
    }

    /// May be cut down to so many columns.
    pub(crate) fn shrinks_to(mut self, width: usize) -> Self {
        self.shrinks_to = Some(width);
        self
    }

    /// As wide as that even when its cells are narrower, so that a table that
    /// redraws keeps its shape.
    pub(crate) fn at_least(mut self, width: usize) -> Self {
        self.at_least = width;
        self
    }
}

/// Rows under columns.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Text>>,
    steady: bool,
}

impl Table {
    pub(crate) fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new(), steady: false }
    }

    /// Keeps columns that have nothing to show: a table that redraws must not
    /// jump when they have.
    pub(crate) fn steady(self) -> Self {
        Self { steady: true, ..self }
    }

    /// Adds a row, which has a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<Text>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The header and the rows, each at most `width` wide when that is given.
    pub(crate) fn lines(&self, width: Option<usize>) -> Vec<Text> {
        let mut layout = self.layout(width);
        let mut lines = vec![self.header(&layout, width)];
        lines.extend(self.more_lines(&mut layout, width));
        lines
    }

    /// Which columns are shown, and how wide they are, with the rows as they
    /// are now.
    pub(crate) fn layout(&self, width: Option<usize>) -> Layout {
        let natural: Vec<usize> =
            (0..self.columns.len()).map(|index| self.natural_width(index)).collect();
        let mut shown: Vec<(usize, usize)> = natural
            .into_iter()
            .enumerate()
            .filter(|(index, _)| {
                self.steady || self.columns[*index].importance == u8::MAX || self.tells(*index)
            })
            .collect();
        if let Some(width) = width {
            self.drop_columns(&mut shown, width);
            self.shrink(&mut shown, width);
        }
        Layout { shown }
    }

    /// The columns' titles.
    pub(crate) fn header(&self, layout: &Layout, width: Option<usize>) -> Text {
        let titles: Vec<Text> =
            self.columns.iter().map(|c| Text::styled(Style::Faint, c.title)).collect();
        self.line(&titles, &layout.shown, width)
    }

    /// The rows alone, beneath others that had the layout: its columns stay,
    /// and become wider where these rows need it.
    pub(crate) fn more_lines(&self, layout: &mut Layout, width: Option<usize>) -> Vec<Text> {
        for column in &mut layout.shown {
            column.1 = column.1.max(self.natural_width(column.0));
        }
        if let Some(width) = width {
            self.shrink(&mut layout.shown, width);
        }
        self.rows.iter().map(|cells| self.line(cells, &layout.shown, width)).collect()
    }

    fn natural_width(&self, index: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(index)).map(Text::width);
        let column = &self.columns[index];
        cells.chain([column.title.chars().count(), column.at_least]).max().unwrap_or(0)
    }

    /// Whether any row has something to say in this column.
    fn tells(&self, index: usize) -> bool {
        let absent = Text::absent();
        let cells = self.rows.iter().filter_map(|row| row.get(index));
        cells.into_iter().any(|cell| !cell.is_empty() && *cell != absent)
    }

    fn least(&self, (index, width): (usize, usize)) -> usize {
        self.columns[index].shrinks_to.map_or(width, |least| least.min(width))
    }

    fn drop_columns(&self, shown: &mut Vec<(usize, usize)>, width: usize) {
        loop {
            let needed: usize = shown.iter().map(|&column| self.least(column)).sum();
            if needed + gaps(shown.len()) <= width {
                return;
            }
            let importance = |(index, _): &(usize, usize)| self.columns[*index].importance;
            let weakest = shown.iter().map(importance).min().unwrap_or(u8::MAX);
            if weakest == u8::MAX {
                return;
            }
            // Of equals the rightmost goes.
            if let Some(position) = shown.iter().rposition(|c| importance(c) == weakest) {
                shown.remove(position);
            }
        }
    }

    /// Takes columns from the widest elastic column until all fit.
    fn shrink(&self, shown: &mut [(usize, usize)], width: usize) {
        loop {
            let total: usize = shown.iter().map(|(_, width)| width).sum::<usize>();
            if total + gaps(shown.len()) <= width {
                return;
            }
            let elastic = shown.iter_mut().filter(|column| self.least(**column) < column.1);
            let Some(widest) = elastic.max_by_key(|column| column.1) else { return };
            widest.1 -= 1;
        }
    }

    fn line(&self, cells: &[Text], shown: &[(usize, usize)], most: Option<usize>) -> Text {
        let mut line = Text::default();
        // Spaces are added before the next cell only, so that none end a line.
        let mut owed = 0;
        for &(index, width) in shown {
            let cell = cells.get(index).cloned().unwrap_or_default().cut(width);
            let room = width - cell.width();
            let (before, after) = match self.columns[index].align {
                Align::Left => (0, room),
                Align::Right => (room, 0),
            };
            if cell.is_empty() {
                owed += room + GAP.len();
                continue;
            }
            line = line.and(Style::Plain, " ".repeat(owed + before)).append(cell);
            owed = after + GAP.len();
        }
        if let Some(most) = most { line.cut(most) } else { line }
    }
}

/// Which columns a table shows, by their place, and how wide they are.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    shown: Vec<(usize, usize)>,
}

fn gaps(columns: usize) -> usize {
    columns.saturating_sub(1) * GAP.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![
            Column::left("NAME").shrinks_to(6),
            Column::right("MEMORY").importance(2),
            Column::left("LABELS").importance(1),
        ]);
        table.row(vec![Text::new("a-long-name"), Text::new("1.50 GiB"), Text::new("tier=web")]);
        table.row(vec![Text::new("b"), Text::absent(), Text::default()]);
        table
    }

    fn shown(width: Option<usize>) -> Vec<String> {
        table().lines(width).iter().map(|line| line.to_line(false)).collect()
    }

    #[test]
    fn shows_all_when_there_is_room() {
        let expected = [
            "NAME           MEMORY  LABELS",
            "a-long-name  1.50 GiB  tier=web",
            "b                   –",
        ];
        assert_eq!(shown(None), expected);
        assert_eq!(shown(Some(31)), expected);
    }

    #[test]
    fn shrinks_then_drops() {
        assert_eq!(shown(Some(30))[1], "a-long-na…  1.50 GiB  tier=web");
        assert_eq!(shown(Some(24))[1], "a-long-name  1.50 GiB");
        assert_eq!(shown(Some(16))[1], "a-lon…  1.50 GiB");
        assert_eq!(shown(Some(15))[1], "a-long-name");
        assert_eq!(shown(Some(6))[1], "a-lon…");
        assert_eq!(shown(Some(3))[1], "a-…");
    }

    #[test]
    fn leaves_out_a_column_that_tells_nothing() {
        let mut table = Table::new(vec![Column::left("A"), Column::left("B").importance(1)]);
        table.row(vec![Text::new("x"), Text::absent()]);
        assert_eq!(table.lines(None)[0].to_line(false), "A");
        assert_eq!(table.steady().lines(None)[0].to_line(false), "A  B");
    }

    #[test]
    fn a_later_page_stands_beneath_the_first() {
        let mut layout = table().layout(None);
        let mut page = Table::new(table().columns);
        page.row(vec![Text::new("a-still-longer-name"), Text::new("9 GiB"), Text::new("x")]);
        page.row(vec![Text::new("c"), Text::new("512 MiB"), Text::default()]);
        let lines = page.more_lines(&mut layout, None);
        assert_eq!(lines[0].to_line(false), "a-still-longer-name     9 GiB  x");
        assert_eq!(lines[1].to_line(false), "c                     512 MiB");
        let narrow = page.more_lines(&mut table().layout(Some(30)), Some(30));
        assert_eq!(narrow[0].to_line(false), "a-still-l…     9 GiB  x");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal_or_ends_in_space(
            rows in proptest::collection::vec(["\\PC{0,20}", "\\PC{0,9}", "\\PC{0,9}"], 0..6),
            width in 1usize..60,
        ) {
            let mut table = table();
            for row in &rows {
                table.row(row.iter().map(|cell| Text::new(cell.trim())).collect());
            }
            for line in table.lines(Some(width)) {
                prop_assert!(line.width() <= width);
                prop_assert!(!line.to_line(false).ends_with(' '));
            }
        }
    }
}
