-- Ports over time by process, as the usage lines tell them at every interval.
SELECT
    ts,
    host,
    netns,
    process.comm AS comm,
    process.id AS id,
    coalesce(exited, false) AS exited,
    ports.total AS total,
    coalesce(ports.TIME_WAIT, 0) AS time_wait,
    ports.bound AS bound
FROM lines
WHERE type = 'usage'
ORDER BY ts, host, netns, id NULLS FIRST;
