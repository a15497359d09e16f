//! Names of clients: what `opsctl tls` puts into certificates, hsmd takes into its policy.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::process::{command, run};
use tests::token::{MODULE, Token};
use tests::world::binary;

/// Each with who takes it: both, nobody, or hsmd alone, which knows less of what TLS libraries take.
const NAMES: [(&str, &str); 24] = [
    ("URI:keelson:edge:far", "both"),
    ("URI:keelson:authd", "both"),
    ("URI:spiffe://Example/Edge", "both"),
    ("URI:x:\"\\#'[]", "both"),
    ("URI:edge", "nobody"),
    ("URI::far", "nobody"),
    ("URI:keelson:", "nobody"),
    ("URI:a b:c", "nobody"),
    ("URI:keelson:ä", "nobody"),
    ("DNS:edge-1.example", "both"),
    ("DNS:localhost", "both"),
    ("DNS:1a.2b", "both"),
    ("DNS:Edge.example", "nobody"),
    ("DNS:*.example.com", "nobody"),
    ("DNS:edge.example.", "nobody"),
    ("DNS:-edge", "nobody"),
    ("DNS:a_b", "nobody"),
    ("DNS:", "nobody"),
    ("DNS:10.0.0.5", "hsmd"),
    ("DNS:edge.1", "hsmd"),
    ("IP:10.0.0.5", "nobody"),
    ("EMAIL:a@b", "nobody"),
    ("edge.example", "nobody"),
    ("", "nobody"),
];

#[test]
fn opsctl_issues_for_names_that_a_policy_can_have() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_configuration(folder);
    run(opsctl(folder, &["init", "--dir", "ca"]));
    let long = [(63, 510, "both"), (64, 511, "nobody")].map(|(label, rest, who)| {
        [(format!("DNS:{}", "a".repeat(label)), who), (format!("URI:x:{}", "a".repeat(rest)), who)]
    });
    let names = NAMES.iter().map(|(name, who)| ((*name).to_owned(), *who));
    for (place, (name, who)) in names.chain(long.into_iter().flatten()).enumerate() {
        let out = place.to_string();
        let issued = opsctl(folder, &["issue", "client", "--dir", "ca", "--out", &out, "--san", &name]);
        let issued = output(issued);
        assert_eq!(issued.is_some(), who == "both", "{name}");
        // The row as opsctl prints it, with the service that only the reader knows; or one by hand.
        let row = issued.map_or_else(|| row(&name), |row| row.replace('…', "far"));
        fs::write(folder.join("policy.toml"), &row).unwrap();
        let mut hsmd = command(binary("hsmd"));
        hsmd.arg("--config").arg(folder.join("hsmd.toml")).arg("--check-config");
        assert_eq!(output(hsmd).is_some(), who != "nobody", "{name}:\n{row}");
    }
}

fn row(name: &str) -> String {
    let row = toml::toml! {
        operations = ["endorse"]
        service = "edge:far"
        purposes = ["response"]
    };
    format!("[[allow]]\nsan = {}\n{row}", toml::Value::from(name))
}

fn write_configuration(folder: &Path) {
    let (here, label) = (folder.display(), Token::LABEL);
    let text = format!(
        "policy = \"{here}/policy.toml\"\nmetrics = \"unix:{here}/m.sock\"\n\
         [hsm]\nmodule = \"{MODULE}\"\ntoken_label = \"{label}\"\npin = \"{here}/pin\"\n\
         [[listen]]\naddress = \"unix:{here}/endorse.sock\"\nrole = \"endorse\"\n"
    );
    fs::write(folder.join("hsmd.toml"), text).unwrap();
}

fn opsctl(folder: &Path, arguments: &[&str]) -> Command {
    let mut program = command(binary("opsctl"));
    program.arg("tls").args(arguments).current_dir(folder);
    program
}

/// What a program prints, if it succeeds.
fn output(mut program: Command) -> Option<String> {
    let output = program.output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}
