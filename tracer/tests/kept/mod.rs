//! Lines as the flight recorder keeps them.

use serde_json::Value;

/// Numbers lines anew: apart from the others those of types that the output leaves out. Returns how many the others are.
pub(crate) fn number_apart(lines: &mut [Value], left_out: &[&str]) -> u64 {
    let (mut details, mut numbered) = (0, 0);
    for line in lines {
        let is_detail = left_out.contains(&line["type"].as_str().unwrap());
        let count = if is_detail {
            line["detail"] = true.into();
            &mut details
        } else {
            &mut numbered
        };
        line["seq"] = (*count).into();
        *count += 1;
    }
    numbered
}
