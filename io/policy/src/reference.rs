//! References of Rego (`data.a["b"][x]`), taken apart.

use regorus::unstable::{Expr, Ref, Span};

/// A path below `data`, without the `data`.
pub(crate) type Path = Vec<String>;

/// A reference: what it begins with, and what follows in order.
pub(crate) struct Reference<'a> {
    pub root: Root<'a>,
    links: Vec<Link<'a>>,
}

/// What a reference begins with.
pub(crate) enum Root<'a> {
    Name(&'a str),
    /// A call, a collection or a comprehension.
    Value(&'a Ref<Expr>),
}

enum Link<'a> {
    /// `.name`, `["name"]`
    Name(String),
    /// `[expression]`
    Computed(&'a Ref<Expr>),
}

impl<'a> Reference<'a> {
    /// Takes a reference apart; an expression of another kind is a root without anything behind it.
    pub(crate) fn of(expr: &'a Ref<Expr>) -> Self {
        let mut links = Vec::new();
        let mut at = expr;
        let root = loop {
            if let Expr::RefDot { refr, field, .. } = at.as_ref() {
                links.push(Link::Name(field.0.text().to_owned()));
                at = refr;
            } else if let Expr::RefBrack { refr, index, .. } = at.as_ref() {
                links.push(literal(index).map_or(Link::Computed(index), Link::Name));
                at = refr;
            } else if let Expr::Var { span, .. } = at.as_ref() {
                break Root::Name(span.text());
            } else {
                break Root::Value(at);
            }
        };
        links.reverse();
        Self { root, links }
    }

    /// The names that it begins with, up to the first computed part.
    pub(crate) fn names(&self) -> Path {
        let Root::Name(root) = self.root else { return Path::new() };
        let links = self.links.iter().map_while(|link| match link {
            Link::Name(name) => Some(name.clone()),
            Link::Computed(_) => None,
        });
        std::iter::once(root.to_owned()).chain(links).collect()
    }

    /// All its names; `None` when a part is computed.
    pub(crate) fn constant(&self) -> Option<Path> {
        let names = self.names();
        (names.len() == self.links.len() + 1).then_some(names)
    }

    /// Its computed parts.
    pub(crate) fn computed(&self) -> impl Iterator<Item = &'a Ref<Expr>> {
        self.links.iter().filter_map(|link| match link {
            Link::Name(_) => None,
            Link::Computed(index) => Some(*index),
        })
    }
}

/// The text of a constant string.
pub(crate) fn literal(expr: &Ref<Expr>) -> Option<String> {
    let (Expr::String { value, .. } | Expr::RawString { value, .. }) = expr.as_ref() else { return None };
    Some(value.as_string().ok()?.as_ref().to_owned())
}

/// The place of a part of the syntax tree.
pub(crate) fn place(span: &Span) -> (&str, u32) {
    (span.source.get_path(), span.line)
}
