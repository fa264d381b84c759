//! What a message is filed under, and its chosen header fields, in both forms.

use super::*;
use mail::{FieldName, KeptField, Priority};
use settings::Text;

/// A message with every tag and some kept header fields.
fn tagged() -> Arc<Message> {
    let text = |text: &str| Some(text.into());
    let tags = Tags {
        tenant: text("acme, inc"),
        campaign: text("spring"),
        job: text("j1"),
        envid: text("own \"1\""),
        pool: text("p2"),
        priority: Priority::Bulk,
    };
    let field = |name: &str, value: &str| KeptField { name: name.into(), value: value.into() };
    let headers =
        vec![field("Subject", "50% \"off\", today\u{0}"), field("X-Odd\"Name", "odd"), field("X-Not", "no")];
    let mut message = Message { tags, headers, ..(*message(1)).clone() };
    message.envelope.envid = text("ENVID");
    Arc::new(message)
}

fn chosen_headers() -> Vec<Text<FieldName>> {
    ["SUBJECT", "X-Odd\"Name", "X-Absent", "subject"].map(|name| Text(name.parse().unwrap())).to_vec()
}

#[test]
fn csv_with_tags_and_header_fields() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acct.csv");
    let fields = ["tenant", "campaign", "priority", "jobId", "envId", "vmta", "vmtaPool", "queue"];
    let file = FileConfig {
        format: Format::Csv,
        records: vec![Kind::Received, Kind::Delivered],
        fields: fields.map(String::from).to_vec(),
        headers: chosen_headers(),
        ..FileConfig::at(path.clone())
    };
    let recorder = open(&one_file(file));
    let (message, untagged) = (tagged(), message(1));
    recorder.record(Record::new(Kind::Received, UnixMillis(0), &message, 0));
    recorder.record(delivered(&message, 0));
    recorder.record(delivered(&untagged, 0));
    assert!(recorder.close(5 * SECOND));
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "type,tenant,campaign,priority,jobId,envId,vmta,vmtaPool,queue,header_SUBJECT,\"header_X-Odd\"\"Name\",header_X-Absent\r\n\
         r,\"acme, inc\",spring,bulk,j1,\"own \"\"1\"\"\",p2,p2,,\"50% \"\"off\"\", today?\",odd,\r\n\
         d,\"acme, inc\",spring,bulk,j1,\"own \"\"1\"\"\",v1,p1,x.test/v1,\"50% \"\"off\"\", today?\",odd,\r\n\
         d,,,normal,job7,,v1,p1,x.test/v1,,,\r\n"
    );
}

#[test]
fn json_with_tags_and_header_fields() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let fields = ["tenant", "campaign", "priority", "job", "envid", "source", "pool", "queue"];
    let recorder = open(&one_file(FileConfig {
        fields: fields.map(String::from).to_vec(),
        headers: chosen_headers(),
        ..FileConfig::at(path.clone())
    }));
    let (message, untagged) = (tagged(), message(1));
    recorder.record(Record::new(Kind::Received, UnixMillis(0), &message, 0));
    recorder.record(delivered(&message, 0));
    recorder.record(delivered(&untagged, 0));
    assert!(recorder.close(5 * SECOND));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        line.as_object_mut().unwrap().retain(|key, _| !["v", "kind", "time"].contains(&key.as_str()));
    }
    let mut tagged = serde_json::json!({
        "tenant": "acme, inc", "campaign": "spring", "priority": "bulk", "job": "j1", "envid": "own \"1\"",
        "pool": "p2", "header_SUBJECT": "50% \"off\", today\u{0}", "header_X-Odd\"Name": "odd",
    });
    assert_eq!(lines[0], tagged);
    (tagged["source"], tagged["pool"], tagged["queue"]) = ("v1".into(), "p1".into(), "x.test/v1".into());
    assert_eq!(lines[1], tagged);
    let untagged = serde_json::json!({ "job": "job7", "source": "v1", "pool": "p1", "queue": "x.test/v1" });
    assert_eq!(lines[2], untagged);
}

#[test]
fn files_together_name_eight_header_fields() {
    let named = |path: &str, names: std::ops::Range<u32>| FileConfig {
        headers: names.map(|n| Text(format!("X-{n}").parse().unwrap())).collect(),
        ..FileConfig::at(path)
    };
    let config = all_files([named("a", 0..5), named("b", 2..8)]);
    assert_eq!(config.check(), []);
    assert_eq!(config.kept_fields().len(), 8);
    let errors = all_files([named("a", 0..5), named("b", 2..9)]).check();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["accounting.file.2.headers: all files together name 9 header fields; at most 8"]);
}
