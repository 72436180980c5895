-- What is missing: for each run of a tracer, lines whose numbers are not there, what its loss lines say, and whether
-- it came to its end.
WITH
    runs AS (SELECT host, ts AS began FROM tracer.lines WHERE type = 'start')
SELECT
    host,
    began,
    max(seq) + 1 - uniqExact(seq) AS missing,
    sumIf(events, type = 'loss') AS lost,
    countIf(type = 'loss' AND NOT resynced) AS not_resynced,
    countIf(type = 'stop') > 0 AS has_stopped
FROM tracer.lines ASOF INNER JOIN runs ON lines.host = runs.host AND lines.ts >= runs.began
GROUP BY host, began
ORDER BY host, began;
