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

/// Each alert has a row in the runbook, which leads to a section that exists, there or in a page of hsmd's.
#[test]
fn each_alert_leads_to_a_section() {
    let files = PARTS.map(|part| root().join("ops/alerts").join(format!("{part}.rules.yml")));
    let rules = files.map(|file| fs::read_to_string(file).unwrap()).concat();
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let page = fs::read_to_string(root().join("ops/RUNBOOK.md")).unwrap();
    for alert in &alerts {
        let row = page.lines().find(|line| line.starts_with(&format!("| {alert} |")));
        let row = row.unwrap_or_else(|| panic!("{alert} has no row in RUNBOOK.md"));
        let (file, anchor) =
            row.rsplit_once("](").and_then(|(_, link)| link.split_once(')')?.0.split_once('#')).unwrap();
        let target = if file.is_empty() { "RUNBOOK.md" } else { file };
        let text = fs::read_to_string(root().join("ops").join(target)).unwrap();
        let mut headings = text.lines().filter(|line| line.starts_with('#')).map(slug);
        let is_named = text.contains(&format!("<a id=\"{anchor}\">"));
        assert!(is_named || headings.any(|one| one == anchor), "{alert}: {target} has no section #{anchor}");
    }
    let rows = page.lines().skip_while(|line| *line != "## Alerts").skip(1);
    let rows = rows.take_while(|line| !line.starts_with("## ")).filter_map(|line| line.strip_prefix("| "));
    let named = rows.filter_map(|row| row.split(" |").next()).filter(|name| *name != "alert");
    for name in named {
        assert!(alerts.contains(&name), "there is no alert {name}");
    }
}

/// A heading's anchor, as pages of this kind are shown.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|one| one.is_alphanumeric() || matches!(one, ' ' | '-' | '_'));
    kept.map(|one| if one == ' ' { '-' } else { one }).collect()
}

/// Each drill of the runbook names tests that exist.
#[test]
fn each_drill_of_the_runbook_has_its_test() {
    let page = fs::read_to_string(root().join("ops/RUNBOOK.md")).unwrap();
    let rows = page.lines().skip_while(|line| *line != "## Drills").skip(3);
    let rows: Vec<_> =
        rows.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| ")).collect();
    assert!(rows.len() >= 8, "{rows:?}");
    for row in rows.iter().filter(|row| !row.starts_with("| failure")) {
        let tests: Vec<_> = row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{row}");
        for test in tests {
            let (module, name) = test.split_once("::").unwrap();
            let found = ["authd/tests/service", "edge/tests/edge", "tests/tests/e2e", "tests/tests/attack"]
                .map(|folder| root().join(folder).join(format!("{module}.rs")));
            let is_there = |file: &std::path::PathBuf| {
                fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {name}(")))
            };
            assert!(found.iter().any(is_there), "{test} is no test");
        }
    }
}
