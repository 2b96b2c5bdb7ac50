//! What a call of a builtin function costs, before it is made.
//!
//! The unit is the byte: what the call will allocate at most, and a sixteenth of what it will read. A bound need
//! not be tight, only true: it is a few times the real figure for ordinary calls and stops the extraordinary ones.

use anyhow::bail;
use regorus::Value;

/// The cost, or why the call must not be made whatever the budget is.
pub(crate) type Cost = anyhow::Result<u64>;

/// Bytes of one value in a collection, with its share of the collection and the header of a short string.
const SLOT: u64 = 64;
/// What is read costs this much less than what is allocated.
const READ: u64 = 16;
/// Compiling a pattern. The engine bounds the compiled form at 100 KiB, and does not keep it: what counts is the time.
const COMPILE: u64 = 16 * 1024;
/// Most bytes of a pattern.
const MAX_PATTERN: u64 = 4096;
/// Most bits of a number that a function takes; far beyond 64-bit arithmetic, far below where it gets slow.
const MAX_BITS: u64 = 4096;
/// What [`size`] gives up at; beyond every budget.
const HUGE: u64 = 1 << 40;

/// Costs nothing.
pub(crate) fn free(_: &[Value]) -> Cost {
    Ok(0)
}

/// Reads its arguments once.
pub(crate) fn scan(args: &[Value]) -> Cost {
    Ok(args.iter().map(width).sum::<u64>() / READ)
}

/// Numbers only.
pub(crate) fn numbers(args: &[Value]) -> Cost {
    for arg in args {
        if bits(arg) > MAX_BITS {
            bail!("a number has more than {MAX_BITS} bits");
        }
    }
    Ok(MAX_BITS)
}

/// A left shift.
pub(crate) fn shift(args: &[Value]) -> Cost {
    let by = args.get(1).and_then(|by| by.as_u64().ok()).unwrap_or(0);
    if by > MAX_BITS {
        bail!("shifts by more than {MAX_BITS} bits");
    }
    numbers(args)
}

/// Copies the collections it is given, not what is in them.
pub(crate) fn copy(args: &[Value]) -> Cost {
    Ok(args.iter().map(|arg| len(arg).saturating_mul(SLOT)).sum())
}

/// Writes at most three bytes for each byte of text (case mapping, escaping).
pub(crate) fn encode(args: &[Value]) -> Cost {
    Ok(text(args, 0).len() as u64 * 3)
}

/// Looks at every value, however deep.
pub(crate) fn deep(args: &[Value]) -> Cost {
    Ok(args.iter().map(size).fold(0, u64::saturating_add))
}

/// Looks at each pair of values of two collections.
pub(crate) fn pairs(args: &[Value]) -> Cost {
    let (left, right) = (args.first().map_or(0, size), args.get(1).map_or(0, size));
    Ok((left / READ).saturating_mul(right / READ).saturating_add(left).saturating_add(right))
}

/// Builds one collection of many, step by step.
pub(crate) fn fold(args: &[Value]) -> Cost {
    let all = args.first().map_or(0, size);
    let steps = args.first().map_or(0, len);
    Ok(all.saturating_add((all / READ).saturating_mul(steps)))
}

/// Multiplies all numbers of a collection.
pub(crate) fn product(args: &[Value]) -> Cost {
    let all = args.first().map_or(0, size);
    Ok(all.saturating_add((all / READ).saturating_mul(args.first().map_or(0, len)) / READ))
}

/// Joins strings.
pub(crate) fn concat(args: &[Value]) -> Cost {
    let separator = text(args, 0).len() as u64;
    let each = |item: &Value| separator.saturating_add(width(item)).saturating_add(SLOT);
    Ok(match args.get(1) {
        Some(Value::Array(items)) => items.iter().map(each).fold(0, u64::saturating_add),
        Some(Value::Set(items)) => items.iter().map(each).fold(0, u64::saturating_add),
        _ => 0,
    })
}

/// Looks for each place of one text in another.
pub(crate) fn search(args: &[Value]) -> Cost {
    let (text, part) = (text(args, 0).len() as u64, text(args, 1).len() as u64);
    Ok(text.saturating_mul(part.max(1)) / READ + text * 3)
}

/// Counts the places of one text in another; the engine cannot count an empty one.
pub(crate) fn count_in(args: &[Value]) -> Cost {
    if text(args, 1).is_empty() {
        bail!("the text to count is empty");
    }
    search(args)
}

/// Replaces one text by another.
pub(crate) fn replace(args: &[Value]) -> Cost {
    let (text, old, new) = (text(args, 0), text(args, 1), text(args, 2));
    let places = text.matches(old).count() as u64;
    Ok((text.len() as u64).saturating_add(places.saturating_mul(new.len() as u64)).saturating_mul(2))
}

/// Splits a text.
pub(crate) fn split(args: &[Value]) -> Cost {
    let (text, by) = (text(args, 0), text(args, 1));
    let pieces = if by.is_empty() { text.len() } else { text.matches(by).count() + 1 };
    Ok((pieces as u64).saturating_mul(SLOT).saturating_add(text.len() as u64))
}

/// Compares each text of one collection with each of another.
pub(crate) fn any_match(args: &[Value]) -> Cost {
    let (left, right) = (args.first().map_or(0, size), args.get(1).map_or(0, size));
    let count = |at: usize| args.get(at).map_or(1, |arg| if matches!(arg, Value::String(_)) { 1 } else { len(arg) });
    Ok((left.saturating_add(right) + count(0).saturating_mul(right) + count(1).saturating_mul(SLOT)) / READ)
}

/// Formats. Width and precision are numbers in the format.
pub(crate) fn sprintf(args: &[Value]) -> Cost {
    const MAX_WIDTH: u64 = 1024;
    let format = text(args, 0);
    let mut padding = 0_u64;
    for (at, percent) in format.match_indices('%') {
        let rest = format.get(at + percent.len()..).unwrap_or_default();
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        let digits = rest.split(|c: char| !c.is_numeric()).next().unwrap_or_default();
        // The engine panics at digits that are not ASCII, and at numbers that do not fit.
        match digits.parse::<u64>() {
            Ok(width) if width <= MAX_WIDTH => padding += width,
            Err(_) if digits.is_empty() => {}
            _ => bail!("a width or precision in the format is beyond {MAX_WIDTH}"),
        }
    }
    // Decimal digits, brackets, separators and escapes: six bytes for one.
    Ok(args.get(1).map_or(0, size).saturating_mul(6).saturating_add(format.len() as u64).saturating_add(padding))
}

/// Writes JSON.
pub(crate) fn write(args: &[Value]) -> Cost {
    Ok(args.first().map_or(0, size).saturating_mul(6))
}

/// Reads JSON: an element of two bytes becomes a value.
pub(crate) fn parse(args: &[Value]) -> Cost {
    Ok(text(args, 0).len() as u64 * (SLOT / 2))
}

/// Reads one number.
pub(crate) fn parse_number(args: &[Value]) -> Cost {
    const MAX_DIGITS: usize = 64;
    const MAX_EXPONENT: usize = 3;
    let text = text(args, 0);
    if text.len() > MAX_DIGITS {
        bail!("the number is longer than {MAX_DIGITS} characters");
    }
    // An exponent makes an exact integer of as many digits.
    for (at, _) in text.match_indices(['e', 'E']) {
        let rest = text.get(at + 1..).unwrap_or_default().trim_start_matches(['+', '-']).trim_start_matches('0');
        if rest.bytes().take_while(u8::is_ascii_digit).count() > MAX_EXPONENT {
            bail!("the number's exponent is longer than {MAX_EXPONENT} digits");
        }
    }
    Ok(MAX_BITS)
}

/// An array of consecutive numbers.
pub(crate) fn range(args: &[Value]) -> Cost {
    let end = |at: usize| args.get(at).and_then(|end| end.as_i64().ok());
    let (Some(from), Some(to)) = (end(0), end(1)) else {
        bail!("the ends of the range must be 64-bit integers");
    };
    if args.len() > 2 && end(2).is_none_or(|step| step <= 0) {
        bail!("the step must be a positive integer");
    }
    Ok(from.abs_diff(to).saturating_add(1).saturating_mul(SLOT))
}

/// Follows paths into an object.
pub(crate) fn paths(args: &[Value]) -> Cost {
    const MAX_STEPS: usize = 64;
    let steps = |path: &Value| match path {
        Value::String(text) => text.matches('/').count(),
        Value::Array(steps) => steps.len(),
        // The engine refuses these.
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Set(_) | Value::Object(_) | Value::Undefined => 0,
    };
    // The engine follows a path by recursion.
    let longest = match args.get(1) {
        Some(Value::Array(paths)) => paths.iter().map(steps).max(),
        Some(Value::Set(paths)) => paths.iter().map(steps).max(),
        _ => None,
    };
    if longest.unwrap_or(0) > MAX_STEPS {
        bail!("a path has more than {MAX_STEPS} steps");
    }
    Ok(deep(args)?.saturating_mul(2))
}

/// Matches a glob.
pub(crate) fn glob(args: &[Value]) -> Cost {
    const MAX_DELIMITERS: u64 = 16;
    if text(args, 0).len() as u64 > MAX_PATTERN || args.get(1).map_or(0, len) > MAX_DELIMITERS {
        bail!("the pattern is longer than {MAX_PATTERN} bytes, or has more than {MAX_DELIMITERS} delimiters");
    }
    Ok(COMPILE + text(args, 2).len() as u64 * 3 * MAX_DELIMITERS)
}

/// Matches, finds or splits by a regular expression: the pattern is the first argument, the text the second.
pub(crate) fn regex(args: &[Value]) -> Cost {
    pattern(text(args, 0))?;
    Ok(COMPILE + (text(args, 1).len() as u64 + 1) * (SLOT + 1))
}

/// Finds with groups.
pub(crate) fn regex_groups(args: &[Value]) -> Cost {
    let groups = text(args, 0).matches('(').count() as u64 + 1;
    Ok(regex(args)?.saturating_mul(groups))
}

/// Replaces what matches: text, pattern, replacement, in which `$` may repeat a part of the text.
pub(crate) fn regex_replace(args: &[Value]) -> Cost {
    let (text, pat, new) = (text(args, 0), text(args, 1), text(args, 2));
    pattern(pat)?;
    let (len, repeats) = (text.len() as u64 + 1, new.matches('$').count() as u64 + 1);
    Ok(COMPILE.saturating_add(len.saturating_mul(new.len() as u64)).saturating_add(len.saturating_mul(repeats)))
}

fn pattern(text: &str) -> anyhow::Result<()> {
    if text.len() as u64 > MAX_PATTERN {
        bail!("the pattern is longer than {MAX_PATTERN} bytes");
    }
    Ok(())
}

/// The text of an argument; empty when it is none.
fn text(args: &[Value], at: usize) -> &str {
    match args.get(at) {
        Some(Value::String(text)) => text,
        _ => "",
    }
}

/// The number of elements of a collection.
fn len(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items.len() as u64,
        Value::Set(items) => items.len() as u64,
        Value::Object(members) => members.len() as u64,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => 0,
    }
}

/// The bytes of a text, the elements of a collection.
fn width(value: &Value) -> u64 {
    if let Value::String(text) = value { text.len() as u64 } else { len(value) }
}

/// The bits of a number that is no 64-bit number.
fn bits(value: &Value) -> u64 {
    if value.as_u64().is_ok() || value.as_i64().is_ok() {
        return 64;
    }
    value.as_number().ok().and_then(|n| n.as_big()).map_or(64, |n| n.bits())
}

/// The bytes of a value written out: what several values share counts for each. Gives up at [`HUGE`] bytes.
fn size(value: &Value) -> u64 {
    /// Each step costs time; this many are enough for every budget.
    const MAX_STEPS: u64 = 1 << 20;
    let mut total = 0_u64;
    let mut steps = 0_u64;
    let mut todo = vec![value];
    while let Some(value) = todo.pop() {
        steps += 1;
        total = total.saturating_add(SLOT);
        match value {
            Value::String(text) => total = total.saturating_add(text.len() as u64),
            Value::Number(_) => total = total.saturating_add(bits(value) / 2),
            Value::Array(items) => todo.extend(items.iter()),
            Value::Set(items) => todo.extend(items.iter()),
            Value::Object(members) => todo.extend(members.iter().flat_map(|(key, value)| [key, value])),
            Value::Null | Value::Bool(_) | Value::Undefined => {}
        }
        if total > HUGE || steps > MAX_STEPS {
            return HUGE;
        }
    }
    total
}
