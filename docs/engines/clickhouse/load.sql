-- clickhouse-client --queries-file load.sql < trace.jsonl         (zstd -dc trace.jsonl.zst | ...)
--
-- Fields that the table lacks are skipped, null becomes the column's default, and the few fields whose type depends
-- on the line are read as text.
INSERT INTO tracer.incoming
SETTINGS
    input_format_skip_unknown_fields = 1,
    input_format_null_as_default = 1,
    input_format_json_read_objects_as_strings = 1,
    input_format_json_read_arrays_as_strings = 1,
    input_format_json_read_numbers_as_strings = 1,
    input_format_json_ignore_unknown_keys_in_named_tuple = 1,
    date_time_input_format = 'best_effort'
FORMAT JSONEachRow
