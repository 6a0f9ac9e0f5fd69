//! Aligned columns.

use std::fmt;

use super::terminal::BOLD;

/// Space between columns.
const GAP: usize = 2;

/// Rows under a heading. Display writes no newline after the last row.
#[derive(Debug)]
pub(super) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// Columns of numbers, aligned to the right.
    numeric: Vec<usize>,
}

impl Table {
    pub(super) fn new<const N: usize>(heading: [&'static str; N]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new(), numeric: Vec::new() }
    }

    /// Aligns a column to the right.
    pub(super) fn numeric(mut self, column: usize) -> Self {
        self.numeric.push(column);
        self
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.heading.len(), "a row has a cell for each heading");
        self.rows.push(cells.to_vec());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn widths(&self) -> Vec<usize> {
        let cells = |column: usize| self.rows.iter().map(move |row| row[column].chars().count());
        let heading = self.heading.iter().enumerate();
        heading.map(|(column, text)| cells(column).fold(text.chars().count(), usize::max)).collect()
    }

    /// One row, without space at its end.
    fn format(&self, cells: &[impl AsRef<str>], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, (cell, &width)) in cells.iter().zip(widths).enumerate() {
            let cell = cell.as_ref();
            match self.numeric.contains(&column) {
                true => line.push_str(&format!("{cell:>width$}")),
                false => line.push_str(&format!("{cell:<width$}")),
            }
            line.push_str(&" ".repeat(GAP));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        write!(f, "{BOLD}{}{BOLD:#}", self.format(&self.heading, &widths))?;
        self.rows.iter().try_for_each(|row| write!(f, "\n{}", self.format(row, &widths)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "SIZE", "NOTE"]).numeric(1);
        table.row(["a".to_owned(), "12".to_owned(), String::new()]);
        table.row(["ünïcode".to_owned(), "7".to_owned(), "x".to_owned()]);
        let text = anstream::adapter::strip_str(&table.to_string()).to_string();
        assert_eq!(text, "NAME     SIZE  NOTE\na          12\nünïcode     7  x");
    }
}
