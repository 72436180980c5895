-- Ports over time by process, as the usage lines tell them at every interval.
SELECT
    ts,
    host,
    netns,
    process.comm AS comm,
    process.id AS id,
    exited,
    ports.total AS total,
    ports.TIME_WAIT AS time_wait,
    ports.bound AS bound
FROM tracer.lines
WHERE type = 'usage'
ORDER BY ts, host, netns, id;
