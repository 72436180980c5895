-- The advice that was given most often, on how many hosts, and the latest reason for it.
SELECT
    one.id AS advice,
    count() AS given,
    uniqExact(host) AS hosts,
    argMax(one.why, (ts, host, seq)) AS latest_why
FROM tracer.lines
ARRAY JOIN advice AS one
WHERE type IN ('connect_failed', 'bind_failed', 'pressure')
GROUP BY one.id
ORDER BY given DESC, advice;
