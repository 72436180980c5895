//! The configuration file: TOML, one line for each option.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Command;
use toml::{
    Spanned,
    de::{DeInteger, DeString, DeTable, DeValue},
};

use super::{Shape, check_value, command_without_env, options, shape};

/// So like an option's name must a wrong one be to be taken for it (1 is the same).
const LIKENESS: f64 = 0.8;

/// What a file says, all of it checked for itself.
#[derive(Debug, Default)]
pub(super) struct File {
    path: PathBuf,
    settings: Vec<Setting>,
}

#[derive(Debug)]
pub(super) struct Setting {
    option: String,
    values: Vec<String>,
    line: usize,
}

/// Where something is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    line: usize,
    path: PathBuf,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

impl File {
    /// Errors are sentences, each with its line.
    pub(super) fn read(path: &Path) -> Result<Self, Vec<String>> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            vec![format!(
                "the configuration file {shown} can't be read: {error}"
            )]
        })?;
        let settings = settings(&text).map_err(|wrong| {
            let wrong = wrong.into_iter();
            wrong
                .map(|(line, text)| format!("{shown}:{line}: {text}"))
                .collect::<Vec<_>>()
        })?;
        Ok(Self {
            path: path.into(),
            settings,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.settings.len()
    }

    /// The command with the file's values for defaults: what the command line and the environment say goes before them.
    pub(super) fn as_defaults(&self, command: Command) -> Command {
        command.mut_args(|arg| {
            let is_it = |setting: &&Setting| arg.get_long() == Some(setting.option.as_str());
            match self.settings.iter().find(is_it) {
                Some(setting) => arg.default_values(setting.values.clone()),
                None => arg,
            }
        })
    }

    pub(super) fn place(&self, option: &str) -> Option<Place> {
        let setting = self
            .settings
            .iter()
            .find(|setting| setting.option == option)?;
        Some(Place {
            line: setting.line,
            path: self.path.clone(),
        })
    }
}

/// What is wrong, and on which line.
type Wrong = (usize, String);

pub(super) fn settings(text: &str) -> Result<Vec<Setting>, Vec<Wrong>> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let message = error.message().replace('\n', "; ");
        vec![(line(text, at), format!("this is not TOML: {message}"))]
    })?;
    let command = command_without_env();
    let mut settings = Vec::new();
    let mut wrong = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line(text, key.span().start);
        match setting(&command, key, value) {
            Ok(values) => settings.push(Setting {
                option: key.get_ref().as_ref().into(),
                values,
                line,
            }),
            Err(text) => wrong.push((line, text)),
        }
    }
    wrong.sort();
    if wrong.is_empty() {
        Ok(settings)
    } else {
        Err(wrong)
    }
}

/// Lines count from 1.
fn line(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// The values of one option, which it can have.
fn setting(
    command: &Command,
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
) -> Result<Vec<String>, String> {
    let key = key.get_ref().as_ref();
    let known = options(command).any(|option| option == key);
    let shape = shape(command, key).filter(|_| known);
    let Some(shape) = shape else {
        return Err(unknown(command, key));
    };
    let values = match (value.get_ref(), shape) {
        (DeValue::Array(array), Shape::Many) if array.is_empty() => {
            return Err(format!(
                "{key} is an empty list: give a value, or leave the line out"
            ));
        }
        (DeValue::Array(array), Shape::Many) => {
            let values = array.iter().map(|each| one(each.get_ref()));
            values.collect::<Option<Vec<_>>>()
        }
        (DeValue::Boolean(value), Shape::Flag) => Some(vec![value.to_string()]),
        (_, Shape::Flag) => None,
        (value, _) => one(value).map(|value| vec![value]),
    };
    let values =
        values.ok_or_else(|| format!("{key} is {}: {}", kind(value.get_ref()), wanted(shape)))?;
    check_value(key, &values)?;
    Ok(values)
}

fn one(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(decimal(number)),
        _ => None,
    }
}

/// One that is too large stays as it is: then the option refuses it.
fn decimal(number: &DeInteger<'_>) -> String {
    let parsed = i128::from_str_radix(number.as_str(), number.radix());
    parsed.map_or_else(|_| number.to_string(), |number| number.to_string())
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn wanted(shape: Shape) -> &'static str {
    match shape {
        Shape::Flag => "give true or false, without quotes",
        Shape::One => "give one whole number or string",
        Shape::Many => "give a whole number, a string, or a list of them",
    }
}

fn unknown(command: &Command, key: &str) -> String {
    let likeness = |option: &&str| strsim::jaro_winkler(option, key);
    let nearest = options(command).max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    match nearest.filter(|option| likeness(option) >= LIKENESS) {
        Some(option) => format!("there is no option {key}: is {option} meant?"),
        None => format!(
            "there is no option {key}: `tracer --help` lists all; write them without dashes in front"
        ),
    }
}
