use super::*;

#[track_caller]
fn check(given: &str, expected: &str) {
    assert_eq!(respell(given.as_bytes()).as_deref(), Ok(expected), "for {given}");
    assert_eq!(respell(expected.as_bytes()).as_deref(), Ok(expected), "again, for {given}");
}

#[track_caller]
fn refused(given: &str, expected: &Unsurvivable) {
    assert_eq!(respell(given.as_bytes()).as_ref(), Err(expected), "for {given}");
}

#[test]
fn numbers_are_printed_as_ecmascript_prints_them() {
    check("1.0", "1");
    check("-0", "0");
    check("-0.0", "0");
    check("0e5", "0");
    check("1e2", "100");
    check("1.50", "1.5");
    check("1e21", "1e+21");
    check("1e-7", "1e-7");
    check("0.000001", "0.000001");
    check("123456789012345.5e-3", "123456789012.3455");
    check("5e-324", "5e-324");
    check("9007199254740991", "9007199254740991");
    check("-9007199254740991", "-9007199254740991");
    check("0.10000000000000001", "0.1");
    check("0.1000000000000000055511151231257827021181583404541015625", "0.1");
    check("0.30000000000000004", "0.30000000000000004");
    check("1.7976931348623157e308", "1.7976931348623157e+308");
}

#[test]
fn numbers_that_would_change_are_refused() {
    for given in [
        "9007199254740992",
        "9007199254740993",
        "-9007199254740992",
        "123456789012345678901234567890",
        "1e400",
        "-1e400",
        "1e-400",
        "3e-324",
        "3.14159265358979323846",
        "12345678901234567890.0",
    ] {
        refused(given, &Unsurvivable::Number { at: 0 });
        refused(&format!("[{given}]"), &Unsurvivable::Number { at: 1 });
    }
    refused(&format!("0.{}", "1".repeat(2_000)), &Unsurvivable::Number { at: 0 });
}

#[test]
fn members_stand_as_json_parse_keeps_them() {
    check(r#"{"b":1,"a":2}"#, r#"{"b":1,"a":2}"#);
    check(r#"{"b":1,"10":2,"9":3,"a":4}"#, r#"{"9":3,"10":2,"b":1,"a":4}"#);
    check(r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#);
    check(r#"{"a":1,"2":{"y":1,"1":2},"b":2,"2":[1, 2]}"#, r#"{"2":[1,2],"a":1,"b":2}"#);
    check(r#"{"01":1,"1":2,"-1":3,"1.5":4,"":5}"#, r#"{"1":2,"01":1,"-1":3,"1.5":4,"":5}"#);
    check(r#"{"x":0,"4294967294":1,"4294967295":2}"#, r#"{"4294967294":1,"x":0,"4294967295":2}"#);
    check(r#"{"__proto__":{"a":1},"constructor":2}"#, r#"{"__proto__":{"a":1},"constructor":2}"#);
    check(r#"{"\u0061":1,"a":2}"#, r#"{"a":2}"#);
    check(" { } ", "{}");
    check("\t[\n]\r", "[]");
    check(r#"[ 1 , "a" , null , true , false , { } ]"#, r#"[1,"a",null,true,false,{}]"#);
}

#[test]
fn strings_carry_only_the_escapes_of_json_stringify() {
    check(r#""\u00e9\/\u003c\u2028""#, "\"é/<\u{2028}\"");
    check(r#""\ud83d\ude00\u0000\u001f\u007f""#, "\"😀\\u0000\\u001f\u{7f}\"");
    check(r#""\b\f\n\r\t\"\\""#, r#""\b\f\n\r\t\"\\""#);
    check(r#""\u0008\u000C\u000a""#, r#""\b\f\n""#);
}

#[test]
fn what_no_client_reads_alike_is_refused() {
    refused(r#""\ud800""#, &Unsurvivable::LoneSurrogate { at: 1 });
    refused(r#""a\udc00\ud800""#, &Unsurvivable::LoneSurrogate { at: 2 });
    refused(r#""\ud800\u0041""#, &Unsurvivable::LoneSurrogate { at: 1 });
    for (given, at) in [
        ("", 0),
        ("nul", 0),
        ("{", 1),
        ("{]", 1),
        ("{\"a\" 1}", 5),
        ("[1,]", 3),
        ("[1 2]", 3),
        ("01", 1),
        ("1.", 0),
        (".5", 0),
        ("+1", 0),
        ("1e", 0),
        ("-", 0),
        ("NaN", 0),
        ("Infinity", 0),
        ("'a'", 0),
        ("\"a", 2),
        ("\"\u{1}\"", 1),
        ("\"\\x\"", 1),
        ("\"\\u+123\"", 1),
        ("\u{feff}1", 0),
        ("1 1", 2),
        ("{\"a\":1,}", 7),
        ("\u{a0}1", 0),
    ] {
        assert!(
            matches!(respell(given.as_bytes()), Err(Unsurvivable::NotJson { .. })),
            "{given} at {at}: {:?}",
            respell(given.as_bytes())
        );
    }
    assert_eq!(respell(b"\"\xff\""), Err(Unsurvivable::NotUtf8 { at: 1 }));
}

#[test]
fn nesting_is_bounded() {
    let deepest = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
    check(&deepest, &deepest);
    let deeper = "[".repeat(DEPTH_MAX + 1);
    refused(&deeper, &Unsurvivable::Depth { at: DEPTH_MAX });
    refused(&"[{\"a\":".repeat(1_000_000), &Unsurvivable::Depth { at: DEPTH_MAX / 2 * 6 });
}

#[test]
fn depth_is_seen_without_parsing() {
    assert!(is_shallow("[".repeat(DEPTH_MAX).as_bytes()));
    assert!(!is_shallow("[".repeat(DEPTH_MAX + 1).as_bytes()));
    assert!(!is_shallow("{\"a\":".repeat(DEPTH_MAX + 1).as_bytes()));
    assert!(is_shallow(format!("\"{}\"", "[".repeat(1_000)).as_bytes()));
    assert!(is_shallow(format!("\"\\\"{}\"", "[".repeat(1_000)).as_bytes()));
    assert!(is_shallow("[],".repeat(1_000).as_bytes()));
    assert!(!is_shallow(format!("\"\\\\\"{}", "[".repeat(1_000)).as_bytes()));
}
