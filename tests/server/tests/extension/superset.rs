//! The dashboard of dashboards/superset on the demo's data: every chart has data, and its filter by account reaches the charts that it
//! says it does. It takes minutes and 830 MB from PyPI, so it runs where TALLY_DASHBOARD is set, on a port of its own.

use std::path::Path;
use std::process::Command;
use tally_server_tests::skip;

#[test]
fn every_chart_has_data() {
    if std::env::var_os("TALLY_DASHBOARD").is_none() {
        skip("TALLY_DASHBOARD isn't set: Apache Superset isn't tried");
        return;
    }
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dashboards/superset/run.sh");
    let output = Command::new(run).arg("check").env("TALLY_DASHBOARD_PORT", "8089").output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        skip(&format!("Apache Superset: {}", said.trim()));
        return;
    }
    assert!(output.status.success() && said.contains("10 charts, 0 failed"), "{said}");
}
