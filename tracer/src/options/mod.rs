//! The options of a run: each from the command line, else from the environment, else from a configuration file, else its
//! default. clap's definition in [`crate::cli`] is the only one: the environment has its names in capitals, and the file
//! has them as they are.

use std::{env, ffi::OsString, iter::once, path::Path};

use clap::{
    ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, builder::ValueParser,
    parser::ValueSource,
};

use crate::{
    cli::{Cli, Contradiction},
    config::Config,
};

mod file;

#[cfg(test)]
mod tests;

use file::File;

/// Options that a file cannot have.
const NOT_IN_FILE: [&str; 3] = ["config", "help", "version"];

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Refused {
    /// What clap says: an error, or the help that was asked for.
    Said(clap::Error),
    /// Sentences.
    Bad(Vec<String>),
}

impl From<clap::Error> for Refused {
    fn from(said: clap::Error) -> Self {
        Self::Said(said)
    }
}

impl From<String> for Refused {
    fn from(sentence: String) -> Self {
        Self::Bad(vec![sentence])
    }
}

/// The command line with its environment, for those who describe it.
pub fn command() -> Command {
    Cli::command().mut_args(|arg| match arg.get_long().map(variable) {
        Some(variable) => arg.env(variable).hide_env_values(true),
        None => arg,
    })
}

/// What is to be done, by the arguments (the first of them is the program), the environment and the file that they name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Refused> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Other commands are done whatever the environment says.
    let plain = command_without_env().try_get_matches_from(&arguments);
    let plain = match plain {
        // The help tells of the environment.
        Err(said) if !said.use_stderr() => command().try_get_matches_from(&arguments)?,
        plain => plain?,
    };
    let plain = Cli::from_arg_matches(&plain)?;
    if plain.command.is_some() {
        return Ok(plain);
    }
    let path = plain.trace.config;
    let path = path.or_else(|| env::var_os(variable("config")).map(Into::into));
    check_environment()?;
    let file = path.as_deref().map(File::read).transpose();
    let file = file.map_err(Refused::Bad)?.unwrap_or_default();
    let matches = file
        .as_defaults(command())
        .try_get_matches_from(&arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    match cli.trace.contradiction() {
        None => Ok(cli),
        Some(wrong) => Err(place(&wrong, &file, |option| is_default(&matches, option)).into()),
    }
}

/// How many options a file sets, or everything that is wrong with it.
pub fn check(path: &Path) -> Result<usize, Vec<String>> {
    let file = File::read(path)?;
    let command = file.as_defaults(command_without_env());
    let cli = command
        .try_get_matches_from(["tracer"])
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = cli.map_err(|error| vec![format!("{}: {}", path.display(), sentence(&error))])?;
    if let Some(wrong) = cli.trace.contradiction() {
        return Err(vec![place(&wrong, &file, |_| true)]);
    }
    Config::try_from(cli.trace)
        .map(|_| file.len())
        .map_err(|wrong| vec![format!("{}: {wrong:#}", path.display())])
}

fn command_without_env() -> Command {
    Cli::command()
}

/// The environment's name of an option.
fn variable(option: &str) -> String {
    format!("TRACER_{}", option.replace('-', "_").to_uppercase())
}

/// The options that the environment and a file can have, without those that only a command line makes sense of.
fn options(command: &Command) -> impl Iterator<Item = &str> {
    let options = command.get_arguments().filter_map(|arg| arg.get_long());
    options.filter(|option| !NOT_IN_FILE.contains(option))
}

fn check_environment() -> Result<(), String> {
    for option in options(&command_without_env()) {
        let variable = variable(option);
        let Some(value) = env::var_os(&variable) else {
            continue;
        };
        let value = value
            .to_str()
            .ok_or_else(|| format!("{variable} is not UTF-8: give text"))?;
        check_value(option, &[value.to_owned()]).map_err(|wrong| format!("{variable}: {wrong}"))?;
    }
    Ok(())
}

/// Whether the option can have these values.
fn check_value(option: &str, values: &[String]) -> Result<(), String> {
    let values = values.iter().map(|value| format!("--{option}={value}"));
    let parsed = command_without_env().try_get_matches_from(once("tracer".into()).chain(values));
    parsed.map(drop).map_err(|error| sentence(&error))
}

/// clap's error without its frame, on one line.
fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let body = text.split("\n\n").next().unwrap_or_default();
    let body = body.strip_prefix("error: ").unwrap_or(body);
    let lines: Vec<&str> = body.lines().map(str::trim).collect();
    lines.join(" ")
}

fn is_default(matches: &ArgMatches, option: &str) -> bool {
    let id = option.replace('-', "_");
    matches.value_source(&id) == Some(ValueSource::DefaultValue)
}

/// A contradiction, with the last line of the file that has part in it, if `from_file` says so of its option.
fn place(wrong: &Contradiction, file: &File, from_file: impl Fn(&str) -> bool) -> String {
    let options = wrong.options.iter().filter(|option| from_file(option));
    match options.filter_map(|option| file.place(option)).max() {
        Some(place) => format!("{place}: {}", wrong.text),
        None => wrong.text.clone(),
    }
}

/// What a file may give for an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Flag,
    One,
    Many,
}

/// `None`: there is no such option.
fn shape(command: &Command, option: &str) -> Option<Shape> {
    let mut arguments = command.get_arguments();
    let arg = arguments.find(|arg| arg.get_long() == Some(option))?;
    let is_flag = arg.get_value_parser().type_id() == ValueParser::bool().type_id();
    Some(match arg.get_action() {
        ArgAction::Append => Shape::Many,
        _ if is_flag => Shape::Flag,
        _ => Shape::One,
    })
}
