//! The plan of a story about a node's start: what is configured, and one step after the other. A run is a function of its plan.

use std::fmt::{self, Write as _};

use super::tree::Survival;

/// The first line of a plan file.
pub const HEAD: &str = "sim-edge-plan 1";

/// What stays as it is in a whole story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The relay is on and needs a certificate.
    pub relay: bool,
    /// A certificate is configured.
    pub tls: bool,
    /// The manifest key is pinned outside the state root.
    pub pinned: bool,
    /// The node has an id.
    pub named: bool,
    /// A folder outside may be written.
    pub allow: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { relay: false, tls: true, pinned: false, named: true, allow: true }
    }
}

/// A story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What noise is drawn from.
    pub seed: u64,
    /// What is configured.
    pub config: Config,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A precheck runs.
    Precheck(Check),
    /// The host is shut down in good order and starts as the host of this number.
    Boot(u8),
    /// The power is cut; the host that starts then.
    Power(u8, Survival),
    /// Somebody does something to the files or the clock.
    Edit(Edit),
}

/// A precheck and what happens to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// With `--rotate-certs`.
    pub rotate: bool,
    /// How it ends.
    pub end: End,
    /// What fails in it.
    pub fault: Fault,
    /// Before its n-th operation somebody does this.
    pub meddle: Option<(u32, Edit)>,
    /// Before its n-th operation another precheck starts; they take turns.
    pub beside: Option<u32>,
}

/// How a precheck ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// By itself.
    #[default]
    Itself,
    /// It is killed.
    Kill(Cut),
    /// The power is cut; the same host starts then.
    Power(Cut, Survival),
}

/// An instant in a precheck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Before the operation of this number, from 0.
    pub at: u32,
    /// In that operation's middle: half of its file is written.
    pub half: bool,
}

/// What fails in a precheck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// From the n-th operation on there is no space.
    Full(u32),
    /// The n-th operation fails, whatever it is.
    Fails(u32),
}

/// Something that somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What.
    pub what: What,
    /// Which, how much; what that means depends.
    pub n: u8,
}

macro_rules! whats {
    ($($(#[$doc:meta])* $what:ident = $name:literal,)*) => {
        /// What somebody does; the number that goes with it is `n`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum What { $($(#[$doc])* $what,)* }

        /// All of them with their names in plans.
        pub const WHATS: &[(What, &str)] = &[$((What::$what, $name),)*];
    };
}

whats! {
    /// Release n is placed, signed by the node's key.
    Release = "release",
    /// Release n is placed without a signature.
    ReleaseUnsigned = "release-unsigned",
    /// Release n is placed, signed by another key.
    ReleaseForged = "release-forged",
    /// Release n is placed beside the signature that lies there.
    ReleaseUnderOldSignature = "release-under-old-signature",
    /// The signature of release n is placed beside the manifest that lies there.
    SignatureOnly = "signature-only",
    /// A signature of another length.
    SignatureShort = "signature-short",
    /// The manifest is removed.
    ManifestGone = "manifest-gone",
    /// The node's key is placed.
    Key = "key",
    /// The key is removed.
    KeyGone = "key-gone",
    /// Another key is placed.
    KeyOther = "key-other",
    /// A file that is no key is placed.
    KeyShort = "key-short",
    /// All sources are as the placed release wants them.
    SourcesRight = "sources-right",
    /// Source n is another binary.
    SourceOther = "source-other",
    /// Source n is removed.
    SourceGone = "source-gone",
    /// Source n is a link.
    SourceLink = "source-link",
    /// A bit of source n flips.
    SourceRot = "source-rot",
    /// The fingerprint's hash is made zeros.
    PrintZero = "print-zero",
    /// The fingerprint is removed.
    PrintGone = "print-gone",
    /// The fingerprint is cut in half.
    PrintTorn = "print-torn",
    /// The fingerprint of an earlier epoch is put back.
    PrintBack = "print-back",
    /// The fingerprint says an epoch that is n+1 higher.
    PrintAhead = "print-ahead",
    /// The current evidence is removed.
    CurrentGone = "current-gone",
    /// The current evidence is cut in half.
    CurrentTorn = "current-torn",
    /// The current evidence says something else.
    CurrentOther = "current-other",
    /// The previous evidence is removed.
    PreviousGone = "previous-gone",
    /// The previous evidence is the current one.
    PreviousOther = "previous-other",
    /// The chain loses its last line.
    ChainCut = "chain-cut",
    /// The chain is removed.
    ChainGone = "chain-gone",
    /// A bit of the chain flips, at a place drawn by n.
    ChainRot = "chain-rot",
    /// The chain loses half a line.
    ChainTorn = "chain-torn",
    /// Fingerprint, chain and evidence are removed.
    RecordsGone = "records-gone",
    /// Fingerprint, chain and evidence are put back from the copy of when all was well.
    RecordsRight = "records-right",
    /// `edged` has run here.
    Ran = "ran",
    /// The certificate ends in n days, by the true time; the pair is good.
    Cert = "cert",
    /// The certificate's key is that of another pair.
    CertMixed = "cert-mixed",
    /// The key may be read by others.
    CertExposed = "cert-exposed",
    /// The authorities are removed.
    CertNoCa = "cert-no-ca",
    /// The certificate is removed.
    CertGone = "cert-gone",
    /// A next pair that ends in n days is laid ready.
    Next = "next",
    /// A next pair that does not match is laid ready.
    NextMixed = "next-mixed",
    /// Half of a next pair is laid ready.
    NextHalf = "next-half",
    /// A folder lies in the identity that has no business there.
    IdentityOdd = "identity-odd",
    /// The odd folder is removed.
    IdentityRight = "identity-right",
    /// A signed release says that it is n days later than the true time.
    Floor = "floor",
    /// The clock is n days behind the true time.
    ClockBehind = "clock-behind",
    /// The clock is n years ahead.
    ClockAhead = "clock-ahead",
    /// The clock says 1970.
    ClockLost = "clock-lost",
    /// The clock is right.
    ClockRight = "clock-right",
    /// The state root is not there, of somebody else, open to others, read-only: n.
    RootWrong = "root-wrong",
    /// The state root is as it has to be.
    RootRight = "root-right",
    /// A configured path leads through a link.
    PathLink = "path-link",
    /// The configured paths are right.
    PathRight = "path-right",
    /// A folder lies where destination n is.
    InTheWay = "in-the-way",
    /// A link lies where the folder of destinations is.
    FolderLink = "folder-link",
    /// Nothing of the destinations is there.
    DestinationsGone = "destinations-gone",
    /// The host's components cannot be read.
    HostHidden = "host-hidden",
    /// They can be read.
    HostSeen = "host-seen",
    /// The host is another one, n.
    HostFlips = "host-flips",
}

fn survival(text: &str) -> Option<Survival> {
    Some(match text.split_once('-') {
        None if text == "all" => Survival::All,
        None if text == "none" => Survival::None,
        Some(("bits", bits)) => Survival::Bits(u64::from_str_radix(bits, 16).ok()?),
        Some(("mix", key)) => Survival::Mix(u64::from_str_radix(key, 16).ok()?),
        None | Some(_) => return None,
    })
}

impl fmt::Display for Survival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::None => f.write_str("none"),
            Self::Bits(bits) => write!(f, "bits-{bits:x}"),
            Self::Mix(key) => write!(f, "mix-{key:x}"),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.at, if self.half { "h" } else { "" })
    }
}

fn cut(text: &str) -> Option<Cut> {
    let (digits, half) = text.strip_suffix('h').map_or((text, false), |digits| (digits, true));
    Some(Cut { at: digits.parse().ok()?, half })
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = WHATS.iter().find(|(what, _)| *what == self.what).map_or("?", |(_, name)| name);
        write!(f, "{name}:{}", self.n)
    }
}

fn edit(text: &str) -> Option<Edit> {
    let (name, n) = text.split_once(':')?;
    let what = WHATS.iter().find(|(_, known)| *known == name)?.0;
    Some(Edit { what, n: n.parse().ok()? })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Precheck(check) => {
                f.write_str("precheck")?;
                if check.rotate {
                    f.write_str(" rotate")?;
                }
                match check.end {
                    End::Itself => {}
                    End::Kill(cut) => write!(f, " kill={cut}")?,
                    End::Power(cut, survival) => write!(f, " power={cut}/{survival}")?,
                }
                match check.fault {
                    Fault::None => {}
                    Fault::Full(n) => write!(f, " full={n}")?,
                    Fault::Fails(n) => write!(f, " fails={n}")?,
                }
                if let Some((at, edit)) = check.meddle {
                    write!(f, " meddle={at}/{edit}")?;
                }
                if let Some(at) = check.beside {
                    write!(f, " beside={at}")?;
                }
                Ok(())
            }
            Self::Boot(host) => write!(f, "boot host={host}"),
            Self::Power(host, survival) => write!(f, "power host={host} survive={survival}"),
            Self::Edit(edit) => write!(f, "edit {edit}"),
        }
    }
}

fn check(words: &[&str]) -> Option<Check> {
    let mut check = Check::default();
    for word in words {
        match word.split_once('=') {
            None if *word == "rotate" => check.rotate = true,
            Some(("kill", at)) => check.end = End::Kill(cut(at)?),
            Some(("power", both)) => {
                let (at, survives) = both.split_once('/')?;
                check.end = End::Power(cut(at)?, survival(survives)?);
            }
            Some(("full", n)) => check.fault = Fault::Full(n.parse().ok()?),
            Some(("fails", n)) => check.fault = Fault::Fails(n.parse().ok()?),
            Some(("meddle", both)) => {
                let (at, what) = both.split_once('/')?;
                check.meddle = Some((at.parse().ok()?, edit(what)?));
            }
            Some(("beside", at)) => check.beside = Some(at.parse().ok()?),
            None | Some(_) => return None,
        }
    }
    Some(check)
}

fn step(line: &str) -> Option<Step> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let host = |word: &str| word.strip_prefix("host=")?.parse().ok();
    Some(match *words.first()? {
        "precheck" => Step::Precheck(check(words.get(1..)?)?),
        "boot" => Step::Boot(host(words.get(1)?)?),
        "power" => Step::Power(host(words.get(1)?)?, survival(words.get(2)?.strip_prefix("survive=")?)?),
        "edit" => Step::Edit(edit(words.get(1)?)?),
        _ => return None,
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.config;
        writeln!(f, "{HEAD}\nseed {}", self.seed)?;
        let on = |on: bool| u8::from(on);
        let (relay, tls, pinned) = (on(c.relay), on(c.tls), on(c.pinned));
        writeln!(f, "config relay={relay} tls={tls} pinned={pinned} named={} allow={}", on(c.named), on(c.allow))?;
        let mut text = String::new();
        for step in &self.steps {
            let _ = writeln!(text, "{step}");
        }
        f.write_str(&text)
    }
}

impl Plan {
    /// Reads a plan; lines that start with `#` are passed over.
    ///
    /// # Errors
    /// Which line cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines =
            text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let mut plan = Self { seed: 0, config: Config::default(), steps: Vec::new() };
        for (at, (n, line)) in lines.enumerate() {
            let wrong = || format!("line {}: {line:?} is not what a plan says there", n + 1);
            match at {
                0 if line == HEAD => {}
                0 => return Err(wrong()),
                1 => plan.seed = line.strip_prefix("seed ").and_then(|n| n.parse().ok()).ok_or_else(wrong)?,
                2 => plan.config = config(line).ok_or_else(wrong)?,
                _ => plan.steps.push(step(line).ok_or_else(wrong)?),
            }
        }
        Ok(plan)
    }

    /// How many steps are not what a quiet node sees.
    #[must_use]
    pub fn faults(&self) -> usize {
        let odd = |step: &&Step| match step {
            Step::Precheck(check) => *check != Check { rotate: check.rotate, ..Check::default() },
            Step::Power(..) | Step::Edit(_) => true,
            Step::Boot(_) => false,
        };
        self.steps.iter().filter(odd).count()
    }
}

fn config(line: &str) -> Option<Config> {
    let mut config = Config::default();
    for word in line.strip_prefix("config ")?.split_whitespace() {
        let (key, value) = word.split_once('=')?;
        let on = match value {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        match key {
            "relay" => config.relay = on,
            "tls" => config.tls = on,
            "pinned" => config.pinned = on,
            "named" => config.named = on,
            "allow" => config.allow = on,
            _ => return None,
        }
    }
    Some(config)
}
