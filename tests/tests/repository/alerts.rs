//! The alert rules: each is well-formed, tested by Prometheus' own tool, and fires in at least one case.

use std::{fs, process::Command};

use super::root;

fn promtool(arguments: [&str; 2]) {
    let [kind, file] = arguments;
    let file = root().join("ops/alerts").join(file);
    let ran = Command::new("promtool").arg(kind).arg("rules").arg(&file).output().unwrap();
    let told = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(ran.status.success(), "promtool {kind} rules {}: {told}", file.display());
}

#[test]
fn alert_rules_fire_when_they_should() {
    promtool(["check", "hsmd.rules.yml"]);
    promtool(["test", "hsmd.test.yml"]);
}

#[test]
fn each_alert_rule_has_a_case_in_which_it_fires() {
    let read = |name| fs::read_to_string(root().join("ops/alerts").join(name)).unwrap();
    let (rules, cases) = (read("hsmd.rules.yml"), read("hsmd.test.yml"));
    let names: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 1, "no rules were found");
    for name in names {
        let mut fires = cases.split("alertname: ").skip(1).filter(|case| case.starts_with(name));
        assert!(fires.any(|case| case.contains("exp_labels")), "no case in which {name} fires");
    }
}
