"""Asks Superset for the data of every chart of the dashboard, as its own pages do: of all accounts, and of the busiest one. Fails where a
chart is empty, or where the dashboard's filter by account makes no difference to a chart that it says it reaches. Started by run.sh check."""

import json
import sys
from pathlib import Path

import requests

ADDRESS, PASSWORD = sys.argv[1], Path(sys.argv[2]).read_text().strip()
client = requests.Session()


def get(path):
    answer = client.get(ADDRESS + path)
    answer.raise_for_status()
    return answer.json()


def rows(dataset, form, accounts=()):
    """The rows of a chart, whose form has what its page would put into a query."""
    value = lambda name: form.get(name) or []
    columns = [*value("groupby"), *value("groupbyRows"), *value("groupbyColumns"), *value("all_columns")]
    if isinstance(value("groupby"), str):
        columns = [form["groupby"]]
    if form.get("x_axis"):
        grain = form.get("time_grain_sqla")
        columns.append({"label": form["x_axis"], "sqlExpression": form["x_axis"], "expressionType": "SQL",
                        "columnType": "BASE_AXIS", "timeGrain": grain} if grain else form["x_axis"])
    metrics = [*value("metrics"), *([form["metric"]] if form.get("metric") else []), *value("metrics_b")]
    filters = [{"col": f["subject"], "op": f["operator"], "val": f["comparator"]} for f in value("adhoc_filters")]
    if accounts:
        filters.append({"col": "account_id", "op": "IN", "val": list(accounts)})
    query = {"columns": columns, "metrics": metrics or None, "filters": filters, "row_limit": 10000, "extras": {"where": "", "having": ""}}
    body = {"datasource": {"id": dataset, "type": "table"}, "queries": [query], "result_format": "json", "result_type": "full", "force": True}
    answer = client.post(ADDRESS + "/api/v1/chart/data", json=body)
    assert answer.ok, f"{answer.status_code} {answer.text[:600]}"
    return answer.json()["result"][0]["data"]


login = {"username": "admin", "password": PASSWORD, "provider": "db", "refresh": False}
token = client.post(ADDRESS + "/api/v1/security/login", json=login).json()["access_token"]
client.headers["Authorization"] = f"Bearer {token}"
client.headers["X-CSRFToken"] = get("/api/v1/security/csrf_token/")["result"]

charts = get("/api/v1/dashboard/product-analytics/charts")["result"]
assert charts, "the dashboard has no charts"
accounts = next(chart for chart in charts if chart["slice_name"] == "Accounts")["form_data"]
dataset = lambda form: int(form["datasource"].split("__")[0])
busiest = max(rows(dataset(accounts), accounts), key=lambda row: row["events"])["account_id"]
metadata = json.loads(get("/api/v1/dashboard/product-analytics")["result"]["json_metadata"])
(account_filter,) = metadata["native_filter_configuration"]
failures = 0
for chart in charts:
    form = chart["form_data"]
    try:
        all_rows, one = rows(dataset(form), form), rows(dataset(form), form, [busiest])
    except AssertionError as problem:
        failures += 1
        print(f"{chart['slice_name']}: {problem}")
        continue
    says = any(value not in (None, 0) for row in all_rows for value in row.values() if not isinstance(value, str))
    reached = chart["id"] not in account_filter["scope"]["excluded"]
    good = bool(all_rows) and says and reached == (json.dumps(one) != json.dumps(all_rows))
    failures += not good
    print(f"{chart['slice_name']}: {len(all_rows)} rows, {f'{len(one)} of one account' if reached else 'not filtered by account'}{'' if good else ': FAILED'}")
print(f"{len(charts)} charts, {failures} failed")
sys.exit(failures > 0)
