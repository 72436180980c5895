-- What is missing: for each run of a tracer, lines whose numbers are not there, what its loss lines say, and whether
-- it came to its end.
WITH
    runs AS (SELECT host, ts AS began FROM lines WHERE type = 'start')
SELECT
    lines.host AS host,
    began,
    max(seq) + 1 - count(DISTINCT seq) AS missing,
    coalesce(sum(events) FILTER (type = 'loss'), 0) AS lost,
    count(*) FILTER (type = 'loss' AND NOT resynced) AS not_resynced,
    bool_or(type = 'stop') AS has_stopped
FROM lines ASOF INNER JOIN runs ON lines.host = runs.host AND lines.ts >= runs.began
GROUP BY ALL
ORDER BY host, began;
