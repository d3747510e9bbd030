//! Tables without frames, as `status` and the lists print them.

use super::plain;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table with a line of `headings`; columns whose heading begins with `>` are aligned right.
pub(crate) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)));
    }
    let last = headings.len().saturating_sub(1);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at == last { 0 } else { 2 }));
        if headings[at].starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["debian-lab@3".into(), "61 %".into()], vec!["a@1".into(), "100 %".into()]];
        assert_eq!(
            table(&["IMAGE@N", ">LOCAL"], rows),
            "IMAGE@N       LOCAL\ndebian-lab@3   61 %\na@1           100 %"
        );
    }
}
