//! How much stack an evaluation may need.
//!
//! The engine recurses: a rule evaluates the rules that it refers to, a statement that iterates evaluates the
//! statements behind it, an expression its parts. All three are fixed by the text of the policy, since Rego has no
//! recursion, so the deepest path can be measured when the policy is loaded.

use std::collections::BTreeMap;

use crate::Refusal;
use crate::reference::Path;

/// Frames of entering a rule, beside what its body needs. One frame stands for about half a KiB.
pub(crate) const RULE: u32 = 10;
/// Frames of a statement, a comprehension or a call.
pub(crate) const STATEMENT: u32 = 6;
/// Most frames on any path, far below [`crate::STACK_BYTES`]: a chain of 50 rules of 20 statements.
const MAX_FRAMES: u32 = 8_000;

/// The rules and functions of a policy, and which refer to which.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    by_path: BTreeMap<Path, usize>,
}

struct Node {
    file: String,
    line: u32,
    /// Frames of the deepest body of the rule itself.
    frames: u32,
    /// Paths that it refers to; a name may turn out to be a variable's.
    paths: Vec<Path>,
    /// Functions that it calls.
    calls: Vec<Path>,
}

impl Graph {
    /// The node of the rule at `path`; the file and line are those of its first definition.
    pub(crate) fn node(&mut self, path: Path, file: &str, line: u32) -> usize {
        let next = self.nodes.len();
        let at = *self.by_path.entry(path).or_insert(next);
        if at == next {
            self.nodes.push(Node { file: file.to_owned(), line, frames: 0, paths: Vec::new(), calls: Vec::new() });
        }
        at
    }

    /// Notes the frames of one definition of a rule.
    pub(crate) fn weigh(&mut self, node: usize, frames: u32) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.frames = node.frames.max(frames);
        }
    }

    /// Notes that a rule refers to `path`: a rule there, above it, or below it.
    pub(crate) fn reaches(&mut self, node: usize, path: Path) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.paths.push(path);
        }
    }

    /// Notes that a rule calls the function at `path`.
    pub(crate) fn calls(&mut self, node: usize, path: Path) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.calls.push(path);
        }
    }

    /// Refuses a policy whose functions call themselves, or whose rules refer to each other too deep. A rule that
    /// depends on itself is found by the engine when it evaluates it; a function is not.
    ///
    /// # Errors
    /// [`Refusal`] at the function, or at the rule where the deepest path begins.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let calls: Vec<Vec<usize>> = self.nodes.iter().map(|node| self.called(node)).collect();
        let calls = Components::of(&calls);
        if let Some(node) = self.nodes.iter().enumerate().find(|(at, _)| calls.is_circle(*at)).map(|(_, node)| node) {
            return Err(node.refuse("the function calls itself, directly or through others"));
        }
        let next: Vec<Vec<usize>> = self.nodes.iter().map(|node| self.targets(node)).collect();
        let mut deepest: Option<(u32, &Node)> = None;
        let frames = Components::of(&next).deepest(&|at| self.nodes.get(at).map_or(0, |node| node.frames));
        for (frames, node) in frames.into_iter().zip(&self.nodes) {
            if deepest.is_none_or(|(most, _)| frames > most) {
                deepest = Some((frames, node));
            }
        }
        match deepest {
            Some((frames, node)) if frames > MAX_FRAMES => Err(node.refuse(
                "the rules that this one depends on call each other too deep; flatten them or write shorter bodies",
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn called(&self, node: &Node) -> Vec<usize> {
        node.calls.iter().filter_map(|path| self.by_path.get(path).copied()).collect()
    }

    fn targets(&self, node: &Node) -> Vec<usize> {
        let mut targets = self.called(node);
        for path in &node.paths {
            // Rules at the path or above it.
            targets.extend((1..=path.len()).filter_map(|len| self.by_path.get(path.get(..len)?)));
            // Rules below it.
            let below = self.by_path.range(path.clone()..).take_while(|(other, _)| other.starts_with(path));
            targets.extend(below.map(|(_, at)| at));
        }
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}

impl Node {
    fn refuse(&self, what: &str) -> Refusal {
        Refusal::at(&self.file, self.line, what)
    }
}

/// The strongly connected components of a graph (Tarjan 1972). What looks like a circle counts as one node that
/// needs the stack of all its members.
struct Components<'a> {
    next: &'a [Vec<usize>],
    /// Per node: when it was found, from 1.
    found: Vec<usize>,
    /// Per node: its component.
    component: Vec<usize>,
    /// The members of each; a component comes behind all that it leads to.
    members: Vec<Vec<usize>>,
    open: Vec<usize>,
    clock: usize,
}

impl<'a> Components<'a> {
    fn of(next: &'a [Vec<usize>]) -> Self {
        let len = next.len();
        let mut all = Self {
            next,
            found: vec![0; len],
            component: vec![usize::MAX; len],
            members: Vec::new(),
            open: Vec::new(),
            clock: 0,
        };
        for at in 0..len {
            if all.found[at] == 0 {
                all.visit(at);
            }
        }
        all
    }

    /// Gives the earliest node that `at` leads back to.
    fn visit(&mut self, at: usize) -> usize {
        self.clock += 1;
        self.found[at] = self.clock;
        self.open.push(at);
        let mut low = self.clock;
        let next = self.next;
        for target in next[at].iter().copied() {
            if self.found[target] == 0 {
                low = low.min(self.visit(target));
            } else if self.component[target] == usize::MAX {
                low = low.min(self.found[target]);
            }
        }
        if low == self.found[at] {
            let first = self.open.iter().rposition(|open| *open == at).unwrap_or(0);
            let members = self.open.split_off(first);
            for member in &members {
                self.component[*member] = self.members.len();
            }
            self.members.push(members);
        }
        low
    }

    /// Whether a node leads back to itself.
    fn is_circle(&self, at: usize) -> bool {
        self.members[self.component[at]].len() > 1 || self.next[at].contains(&at)
    }

    /// Per node: the weight of the heaviest path that begins there.
    fn deepest(&self, weight: &dyn Fn(usize) -> u32) -> Vec<u32> {
        let mut total = vec![0_u32; self.members.len()];
        for (i, members) in self.members.iter().enumerate() {
            let own = members.iter().map(|at| weight(*at)).fold(0, u32::saturating_add);
            let targets = members.iter().flat_map(|at| &self.next[*at]).map(|target| self.component[*target]);
            let most = targets.filter(|target| *target != i).map(|target| total[target]).max().unwrap_or(0);
            total[i] = own.saturating_add(most);
        }
        self.component.iter().map(|component| total[*component]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(len: usize) -> Graph {
        let mut graph = Graph::default();
        for i in 0..len {
            let node = graph.node(vec![format!("r{i}")], "p.rego", i as u32 + 1);
            graph.weigh(node, RULE);
            graph.reaches(node, vec![format!("r{}", i + 1), String::from("x")]);
        }
        graph
    }

    #[test]
    fn x04_a_long_chain_of_rules_is_refused_where_it_begins() {
        assert_eq!(chain(800).check(), Ok(()));
        let refusal = chain(801).check().expect_err("too deep");
        assert_eq!((refusal.file.as_deref(), refusal.line), (Some("p.rego"), Some(1)));
    }

    #[test]
    fn x04_a_function_that_calls_itself_is_refused() {
        let mut graph = Graph::default();
        let name = |name: &str| vec![String::from(name)];
        for (i, (function, calls)) in [("f", "g"), ("g", "h"), ("h", "f"), ("k", "f")].into_iter().enumerate() {
            let node = graph.node(name(function), "p.rego", i as u32 + 1);
            graph.calls(node, name(calls));
        }
        assert_eq!(graph.check().expect_err("a circle").line, Some(1));
        // A reference may be a variable's name and is no circle; the engine finds the true ones.
        let mut graph = Graph::default();
        let node = graph.node(name("r"), "p.rego", 1);
        graph.reaches(node, name("r"));
        assert_eq!(graph.check(), Ok(()));
    }

    #[test]
    fn a_reference_to_a_package_reaches_all_its_rules() {
        let mut graph = chain(800);
        let node = graph.node(vec![String::from("top")], "p.rego", 9999);
        graph.weigh(node, RULE);
        assert_eq!(graph.check(), Ok(()));
        graph.reaches(node, Vec::new());
        assert_eq!(graph.check().expect_err("too deep").line, Some(9999));
    }
}
