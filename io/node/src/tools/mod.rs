//! Tools: what a call does once its decision is durable. A new tool is one file beside this one and one line in
//! [`registry`].

pub mod echo;
pub mod registry;
pub mod shell;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use machines::json::Value;
use machines::work::ToolFault;

/// What a tool gives back.
pub type Outcome = Result<Value, ToolFault>;

/// A tool that takes its time. Dropping it stops the tool and all that it started.
pub type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What starting a tool gave.
pub enum Started {
    /// It is done already; for tools that neither wait nor compute.
    Done(Outcome),
    /// It runs, once polled.
    Running(Running),
}

/// One kind of tool.
pub trait Tool: Send + Sync {
    /// The name that a request gives: `[a-z0-9._-]{1,64}`.
    fn kind(&self) -> &'static str;
    /// Whether the operator lets it run.
    fn enabled(&self) -> bool;
    /// Starts it with the parameters that policy judged. Parameters that do not fit are
    /// [`ToolFault::BadParams`], in words for the caller.
    fn start(&self, params: &Value) -> Started;
}

/// The tools of a node, by kind.
pub struct Tools(BTreeMap<&'static str, Box<dyn Tool>>);

impl Tools {
    /// These tools.
    #[must_use]
    pub fn new(tools: Vec<Box<dyn Tool>>) -> Self {
        Self(tools.into_iter().map(|tool| (tool.kind(), tool)).collect())
    }

    /// Every kind, and whether it is enabled: what the runtime machine needs to know.
    #[must_use]
    pub fn enabled(&self) -> BTreeMap<String, bool> {
        self.0.values().map(|tool| (tool.kind().to_owned(), tool.enabled())).collect()
    }

    /// Starts a tool. The machine asks only for enabled ones; it is checked once more where it would run. A panic
    /// is a failed tool (FAULTS X03).
    #[must_use]
    pub fn start(&self, kind: &str, params: &Value) -> Started {
        let Some(tool) = self.0.get(kind).filter(|tool| tool.enabled()) else {
            return Started::Done(Err(ToolFault::Failed(format!("the tool {kind} is not enabled on this node"))));
        };
        match catch_unwind(AssertUnwindSafe(|| tool.start(params))) {
            Ok(Started::Done(outcome)) => Started::Done(outcome),
            Ok(Started::Running(running)) => Started::Running(Box::pin(Caught(running))),
            Err(_) => Started::Done(Err(panicked())),
        }
    }
}

fn panicked() -> ToolFault {
    ToolFault::Failed("the tool panicked".into())
}

/// A running tool whose panic is its failure.
struct Caught(Running);

impl Future for Caught {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))).unwrap_or_else(|_| Poll::Ready(Err(panicked())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Poisoned {
        later: bool,
    }

    impl Tool for Poisoned {
        fn kind(&self) -> &'static str {
            "tool.poisoned"
        }
        fn enabled(&self) -> bool {
            true
        }
        fn start(&self, _: &Value) -> Started {
            assert!(self.later, "a poisoned tool");
            Started::Running(Box::pin(async { panic!("a poisoned tool") }))
        }
    }

    #[tokio::test]
    async fn x03_a_panic_in_a_tool_is_its_failure() {
        for later in [false, true] {
            let tools = Tools::new(vec![Box::new(Poisoned { later })]);
            let outcome = match tools.start("tool.poisoned", &Value::Null) {
                Started::Done(outcome) => outcome,
                Started::Running(running) => running.await,
            };
            assert_eq!(outcome, Err(panicked()));
        }
    }

    #[test]
    fn a_tool_that_is_not_enabled_does_not_run_even_when_asked_for() {
        let tools = Tools::new(registry::all(&registry::ToolConfig::default()));
        assert_eq!(tools.enabled().get("tool.shell"), Some(&false));
        assert_eq!(tools.enabled().get("tool.echo"), Some(&true));
        for kind in ["tool.shell", "tool.none"] {
            let Started::Done(outcome) = tools.start(kind, &Value::Null) else { panic!("{kind} was started") };
            assert!(matches!(outcome, Err(ToolFault::Failed(_))), "{kind}");
        }
    }
}
