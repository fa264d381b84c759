//! Counters over time of a running server: asked, printed, plotted, over a restart.

use crate::harness::{Setup, keeping, send, sink};
use serde_json::Value;

#[test]
fn what_happened_is_counted_by_minute_hour_and_day_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[stats]\nenabled = true\n[[assign]]\nrecipients = [\"*@shop.test\"]\ntenant = \"acme\"\n";
    let setup = Setup::relay_with(folder.path(), sink.addr(), more);
    let tuma = setup.start();
    send(&tuma, "to@there.test", 5);
    send(&tuma, "to@shop.test", 7);
    tuma.wait_until_settled();
    let asked = |tuma: &crate::harness::Tuma, query: &str| -> Value {
        let (status, text) = tuma.http("GET", &format!("/v1/stats{query}"), "");
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let answer = asked(&tuma, "?span=day&by=tenant&total=true");
    let rows = answer["rows"].as_array().unwrap();
    let counts = |row: &Value| ["received", "delivered"].map(|kind| row[kind].as_u64().unwrap());
    assert_eq!((rows[0]["tenant"].as_str(), counts(&rows[0])), (Some(""), [5, 5]), "{answer}");
    assert_eq!((rows[1]["tenant"].as_str(), counts(&rows[1])), (Some("acme"), [7, 7]), "{answer}");
    assert!(rows[1]["octets"].as_u64().unwrap() > 100, "{answer}");
    assert_eq!(rows.len(), 2, "{answer}");
    tuma.stop();
    // What was counted is there after a restart, and goes on being counted.
    let tuma = setup.start();
    send(&tuma, "to@shop.test", 1);
    tuma.wait_until_settled();
    for span in ["minute", "hour", "day"] {
        let answer = asked(&tuma, &format!("?span={span}&tenant=acme&total=true"));
        assert_eq!(answer["rows"][0]["delivered"], 8, "{span}: {answer}");
    }
    let table = tuma.says(&["stats", "--by", "tenant", "--total"]);
    assert_eq!(
        table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["tenant", "received", "delivered"]
    );
    assert!(
        table.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["acme", "8", "8"]),
        "{table}"
    );
    let plot = tuma.says(&["stats", "--span", "day", "--by", "tenant", "--plot", "delivered"]);
    assert!(plot.contains(&format!("8 {}", "█".repeat(50))), "{plot}");
    let refused = tuma.refuses(&["stats", "--by", "tenent"]);
    assert!(refused.contains("did you mean `tenant`?"), "{refused}");
    assert_eq!(tuma.metric("tuma_stats_dropped_total"), 0.0);
    tuma.stop();
}

#[test]
fn without_the_setting_nobody_counts() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let refused = tuma.refuses(&["stats"]);
    assert!(refused.contains("`enabled = true` in [stats]"), "{refused}");
    let found =
        std::process::Command::new("find").arg(folder.path()).args(["-name", "stats.sqlite*"]).output();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "");
    tuma.stop();
}
