-- Who has TIME_WAIT: the most that each process had, when that was, and whether it has ended since.
SELECT
    host,
    netns,
    process.comm AS comm,
    process.id AS id,
    max(ports.TIME_WAIT) AS most,
    argMax(ts, (ports.TIME_WAIT, -toUnixTimestamp64Nano(ts))) AS at,
    max(exited) AS has_ended
FROM tracer.lines
WHERE type = 'usage' AND ports.TIME_WAIT > 0
GROUP BY ALL
ORDER BY most DESC, host, netns, id;
