-- The lines, read from the files themselves each time; DuckDB 1.3 or later. Compressed files as they are: .gz, .zst.
--
--     SET VARIABLE files = ['trace.jsonl', 'older/*.jsonl.zst'];
--
-- Only fields that are named here are read, and only those that a query asks for are kept. `netns` is a list in
-- `start` lines, and a number elsewhere; `opened` and `closed` are times in `connection` lines, and counts in `usage`:
-- these come as JSON. A line that is no JSON ends the query with its number, unless `ignore_errors` is true; then it
-- is skipped without a word.
CREATE OR REPLACE VIEW lines AS
SELECT
    * REPLACE (
        TRY_CAST(netns AS UINTEGER) AS netns,
        TRY_CAST(opened AS UBIGINT) AS opened,
        TRY_CAST(closed AS UBIGINT) AS closed
    )
FROM read_json(
    getvariable('files'),
    format = 'newline_delimited',
    maximum_object_size = 16777216,
    ignore_errors = false,
    columns = {
        v: 'UTINYINT',
        type: 'VARCHAR',
        ts: 'TIMESTAMP_NS',
        seq: 'UBIGINT',
        host: 'VARCHAR',
        labels: 'MAP(VARCHAR, VARCHAR)',
        netns: 'JSON',
        role: 'VARCHAR',
        peer: 'STRUCT(ip VARCHAR, port USMALLINT)',
        process: 'STRUCT(id VARCHAR, pid UINTEGER, comm VARCHAR)',
        -- state
        old: 'VARCHAR',
        new: 'VARCHAR',
        -- connect_failed, bind_failed
        reason: 'VARCHAR',
        repeats: 'UBIGINT',
        explained_by: 'UBIGINT',
        -- these, and pressure
        budget: 'STRUCT("range" UINTEGER, reserved UINTEGER, bound UINTEGER, in_use UINTEGER, time_wait UINTEGER,
            reusable UINTEGER, free UINTEGER)',
        holders: 'STRUCT(process STRUCT(id VARCHAR, pid UINTEGER, comm VARCHAR), exited BOOLEAN, ports UINTEGER,
            bound UINTEGER)[]',
        advice: 'STRUCT(id VARCHAR, why VARCHAR, how VARCHAR)[]',
        local_ip: 'VARCHAR',
        level: 'VARCHAR',
        forecast: 'VARCHAR',
        exhausts_in_s: 'DOUBLE',
        -- usage
        exited: 'BOOLEAN',
        ports: 'STRUCT(total UBIGINT, bound UBIGINT, TIME_WAIT UBIGINT, ESTABLISHED UBIGINT)',
        opened: 'JSON',
        closed: 'JSON',
        failed: 'UBIGINT',
        top: 'STRUCT(local_ip VARCHAR, peer STRUCT(ip VARCHAR, port USMALLINT), ports UBIGINT, time_wait UBIGINT)[]',
        -- process
        id: 'VARCHAR',
        pid: 'UINTEGER',
        comm: 'VARCHAR',
        exe: 'VARCHAR',
        start: 'TIMESTAMP_NS',
        -- loss, stop
        events: 'UBIGINT',
        "where": 'VARCHAR',
        resynced: 'BOOLEAN',
        lines: 'UBIGINT'
    }
);
