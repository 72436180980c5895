--     clickhouse-client --query "$(cat load.sql)" < trace.jsonl
--     zstd -dc trace.jsonl.zst | clickhouse-client --query "$(cat load.sql)"
--
-- Fields that the table lacks are skipped. All other settings as ClickHouse has them: null becomes the column's default,
-- and the fields whose type depends on the line are read as text. A line that is no JSON ends the load; to go on behind
-- such lines, and to have them in a file: input_format_allow_errors_num, input_format_record_errors_file_path.
INSERT INTO tracer.incoming
SETTINGS
    input_format_skip_unknown_fields = 1,
    date_time_input_format = 'best_effort'
FORMAT JSONEachRow
