//! The ways in which a collector may behave.

/// How the collector behaves. Poisonous records (see `poison` in the configuration) are refused by every manner that would store them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// Stores, and says so.
    #[default]
    Plain,
    /// Refuses connections.
    Down,
    /// Takes the request and never answers.
    Hang,
    /// Stores, and answers about when nobody waits any more.
    Slow,
    /// Stores, and the connection breaks before the answer.
    Lost,
    /// Stores, and never answers.
    Late,
    /// Breaks the connection before it has stored.
    Cut,
    /// 429.
    Busy,
    /// 503.
    Unavailable,
    /// 502 or 504 of something in between; what is behind it stored or not.
    Gateway,
    /// Stores a part and says how many records it rejects.
    Partial,
    /// 500.
    Error,
    /// 404.
    Missing,
    /// 302 to elsewhere.
    Redirect,
    /// 200 with something that is no OTLP answer.
    Nonsense,
    /// Stores what arrives; the network delivers a copy once more, later.
    Twice,
}

/// All of them with their names.
pub const MANNERS: &[(&str, Manner)] = &[
    ("plain", Manner::Plain),
    ("down", Manner::Down),
    ("hang", Manner::Hang),
    ("slow", Manner::Slow),
    ("lost", Manner::Lost),
    ("late", Manner::Late),
    ("cut", Manner::Cut),
    ("busy", Manner::Busy),
    ("unavailable", Manner::Unavailable),
    ("gateway", Manner::Gateway),
    ("partial", Manner::Partial),
    ("error", Manner::Error),
    ("missing", Manner::Missing),
    ("redirect", Manner::Redirect),
    ("nonsense", Manner::Nonsense),
    ("twice", Manner::Twice),
];
