//! DSSE envelopes with exactly one signature, as sigstore bundles hold them (DSSE v1, protocol and envelope).

use alloc::vec::Vec;

use base64ct::{Base64, Encoding as _};

use super::{MAX_PAYLOAD, MAX_SIGNATURE, Refusal, base64, field, members, object};
use crate::json::Value;

/// The payload type of an in-toto statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

const WHAT: &str = "DSSE envelope";

/// An envelope: a payload, and one signature over [`pae`] of its type and bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The statement, not yet parsed.
    pub payload: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// The pre-authentication encoding: the bytes that are signed. The type is within them, so that a payload is never read
/// as another type than the one that was signed.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = alloc::format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    let mut out = head.into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// The bytes that the signature is over.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        pae(IN_TOTO, &self.payload)
    }

    /// As JSON.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let signature = members([("sig", Value::from(Base64::encode_string(&self.signature)))]);
        members([
            ("payload", Value::from(Base64::encode_string(&self.payload))),
            ("payloadType", Value::from(IN_TOTO)),
            ("signatures", Value::from(alloc::vec![signature])),
        ])
    }

    /// Reads an envelope. Its type must be in-toto's; `keyid` is a hint that anybody may write, and is not looked at.
    ///
    /// # Errors
    /// What is wrong, and in which field; any number of signatures but one.
    pub fn read(value: &Value) -> Result<Self, Refusal> {
        let envelope = object(WHAT, "", Some(value), &["payload", "payloadType", "signatures"])?;
        let text = |name: &str| envelope.get(name).and_then(Value::as_str);
        if text("payloadType") != Some(IN_TOTO) {
            return Err(field(WHAT, "payloadType", "\"application/vnd.in-toto+json\""));
        }
        let signatures = envelope.get("signatures").and_then(Value::as_array);
        let Some([signature]) = signatures else {
            return Err(field(WHAT, "signatures", "an array of exactly one signature"));
        };
        let signature = object(WHAT, "signatures[0]", Some(signature), &["sig", "keyid"])?;
        let sig = signature.get("sig").and_then(Value::as_str);
        Ok(Self {
            payload: base64(WHAT, "payload", text("payload"), MAX_PAYLOAD)?,
            signature: base64(WHAT, "signatures[0].sig", sig, MAX_SIGNATURE)?,
        })
    }
}
