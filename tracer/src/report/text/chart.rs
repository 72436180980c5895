//! Curves of one line.

use super::Terminal;

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII: [char; 8] = ['.', ':', '-', '=', '+', '*', '#', '@'];

/// A column for so many bins each: the highest of them, as a share of `full`. What is not known is blank, nothing a dot
/// or the lowest mark.
pub(super) fn curve(
    values: &[Option<u32>],
    full: u32,
    columns: usize,
    terminal: &Terminal,
) -> String {
    let marks = if terminal.unicode { BLOCKS } else { ASCII };
    let zero = if terminal.unicode { '·' } else { '_' };
    let mark = |value: Option<u32>| match value {
        None => ' ',
        Some(0) => zero,
        Some(value) => {
            let level = u64::from(value.min(full)) * 8 / u64::from(full.max(1));
            marks[(level as usize).clamp(1, 8) - 1]
        }
    };
    merged(values, columns).into_iter().map(mark).collect()
}

/// At most so many values, each the highest of as many.
fn merged(values: &[Option<u32>], columns: usize) -> Vec<Option<u32>> {
    let each = values.len().div_ceil(columns.max(1)).max(1);
    let highest = |bins: &[Option<u32>]| bins.iter().copied().flatten().max();
    values.chunks(each).map(highest).collect()
}

/// So many bins are one column.
pub(super) fn bins_per_column(bins: usize, columns: usize) -> usize {
    bins.div_ceil(columns.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::curve;
    use crate::report::text::Terminal;

    #[test]
    fn a_curve_has_a_mark_for_each_column() {
        let mut terminal = Terminal {
            width: 80,
            unicode: true,
            bold: false,
        };
        let values = [None, Some(0), Some(1), Some(8), Some(16), Some(3)];
        assert_eq!(curve(&values, 16, 6, &terminal), " ·▁▄█▁");
        assert_eq!(curve(&values, 16, 3, &terminal), "·▄█");
        terminal.unicode = false;
        assert_eq!(curve(&values, 16, 6, &terminal), " _.=@.");
    }
}
