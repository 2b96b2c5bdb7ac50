use super::*;
use crate::json::Number;
use alloc::collections::BTreeMap;
use proptest::prelude::*;
use std::format;
use std::string::ToString;
use std::vec;

fn read(text: &str) -> Result<Value, Refusal> {
    parse(text.as_bytes(), 1 << 20)
}

fn refusal(text: &str) -> String {
    match read(text) {
        Ok(value) => panic!("{text} was read as {value}"),
        Err(refusal) => refusal.to_string(),
    }
}

fn any_json(text: &str) -> Value {
    json::parse(text.as_bytes(), &Limits::default()).unwrap()
}

/// RFC 8785 section 3.2.2, without its `1E30`, which the number model does not have.
const SAMPLE: &str = r#"{
  "numbers": [333333333.33333329, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"#;

#[test]
fn rfc_8785_sample() {
    let want = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
    assert_eq!(jcs(&any_json(SAMPLE)), want);
    assert!(json::parse(b"[1E30]", &Limits::default()).is_err());
    assert!(refusal(SAMPLE).starts_with("numbers[0] is 333333333.33333329; write a whole number"));
}

/// RFC 8785 section 3.2.3.
#[test]
fn j05_rfc_8785_sorting_is_by_utf_16_units() {
    let given = r#"{
      "\u20ac": "Euro Sign",
      "\r": "Carriage Return",
      "\ufb33": "Hebrew Letter Dalet With Dagesh",
      "1": "One",
      "\ud83d\ude00": "Emoji: Grinning Face",
      "\u0080": "Control",
      "\u00f6": "Latin Small Letter O With Diaeresis"
    }"#;
    let want = "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",\
                \"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\
                \"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}";
    assert_eq!(jcs(&any_json(given)), want);
    assert_ne!(any_json(given).to_text(), want, "byte order is another");
}

#[test]
fn j05_keys_outside_ascii_are_refused_with_their_place() {
    assert_eq!(
        refusal(r#"{"a":[0,{"gr\u00f6sse":1}]}"#),
        "the key a[1][\"grösse\"] is not ASCII; in a document that is hashed or signed every key is"
    );
    // Debug escapes what would turn the line around.
    assert!(refusal("{\"\u{202e}\":1}").starts_with("the key [\"\\u{202e}\"] is not ASCII"));
    assert!(read("{\"a\":\"\u{202e}ö\u{10ffff}\"}").is_ok(), "values are free");
    assert!(read("{\"\\u007f\":1,\"\\u0000\":2}").is_ok());
    assert!(read("{\"\u{80}\":1}").is_err());
}

/// RFC 8785 appendix B: what an IEEE 754 double, given by its bits, is written as. Those without a text are no number of
/// the model: whole ones beyond 2^53, and what is not finite.
const NUMBERS: [(u64, Option<&str>); 26] = [
    (0x0000_0000_0000_0000, Some("0")),
    (0x8000_0000_0000_0000, Some("0")),
    (0x0000_0000_0000_0001, Some("5e-324")),
    (0x8000_0000_0000_0001, Some("-5e-324")),
    (0x7fef_ffff_ffff_ffff, None),
    (0xffef_ffff_ffff_ffff, None),
    (0x4340_0000_0000_0000, Some("9007199254740992")),
    (0xc340_0000_0000_0000, Some("-9007199254740992")),
    (0x4430_0000_0000_0000, None),
    (0x7fff_ffff_ffff_ffff, None),
    (0x7ff0_0000_0000_0000, None),
    (0x44b5_2d02_c7e1_4af5, None),
    (0x44b5_2d02_c7e1_4af6, None),
    (0x44b5_2d02_c7e1_4af7, None),
    (0x444b_1ae4_d6e2_ef4e, None),
    (0x444b_1ae4_d6e2_ef4f, None),
    (0x444b_1ae4_d6e2_ef50, None),
    (0x3eb0_c6f7_a0b5_ed8c, Some("9.999999999999997e-7")),
    (0x3eb0_c6f7_a0b5_ed8d, Some("0.000001")),
    (0x41b3_de43_5555_5553, Some("333333333.3333332")),
    (0x41b3_de43_5555_5554, Some("333333333.33333325")),
    (0x41b3_de43_5555_5555, Some("333333333.3333333")),
    (0x41b3_de43_5555_5556, Some("333333333.3333334")),
    (0x41b3_de43_5555_5557, Some("333333333.33333343")),
    (0xbecb_f647_612f_3696, Some("-0.0000033333333333333333")),
    (0x4314_3ff3_c1cb_0959, Some("1424953923781206.2")),
];

#[test]
fn rfc_8785_numbers() {
    for (bits, want) in NUMBERS {
        let number = Number::from_f64(f64::from_bits(bits));
        assert_eq!(number.map(|n| jcs(&Value::Number(n))).as_deref(), want, "{bits:016x}");
        if let Some(number) = number {
            let whole = number.as_i64().is_some_and(|n| n.unsigned_abs() <= MAX_INTEGER);
            assert_eq!(to_bytes(&Value::Number(number)).is_ok(), whole, "{bits:016x}");
        }
    }
}

#[test]
fn rfc_8785_half_way_digits_are_even() {
    for (x, want) in [
        (f64::from_bits(0x4314_3ff3_c1cb_0959), "1424953923781206.2"),
        (f64::from_bits(0xc314_3ff3_c1cb_0959), "-1424953923781206.2"),
        (2_f64.powi(-25), "2.9802322387695312e-8"),
        (2_f64.powi(-24), "5.960464477539063e-8"),
        // Rounded to as many digits this would be ..01, which is another number.
        (2_f64.powi(-44), "5.684341886080802e-14"),
        (5e-324, "5e-324"),
        (9_007_199_254_740_991.0 / 4.0, "2251799813685247.8"),
        (0.3, "0.3"),
        (2_251_799_813_685_249.0 / 2.0, "1125899906842624.5"),
    ] {
        assert_eq!(jcs(&Value::Number(Number::from_f64(x).unwrap())), want);
    }
}

/// RFC 8785 section 3.2.2.2: the short escapes, `\u00xx` in lower case for other controls, everything else as it is.
#[test]
fn rfc_8785_strings() {
    let all: String =
        (0..0x80).chain([0x80, 0x9f, 0x2028, 0x2029, 0xfeff, 0xfffd, 0x1f600]).filter_map(char::from_u32).collect();
    let mut want = String::from("\"");
    for c in all.chars() {
        match c {
            '\u{8}' => want.push_str("\\b"),
            '\t' => want.push_str("\\t"),
            '\n' => want.push_str("\\n"),
            '\u{c}' => want.push_str("\\f"),
            '\r' => want.push_str("\\r"),
            '"' => want.push_str("\\\""),
            '\\' => want.push_str("\\\\"),
            c if c < ' ' => want.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => want.push(c),
        }
    }
    want.push('"');
    assert_eq!(jcs(&Value::from(all.as_str())), want);
    assert_eq!(to_bytes(&Value::from(all.as_str())).unwrap(), want.as_bytes());
    assert_eq!(read(&want).unwrap(), Value::from(all));
}

#[test]
fn j01_j02_duplicate_keys_are_refused() {
    for text in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":1}"#, r#"[{"b":{"c":1,"c":2}}]"#, r#"{"":1,"":1}"#] {
        assert!(refusal(text).starts_with("duplicate key at "), "{text}");
    }
    assert!(refusal(r#"[{"b":{"c":1,"c":2}}]"#).starts_with("duplicate key at [0].b.c (line 1"));
}

#[test]
fn j03_numbers_have_one_spelling() {
    for text in [
        "-0",
        "-0.0",
        "0.0",
        "0e0",
        "0E5",
        "-0e5",
        "1.0",
        "1.00",
        "1e0",
        "1E0",
        "1e+2",
        "1e2",
        "100e-2",
        "10.0e1",
        "1.5",
        "-1.5",
        "1e-7",
        "0.1",
        "9007199254740992",
        "-9007199254740992",
        "9007199254740993",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "1e400",
        "-1e400",
        "1e16",
        "9007199254740991.0",
        "5e-324",
        "1e-400",
    ] {
        for (text, at) in [
            (text.to_string(), "the document"),
            (format!("{{\"a\":[true,{{\"b-c\":{text}}},2]}}"), "a[1].b-c"),
            (format!("[[1,2],[3,{text}]]"), "[1][1]"),
            (format!(r#"{{"s":"1.0,\"x\":-0","k\\":["\\",{text}],"z":1}}"#), r#"["k\\\\"][1]"#),
        ] {
            let message = refusal(&text);
            // A key is shown as spelled or as decoded, by which check finds the number.
            let decoded = at.replace(r"\\\\", r"\\");
            assert!(message.starts_with(at) || message.starts_with(&decoded), "{text}: {message}");
            assert!(message.ends_with("plain digits, without point, exponent or -0"), "{text}: {message}");
        }
    }
    for n in ["0", "1", "-1", "10", "9007199254740991", "-9007199254740991"] {
        assert_eq!(to_bytes(&read(n).unwrap()).unwrap(), n.as_bytes());
        let around = format!(" {{ \"1e2\" : [ {n} , \"-0\" , {{ }} , [ ] , {n} ] , \"b\" : {n} }} ");
        assert!(read(&around).is_ok(), "{around}");
    }
}

#[test]
fn j04_j06_what_is_not_one_document_is_refused() {
    for bytes in [
        b"\xef\xbb\xbf{}".as_slice(),
        b"{} {}",
        b"{}x",
        b"{},",
        b"",
        b"NaN",
        b"[Infinity]",
        b"// c\n{}",
        b"{/**/}",
        b"[1,]",
        b"{'a':1}",
        b"\"\\ud800\"",
        b"\"\\udc00\\ud800\"",
        b"{\"\\ud800\":1}",
        b"\"\xff\"",
        b"\"\xc0\x80\"",
        b"\"\xed\xa0\x80\"",
        b"\"\x01\"",
        b"[01]",
        b"[+1]",
        b"[1.]",
        b"[.5]",
        b"{}\0",
    ] {
        let found = parse(bytes, 100);
        assert!(matches!(found, Err(Refusal::Json(_))), "{:?}: {found:?}", String::from_utf8_lossy(bytes));
    }
    // Nothing is normalised.
    assert_eq!(to_bytes(&read("\"e\\u0301\\u00e9\"").unwrap()).unwrap(), "\"e\u{301}é\"".as_bytes());
}

#[test]
fn j07_depth_and_length_are_bounded() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(read(&nested(64)).is_ok());
    assert!(refusal(&nested(65)).starts_with("nested deeper than 64"));
    assert!(parse(b"[1,2]", 5).is_ok() && parse(b"[1,2]", 4).is_err());

    let mut built = Value::from(1_u64);
    for _ in 0..64 {
        built = Value::from(vec![built]);
    }
    assert!(to_bytes(&built).is_ok());
    for outer in [Value::from(vec![built.clone()]), Value::Object(BTreeMap::from([("a".into(), built)]))] {
        assert_eq!(to_bytes(&outer), Err(Refusal::TooDeep { max: 64 }));
    }
}

#[test]
fn j03_values_that_no_document_has_are_not_written() {
    for (number, found) in [
        (Number::from(MAX_INTEGER + 1), "9007199254740992"),
        (Number::from(i64::MIN), "-9223372036854775808"),
        (Number::from_f64(0.5).unwrap(), "0.5"),
    ] {
        let value = Value::Object(BTreeMap::from([("n".into(), Value::Number(number))]));
        assert_eq!(to_bytes(&value), Err(Refusal::Number { at: "n".into(), found: found.into() }));
    }
    assert!(to_bytes(&Value::from(-9_007_199_254_740_991_i64)).is_ok());
}

#[test]
fn messages_stay_short() {
    let long = "k".repeat(10_000);
    let text = format!("{}1.5{}", format!("{{\"{long}\":").repeat(60), "}".repeat(60));
    assert!(refusal(&text).len() < 600, "{}", refusal(&text));
    assert!(refusal(&format!("[1.{}]", "5".repeat(10_000))).len() < 300);
    assert!(refusal(&format!("{{\"{}\":1}}", "ö".repeat(10_000))).len() < 400);
}

/// Spells a value in some other way: order of members, whitespace, escapes in strings and keys.
pub(crate) fn respell(value: &Value, dice: &mut impl FnMut(u64) -> u64, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.write(out),
        Value::String(text) => respell_text(text, dice, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                blank(dice, out);
                respell(item, dice, out);
                blank(dice, out);
            }
            blank(dice, out);
            out.push(']');
        }
        Value::Object(members) => {
            let mut left: Vec<_> = members.iter().collect();
            out.push('{');
            while !left.is_empty() {
                let (key, member) = left.swap_remove(usize::try_from(dice(left.len() as u64)).unwrap());
                blank(dice, out);
                respell_text(key, dice, out);
                blank(dice, out);
                out.push(':');
                blank(dice, out);
                respell(member, dice, out);
                blank(dice, out);
                if !left.is_empty() {
                    out.push(',');
                }
            }
            out.push('}');
        }
    }
}

fn blank(dice: &mut impl FnMut(u64) -> u64, out: &mut String) {
    for _ in 0..dice(3) {
        out.push([' ', '\n', '\t', '\r'][usize::try_from(dice(4)).unwrap()]);
    }
}

fn respell_text(text: &str, dice: &mut impl FnMut(u64) -> u64, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        let must = c < ' ' || c == '"' || c == '\\';
        if must || dice(4) == 0 {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let hex = format!("\\u{unit:04x}");
                out.push_str(&if dice(2) == 0 { hex } else { hex.to_uppercase().replace("\\U", "\\u") });
            }
        } else if c == '/' && dice(2) == 0 {
            out.push_str("\\/");
        } else {
            out.push(c);
        }
    }
    out.push('"');
}

/// Numbers from 0 to below the argument, from a seed (splitmix64).
pub(crate) fn dice(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |sides| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// Values that a document may hold.
fn any_document() -> impl Strategy<Value = Value> {
    let max = i64::try_from(MAX_INTEGER).unwrap();
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-max..=max).prop_map(Value::from),
        (-20_i64..20).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[\\x00-\\x7f]{0,4}", inner, 0..6).prop_map(Value::from),
        ]
    })
}

proptest! {
    #[test]
    fn j08_canonical_bytes_read_back_as_the_one_value(value in any_document()) {
        let bytes = to_bytes(&value).unwrap();
        let again = parse(&bytes, bytes.len()).unwrap();
        prop_assert_eq!(&again, &value);
        prop_assert_eq!(to_bytes(&again).unwrap(), bytes.clone());
        // With keys in ASCII, the order of bytes is the order of UTF-16 units.
        prop_assert_eq!(value.to_text().into_bytes(), bytes);
    }

    #[test]
    fn order_layout_and_escapes_do_not_change_the_canonical_form(value in any_document(), seed in any::<u64>()) {
        let mut text = String::new();
        respell(&value, &mut dice(seed), &mut text);
        let read = parse(text.as_bytes(), text.len()).unwrap();
        prop_assert_eq!(to_bytes(&read).unwrap(), to_bytes(&value).unwrap());
        prop_assert!(to_bytes(&read).unwrap().len() <= text.len());
    }

    #[test]
    fn j05_keys_are_sorted_by_utf_16_units(value in crate::json::tests::any_value()) {
        let text = jcs(&value);
        prop_assert_eq!(&any_json(&text), &value);
        check_order(&value, &text);
    }

    #[test]
    fn j03_what_is_read_is_strict_and_what_is_not_is_refused(text in r#"[\[\]{}:, "\\ue\-.0-9a]{0,24}|-?[0-9]{1,20}(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?"#) {
        if let Ok(value) = read(&text) {
            // Nothing but blanks, order and escapes may differ.
            let plain: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            if !text.contains(['"', '\\']) {
                prop_assert_eq!(to_bytes(&value).unwrap(), plain.into_bytes());
            }
        }
    }

    #[test]
    fn rfc_8785_fractions_read_back_and_are_as_short_as_can_be(significand in 1_u64..1 << 53, places in 1_i32..80) {
        let x = significand as f64 / 2_f64.powi(places);
        if let Some(number) = Number::from_f64(x).filter(|n| n.as_fraction().is_some()) {
            let text = jcs(&Value::Number(number));
            prop_assert_eq!(text.parse::<f64>(), Ok(x));
            prop_assert_eq!(text.len(), number.to_string().len(), "{}", text);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(value) = parse(&bytes, 120) {
            prop_assert!(to_bytes(&value).is_ok());
        }
        // The scan has no meaning on bytes that are no JSON, but it ends.
        let _ = spelling::check(&bytes);
    }
}

/// Walks an object's members in the order in which `text` must have them.
fn check_order(value: &Value, text: &str) {
    if let Value::Object(members) = value {
        let mut keys: Vec<Vec<u16>> = members.keys().map(|key| key.encode_utf16().collect()).collect();
        keys.sort();
        let mut at = 1;
        for units in keys {
            let key = String::from_utf16(&units).unwrap();
            let member = format!("{}:{}", Value::from(key.as_str()).to_text(), jcs(&members[&key]));
            assert!(text[at..].starts_with(&member), "{member} at {at} of {text}");
            at += member.len() + 1;
        }
    }
}
