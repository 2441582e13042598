#!/usr/bin/env python3
"""Puts the events of a Redis stream into pg_tally, each exactly once, whatever is killed and whenever.

usage: consume.py [--redis URL] [--count N] STREAM      connects to Postgres as psql does (PGHOST, PGUSER, PGSERVICE ...)

Each entry of the stream has a field `event`, the text of one event; it needs no event_id. How far the stream has been stored is kept by
pg_tally, in the transaction that stores the events. Nothing is acknowledged to Redis, and no consumer group is needed: start this again,
and it goes on after what the database has. Trim up to the last entry that was stored, and keep that one (XTRIM orders MINID = ...). It
ends with an error where a connection is lost, that entry is gone, since then others may have been trimmed before they were
stored, or another one has come first; whatever supervises it starts it again.

Needs psycopg 3 and redis. Tested with Redis 7.
"""
import argparse
import json
import sys

import psycopg
import redis

# An entry's id is a time in milliseconds and a number; a position holds both: numbers below a million or so, times until the year 2248.
BITS = 20
# A call has entries up to this size, or one that is larger alone. A batch may have 64 MB: of a larger entry so much is kept.
BYTES = 8 << 20
LARGEST = 63 << 20
KEPT = 1 << 20


def position_of(entry):
    time, number = map(int, entry.decode().split("-"))
    if number >> BITS:
        sys.exit(f"entry {entry.decode()} has a number above {(1 << BITS) - 1}")
    return time << BITS | number


def entry_at(position):
    return f"{position >> BITS}-{position & (1 << BITS) - 1}"


def no_json(constant):
    raise ValueError(constant)


def event_of(fields):
    """The text of an entry's event; of what is no JSON object an array with a string of it, which is rejected at its place, is kept and stops
    no other. (A string alone would be refused as events that were written twice.)"""
    data = fields.get(b"event", b"")
    try:
        text = data.decode()
        # Numbers of any length are the server's to read.
        is_event = isinstance(json.loads(text, parse_constant=no_json, parse_int=len, parse_float=len), dict)
    except (ValueError, RecursionError):
        is_event = False
    if is_event and len(data) <= LARGEST:
        return text
    text = data.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    string = json.dumps([text], ensure_ascii=False)
    return string if len(string.encode()) <= LARGEST else json.dumps([text[:KEPT]], ensure_ascii=False)


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--redis", default="redis://localhost:6379")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("stream")
    given = parser.parse_args()
    broker = redis.Redis.from_url(given.redis)
    with psycopg.connect(autocommit=True) as tally:
        stored = tally.execute("SELECT tally.stream_position(%s)", [given.stream]).fetchone()[0] or 0
        while True:
            answer = broker.xread({given.stream: entry_at(stored)}, count=given.count, block=1000)
            if not answer:
                continue
            # Entries are trimmed from the oldest on: while the last one that was stored is there, none after it is gone.
            if stored and not broker.xrange(given.stream, entry_at(stored), entry_at(stored)):
                sys.exit(f"entry {entry_at(stored)}, which was stored last, is gone, and what came after it may be, too")
            positions, events, size = [], [], 0
            for entry, fields in answer[0][1]:
                event = event_of(fields)
                size += len(event.encode())
                if events and size > BYTES:
                    break
                positions.append(position_of(entry))
                events.append(event)
            # Between two entries' positions there are others, which no entry has: the batch begins after what is stored.
            options = {"stream": given.stream, "first": stored + 1, "positions": positions, "on_gap": "refuse"}
            tally.execute("SELECT FROM tally.ingest(%s, %s)", ["[" + ",".join(events) + "]", json.dumps(options)])
            stored = positions[-1]


if __name__ == "__main__":
    main()
