-- Ports and failures by process and destination, per second: what was opened, what failed, and the ports at the end of
-- each second in which something changed. Connections that were there before the tracer are not counted.
WITH
    changes AS
    (
        SELECT
            date_trunc('second', ts) AS second,
            host,
            netns,
            process.id AS id,
            process.comm AS comm,
            peer.ip AS peer_ip,
            peer.port AS peer_port,
            count(*) FILTER (old = 'SYN_SENT' AND new = 'ESTABLISHED') AS opened,
            coalesce(sum(coalesce(repeats, 1)) FILTER (type = 'connect_failed'), 0) AS failed,
            count(*) FILTER (old = 'CLOSE') - count(*) FILTER (new = 'CLOSE') AS taken
        FROM lines
        WHERE type IN ('state', 'connect_failed') AND role = 'client' AND process IS NOT NULL
            AND (type = 'connect_failed' OR old = 'CLOSE' OR new IN ('CLOSE', 'ESTABLISHED'))
        GROUP BY ALL
    )
SELECT second, host, netns, comm, id, peer_ip, peer_port, opened, failed,
    sum(taken) OVER (PARTITION BY host, netns, id, peer_ip, peer_port ORDER BY second) AS ports
FROM changes
ORDER BY second, host, netns, id, peer_ip, peer_port;
