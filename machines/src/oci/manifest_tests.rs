//! What is taken for a manifest, and what is not.

use super::*;
use crate::oci::Digest;
use alloc::format;
use alloc::string::ToString as _;
use alloc::vec;

fn image() -> Image {
    let layer = Descriptor::of(media::IMAGE_LAYER, b"layer");
    Image::artifact(media::LOCK, layer, Some(Descriptor::of(media::IMAGE_MANIFEST, b"image")))
}

#[test]
fn manifests_read_back() {
    let mut image = image();
    image.annotations.insert("a".into(), "b".into());
    let bytes = image.to_bytes();
    assert_eq!(Manifest::parse(&bytes, Some(media::IMAGE_MANIFEST)), Ok(Manifest::Image(image.clone())));
    assert_eq!(Manifest::parse(&bytes, None), Ok(Manifest::Image(image)));
    let mut child = Descriptor::of(media::IMAGE_MANIFEST, &bytes);
    child.platform =
        Some(super::super::Platform { os: "linux".into(), architecture: "arm64".into(), variant: Some("v8".into()) });
    let index = Index::new(media::IMAGE_INDEX.into(), vec![child]);
    assert_eq!(Manifest::parse(&index.to_bytes(), None), Ok(Manifest::Index(index)));
}

#[test]
fn s16_a_manifest_of_another_kind_than_it_was_named_is_refused() {
    let bytes = image().to_bytes();
    for kind in [media::IMAGE_INDEX, media::DOCKER_MANIFEST, "text/html"] {
        assert!(matches!(Manifest::parse(&bytes, Some(kind)), Err(Refusal::MediaType { .. })), "{kind}");
    }
    let text = |rest: &str| format!("{{\"schemaVersion\":2{rest}}}");
    let d = Descriptor::of(media::EMPTY_JSON, b"{}").to_value().to_text();
    for rest in [
        // An image and an index at once.
        format!(",\"manifests\":[],\"layers\":[],\"config\":{d}"),
        format!(",\"manifests\":[],\"config\":{d}"),
        // Fields of the one, name of the other.
        format!(",\"mediaType\":\"{}\",\"manifests\":[]", media::IMAGE_MANIFEST),
        format!(",\"mediaType\":\"{}\",\"config\":{d},\"layers\":[]", media::IMAGE_INDEX),
        format!(",\"mediaType\":\"application/x\",\"config\":{d},\"layers\":[]"),
        format!(",\"mediaType\":1,\"config\":{d},\"layers\":[]"),
    ] {
        assert!(Manifest::parse(text(&rest).as_bytes(), None).is_err(), "{rest}");
    }
}

#[test]
fn what_is_incomplete_ambiguous_or_too_much_is_refused_with_the_field() {
    let d = Descriptor::of(media::EMPTY_JSON, b"{}").to_value().to_text();
    let refused = |text: &str| Manifest::parse(text.as_bytes(), None).expect_err(text).to_string();
    assert!(refused("{}").contains("schemaVersion"));
    assert!(refused(&format!("{{\"schemaVersion\":1,\"config\":{d},\"layers\":[]}}")).contains("schemaVersion"));
    assert!(refused("{\"schemaVersion\":2,\"layers\":[]}").contains("config"));
    assert!(refused(&format!("{{\"schemaVersion\":2,\"config\":{d}}}")).contains("layers"));
    assert!(
        refused(&format!("{{\"schemaVersion\":2,\"config\":{d},\"config\":{d},\"layers\":[]}}")).contains("duplicate")
    );
    let bad = d.replace("sha256:", "SHA256:");
    assert!(refused(&format!("{{\"schemaVersion\":2,\"config\":{d},\"layers\":[{bad}]}}")).contains("digest"));
    let bad = d.replace("\"size\":2", "\"size\":-2");
    assert!(refused(&format!("{{\"schemaVersion\":2,\"config\":{d},\"layers\":[{bad}]}}")).contains("layers[0].size"));
    let many = vec![d.as_str(); MAX_LAYERS + 1].join(",");
    assert!(refused(&format!("{{\"schemaVersion\":2,\"config\":{d},\"layers\":[{many}]}}")).contains("at most"));
    assert!(
        refused(&format!("{{\"schemaVersion\":2,\"config\":{d},\"layers\":[],\"annotations\":{{\"a\":1}}}}"))
            .contains("annotations")
    );
    // An empty list as some registries write it; an image without layers is another matter.
    let empty = Manifest::parse(b"{\"schemaVersion\":2,\"manifests\":null}", Some(media::IMAGE_INDEX)).unwrap();
    assert!(matches!(empty, Manifest::Index(index) if index.manifests.is_empty()));
    assert!(refused(&format!("{{\"schemaVersion\":2,\"config\":{d},\"layers\":null}}")).contains("layers"));
    // Fields that we do not know are the specification's to add.
    assert!(
        Manifest::parse(format!("{{\"schemaVersion\":2,\"config\":{d},\"layers\":[],\"new\":1}}").as_bytes(), None)
            .is_ok()
    );
}

#[test]
fn digests_are_of_one_algorithm_and_one_spelling() {
    let digest = Digest::of(b"x");
    assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
    let hex = digest.hex();
    for text in [
        hex.as_str(),
        "sha256:",
        &format!("sha512:{hex}"),
        &format!("sha256:{}", hex.to_uppercase()),
        &format!("sha256:{hex}0"),
    ] {
        assert!(Digest::parse(text).is_err(), "{text}");
    }
}
