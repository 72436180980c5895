"""Asks an engine every question under docs/engines: ENGINE DIRECTORY DATA FILE... prints one JSON object, rows by question.

The engines are Python packages, see requirements.txt.
"""

import json
import pathlib
import sys


def questions(directory, others):
    files = sorted(directory.glob("*.sql"))
    return {file.stem: file.read_text() for file in files if file.name not in others}


def without_comments(text):
    return "\n".join(line for line in text.splitlines() if not line.strip().startswith("--"))


def clickhouse(directory, data, files):
    import chdb.session

    session = chdb.session.Session(data)
    for statement in without_comments((directory / "schema.sql").read_text()).split(";"):
        if statement.strip():
            session.query(statement)
    # Simulated lines may be older than the table keeps them.
    session.query("ALTER TABLE tracer.lines REMOVE TTL")
    load = without_comments((directory / "load.sql").read_text())
    for file in files:
        session.query(load.replace("SETTINGS", f"FROM INFILE '{file}' SETTINGS", 1))
    answers = {}
    for name, question in questions(directory, ["schema.sql", "load.sql"]).items():
        question = question.strip().removesuffix(";")
        question += "\nSETTINGS output_format_json_quote_64bit_integers = 0"
        lines = session.query(question, "JSONEachRow").bytes().decode().splitlines()
        answers[name] = [json.loads(line) for line in lines]
    return answers


def duckdb(directory, data, files):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET temp_directory = ?", [data])
    connection.execute("SET VARIABLE files = ?", [files])
    connection.execute((directory / "view.sql").read_text())
    answers = {}
    for name, question in questions(directory, ["view.sql"]).items():
        question = question.strip().removesuffix(";")
        # As text, for all digits of a time.
        rows = connection.execute(f"SELECT to_json(answer)::VARCHAR FROM ({question}) AS answer").fetchall()
        answers[name] = [json.loads(row) for row, in rows]
    return answers


engine, directory, data, *files = sys.argv[1:]
ask = {"clickhouse": clickhouse, "duckdb": duckdb}[engine]
json.dump(ask(pathlib.Path(directory), data, files), sys.stdout)
