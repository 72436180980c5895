-- The advice that was given most often, on how many hosts, and the latest reason for it.
WITH given AS
(
    SELECT ts, host, seq, unnest(advice) AS one
    FROM lines
    WHERE type IN ('connect_failed', 'bind_failed', 'pressure')
)
SELECT
    one.id AS advice,
    count(*) AS given,
    count(DISTINCT host) AS hosts,
    arg_max(one.why, (ts, host, seq)) AS latest_why
FROM given
GROUP BY one.id
ORDER BY given DESC, advice;
