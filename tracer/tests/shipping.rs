//! What under `docs/engines` names fields of the lines, names fields that there are; and the examples for Vector and
//! Fluent Bit, whose programs are not at hand, are whole in themselves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use tracer::record;

fn read(name: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/engines");
    fs::read_to_string(docs.join(name)).unwrap()
}

fn yaml(name: &str) -> Value {
    serde_yaml_ng::from_str(&read(name)).unwrap()
}

/// Names of all fields of all lines, those inside of others included.
fn fields() -> BTreeSet<String> {
    let schema = serde_json::to_value(record::schema()).unwrap();
    let mut fields = BTreeSet::new();
    collect(&schema, &mut fields);
    fields
}

fn collect(schema: &Value, fields: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            let properties = object.get("properties").and_then(Value::as_object);
            fields.extend(
                properties
                    .into_iter()
                    .flat_map(|names| names.keys().cloned()),
            );
            object.values().for_each(|value| collect(value, fields));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, fields)),
        _ => {}
    }
}

fn keys(value: &Value) -> impl Iterator<Item = &str> {
    value.as_object().unwrap().keys().map(String::as_str)
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap())
}

#[test]
fn the_columns_of_clickhouse_are_fields() {
    let schema = read("clickhouse/schema.sql");
    let (_, table) = schema.split_once("tracer.lines\n(\n").unwrap();
    let (columns, _) = table.split_once("\n)\n").unwrap();
    // Made by the view from fields with several types.
    let made = ["namespaces", "opened_at", "closed_at"];
    let fields = fields();
    let mut count = 0;
    for line in columns.lines().filter_map(|line| line.strip_prefix("    ")) {
        let name = line.split(' ').next().unwrap().trim_matches('`');
        if name.starts_with(|c: char| c.is_ascii_lowercase()) {
            count += 1;
            assert!(fields.contains(name) || made.contains(&name), "{name}");
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn the_columns_of_duckdb_are_fields() {
    let view = read("duckdb/view.sql");
    let (_, columns) = view.split_once("columns = {\n").unwrap();
    let fields = fields();
    let mut count = 0;
    for line in columns
        .lines()
        .filter_map(|line| line.strip_prefix("        "))
    {
        if let Some((name, _)) = line.split_once(": '") {
            count += 1;
            assert!(fields.contains(name.trim_matches('"')), "{name}");
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn everything_in_vector_has_an_input_that_exists() {
    let vector = yaml("vector/vector.yaml");
    let sections = ["sources", "transforms"];
    let mut outputs: BTreeSet<String> = sections
        .iter()
        .flat_map(|section| keys(&vector[section]))
        .map(Into::into)
        .collect();
    for (name, transform) in vector["transforms"].as_object().unwrap() {
        assert_eq!(
            transform["reroute_dropped"], true,
            "{name} drops in silence"
        );
        outputs.insert(format!("{name}.dropped"));
    }
    let mut used = BTreeSet::new();
    for section in ["transforms", "sinks"] {
        for (name, part) in vector[section].as_object().unwrap() {
            for input in texts(&part["inputs"]) {
                assert!(outputs.contains(input), "{name}: {input}");
                used.insert(input.to_owned());
            }
        }
    }
    assert_eq!(used, outputs, "an output that nobody takes is lost");
    let prefix = vector["sinks"]["archive"]["key_prefix"].as_str().unwrap();
    let (_, field) = prefix.split_once("{{ ").unwrap();
    assert!(fields().contains(field.split_once(" }}").unwrap().0));
}

#[test]
fn everything_in_fluent_bit_has_an_input_that_exists() {
    let fluent = yaml("fluent-bit/fluent-bit.yaml");
    let pipeline = &fluent["pipeline"];
    let list = |name: &str| pipeline[name].as_array().unwrap().iter();
    let tags: Vec<&str> = list("inputs")
        .map(|input| input["tag"].as_str().unwrap())
        .collect();
    for part in list("filters").chain(list("outputs")) {
        let pattern = part["match"].as_str().unwrap();
        let matches = |tag: &&str| match pattern.strip_suffix('*') {
            Some(start) => tag.starts_with(start),
            None => **tag == *pattern,
        };
        assert!(tags.iter().any(matches), "{part}");
    }
    let fields = fields();
    let parsers = fluent["parsers"].as_array().unwrap();
    for part in list("inputs").chain(list("filters")) {
        let named = part["parser"].as_str();
        assert!(named.is_none_or(|name| parsers.iter().any(|parser| parser["name"] == name)));
        let field = part["regex"]
            .as_str()
            .and_then(|regex| regex.split(' ').next());
        assert!(field.is_none_or(|field| fields.contains(field)), "{part}");
    }
    for parser in parsers {
        assert!(fields.contains(parser["time_key"].as_str().unwrap()));
        assert_eq!(parser["time_keep"], true, "the field would be lost");
    }
}

#[test]
fn lines_are_shipped_to_the_table_that_takes_them() {
    let schema = read("clickhouse/schema.sql");
    let load = read("clickhouse/load.sql");
    assert!(schema.contains("CREATE TABLE IF NOT EXISTS tracer.incoming"));
    assert!(load.contains("INSERT INTO tracer.incoming"));
    let vector = yaml("vector/vector.yaml");
    let sink = &vector["sinks"]["clickhouse"];
    assert_eq!(
        (&sink["database"], &sink["table"]),
        (&"tracer".into(), &"incoming".into())
    );
    assert_eq!(sink["skip_unknown_fields"], true);
    assert_eq!(sink["date_time_best_effort"], true);
    let fluent = yaml("fluent-bit/fluent-bit.yaml");
    let uri = fluent["pipeline"]["outputs"][0]["uri"].as_str().unwrap();
    let settings = uri.split_once("/?").unwrap().1.split('&');
    let settings: Vec<(&str, &str)> = settings.filter_map(|one| one.split_once('=')).collect();
    assert_eq!(settings[0], ("database", "tracer"));
    assert_eq!(
        settings[1],
        ("query", "INSERT%20INTO%20incoming%20FORMAT%20JSONEachRow")
    );
    let plain = load.replace('\'', "");
    let listed = plain
        .lines()
        .filter_map(|line| line.trim_end_matches(',').split_once(" = "));
    let listed: Vec<(&str, &str)> = listed.map(|(name, value)| (name.trim(), value)).collect();
    assert_eq!(settings[2..], listed);
}
