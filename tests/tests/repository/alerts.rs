//! The alert rules: each is well-formed, tested by Prometheus' own tool, and fires in at least one case.

use std::{fs, process::Command};

use super::root;

/// Whom rules are about, one file of rules and one of cases each.
const PARTS: [&str; 2] = ["hsmd", "verifiers"];

fn promtool(arguments: [&str; 2]) {
    let [kind, file] = arguments;
    let file = root().join("ops/alerts").join(file);
    let ran = Command::new("promtool").arg(kind).arg("rules").arg(&file).output().unwrap();
    let told = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(ran.status.success(), "promtool {kind} rules {}: {told}", file.display());
}

#[test]
fn alert_rules_fire_when_they_should() {
    for part in PARTS {
        promtool(["check", &format!("{part}.rules.yml")]);
        promtool(["test", &format!("{part}.test.yml")]);
    }
}

#[test]
fn each_alert_rule_has_a_case_in_which_it_fires() {
    let read = |kind: &str| {
        let files = PARTS.map(|part| root().join("ops/alerts").join(format!("{part}.{kind}.yml")));
        files.map(|file| fs::read_to_string(file).unwrap()).concat()
    };
    let (rules, cases) = (read("rules"), read("test"));
    let names: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 1, "no rules were found");
    for name in names {
        let mut fires = cases.split("alertname: ").skip(1).filter(|case| case.starts_with(name));
        assert!(fires.any(|case| case.contains("exp_labels")), "no case in which {name} fires");
    }
}
