-- Failures by reason, process and destination, per minute.
SELECT
    date_trunc('minute', ts) AS minute,
    type,
    reason,
    host,
    process.comm AS comm,
    process.id AS id,
    peer.ip AS peer_ip,
    peer.port AS peer_port,
    sum(coalesce(repeats, 1)) AS failures
FROM lines
WHERE type IN ('connect_failed', 'bind_failed')
GROUP BY ALL
ORDER BY minute, type, reason, host, id, peer_ip, peer_port;
