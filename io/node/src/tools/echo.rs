//! `tool.echo`: gives the message back. `{"message": "hello"}` → `{"message": "hello"}`.

use machines::json::Value;
use machines::work::ToolFault;

use super::{Started, Tool};

/// Gives the message back.
pub struct Echo;

impl Tool for Echo {
    fn kind(&self) -> &'static str {
        "tool.echo"
    }

    fn enabled(&self) -> bool {
        true
    }

    fn start(&self, params: &Value) -> Started {
        let fits = params.as_object().is_some_and(|fields| fields.len() == 1)
            && params.get("message").and_then(Value::as_str).is_some();
        Started::Done(if fits {
            Ok(params.clone())
        } else {
            Err(ToolFault::BadParams("tool.echo takes {\"message\": a string} and nothing else".into()))
        })
    }
}

#[cfg(test)]
mod tests {
    use machines::json::{Limits, parse};

    use super::*;

    fn echo(params: &str) -> super::super::Outcome {
        match Echo.start(&parse(params.as_bytes(), &Limits::default()).unwrap()) {
            Started::Done(outcome) => outcome,
            Started::Running(_) => panic!("echo waits for nothing"),
        }
    }

    #[test]
    fn the_message_comes_back_and_other_shapes_do_not_fit() {
        assert_eq!(echo(r#"{"message":"hello"}"#).unwrap().get("message").and_then(Value::as_str), Some("hello"));
        for params in ["{}", r#"{"message":1}"#, r#"{"message":"a","more":1}"#, r#"{"text":"a"}"#, "[]"] {
            assert!(matches!(echo(params), Err(ToolFault::BadParams(_))), "{params}");
        }
    }
}
