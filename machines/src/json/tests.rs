use super::*;
use proptest::prelude::*;
use std::format;
use std::string::ToString;
use std::vec;

fn read(text: &str) -> Result<Value, Error> {
    parse(text.as_bytes(), &Limits::default())
}

fn refusal(text: &[u8]) -> String {
    match parse(text, &Limits::default()) {
        Ok(value) => panic!("{:?} was read as {value}", String::from_utf8_lossy(text)),
        Err(error) => error.to_string(),
    }
}

#[test]
fn values_read_and_write_in_one_form() {
    let text = r#" { "b" : [ 1 , -2 , 0.5 , true , false , null ] , "a" : { } , "c" : [ ] , "" : "x" } "#;
    assert_eq!(read(text).unwrap().to_text(), r#"{"":"x","a":{},"b":[1,-2,0.5,true,false,null],"c":[]}"#);
    let value = read(text).unwrap();
    assert_eq!(value.get("b").and_then(Value::as_array).map(<[Value]>::len), Some(6));
    assert_eq!(value.get("").and_then(Value::as_str), Some("x"));
    assert_eq!(value.get("B"), None, "names are compared exactly");
}

#[test]
fn j01_duplicate_keys_are_refused_at_any_depth() {
    assert_eq!(refusal(br#"{"kind":"a","kind":"a"}"#), "duplicate key at kind (line 1, column 18)");
    let message = refusal(br#"{"params":{"a":[0,1,2,{"b":1,"b":2}]}}"#);
    assert!(message.starts_with("duplicate key at params.a[3].b (line 1"), "{message}");
}

#[test]
fn j02_keys_that_decode_to_the_same_are_duplicates() {
    for text in [r#"{"a":1,"\u0061":2}"#, r#"{"\ud83d\ude00":1,"😀":2}"#, r#"{"/":1,"\/":2}"#] {
        assert!(refusal(text.as_bytes()).starts_with("duplicate key"), "{text}");
    }
    assert!(read("{\"é\":1,\"e\u{301}\":2}").is_ok(), "keys are not normalised");
}

#[test]
fn p13_one_number_model() {
    for (text, written) in [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0e5", "0"),
        ("-0e-5", "0"),
        ("1", "1"),
        ("1.0", "1"),
        ("1e0", "1"),
        ("10e-1", "1"),
        ("-1.0", "-1"),
        ("1.5", "1.5"),
        ("-1.50", "-1.5"),
        ("1E2", "100"),
        ("9007199254740992.0", "9007199254740992"),
        ("-9007199254740992.0", "-9007199254740992"),
        ("9007199254740993", "9007199254740993"),
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("4503599627370495.5", "4503599627370495.5"),
        ("5e-324", "5e-324"),
        ("-1.5e-7", "-1.5e-7"),
        ("0.000001", "0.000001"),
        ("0.0000009", "9e-7"),
        ("0.1", "0.1"),
        ("333333333.33333329", "333333333.3333333"),
    ] {
        let value = read(text).unwrap();
        assert_eq!(value.to_text(), written, "{text}");
        assert_eq!(value.encoded_len(), written.len(), "{text}");
        assert_eq!(read(written).unwrap(), value, "{text}");
    }
}

#[test]
fn p13_numbers_that_no_value_equals_are_refused() {
    for text in [
        "1e400",
        "-1e400",
        "1e16",
        "9007199254740994.0",
        "-9007199254740994.0",
        "18446744073709551616",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "1e308",
        "18446744073709551615.0",
    ] {
        assert!(refusal(text.as_bytes()).starts_with("number out of range"), "{text}");
        assert!(refusal(format!("{{\"a\":[{text}]}}").as_bytes()).contains(" at a[0] "), "{text}");
    }
}

#[test]
fn p13_from_f64_agrees_with_the_language() {
    assert_eq!(Number::from_f64(f64::NAN), None);
    assert_eq!(Number::from_f64(f64::INFINITY), None);
    assert_eq!(Number::from_f64(f64::NEG_INFINITY), None);
    for x in [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2f64.powi(52) + 1.0, 2f64.powi(53), -(2f64.powi(53)), 2f64.powi(53) - 1.0]
    {
        check_f64(x);
    }
    check_f64(2f64.powi(53) + 2.0);
    check_f64(f64::MIN_POSITIVE / 4.0);
}

fn check_f64(x: f64) {
    let found = Number::from_f64(x);
    if x.fract() != 0.0 {
        assert_eq!(found.and_then(Number::as_fraction), Some(x));
    } else if x.abs() <= 9_007_199_254_740_992.0 {
        assert_eq!(found.and_then(Number::as_i64), Some(x as i64));
    } else {
        assert_eq!(found, None);
    }
}

#[test]
fn j04_j06_what_is_not_one_json_document_is_refused() {
    let texts: [&[u8]; 52] = [
        b"",
        b" ",
        b"nul",
        b"True",
        b"NaN",
        b"Infinity",
        b"-",
        b"-a",
        b"+1",
        b"01",
        b"-01",
        b"1.",
        b".5",
        b"1e",
        b"1e+",
        b"0x10",
        b"1_000",
        b"'a'",
        b"\"a",
        b"\"\\x\"",
        b"\"\\u12\"",
        b"\"\n\"",
        b"\"\0\"",
        b"\"\x1f\"",
        b"\"\\ud800\"",
        b"\"\\udc00\"",
        b"\"\\ud800\\ud800\"",
        b"\"\\ud800x\"",
        b"{\"\\ud800\":1}",
        b"\"\xff\"",
        b"\"\xc0\xaf\"",
        b"\"\xed\xa0\x80\"",
        b"\"\xf4\x90\x80\x80\"",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\0}\0",
        b"[1,]",
        b"[,1]",
        b"[1 2]",
        b"[",
        b"]",
        b"{",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{\"a\":1,}",
        b"{a:1}",
        b"{1:1}",
        b"{} {}",
        b"{}x",
        b"1 2",
        b"[] // no",
        b"/* no */ []",
        b"{}\0",
    ];
    for text in texts {
        refusal(text);
    }
    assert_eq!(refusal(b"\xef\xbb\xbf{}"), "byte order mark; send UTF-8 without one");
    assert_eq!(refusal(b"{}\n x"), "trailing characters (line 2, column 2)");
}

#[test]
fn j04_valid_text_is_not_normalised() {
    let value = read("\"e\u{301}\u{e9}\\u00e9\\ud83d\\ude00\u{2028}\u{7f}\"").unwrap();
    assert_eq!(value.as_str(), Some("e\u{301}\u{e9}\u{e9}\u{1f600}\u{2028}\u{7f}"));
    assert_eq!(value.to_text(), "\"e\u{301}\u{e9}\u{e9}\u{1f600}\u{2028}\u{7f}\"");
}

#[test]
fn j07_p10_depth_is_bounded() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nest = |depth: usize| {
            let inner = if open == "[" { "" } else { "1" };
            format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
        };
        assert!(read(&nest(64)).is_ok());
        assert!(refusal(nest(65).as_bytes()).starts_with("nested deeper than 64 at "));
        let limits = Limits { max_depth: 1, max_bytes: 100 };
        assert!(parse(nest(1).as_bytes(), &limits).is_ok());
        assert!(parse(nest(2).as_bytes(), &limits).is_err());
        assert!(parse(nest(100_000).as_bytes(), &Limits { max_depth: usize::MAX, max_bytes: 1 << 20 }).is_err());
        refusal(open.repeat(100_000).as_bytes());
    }
    assert!(parse(b"1", &Limits { max_depth: 0, max_bytes: 1 }).is_ok());
    assert!(parse(b"[]", &Limits { max_depth: 0, max_bytes: 2 }).is_err());
}

#[test]
fn p10_length_is_bounded() {
    let limits = Limits::bytes(4);
    assert!(parse(b"1234", &limits).is_ok());
    let error = parse(b"12345", &limits).unwrap_err();
    assert_eq!(error.fault(), &Fault::TooLong { len: 5, max: 4 });
    assert_eq!(error.to_string(), "5 bytes of JSON, the limit is 4");
}

#[test]
fn paths_in_messages_are_short_and_harmless() {
    let long = "k".repeat(100_000);
    let message = refusal(format!("{{\"{long}\":{{\"\\u202e\\n \":[1e400]}}}}").as_bytes());
    assert!(message.len() < 500 && !message.contains(['\n', '\u{202e}']), "{message}");
    assert!(message.contains("[\"\\u{202e}\\n \"][0]"), "{message}");
}

#[test]
fn escapes_follow_rfc_8785() {
    // RFC 8785 section 3.2.2.2 and the sample of 3.2.3.
    let mut out = String::new();
    escape_into("\u{20ac}$\u{f}\nA'B\"\\\\\"/\u{8}\t\u{c}\r\u{1b}", &mut out);
    assert_eq!(out, "\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\\b\\t\\f\\r\\u001b\"");
    let all: String = (0..0x500u32).filter_map(char::from_u32).collect();
    let text = Value::from(all.as_str()).to_text();
    assert!(!text.bytes().any(|b| b < 0x20));
    assert_eq!(read(&text).unwrap().as_str(), Some(all.as_str()));
}

#[test]
fn the_parser_sees_numbers_as_numbers() {
    // Were serde_json built with `arbitrary_precision`, numbers would arrive as maps with this key.
    let value = read("{\"$serde_json::private::Number\":\"1\"}").unwrap();
    assert_eq!(value.kind(), "object");
    assert_eq!(read("1").unwrap(), Value::from(1_u64));
}

pub(crate) fn any_number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-100_i64..100).prop_map(Value::from),
        any::<f64>().prop_filter_map("integral beyond 2^53", |x| Number::from_f64(x).map(Value::Number)),
        (-1e6..1e6_f64).prop_filter_map("infinite", |x| Number::from_f64(x).map(Value::Number)),
    ]
}

pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any_number(),
        any::<String>().prop_map(Value::from),
        "[ -~\n\t]{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::btree_map("[a-c*]|.{0,4}", inner, 0..6).prop_map(Value::Object),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_equal(value in any_value()) {
        let text = value.to_text();
        prop_assert_eq!(value.encoded_len(), text.len());
        prop_assert!(!text.contains('\n'));
        prop_assert_eq!(read(&text).unwrap(), value);
    }

    #[test]
    fn p13_every_f64_is_read_equal_or_refused(x in any::<f64>()) {
        prop_assume!(x.is_finite());
        check_f64(x);
        // The text of another writer, always with all digits.
        match (read(&format!("{x:e}")), Number::from_f64(x)) {
            (Ok(read), Some(n)) => prop_assert_eq!(read, Value::Number(n)),
            (Err(_), None) => {}
            (read, n) => prop_assert!(false, "{x:e}: {read:?} and {n:?}"),
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(value) = parse(&bytes, &Limits::default()) {
            prop_assert_eq!(read(&value.to_text()).unwrap(), value);
        }
    }

    #[test]
    fn no_jsonish_text_makes_the_parser_panic(text in r#"([\[\]{}:,"\\ue\-+.0-9a-f ]|\\u[0-9a-fA-F]{4}|"[a-c]":){0,60}"#) {
        if let Ok(value) = read(&text) {
            prop_assert_eq!(read(&value.to_text()).unwrap(), value);
        }
    }

    #[test]
    fn j02_escaping_keys_does_not_hide_duplicates(key in any::<String>()) {
        let mut spelled = String::from("\"");
        for unit in key.encode_utf16() {
            spelled.push_str(&format!("\\u{unit:04X}"));
        }
        spelled.push('"');
        let mut plain = String::new();
        escape_into(&key, &mut plain);
        prop_assert_eq!(read(&spelled).unwrap(), Value::from(key.as_str()));
        let text = format!("{{{plain}:1,{spelled}:1}}");
        prop_assert_eq!(read(&text).unwrap_err().fault().clone(), Fault::DuplicateKey);
    }

    #[test]
    fn integers_are_written_as_the_language_writes_them(n in any::<u64>(), m in any::<i64>(), shift in 0_u32..64) {
        let mut out = String::new();
        push_u64(&mut out, n >> shift);
        out.push(' ');
        push_i64(&mut out, m >> shift);
        prop_assert_eq!(out, format!("{} {}", n >> shift, m >> shift));
    }
}

#[test]
fn the_widest_integers_are_written_in_full() {
    let mut out = String::new();
    push_i64(&mut out, i64::MIN);
    push_u64(&mut out, 0);
    push_u64(&mut out, u64::MAX);
    assert_eq!(out, "-9223372036854775808018446744073709551615");
    assert_eq!(Value::Array(vec![Value::from(i64::MIN), Value::from(u64::MAX), Value::from(0_u64)]).encoded_len(), 45);
}

#[test]
fn p10_x05_more_values_than_the_limit_are_refused_before_they_are_all_kept() {
    let wide = |n: usize| std::format!("[{}]", std::vec!["0"; n].join(","));
    assert!(parse(wide(super::parse::MAX_VALUES - 1).as_bytes(), &Limits::default()).is_ok());
    let refused = parse(wide(super::parse::MAX_VALUES).as_bytes(), &Limits::default()).unwrap_err();
    assert_eq!(refused.fault(), &Fault::TooMany);
}
