-- The lines of many hosts in one table, with the names of their fields. ClickHouse 25.3 or later.
--
-- Fields of one type of line are empty in the others: such columns cost next to nothing on disk. Ports are 0 where
-- the lines have null, process.id is '' where nobody could be named. Fields that are not here are skipped.

CREATE DATABASE IF NOT EXISTS tracer;

CREATE TABLE IF NOT EXISTS tracer.lines
(
    -- Every line. Times grow almost evenly, and so do numbers: their differences are small.
    v UInt8,
    type LowCardinality(String),
    ts DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    seq UInt64 CODEC(Delta, ZSTD(1)),
    host LowCardinality(String),
    labels Map(LowCardinality(String), String),

    -- Where and who: state, connection, socket, connect_failed, bind_failed, pressure, usage, netns.
    netns UInt32 CODEC(ZSTD(1)),
    family LowCardinality(String),
    role LowCardinality(String),
    local Tuple(ip LowCardinality(String), port UInt16),
    peer Tuple(ip String, port UInt16) CODEC(ZSTD(1)),
    process Tuple(id String, pid UInt32, tid UInt32, comm LowCardinality(String)) CODEC(ZSTD(1)),
    owner LowCardinality(String),
    -- A number that only grows, as text in JSON. 0: none.
    cookie UInt64 CODEC(Delta, ZSTD(1)),

    -- state
    old LowCardinality(String),
    new LowCardinality(String),
    corrected Bool,

    -- connect_failed, bind_failed
    errno UInt16,
    error LowCardinality(String),
    reason LowCardinality(String),
    listen Bool,
    failures_so_far UInt64 CODEC(Delta, ZSTD(1)),
    -- 0: the line stands for one failure.
    repeats UInt64,
    explained_by Nullable(UInt64) CODEC(ZSTD(1)),
    since Nullable(DateTime64(9, 'UTC')) CODEC(ZSTD(1)),

    -- connect_failed, bind_failed, pressure
    budget Tuple(ports Array(UInt16), range UInt32, reserved UInt32, bound UInt32, in_use UInt32, time_wait UInt32,
        reusable UInt32, free UInt32),
    holders Array(Tuple(process Tuple(id String, pid UInt32, comm LowCardinality(String)), exited Bool, others UInt32,
        ports UInt32, states Map(LowCardinality(String), UInt32), bound UInt32)) CODEC(ZSTD(3)),
    advice Array(Tuple(id LowCardinality(String), why String, how String)) CODEC(ZSTD(3)),

    -- pressure
    local_ip LowCardinality(String),
    level LowCardinality(String),
    used_percent Float64,
    open_rate Nullable(Float64),
    close_rate Nullable(Float64),
    net_rate Nullable(Float64),
    forecast LowCardinality(String),
    exhausts_in_s Nullable(Float64),
    steady_state Nullable(UInt64),

    -- usage
    interval_s Float64 CODEC(ZSTD(1)),
    exited Bool,
    ports Tuple(total UInt64, bound UInt64, TIME_WAIT UInt64, ESTABLISHED UInt64, SYN_SENT UInt64, SYN_RECV UInt64,
        FIN_WAIT1 UInt64, FIN_WAIT2 UInt64, CLOSING UInt64, CLOSE_WAIT UInt64, LAST_ACK UInt64, LISTEN UInt64)
        CODEC(ZSTD(1)),
    serving Tuple(total UInt64) CODEC(ZSTD(1)),
    -- In connection lines `opened` is a time: see below.
    opened UInt64,
    closed UInt64,
    failed UInt64,
    top Array(Tuple(local_ip LowCardinality(String), peer Tuple(ip String, port UInt16), ports UInt64, time_wait UInt64))
        CODEC(ZSTD(1)),

    -- connection
    opened_at Nullable(DateTime64(9, 'UTC')) CODEC(ZSTD(1)),
    closed_at Nullable(DateTime64(9, 'UTC')) CODEC(ZSTD(1)),
    duration_ms Nullable(Float64) CODEC(ZSTD(1)),
    established Bool,
    `end` LowCardinality(String),
    closed_by Tuple(id String, pid UInt32, tid UInt32, comm LowCardinality(String)) CODEC(ZSTD(1)),
    bytes_sent Nullable(UInt64) CODEC(T64, ZSTD(1)),
    bytes_received Nullable(UInt64) CODEC(T64, ZSTD(1)),
    time_wait_s Nullable(Float64) CODEC(ZSTD(1)),

    -- process
    id String CODEC(ZSTD(1)),
    pid UInt32,
    comm LowCardinality(String),
    exe String CODEC(ZSTD(1)),
    start Nullable(DateTime64(9, 'UTC')),
    uid UInt32,
    cgroup String CODEC(ZSTD(1)),
    container Tuple(runtime LowCardinality(String), id String) CODEC(ZSTD(1)),

    -- start, and netns: the settings of network namespaces
    tracer LowCardinality(String),
    kernel LowCardinality(String),
    namespaces Array(Tuple(netns UInt32, range Array(UInt16), reserved UInt32, tw_reuse UInt8)) CODEC(ZSTD(1)),
    range Array(UInt16),

    -- loss, stop
    events UInt64,
    `where` LowCardinality(String),
    resynced Bool,
    dropped Map(LowCardinality(String), UInt64),
    output LowCardinality(String),
    lines UInt64,
    lost UInt64,
    failures UInt64,
    bind_failures UInt64
)
ENGINE = MergeTree
PARTITION BY toDate(ts)
-- Questions are about one type of line; then one host's lie together, in the order of time.
ORDER BY (type, host, ts, seq)
TTL toDateTime(ts) + INTERVAL 30 DAY;

-- Lines go in here. Nothing is kept: the view below takes them apart.
--
-- A few fields have different types in different lines: `netns` is the list of all namespaces in `start`, and a number
-- elsewhere; `opened` and `closed` are times in `connection`, and counts in `usage`. A null tuple is an empty one.
CREATE TABLE IF NOT EXISTS tracer.incoming AS tracer.lines ENGINE = Null;
ALTER TABLE tracer.incoming
    MODIFY COLUMN netns String,
    MODIFY COLUMN opened String,
    MODIFY COLUMN closed String,
    DROP COLUMN namespaces,
    DROP COLUMN opened_at,
    DROP COLUMN closed_at;

CREATE MATERIALIZED VIEW IF NOT EXISTS tracer.intake TO tracer.lines AS
SELECT
    * EXCEPT (netns, opened, closed),
    toUInt32OrZero(incoming.netns) AS netns,
    JSONExtract(if(type = 'start', incoming.netns, ''),
        'Array(Tuple(netns UInt32, range Array(UInt16), reserved UInt32, tw_reuse UInt8))') AS namespaces,
    toUInt64OrZero(incoming.opened) AS opened,
    toUInt64OrZero(incoming.closed) AS closed,
    if(type = 'connection', parseDateTime64BestEffortOrNull(incoming.opened, 9, 'UTC'), NULL) AS opened_at,
    if(type = 'connection', parseDateTime64BestEffortOrNull(incoming.closed, 9, 'UTC'), NULL) AS closed_at
FROM tracer.incoming;
