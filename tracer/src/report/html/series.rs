//! Series in few bytes: a report has hundreds, of hundreds of numbers each, most of them like their neighbour.

use serde_json::{Value, json};

/// Shorter lists stay as they are.
const LEAST: usize = 8;

/// Replaces each list of whole numbers in `value` by `{"series": "…"}`: the differences from one known number to the
/// next, separated by spaces; `~` where a number is not known; `5x12` for twelve times 5. `unpack` in `script/data.js`
/// reads it.
pub(super) fn pack(value: &mut Value) {
    match value {
        Value::Array(list) => match numbers(list) {
            Some(numbers) => *value = json!({ "series": write(&numbers) }),
            None => list.iter_mut().for_each(pack),
        },
        Value::Object(map) => map.values_mut().for_each(pack),
        _ => {}
    }
}

/// None: not a series.
fn numbers(list: &[Value]) -> Option<Vec<Option<i64>>> {
    if list.len() < LEAST {
        return None;
    }
    let number = |value: &Value| match value {
        Value::Null => Some(None),
        _ => value.as_i64().map(Some),
    };
    list.iter().map(number).collect()
}

fn write(numbers: &[Option<i64>]) -> String {
    let mut last = 0;
    let steps: Vec<_> = numbers
        .iter()
        .map(|number| step(*number, &mut last))
        .collect();
    let runs = steps.chunk_by(|a, b| a == b).map(run);
    runs.collect::<Vec<_>>().join(" ")
}

fn step(number: Option<i64>, last: &mut i64) -> Option<i64> {
    let number = number?;
    Some(number.wrapping_sub(std::mem::replace(last, number)))
}

fn run(steps: &[Option<i64>]) -> String {
    let step = steps[0].map_or("~".to_owned(), |step| step.to_string());
    match steps.len() {
        1 => step,
        times => format!("{step}x{times}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_written_as_differences() {
        let mut value =
            json!({ "ports": [5, 5, 5, 9, null, null, 9, 2], "few": [1, 2], "names": ["a", "b"] });
        pack(&mut value);
        let expected = json!({ "ports": { "series": "5 0x2 4 ~x2 0 -7" }, "few": [1, 2], "names": ["a", "b"] });
        assert_eq!(value, expected);
    }

    #[test]
    fn other_lists_stay() {
        let lists = json!([["a", 1, 2, 3, 4, 5, 6, 7, 8], [0.5, 1, 2, 3, 4, 5, 6, 7, 8]]);
        let mut value = lists.clone();
        pack(&mut value);
        assert_eq!(value, lists);
    }
}
