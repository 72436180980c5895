-- What came before the first failure of a host: destinations under pressure, and processes that were new. The first row
-- of a host is the first sign.
WITH
    failures AS
    (
        SELECT host, min(ts) AS failure
        FROM tracer.lines
        WHERE type IN ('connect_failed', 'bind_failed') AND reason = 'ports_exhausted'
        GROUP BY host
    ),
    runs AS (SELECT host, min(ts) AS began FROM tracer.lines WHERE type = 'start' GROUP BY host),
    signs AS
    (
        SELECT host, ts, 'pressure' AS sign, level AS what, peer.ip AS peer_ip, peer.port AS peer_port
        FROM tracer.lines
        WHERE type = 'pressure' AND level != 'ok'
        UNION ALL
        SELECT host, lines.start AS ts, 'new_process', comm, '', 0
        FROM tracer.lines INNER JOIN runs USING (host)
        WHERE type = 'process' AND lines.start > began
    )
SELECT host, sign, what, peer_ip, peer_port, ts, failure,
    intDiv(toUnixTimestamp64Nano(failure) - toUnixTimestamp64Nano(assumeNotNull(ts)), 1000000) AS ms_before
FROM signs INNER JOIN failures USING (host)
WHERE ts < failure
ORDER BY host, ts, sign, what, peer_ip, peer_port;
