//! The respelling of answers against the judge: a real `node`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use edge::ecma::{DEPTH_MAX, respell};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// Texts judged in one run; node starts once for all of them.
const TEXTS: usize = 5_000;

/// For each line (a JSON string that holds a text): what JavaScript makes of the text.
const JUDGE: &str = r#"
const lines = require("fs").readFileSync(0, "utf8").split("\n").filter(line => line);
console.log(lines.map(line => {
  try { return JSON.stringify(JSON.stringify(JSON.parse(JSON.parse(line)))); } catch { return "null"; }
}).join("\n"));
"#;

/// What `JSON.stringify(JSON.parse(text))` is, for each text; nothing for what is not JSON.
fn judge(texts: &[String]) -> Vec<Option<String>> {
    let mut node = Command::new("node")
        .args(["-e", JUDGE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed");
    let lines: Vec<String> = texts.iter().map(|text| serde_json::to_string(text).unwrap()).collect();
    let mut input = node.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(lines.join("\n").as_bytes()));
    let output = node.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let verdicts: Vec<_> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(verdicts.len(), texts.len());
    verdicts
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        (-(1_i64 << 53)..1 << 53).prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:.16e}")),
        (any::<f32>(), 0..20_usize)
            .prop_filter("finite", |(n, _)| n.is_finite())
            .prop_map(|(n, digits)| format!("{n:.digits$}")),
        "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,22})?([eE][+-]?[0-9]{1,3})?",
    ]
}

fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<char>()
            .prop_filter("plain", |c| !matches!(c, '"' | '\\' | '\0'..='\x1f'))
            .prop_map(String::from),
        "\\\\[\"\\\\/bfnrt]",
        "\\\\u[0-9a-fA-F]{4}",
        "\\\\u[dD][89abAB][0-9a-f]{2}\\\\u[dD][c-fC-F][0-9a-f]{2}",
        Just("<script>&\u{2028}\u{7f}".to_owned()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        string(),
        (0..20_u64).prop_map(|n| format!("\"{n}\"")),
        prop_oneof![Just(u64::from(u32::MAX)), Just(u64::from(u32::MAX) - 1), any::<u64>()]
            .prop_map(|n| format!("\"{n}\"")),
        prop_oneof![
            Just("\"__proto__\""),
            Just("\"01\""),
            Just("\"-1\""),
            Just("\"a\""),
            Just("\"\\u0061\"")
        ]
        .prop_map(str::to_owned),
    ]
}

fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,2}"
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![number(), string(), "true|false|null"];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let element = (space(), inner.clone(), space()).prop_map(|(a, b, c)| a + &b + &c);
        let member = (space(), name(), space(), inner).prop_map(|(a, b, c, d)| a + &b + &c + ":" + &d);
        prop_oneof![
            prop::collection::vec(element, 0..6).prop_map(|all| format!("[{}]", all.join(","))),
            prop::collection::vec(member, 0..6).prop_map(|all| format!("{{{}}}", all.join(","))),
        ]
    })
}

/// Whatever is passed on is what JavaScript prints; whatever JavaScript does not read is not passed on.
#[test]
fn what_is_passed_on_is_what_javascript_prints() {
    let mut runner = TestRunner::default();
    let broken = (json(), any::<prop::sample::Index>(), any::<char>());
    let broken = broken.prop_map(|(text, place, character)| {
        let mut characters: Vec<char> = text.chars().collect();
        let place = place.index(characters.len());
        characters[place] = character;
        characters.into_iter().collect()
    });
    let texts = prop_oneof![4 => json(), 1 => broken];
    let texts: Vec<String> = (0..TEXTS).map(|_| texts.new_tree(&mut runner).unwrap().current()).collect();
    let (mut passed, mut withheld) = (0, 0);
    for (text, verdict) in texts.iter().zip(judge(&texts)) {
        match respell(text.as_bytes()) {
            Ok(json) => {
                assert_eq!(Some(&json), verdict.as_ref(), "for {text}");
                passed += 1;
            }
            Err(_) => withheld += usize::from(verdict.is_some()),
        }
    }
    assert!(passed > TEXTS / 4, "{passed} passed, {withheld} withheld");
}

/// A number is passed on only if the double that JavaScript makes of it is the number itself, rounded to
/// the digits it was given with.
#[test]
#[expect(clippy::float_cmp, reason = "the very same double is meant, and -0 is 0")]
fn numbers_that_are_passed_on_keep_their_value() {
    let mut runner = TestRunner::default();
    for _ in 0..TEXTS {
        let text = number().new_tree(&mut runner).unwrap().current();
        let Ok(json) = respell(text.as_bytes()) else { continue };
        let (given, told): (f64, f64) = (text.parse().unwrap(), json.parse().unwrap());
        assert!(given.is_finite() && given == told, "{text} became {json}");
    }
}

#[test]
fn the_deepest_answer_is_read_by_javascript() {
    let text = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
    assert_eq!(judge(std::slice::from_ref(&text)), [Some(text)]);
}
