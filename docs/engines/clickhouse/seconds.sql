-- Ports and failures by process and destination, per second: what was opened, what failed, and the ports at the end of
-- each second in which something changed. Connections that were there before the tracer are not counted.
WITH
    changes AS
    (
        SELECT
            toStartOfSecond(ts) AS second,
            host,
            netns,
            process.id AS id,
            process.comm AS comm,
            peer.ip AS peer_ip,
            peer.port AS peer_port,
            countIf(old = 'SYN_SENT' AND new = 'ESTABLISHED') AS opened,
            sumIf(greatest(repeats, 1), type = 'connect_failed') AS failed,
            toInt64(countIf(old = 'CLOSE')) - toInt64(countIf(new = 'CLOSE')) AS taken
        FROM tracer.lines
        WHERE type IN ('state', 'connect_failed') AND role = 'client' AND process.id != ''
            AND (type = 'connect_failed' OR old = 'CLOSE' OR new IN ('CLOSE', 'ESTABLISHED'))
        GROUP BY ALL
    )
SELECT second, host, netns, comm, id, peer_ip, peer_port, opened, failed,
    sum(taken) OVER (PARTITION BY host, netns, id, peer_ip, peer_port ORDER BY second) AS ports
FROM changes
ORDER BY second, host, netns, id, peer_ip, peer_port;
