//! What an engine answers, in one form for all: times are nanoseconds, and null is empty, 0 or false.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use jiff::{civil::DateTime, tz::TimeZone};
use serde_json::Value;

/// Rows by question.
pub(crate) struct Answers(pub(crate) BTreeMap<String, Vec<BTreeMap<String, Value>>>);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row(BTreeMap<String, Cell>);

#[derive(Clone, Debug, PartialEq)]
enum Cell {
    /// Null, false, 0, or an empty text.
    Nothing,
    Number(i64),
    Text(String),
}

impl Answers {
    pub(crate) fn questions(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    pub(crate) fn rows(&self, question: &str) -> Result<Vec<Row>> {
        let rows = self.0.get(question).context("that was not asked")?;
        let row = |row: &BTreeMap<String, Value>| {
            let cells = row
                .iter()
                .map(|(name, value)| Ok((name.clone(), cell(value)?)));
            Ok(Row(cells.collect::<Result<_>>()?))
        };
        rows.iter().map(row).collect()
    }
}

fn cell(value: &Value) -> Result<Cell> {
    Ok(match value {
        Value::Null | Value::Bool(false) => Cell::Nothing,
        Value::Bool(true) => Cell::Number(1),
        Value::Number(number) if number.as_f64() == Some(0.0) => Cell::Nothing,
        // Sums may come as 12.0.
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Cell::Number(number),
            (None, Some(number)) if number.fract() == 0.0 => Cell::Number(number as i64),
            _ => bail!("{number} is no whole number"),
        },
        Value::String(text) if text.is_empty() => Cell::Nothing,
        Value::String(text) => match text.parse::<DateTime>() {
            Ok(time) => {
                Cell::Number(time.to_zoned(TimeZone::UTC)?.timestamp().as_nanosecond() as i64)
            }
            Err(_) => Cell::Text(text.clone()),
        },
        other => bail!("{other} in an answer"),
    })
}

impl Row {
    /// Null: 0.
    pub(crate) fn number(&self, name: &str) -> Result<i64> {
        match self.cell(name)? {
            Cell::Nothing => Ok(0),
            Cell::Number(number) => Ok(*number),
            Cell::Text(text) => bail!("{name} is {text:?}"),
        }
    }

    /// Null: empty.
    pub(crate) fn text(&self, name: &str) -> Result<String> {
        match self.cell(name)? {
            Cell::Nothing => Ok(String::new()),
            Cell::Text(text) => Ok(text.clone()),
            Cell::Number(number) => bail!("{name} is {number}"),
        }
    }

    /// As the simulation shows a destination; empty: none.
    pub(crate) fn peer(&self) -> Result<String> {
        let (ip, port) = (self.text("peer_ip")?, self.number("peer_port")?);
        Ok(match ip {
            ip if ip.is_empty() => ip,
            ip if ip.contains(':') => format!("[{ip}]:{port}"),
            ip => format!("{ip}:{port}"),
        })
    }

    fn cell(&self, name: &str) -> Result<&Cell> {
        self.0
            .get(name)
            .with_context(|| format!("no column {name}"))
    }
}
