#!/usr/bin/python3
"""The metrics a second time, slowly, from docs/metrics.md and not from the SQL.

usage: metrics.py EVENTS QUESTIONS    events as JSON lines; questions as JSON lines with scope, function and arguments
Prints one JSON array of rows for each question.
"""
import json
import math
import sys
from bisect import bisect_left
from collections import defaultdict
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal

import pandas as pd

SECOND = 1_000_000


def micros(text):
    return pd.Timestamp(text).value // 1000


def window_of(text):
    return pd.Timedelta(text).value // 1000


def day_of(time):
    return pd.Timestamp(time, unit="us").date()


def start_of(grain, day):
    if grain == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if grain == "month" else day


def distance(grain, first, second):
    """Periods from one period's first day to another's."""
    if grain == "month":
        return (second.year - first.year) * 12 + second.month - first.month
    return (second - first).days // (7 if grain == "week" else 1)


def following(grain, start):
    return start_of(grain, start + timedelta(days={"day": 1, "week": 7, "month": 31}[grain]))


def periods(grain, span):
    """Every period that the range touches, and whether the range has all of it."""
    since, until = micros(span["from"]), micros(span["to"])
    start = start_of(grain, day_of(since))
    while micros(start.isoformat()) < until:
        after = following(grain, start)
        yield start, since <= micros(start.isoformat()) and micros(after.isoformat()) <= until
        start = after


def percentile(values, fraction):
    """The smallest value that this fraction of the values doesn't exceed."""
    values = sorted(values)
    return values[max(math.ceil(fraction * len(values)), 1) - 1] / SECOND if values else None


def ratio(part, whole):
    return part / whole if whole else None


def by_unit(events, unit):
    groups = defaultdict(list)
    for event in events:
        if event.get(unit + "_id") is not None:
            groups[event["tenant_id"], event[unit + "_id"]].append(event)
    return groups


def text_of(event, key):
    value = event["properties"].get(key)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, dict, list)) else str(value)


def fits(event, step):
    step = {"event": step} if isinstance(step, str) else step
    wanted = step.get("where", {})
    return event["name"] == step["event"] and all(event["properties"].get(key) == wanted[key] for key in wanted)


def walks(events, begin, steps, window, strict, exclude):
    """Chains from one first step, each the times of its steps: the earliest next step each time, or when strict
    every one that has no event between. Steps fit the same events or have no event in common."""
    first = events[begin]["time"]
    barred = [e["time"] for e in events if e["name"] in exclude and e["time"] > first]
    last = min([first + window] + barred[:1])
    times = [e["time"] for e in events]

    def go(used):
        yield [events[at]["time"] for at in used]
        if len(used) == len(steps):
            return
        now = events[used[-1]]["time"]
        later = [t for t in times if t > now]
        for at in range(bisect_left(times, now), len(events)):
            if times[at] > last or (strict and later and times[at] > later[0]):
                return
            if at not in used and fits(events[at], steps[len(used)]):
                yield from go(used + [at])
                if not strict:
                    return

    return go([begin])


def gathering(events, begin, steps, window, exclude):
    """In any order: from one event on, when one, two … of the steps had been taken, each by an event of its own. Steps
    fit the same events or have no event in common."""
    first = events[begin]["time"]
    barred = [e["time"] for e in events if e["name"] in exclude and e["time"] > first]
    own = [e for e in events if first <= e["time"] <= min([first + window] + barred[:1])]
    kinds = [json.dumps(step, sort_keys=True) for step in steps]
    way = []
    for moment in sorted({e["time"] for e in own}):
        upto = [e for e in own if e["time"] <= moment]
        taken = sum(min(kinds.count(kind), sum(fits(e, json.loads(kind)) for e in upto)) for kind in set(kinds))
        way += [moment] * (taken - len(way))
    return way


def funnel(events, steps, window, unit="user", strict=False, hold=None, breakdown=None, exclude=(), any_order=False,
           attribution="first_step", **span):
    since, until, window = micros(span["from"]), micros(span["to"]), window_of(window)
    labels = [s if isinstance(s, str) else s.get("label", s["event"]) for s in steps]
    openers = steps[:1]
    if any_order:
        labels, openers = [f"any {place + 1}" for place in range(len(steps))], steps
    chains = []
    for own in by_unit(events, unit).values():
        held = defaultdict(list)
        for event in own:
            if since <= event["time"] and (event["time"] < until or not any_order) and (hold is None or text_of(event, hold) is not None):
                if strict or event["name"] in exclude or any(fits(event, step) for step in steps):
                    held[hold and text_of(event, hold)].append(event)
        found = []
        for value, some in held.items():
            some.sort(key=lambda event: event["time"])
            for begin, event in enumerate(some):
                if any(fits(event, step) for step in openers) and event["time"] < until:
                    ways = walks(some, begin, steps, window, strict, exclude)
                    if any_order:
                        ways = [gathering(some, begin, steps, window, exclude)]
                    for way in ways:
                        found.append(((-len(way), way[-1], -way[0], way), value or "", some))
        if found:
            (_, _, _, way), _, some = min(found, key=lambda one: one[:2])
            place = 0 if attribution == "first_step" else len(way) - 1
            deciders = steps if any_order else [steps[place]]
            traits = [text_of(e, breakdown) for e in some
                      if breakdown and e["time"] == way[place] and any(fits(e, step) for step in deciders)]
            traits = [trait for trait in traits if trait is not None]
            chains.append((min(traits) if traits else None, way))
    segments = {segment for segment, _ in chains} or ({None} if breakdown is None else set())
    for segment in sorted(segments, key=lambda s: (s is None, s or "")):
        own = [way for other, way in chains if other == segment]
        units = [sum(len(way) > step for way in own) for step in range(len(steps))]
        for step, label in enumerate(labels):
            waits = [way[step] - way[step - 1] for way in own if step and len(way) > step]
            yield dict(segment=segment, step=step + 1, name=label, units=units[step],
                       from_first=ratio(units[step], units[0]), from_previous=ratio(units[step], units[max(step - 1, 0)]),
                       drop_off=units[max(step - 1, 0)] - units[step],
                       median_seconds=percentile(waits, 0.5), p90_seconds=percentile(waits, 0.9))


def retention(events, start_event, return_event, grain, unit="user", kind="first_time",
              brackets=(0, 1, 3, 7, 14, 30), members=None, **span):
    """By whole days; members: units alone that have so many events of a name in the range."""
    first, last = day_of(micros(span["from"])), day_of(micros(span["to"]) - 1)
    cohorts = defaultdict(list)
    chosen = None
    if members is not None:
        chosen = {(row["tenant_id"], row["unit_id"]) for row in did_at_least(events, *members, unit=unit, **span)}
    for who, own in by_unit(events, unit).items():
        if chosen is not None and who not in chosen:
            continue
        starts = [day_of(e["time"]) for e in own if start_event in (None, e["name"])]
        if starts and first <= min(starts) <= last:
            began, cohort = min(starts), start_of(grain, min(starts))
            cohorts[cohort].append({distance(grain, cohort, start_of(grain, day_of(e["time"]))) for e in own
                                    if began <= day_of(e["time"]) <= last and return_event in (None, e["name"])})
    for cohort, members in sorted(cohorts.items()):
        most = distance(grain, cohort, start_of(grain, last))
        if kind == "bracketed":
            ends = list(brackets[1:]) + [math.inf]
            rows = [(b, e if e < math.inf else b + 1, lambda p, b=b, e=e: b <= p < e) for b, e in zip(brackets, ends) if b <= most]
        elif kind == "rolling":
            rows = [(n, n + 1, lambda p, n=n: p >= n) for n in range(most + 1)]
        else:
            rows = [(n, n + 1, lambda p, n=n: p == n) for n in range(most + 1)]
        over = last + timedelta(days=1)
        for period, end, counts in rows:
            retained = sum(any(counts(visit) for visit in visits) for visits in members)
            # Over once so many periods have ended by the end of the last day.
            complete = distance(grain, cohort, start_of(grain, over)) >= end
            yield dict(cohort=cohort.isoformat(), period=period, cohort_size=len(members), retained=retained,
                       rate=retained / len(members), complete=complete)


def retention_curve(events, *arguments, **named):
    """Each period over the cohorts that have it."""
    totals = defaultdict(lambda: [0, 0, True])
    for row in retention(events, *arguments, **named):
        totals[row["period"]][0] += row["cohort_size"]
        totals[row["period"]][1] += row["retained"]
        totals[row["period"]][2] &= row["complete"]
    for period, (size, retained, complete) in sorted(totals.items()):
        yield dict(period=period, units=size, retained=retained, rate=retained / size, complete=complete)


def activation(events, start_event, activation_event, window, unit="user", grain="month", **span):
    cohorts = defaultdict(list)
    for own in by_unit(events, unit).values():
        starts = [e["time"] for e in own if start_event in (None, e["name"])]
        if starts and micros(span["from"]) <= min(starts) < micros(span["to"]):
            reached = min((e["time"] for e in own if e["name"] == activation_event), default=math.inf)
            wait = max(reached - min(starts), 0)
            cohorts[start_of(grain, day_of(min(starts)))].append(wait if wait <= window_of(window) else None)
    for cohort, whole in periods(grain, span):
        waits = cohorts[cohort]
        reached = [wait for wait in waits if wait is not None]
        yield dict(cohort=cohort.isoformat(), cohort_size=len(waits), activated=len(reached),
                   rate=ratio(len(reached), len(waits)), median_seconds=percentile(reached, 0.5),
                   p90_seconds=percentile(reached, 0.9), complete=whole)


GAP = 30 * 60 * SECOND


def all_sessions(events):
    """Each session: account, session_id or None, user, times."""
    sent, silent = defaultdict(list), defaultdict(list)
    for e in events:
        if e.get("session_id") is not None:
            sent[e["tenant_id"], e["account_id"], e["session_id"]].append(e)
        elif e.get("user_id") is not None:
            silent[e["tenant_id"], e["account_id"], e["user_id"]].append(e["time"])
    for (tenant, account, session), own in sent.items():
        users = [e["user_id"] for e in own if e.get("user_id") is not None]
        yield tenant, account, session, max(users, default=None), sorted(e["time"] for e in own)
    for (tenant, account, user), times in silent.items():
        times.sort()
        begins = 0
        for place in range(1, len(times) + 1):
            if place == len(times) or times[place] - times[place - 1] > GAP:
                yield tenant, account, None, user, times[begins:place]
                begins = place


def session_metrics(events, grain="day", **span):
    begun = defaultdict(list)
    for _, _, _, _, times in all_sessions(events):
        if micros(span["from"]) <= times[0] < micros(span["to"]):
            begun[start_of(grain, day_of(times[0]))].append(times)
    for period, whole in periods(grain, span):
        own = begun[period]
        lengths = [times[-1] - times[0] for times in own]
        bounced = sum(len(times) == 1 for times in own)
        yield dict(period=period.isoformat(), sessions=len(own), bounced=bounced, bounce_rate=ratio(bounced, len(own)),
                   events=sum(len(times) for times in own), mean_seconds=sum(lengths) / len(own) / SECOND if own else None,
                   median_seconds=percentile(lengths, 0.5), p90_seconds=percentile(lengths, 0.9), complete=whole)


def revenue(events, grain="month", amount_property="amount", currency_property="currency", event=None, **span):
    books = defaultdict(lambda: defaultdict(Decimal))
    for e in events:
        amount = e["properties"].get(amount_property)
        number = isinstance(amount, (int, Decimal)) and not isinstance(amount, bool)
        if number and e["time"] < micros(span["to"]) and event in (None, e["name"]):
            book = books[e["tenant_id"], e["account_id"], text_of(e, currency_property)]
            book[start_of(grain, day_of(e["time"]))] += amount
    first, last = (start_of(grain, day_of(t)) for t in (micros(span["from"]), micros(span["to"]) - 1))
    rows = []
    for (tenant, account, currency), book in books.items():
        # Every period from the first payment on, one after another.
        period, previous, known, total = min(book), Decimal(0), False, Decimal(0)
        while period <= following(grain, max(book)):
            amount, total = book.get(period, Decimal(0)), total + book.get(period, Decimal(0))
            paying, row = max(amount, Decimal(0)), dict.fromkeys(
                ["new", "reactivation", "expansion", "contraction", "churned"], Decimal(0))
            if paying and not previous:
                row["reactivation" if known else "new"] = paying
            elif previous and not paying:
                row["churned"] = previous
            elif paying > previous:
                row["expansion"] = paying - previous
            else:
                row["contraction"] = previous - paying
            paid_now_or_before = period in book or any(following(grain, p) == period for p in book)
            if first <= period <= last and paid_now_or_before:
                complete = micros(following(grain, period).isoformat()) <= micros(span["to"])
                rows.append(dict(complete=complete, period=period.isoformat(), tenant_id=tenant, account_id=account, currency=currency,
                                 amount=amount, arpa=None, cumulative=total, **row))
            period, previous, known = following(grain, period), paying, known or paying > 0
    for row in rows:
        peers = [r["amount"] for r in rows if (r["period"], r["currency"]) == (row["period"], row["currency"])]
        peers = [amount for amount in peers if amount > 0]
        if peers:
            row["arpa"] = (sum(peers) / len(peers)).quantize(Decimal("0.000001"), ROUND_HALF_UP)
    order = lambda r: (r["period"], r["tenant_id"], r["account_id"], r["currency"] is None, r["currency"] or "")
    return sorted(rows, key=order)


def active_users(events, days, unit="user"):
    first, end = (pd.Timestamp(day) for day in days.strip("[)").split(","))
    frame = pd.DataFrame([(pd.Timestamp(day_of(e["time"])), (e["tenant_id"], e[unit + "_id"])) for e in events
                          if e.get(unit + "_id") is not None], columns=["day", "unit"])
    for day in pd.date_range(first, end - pd.Timedelta(days=1)):
        count = lambda n: frame[(frame.day <= day) & (frame.day > day - pd.Timedelta(days=n))].unit.nunique()
        dau, wau, mau = count(1), count(7), count(30)
        yield dict(day=day.date().isoformat(), dau=dau, wau=wau, mau=mau, stickiness=ratio(dau, mau),
                   complete=True)


def did_at_least(events, event, n, unit="user", **span):
    for (tenant, who), own in sorted(by_unit(events, unit).items()):
        times = [e["time"] for e in own if event in (None, e["name"])]
        times = [t for t in times if micros(span["from"]) <= t < micros(span["to"])]
        if len(times) >= n:
            yield dict(tenant_id=tenant, unit_id=who, times=len(times), first_at=min(times), last_at=max(times))


def account_health(events, account, as_of, zone="UTC"):
    moment, month = micros(as_of), 30 * 86_400 * SECOND
    own = [e for e in events if e["account_id"] == account and e["time"] < moment]
    recent = [e for e in own if e["time"] >= moment - month]
    before = [e for e in own if moment - 2 * month <= e["time"] < moment - month]
    people = lambda some: len({e["user_id"] for e in some if e.get("user_id") is not None})
    local = lambda t: pd.Timestamp(t, unit="us", tz="UTC").tz_convert(zone).tz_localize(None).isoformat()
    times = [e["time"] for e in own]
    status = "active"
    if not own:
        status = "never"
    elif not recent:
        status = "dormant"
    elif len(recent) < len(before) / 2:
        status = "declining"
    yield dict(account_id=account, status=status, first_seen=local(min(times)) if own else None,
               last_seen=local(max(times)) if own else None,
               days_since=(moment - max(times)) // (86_400 * SECOND) if own else None, events_30d=len(recent),
               events_before=len(before), trend=ratio(len(recent), len(before)), users_30d=people(recent),
               users_before=people(before), active_days_30d=len({day_of(e["time"]) for e in recent}))


def accounts_health(events, as_of, zone="UTC"):
    known = sorted({(e["tenant_id"], e["account_id"]) for e in events if e["time"] < micros(as_of)})
    for tenant, account in known:
        for row in account_health([e for e in events if e["tenant_id"] == tenant], account, as_of, zone):
            yield dict(tenant_id=tenant, **row)


def metric_value(events, definition, **span):
    """A declared metric of the kinds that are sums; what the others are made of is above."""
    own = [e for e in events if micros(span["from"]) <= e["time"] < micros(span["to"]) and definition.get("event") in (None, e["name"])]
    if definition["kind"] == "events":
        value = len(own)
    elif definition["kind"] == "units":
        value = len(by_unit(own, definition.get("unit", "user")))
    elif definition["kind"] == "funnel":
        steps = dict(definition, **span)
        value = [row["from_first"] for row in funnel(events, **{k: v for k, v in steps.items() if k != "kind"})][-1]
    else:
        numbers = []
        for e in own:
            number = e["properties"].get(definition["property"])
            if isinstance(number, (int, Decimal)) and not isinstance(number, bool):
                numbers.append(number)
            elif definition.get("missing") == "zero":
                numbers.append(0)
        bounds = definition.get("outliers", {})
        least, greatest = bounds.get("least", -math.inf), bounds.get("greatest", math.inf)
        if bounds.get("treat") == "drop":
            numbers = [n for n in numbers if least <= n <= greatest]
        elif bounds:
            numbers = [min(max(n, least), greatest) for n in numbers]
        value = sum(numbers) if definition["kind"] == "sum" else ratio(sum(numbers), len(numbers))
    yield dict(value=value)


def main():
    functions = dict(funnel=funnel, retention=retention, retention_curve=retention_curve, activation=activation,
                     revenue=revenue, session_metrics=session_metrics,
                     active_users=active_users, did_at_least=did_at_least, account_health=account_health,
                     accounts_health=accounts_health,                     metric_value=metric_value)
    events = []
    with open(sys.argv[1]) as lines:
        for line in lines:
            event = json.loads(line, parse_float=Decimal)
            event["time"] = micros(event["occurred_at"])
            event.setdefault("properties", {})
            events.append(event)
    with open(sys.argv[2]) as lines:
        for question in map(json.loads, lines):
            visible = [e for e in events if all(e[key] == value for key, value in question["scope"].items())]
            # One account of those in scope: what a login that is bound to it would see.
            if question["function"] != "account_health" and (account := question["arguments"].pop("account", None)) is not None:
                visible = [e for e in visible if e["account_id"] == account]
            rows = list(functions[question["function"]](visible, **question["arguments"]))
            print(json.dumps(rows, default=float))


main()
