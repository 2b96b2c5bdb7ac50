//! What a policy may contain (SPEC 3: evaluation is pure and bounded), checked on the engine's own syntax tree.
//!
//! The tree is what is evaluated, so that there is no second opinion about where a string ends or what a name
//! means. The engine exposes it in a module that it calls unstable; the exact version is pinned by `Cargo.lock`,
//! and a change there does not compile here.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{AssignOp, Literal};
use regorus::unstable::{Expr, Import, LiteralStmt, Module, Query, Ref, Rule, RuleBody, RuleHead, Span};

use crate::Refusal;
use crate::builtins::{self, Decision};
use crate::guard;
use crate::reference::{Path, Reference, Root, literal, place};
use crate::stack::{self, Graph};

/// What the policy is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Decisions: no `with`, no `print`.
    Decide,
    /// `policy test` and `policy eval --explain`.
    Develop,
}

/// What the audit found out about a policy that passed.
#[derive(Clone)]
pub(crate) struct Findings {
    /// The rules that are no functions, by path, with the place of the first definition.
    pub rules: BTreeMap<Path, Place>,
    /// Places in the table of builtin functions, of those that are called.
    pub builtins: BTreeSet<usize>,
    /// Whether two values that are not both constants are multiplied: exact integers then grow without bound,
    /// and time has to be looked at often.
    pub multiplies: bool,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub file: String,
    pub line: u32,
}

/// Checks all modules of a policy.
///
/// # Errors
/// [`Refusal`] with file and line, for the first construct that a policy must not contain.
pub(crate) fn audit(modules: &[Ref<Module>], purpose: Purpose) -> Result<Findings, Refusal> {
    let index = Index::of(modules)?;
    let mut findings = Findings { rules: index.rules.clone(), builtins: BTreeSet::new(), multiplies: false };
    let mut graph = Graph::default();
    for module in modules {
        let package = path_of(&module.package.refr)?;
        for rule in &module.policy {
            let (file, line) = place(rule.span());
            let node = graph.node(rule_path(rule, &package)?, file, line);
            let mut walk =
                Walk { index: &index, package: &package, purpose, findings: &mut findings, graph: &mut graph, node };
            let frames = walk.rule(rule)?;
            graph.weigh(node, frames);
        }
    }
    graph.check()?;
    Ok(findings)
}

/// What names mean, gathered before any body is read.
struct Index {
    rules: BTreeMap<Path, Place>,
    /// Functions and their numbers of arguments.
    functions: BTreeMap<Path, usize>,
    /// Package and alias of an import, and the path that it stands for, `data` or `input` included.
    imports: BTreeMap<(Path, String), Path>,
}

impl Index {
    fn of(modules: &[Ref<Module>]) -> Result<Self, Refusal> {
        let mut index = Self { rules: BTreeMap::new(), functions: BTreeMap::new(), imports: BTreeMap::new() };
        for module in modules {
            let package = path_of(&module.package.refr)?;
            for import in &module.imports {
                index.import(import, &package)?;
            }
            for rule in &module.policy {
                index.rule(rule, &package)?;
            }
        }
        Ok(index)
    }

    fn import(&mut self, import: &Import, package: &Path) -> Result<(), Refusal> {
        let path = path_of(&import.refr)?;
        match path.first().map(String::as_str) {
            Some("rego" | "future") => return Ok(()),
            Some("data" | "input") => {}
            _ => return Err(refuse(&import.span, "imports something other than data, input and rego.v1")),
        }
        let alias = import.r#as.as_ref().map(Span::text).or(path.last().map(String::as_str)).unwrap_or_default();
        self.imports.insert((package.clone(), alias.to_owned()), path.clone());
        Ok(())
    }

    fn rule(&mut self, rule: &Rule, package: &Path) -> Result<(), Refusal> {
        let path = rule_path(rule, package)?;
        let arguments = match rule {
            Rule::Spec { head: RuleHead::Func { args, .. }, .. } => Some(args.len()),
            Rule::Default { args, .. } if !args.is_empty() => Some(args.len()),
            Rule::Spec { .. } | Rule::Default { .. } => None,
        };
        let local = path.get(package.len()..).unwrap_or_default().join(".");
        if builtins::find(&local).is_some() {
            return Err(refuse(rule.span(), format!("`{local}` is the name of a builtin function; choose another")));
        }
        match arguments {
            Some(arguments) => drop(self.functions.insert(path, arguments)),
            None => {
                let (file, line) = place(rule.span());
                self.rules.entry(path).or_insert(Place { file: file.to_owned(), line });
            }
        }
        Ok(())
    }

    /// The path that a reference written `parts` in `package` stands for: without `data` for what is below it,
    /// `None` for `input`.
    fn resolve(&self, package: &Path, parts: &[String]) -> Option<Path> {
        let (root, rest) = parts.split_first()?;
        let below = |base: &[String]| base.iter().chain(rest).cloned().collect::<Path>();
        if root == "data" {
            return Some(rest.to_vec());
        }
        if root == "input" {
            return None;
        }
        match self.imports.get(&(package.clone(), root.clone())).map(|target| target.split_first()) {
            Some(Some((base, target))) => (base == "data").then(|| below(target)),
            Some(None) | None => Some(package.iter().chain(parts).cloned().collect()),
        }
    }
}

/// The walk through one rule. Each function gives the number of stack frames that evaluating the part may need
/// (see [`crate::stack`]).
struct Walk<'a> {
    index: &'a Index,
    package: &'a Path,
    purpose: Purpose,
    findings: &'a mut Findings,
    graph: &'a mut Graph,
    node: usize,
}

impl Walk<'_> {
    fn rule(&mut self, rule: &Rule) -> Result<u32, Refusal> {
        let most = match rule {
            Rule::Default { value, .. } => {
                self.constant(value)?;
                self.expr(value)?
            }
            Rule::Spec { head, bodies, .. } => self.head(head)?.max(self.bodies(bodies)?),
        };
        Ok(stack::RULE + most)
    }

    /// A default stands when nothing else does, so it must not depend on anything.
    fn constant(&self, value: &Ref<Expr>) -> Result<(), Refusal> {
        let scalar = matches!(
            value.as_ref(),
            Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. }
        );
        if scalar {
            return Ok(());
        }
        if let Expr::UnaryExpr { expr, .. } = value.as_ref() {
            return self.constant(expr);
        }
        if let Expr::Array { items, .. } | Expr::Set { items, .. } = value.as_ref() {
            return items.iter().try_for_each(|item| self.constant(item));
        }
        if let Expr::Object { fields, .. } = value.as_ref() {
            return fields
                .iter()
                .try_for_each(|(_, key, value)| self.constant(key).and_then(|()| self.constant(value)));
        }
        Err(refuse(value.span(), "a default value must be constant"))
    }

    fn head(&mut self, head: &RuleHead) -> Result<u32, Refusal> {
        let (refr, mut most) = match head {
            RuleHead::Compr { refr, assign, .. } => (refr, self.optional(assign.as_ref().map(|a| &a.value))?),
            RuleHead::Set { refr, key, .. } => (refr, self.optional(key.as_ref())?),
            RuleHead::Func { refr, args, assign, .. } => {
                let most = self.exprs(args)?;
                (refr, most.max(self.optional(assign.as_ref().map(|a| &a.value))?))
            }
        };
        // The keys of a partial rule are expressions.
        for key in Reference::of(refr).computed() {
            most = most.max(self.expr(key)?);
        }
        Ok(most)
    }

    fn bodies(&mut self, bodies: &[RuleBody]) -> Result<u32, Refusal> {
        let mut most = 0;
        for body in bodies {
            most = most.max(self.optional(body.assign.as_ref().map(|a| &a.value))?).max(self.query(&body.query)?);
        }
        Ok(most)
    }

    /// Statements that iterate evaluate the rest of the query inside, so that each may be one deeper.
    fn query(&mut self, query: &Query) -> Result<u32, Refusal> {
        let mut most = 0;
        let mut depth = 0_u32;
        for statement in &query.stmts {
            depth += stack::STATEMENT;
            most = most.max(depth + self.statement(statement)?);
        }
        Ok(most)
    }

    fn statement(&mut self, statement: &LiteralStmt) -> Result<u32, Refusal> {
        let mut most = match &statement.literal {
            Literal::SomeVars { .. } => 0,
            Literal::SomeIn { key, value, collection, .. } => {
                self.optional(key.as_ref())?.max(self.expr(value)?).max(self.expr(collection)?)
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expr(expr)?,
            Literal::Every { domain, query, .. } => self.expr(domain)?.max(self.query(query)?),
        };
        for modifier in &statement.with_mods {
            if self.purpose == Purpose::Decide {
                return Err(refuse(
                    &modifier.span,
                    "`with` replaces input, data or functions and is for tests only; keep test files out of the bundle",
                ));
            }
            most = most.max(self.expr(&modifier.refr)?).max(self.expr(&modifier.r#as)?);
        }
        Ok(most)
    }

    fn optional(&mut self, expr: Option<&Ref<Expr>>) -> Result<u32, Refusal> {
        expr.map_or(Ok(0), |expr| self.expr(expr))
    }

    fn exprs(&mut self, exprs: &[Ref<Expr>]) -> Result<u32, Refusal> {
        let mut most = 0;
        for expr in exprs {
            most = most.max(self.expr(expr)?);
        }
        Ok(most)
    }

    fn expr(&mut self, expr: &Ref<Expr>) -> Result<u32, Refusal> {
        let most = match expr.as_ref() {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => 0,
            Expr::Var { .. } => self.reference(expr)?,
            Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expr)?,
            Expr::Array { items, .. } | Expr::Set { items, .. } => self.exprs(items)?,
            Expr::Object { fields, .. } => {
                let mut most = 0;
                for (_, key, value) in fields {
                    most = most.max(self.expr(key)?).max(self.expr(value)?);
                }
                most
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                stack::STATEMENT + self.query(query)? + self.expr(term)?
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                stack::STATEMENT + self.query(query)? + self.expr(key)?.max(self.expr(value)?)
            }
            Expr::Call { span, fcn, params, .. } => {
                self.call(span, fcn, params)?;
                stack::STATEMENT + self.exprs(params)?
            }
            Expr::UnaryExpr { expr, .. } => self.expr(expr)?,
            Expr::ArithExpr { op, lhs, rhs, .. } => {
                let constant = |e: &Ref<Expr>| matches!(e.as_ref(), Expr::Number { .. });
                if *op == regorus::unstable::ArithOp::Mul && !constant(lhs) && !constant(rhs) {
                    self.findings.multiplies = true;
                }
                self.expr(lhs)?.max(self.expr(rhs)?)
            }
            Expr::BinExpr { lhs, rhs, .. } | Expr::BoolExpr { lhs, rhs, .. } => self.expr(lhs)?.max(self.expr(rhs)?),
            Expr::AssignExpr { span, op, lhs, rhs, .. } => {
                if *op == AssignOp::ColEq {
                    self.shadow(span, lhs)?;
                }
                self.expr(lhs)?.max(self.expr(rhs)?)
            }
            Expr::Membership { key, value, collection, .. } => {
                self.optional(key.as_ref())?.max(self.expr(value)?).max(self.expr(collection)?)
            }
        };
        Ok(most + 1)
    }

    /// `:=` may name anything but the two documents.
    fn shadow(&self, span: &Span, target: &Ref<Expr>) -> Result<(), Refusal> {
        let Expr::Var { span: name, .. } = target.as_ref() else { return Ok(()) };
        if matches!(name.text(), "input" | "data") {
            return Err(refuse(span, format!("`{}` cannot be assigned to", name.text())));
        }
        Ok(())
    }

    /// A reference: notes the rules that it may reach, and goes through its computed parts.
    fn reference(&mut self, expr: &Ref<Expr>) -> Result<u32, Refusal> {
        let reference = Reference::of(expr);
        let mut most = match reference.root {
            Root::Name(_) => 0,
            Root::Value(value) => self.expr(value)?,
        };
        for index in reference.computed() {
            most = most.max(self.expr(index)?);
        }
        if let Some(path) = self.index.resolve(self.package, &reference.names()) {
            self.graph.reaches(self.node, path);
        }
        Ok(most)
    }

    fn call(&mut self, span: &Span, function: &Ref<Expr>, params: &[Ref<Expr>]) -> Result<(), Refusal> {
        let Ok(parts) = path_of(function) else {
            return Err(refuse(span, "calls something that is not the name of a function"));
        };
        let name = parts.join(".");
        let own = self.index.resolve(self.package, &parts);
        if let Some((path, arity)) = own.and_then(|path| self.index.functions.get_key_value(&path)) {
            check_arity(span, &name, *arity, params.len())?;
            self.graph.calls(self.node, path.clone());
            return Ok(());
        }
        match builtins::find(&name) {
            Some((at, Decision::Allowed(signature))) => {
                check_arity(span, &name, signature.args.len(), params.len())?;
                if let Some(pattern) = signature.pattern.and_then(|at| params.get(at)).and_then(literal)
                    && !guard::is_regex(&pattern)
                {
                    return Err(refuse(
                        span,
                        format!("`{name}`: the pattern is no regular expression, or is too large"),
                    ));
                }
                self.findings.builtins.insert(at);
                Ok(())
            }
            Some((_, Decision::Refused(_))) if name == "print" && self.purpose == Purpose::Develop => Ok(()),
            Some((_, Decision::Refused(why))) => Err(refuse(span, format!("`{name}` {why}"))),
            None => Err(refuse(
                span,
                format!("`{name}` is neither a function of this policy nor one that this runtime offers"),
            )),
        }
    }
}

/// The engine would take one argument more as the place for the result; that form of Rego is left out.
fn check_arity(span: &Span, name: &str, expected: usize, found: usize) -> Result<(), Refusal> {
    if expected != found {
        return Err(refuse(span, format!("`{name}` takes {expected} arguments, not {found}")));
    }
    Ok(())
}

/// Path of a rule below `data`: the package and the constant beginning of the head.
fn rule_path(rule: &Rule, package: &Path) -> Result<Path, Refusal> {
    let refr = match rule {
        Rule::Default { refr, .. } => refr,
        Rule::Spec {
            head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. },
            ..
        } => refr,
    };
    let reference = Reference::of(refr);
    let Root::Name(_) = reference.root else { return Err(refuse(refr.span(), "the head of a rule is not a name")) };
    Ok(package.iter().cloned().chain(reference.names()).collect())
}

/// A reference all of whose parts are constant, part by part.
fn path_of(refr: &Ref<Expr>) -> Result<Path, Refusal> {
    Reference::of(refr).constant().ok_or_else(|| refuse(refr.span(), "must be a constant name"))
}

fn refuse(span: &Span, what: impl Into<String>) -> Refusal {
    let (file, line) = place(span);
    Refusal::at(file, line, what)
}
