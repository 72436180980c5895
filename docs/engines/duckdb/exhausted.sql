-- Who exhausted what, across the fleet: who found no port, where to, how often, and who had most of them at first.
SELECT
    host,
    netns,
    process.comm AS comm,
    process.id AS id,
    peer.ip AS peer_ip,
    peer.port AS peer_port,
    sum(coalesce(repeats, 1)) AS failures,
    min(ts) AS first,
    max(ts) AS last,
    arg_min(holders[1].process.comm, (ts, seq)) FILTER (len(holders) > 0) AS holder,
    arg_min(holders[1].ports, (ts, seq)) FILTER (len(holders) > 0) AS holder_ports
FROM lines
WHERE type IN ('connect_failed', 'bind_failed') AND reason = 'ports_exhausted'
GROUP BY ALL
ORDER BY failures DESC, host, id, peer_ip, peer_port;
