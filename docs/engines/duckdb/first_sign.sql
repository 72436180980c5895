-- What came before the first failure of a host: destinations under pressure, and processes that were new. The first row
-- of a host is the first sign.
WITH
    failures AS
    (
        SELECT host, min(ts) AS failure
        FROM lines
        WHERE type IN ('connect_failed', 'bind_failed') AND reason = 'ports_exhausted'
        GROUP BY host
    ),
    runs AS (SELECT host, min(ts) AS began FROM lines WHERE type = 'start' GROUP BY host),
    signs AS
    (
        SELECT host, ts, 'pressure' AS sign, level AS what, peer.ip AS peer_ip, peer.port AS peer_port
        FROM lines
        WHERE type = 'pressure' AND level != 'ok'
        UNION ALL
        SELECT host, start, 'new_process', comm, NULL, NULL
        FROM lines INNER JOIN runs USING (host)
        WHERE type = 'process' AND start > began
    )
SELECT host, sign, what, peer_ip, peer_port, ts, failure,
    (epoch_ns(failure) - epoch_ns(ts)) // 1000000 AS ms_before
FROM signs INNER JOIN failures USING (host)
WHERE ts < failure
ORDER BY host, ts, sign, what, peer_ip NULLS FIRST, peer_port;
