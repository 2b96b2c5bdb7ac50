//! An `ExportLogsServiceRequest` read record by record from its protobuf bytes, so that a small request of many empty
//! messages does not become large in memory.

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::DecodeError;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{Refusal, Source, Visit};
use crate::bounds;

/// Gives each record to `visit`.
pub fn each(request: &[u8], visit: &mut Visit<'_>) -> Result<(), Refusal> {
    messages(request, 1, &mut |resource_logs| {
        let mut resource = Resource::default();
        messages(resource_logs, 1, &mut |bytes| {
            resource = decode(bytes)?;
            Ok(())
        })?;
        let source = Source::of(&resource);
        messages(resource_logs, 2, &mut |scope_logs| {
            messages(scope_logs, 2, &mut |record| visit(&source, decode::<LogRecord>(record)?))
        })
    })
}

/// How many records there are, without a look into them.
pub fn count(request: &[u8]) -> Result<u64, Refusal> {
    let mut records = 0;
    messages(request, 1, &mut |resource_logs| {
        messages(resource_logs, 2, &mut |scope_logs| {
            messages(scope_logs, 2, &mut |_| {
                records += 1;
                Ok(())
            })
        })
    })?;
    Ok(records)
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Refusal> {
    if bytes.len() > bounds::RECORD {
        return Err(Refusal::TooLarge("a record or resource is longer than 1 MiB"));
    }
    Ok(M::decode(bytes)?)
}

/// The bytes of each message in field `wanted` of a message.
fn messages(
    mut message: &[u8],
    wanted: u32,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    while !message.is_empty() {
        let (field, wire) = decode_key(&mut message)?;
        if field != wanted {
            skip_field(wire, field, &mut message, DecodeContext::default())?;
            continue;
        }
        if wire != WireType::LengthDelimited {
            return Err(Refusal::Malformed(format!("field {field} is no message")));
        }
        let length = usize::try_from(decode_varint(&mut message)?).unwrap_or(usize::MAX);
        let (inner, rest) = message
            .split_at_checked(length)
            .ok_or_else(|| Refusal::Malformed(format!("field {field} ends behind its message")))?;
        message = rest;
        take(inner)?;
    }
    Ok(())
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}
