//! The text form of plans, both ways.

use std::fmt::Write as _;

use crate::disk::Survival;
use crate::plan::{
    Call, Config, Crash, FileKind, Goal, KINDS, Lies, MANNERS, MARKINGS, Mask, NAMES, OpKind, Order, PARTS, Part, Plan,
    Step, TOOLS, Tool, VERSION, WANTS, What, When,
};

const OPS: &[(&str, OpKind)] = &[
    ("list", OpKind::List),
    ("read", OpKind::Read),
    ("put", OpKind::Put),
    ("append", OpKind::Append),
    ("publish", OpKind::Publish),
    ("truncate", OpKind::Truncate),
    ("sync", OpKind::Sync),
    ("rename", OpKind::Rename),
    ("remove", OpKind::Remove),
    ("syncdir", OpKind::SyncDir),
];

const FILES: &[(&str, FileKind)] = &[
    ("any", FileKind::Any),
    ("live", FileKind::Live),
    ("sealed", FileKind::Sealed),
    ("safe", FileKind::SafeSeq),
    ("base", FileKind::Base),
    ("pos", FileKind::Positions),
    ("rejected", FileKind::Rejected),
    ("lock", FileKind::Lock),
    ("active_lock", FileKind::ActiveLock),
    ("marker", FileKind::Marker),
    ("activation", FileKind::Activation),
    ("history", FileKind::History),
    ("bundle", FileKind::Bundle),
    ("temp", FileKind::Temp),
];

const CRASHES: &[(&str, Crash)] = &[
    ("process", Crash::Process),
    ("power", Crash::Power(Survival::Mix)),
    ("power-subset", Crash::Power(Survival::MixSubset)),
    ("power-nothing", Crash::Power(Survival::Nothing)),
    ("power-everything", Crash::Power(Survival::Everything)),
];

fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> &'static str {
    table.iter().find(|entry| entry.1 == *value).map_or("?", |entry| entry.0)
}

/// Writes a plan.
pub(crate) fn print(plan: &Plan, out: &mut String) {
    let c = &plan.config;
    let policy = c.policy.map_or_else(|| "none".to_owned(), |p| p.to_string());
    // Writing to a String does not fail.
    let _ = writeln!(out, "sim-plan {VERSION}\nseed {}\nmask {}", plan.seed, plan.mask);
    let _ = writeln!(
        out,
        "config max_in_flight={} max_bytes={} retain={} shed={} strict={} shell={} tool_timeout={} backstop={} policy={policy} sync={} heal={} drain={} batch={} patience={} poison={} past={} verified={} precheck={}",
        c.max_in_flight,
        c.max_bytes,
        c.retain_us,
        u8::from(c.shed),
        u8::from(c.strict),
        u8::from(c.shell),
        c.tool_timeout_us,
        c.backstop_us,
        c.sync_us,
        c.heal_us,
        u8::from(c.drain),
        c.batch,
        c.patience_us,
        c.poison,
        c.past,
        u8::from(c.verified),
        u8::from(c.precheck)
    );
    for step in &plan.steps {
        let _ = print_step(step, out);
        out.push('\n');
    }
}

fn print_call(call: &Call, out: &mut String) -> std::fmt::Result {
    write!(out, "id={} kind={} class={} pad={}", call.id, call.tool.kind(), call.class, call.pad)
}

/// Writes one step, without the line's end.
pub(crate) fn print_step(step: &Step, out: &mut String) -> std::fmt::Result {
    match step.when {
        When::At(us) => write!(out, "at={us} ")?,
        When::Effect { life, n } => write!(out, "life={life} effect={n} ")?,
        When::Seal { nth, step } => write!(out, "seal={nth} step={step} ")?,
    }
    let crash_after = |crash: Option<u32>| crash.map_or_else(|| "none".to_owned(), |n| n.to_string());
    match step.what {
        What::Call(call) => {
            out.push_str("call ");
            print_call(&call, out)
        }
        What::Loop { call, n, think_us } => {
            out.push_str("loop ");
            print_call(&call, out)?;
            write!(out, " n={n} think={think_us}")
        }
        What::Load { variant, crash } => write!(out, "load variant={variant} crash={}", crash_after(crash)),
        What::Rollback { below, crash } => {
            write!(out, "rollback below={} crash={}", u8::from(below), crash_after(crash))
        }
        What::Fetch { order: Order { release, lies, on, goal }, crash } => {
            let (word, wants) = match goal {
                Goal::Import => ("import", String::new()),
                Goal::Activate(wants) => ("activate", format!(" wants={}", name_of(WANTS, &wants))),
            };
            let (on, crash) = (name_of(PARTS, &on), crash_after(crash));
            write!(out, "{word} release={release} lies={lies} on={on}{wants} crash={crash}")
        }
        What::ResetFloor { name, time, crash } => {
            let name = NAMES.get(usize::from(name)).copied().unwrap_or("?");
            write!(out, "reset name={name} time={} crash={}", u8::from(time), crash_after(crash))
        }
        What::Stop { down_us } => write!(out, "stop down={down_us}"),
        What::Mark { marking } => write!(out, "mark marker={}", name_of(MARKINGS, &marking)),
        What::Read => write!(out, "read"),
        What::Drain { batch, crash } => write!(out, "drain batch={batch} crash={}", crash_after(crash)),
        What::Collector { manner, for_us, retry_us } => {
            write!(out, "collector manner={} for={for_us} retry={retry_us}", name_of(MANNERS, &manner))
        }
        What::Crash { kind, down_us } => write!(out, "crash kind={} down={down_us}", name_of(CRASHES, &kind)),
        What::FailOp { op, file, nospace, partial } => write!(
            out,
            "failop op={} file={} nospace={} partial={}",
            name_of(OPS, &op),
            name_of(FILES, &file),
            u8::from(nospace),
            u8::from(partial)
        ),
        What::Full { for_us, syncs, renames } => {
            write!(out, "full for={for_us} syncs={} renames={}", u8::from(syncs), u8::from(renames))
        }
        What::Stall { for_us, add_us } => write!(out, "stall for={for_us} add={add_us}"),
        What::Rot { file, place, evicted } => {
            write!(out, "rot file={} place={place} evicted={}", name_of(FILES, &file), u8::from(evicted))
        }
        What::Misdirect => write!(out, "misdirect"),
        What::CutLive { permille } => write!(out, "cutlive permille={permille}"),
        What::Jump { by_us } => write!(out, "jump by={by_us}"),
        What::Drift { ppm } => write!(out, "drift ppm={ppm}"),
        What::Pause { for_us } => write!(out, "pause for={for_us}"),
    }
}

struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn text(&self, key: &str) -> Result<&'a str, String> {
        self.0.iter().find(|f| f.0 == key).map(|f| f.1).ok_or_else(|| format!("`{key}=` is missing"))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T, String> {
        let text = self.text(key)?;
        text.parse().map_err(|_| format!("`{key}={text}` is no number that fits"))
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        Ok(self.number::<u8>(key)? != 0)
    }

    fn optional<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, String> {
        if self.text(key)? == "none" { Ok(None) } else { self.number(key).map(Some) }
    }

    /// A number that older plans do not have.
    fn number_or<T: std::str::FromStr>(&self, key: &str, or: T) -> Result<T, String> {
        if self.text(key).is_ok() { self.number(key) } else { Ok(or) }
    }

    fn one_of<T: Copy>(&self, key: &str, table: &[(&'static str, T)]) -> Result<T, String> {
        let text = self.text(key)?;
        table.iter().find(|e| e.0 == text).map(|e| e.1).ok_or_else(|| format!("`{key}={text}` is not known"))
    }

    fn order(&self, goal: Goal) -> Result<Order, String> {
        let lies = Lies::parse(self.text("lies")?)?;
        let on: Part = self.one_of("on", PARTS)?;
        Ok(Order { release: self.number("release")?, lies, on, goal })
    }

    fn name(&self) -> Result<u8, String> {
        let name = self.text("name")?;
        let at = NAMES.iter().position(|known| *known == name);
        at.and_then(|at| u8::try_from(at).ok()).ok_or_else(|| format!("`name={name}` is not known"))
    }

    fn call(&self) -> Result<Call, String> {
        let kind = self.text("kind")?;
        let known = TOOLS.iter().find(|tool: &&Tool| tool.kind() == kind);
        Ok(Call {
            id: self.number("id")?,
            tool: *known.ok_or_else(|| format!("`kind={kind}` is not known"))?,
            class: self.number("class")?,
            pad: self.number("pad")?,
        })
    }
}

/// Reads a plan.
pub(crate) fn parse(text: &str) -> Result<Plan, String> {
    let mut plan = Plan { seed: 0, config: Config::default(), mask: Mask::default(), steps: Vec::new() };
    let mut versioned = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let went = if let Some(version) = line.strip_prefix("sim-plan ") {
            versioned = true;
            if version.trim() == VERSION.to_string() { Ok(()) } else { Err(format!("version {version} is not known")) }
        } else {
            parse_line(line, &mut plan)
        };
        went.map_err(|why| format!("plan line {}: {why}", at + 1))?;
    }
    if versioned { Ok(plan) } else { Err(format!("this is no plan: the line `sim-plan {VERSION}` is missing")) }
}

fn parse_line(line: &str, plan: &mut Plan) -> Result<(), String> {
    if let Some(seed) = line.strip_prefix("seed ") {
        plan.seed = seed.trim().parse().map_err(|_| format!("`{seed}` is no seed"))?;
        return Ok(());
    }
    if let Some(names) = line.strip_prefix("mask ") {
        for name in names.split(',').map(str::trim).filter(|name| *name != "none") {
            if !KINDS.contains(&name) {
                return Err(format!("`{name}` is no kind of fault"));
            }
            plan.mask.set(name, true);
        }
        return Ok(());
    }
    let mut word = "";
    let mut fields = Fields(Vec::new());
    for part in line.split_whitespace() {
        match part.split_once('=') {
            Some(pair) => fields.0.push(pair),
            None if word.is_empty() => word = part,
            None => return Err(format!("`{part}` is out of place")),
        }
    }
    if word == "config" {
        plan.config = parse_config(&fields)?;
        return Ok(());
    }
    let when = if fields.text("at").is_ok() {
        When::At(fields.number("at")?)
    } else if fields.text("seal").is_ok() {
        When::Seal { nth: fields.number("seal")?, step: fields.number("step")? }
    } else {
        When::Effect { life: fields.number("life")?, n: fields.number("effect")? }
    };
    plan.steps.push(Step { when, what: parse_what(word, &fields)? });
    Ok(())
}

fn parse_config(f: &Fields<'_>) -> Result<Config, String> {
    Ok(Config {
        max_in_flight: f.number("max_in_flight")?,
        max_bytes: f.number("max_bytes")?,
        retain_us: f.number("retain")?,
        shed: f.flag("shed")?,
        strict: f.flag("strict")?,
        shell: f.flag("shell")?,
        tool_timeout_us: f.number("tool_timeout")?,
        backstop_us: f.number("backstop")?,
        policy: f.optional("policy")?,
        sync_us: f.number("sync")?,
        heal_us: f.number("heal")?,
        drain: f.number_or("drain", 0u8)? != 0,
        batch: f.number_or("batch", 512)?,
        patience_us: f.number_or("patience", 400_000)?,
        poison: f.number_or("poison", 0)?,
        past: f.number_or("past", 0)?,
        verified: f.number_or("verified", 0u8)? != 0,
        precheck: f.number_or("precheck", 0u8)? != 0,
    })
}

fn parse_what(word: &str, f: &Fields<'_>) -> Result<What, String> {
    Ok(match word {
        "call" => What::Call(f.call()?),
        "loop" => What::Loop { call: f.call()?, n: f.number("n")?, think_us: f.number("think")? },
        "load" => What::Load { variant: f.number("variant")?, crash: f.optional("crash")? },
        "rollback" => What::Rollback { below: f.flag("below")?, crash: f.optional("crash")? },
        "import" => What::Fetch { order: f.order(Goal::Import)?, crash: f.optional("crash")? },
        "activate" => {
            let goal = Goal::Activate(f.one_of("wants", WANTS)?);
            What::Fetch { order: f.order(goal)?, crash: f.optional("crash")? }
        }
        "reset" => What::ResetFloor { name: f.name()?, time: f.flag("time")?, crash: f.optional("crash")? },
        "stop" => What::Stop { down_us: f.number("down")? },
        "mark" => What::Mark { marking: f.one_of("marker", MARKINGS)? },
        "read" => What::Read,
        "drain" => What::Drain { batch: f.number("batch")?, crash: f.optional("crash")? },
        // What consumers did before there was a drain in the world.
        "deliver" => What::Drain { batch: 512, crash: None },
        "collector" => What::Collector {
            manner: f.one_of("manner", MANNERS)?,
            for_us: f.number("for")?,
            retry_us: f.number("retry")?,
        },
        "crash" => What::Crash { kind: f.one_of("kind", CRASHES)?, down_us: f.number("down")? },
        "failop" => What::FailOp {
            op: f.one_of("op", OPS)?,
            file: f.one_of("file", FILES)?,
            nospace: f.flag("nospace")?,
            partial: f.flag("partial")?,
        },
        "full" => What::Full { for_us: f.number("for")?, syncs: f.flag("syncs")?, renames: f.flag("renames")? },
        "stall" => What::Stall { for_us: f.number("for")?, add_us: f.number("add")? },
        "rot" => What::Rot { file: f.one_of("file", FILES)?, place: f.number("place")?, evicted: f.flag("evicted")? },
        "misdirect" => What::Misdirect,
        "cutlive" => What::CutLive { permille: f.number("permille")? },
        "jump" => What::Jump { by_us: f.number("by")? },
        "drift" => What::Drift { ppm: f.number("ppm")? },
        "pause" => What::Pause { for_us: f.number("for")? },
        other => return Err(format!("`{other}` is no step")),
    })
}
