//! An OCI layout in a folder that is changed behind everybody's back.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use machines::oci::{Descriptor, Digest, Index, Manifest, media, tags};
use machines::tar;

/// The tag of the image.
pub const TAG: &str = "v1";

/// A layout with one release in it.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// Its folder.
    pub folder: PathBuf,
}

impl Shelf {
    /// How commands name the image in it.
    #[must_use]
    pub fn image(&self) -> String {
        format!("oci:{}:{TAG}", self.folder.display())
    }

    /// How commands name something in it by its digest.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> String {
        format!("oci:{}@{digest}", self.folder.display())
    }

    /// The same content in another folder.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn copy_to(&self, folder: &Path) -> Result<Self> {
        let blobs = Path::new("blobs/sha256");
        std::fs::create_dir_all(folder.join(blobs)).with_context(|| format!("cannot create {}", folder.display()))?;
        for name in self.files()? {
            let to = folder.join(&name);
            std::fs::copy(self.folder.join(&name), &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(Self { folder: folder.to_path_buf() })
    }

    fn files(&self) -> Result<Vec<String>> {
        let blobs = self.folder.join("blobs/sha256");
        let mut names = vec!["oci-layout".to_owned(), "index.json".to_owned()];
        for entry in std::fs::read_dir(&blobs).with_context(|| format!("cannot list {}", blobs.display()))? {
            names.push(format!("blobs/sha256/{}", entry?.file_name().to_string_lossy()));
        }
        names.sort();
        Ok(names)
    }

    /// Everything as one archive, whatever it is.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn archive(&self, out: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        for name in self.files()? {
            let content = self.read(&name)?;
            let header =
                tar::header(&name, u64::try_from(content.len())?).map_err(|e| anyhow::anyhow!("{name}: {e}"))?;
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(&content);
            bytes.resize(bytes.len().next_multiple_of(tar::BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * tar::BLOCK, 0);
        std::fs::write(out, bytes).with_context(|| format!("cannot write {}", out.display()))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.folder.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The file of a blob or manifest.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    fn index(&self) -> Result<Index> {
        match Manifest::parse(&self.read("index.json")?, Some(media::IMAGE_INDEX)) {
            Ok(Manifest::Index(index)) => Ok(index),
            Ok(Manifest::Image(_)) => bail!("index.json is an image"),
            Err(refusal) => bail!("index.json: {refusal}"),
        }
    }

    fn keep(&self, mut holds: impl FnMut(&Descriptor) -> bool) -> Result<()> {
        let mut index = self.index()?;
        index.manifests.retain(|entry| holds(entry));
        self.write_index(&index)
    }

    fn write_index(&self, index: &Index) -> Result<()> {
        std::fs::write(self.folder.join("index.json"), index.to_bytes()).context("cannot write index.json")
    }

    /// A manifest.
    ///
    /// # Errors
    /// It is not there, or is none.
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest> {
        let bytes = self.read(&format!("blobs/sha256/{}", digest.hex()))?;
        Manifest::parse(&bytes, None).map_err(|refusal| anyhow::anyhow!("{digest}: {refusal}"))
    }

    /// What stands under a tag.
    ///
    /// # Errors
    /// There is no such tag.
    pub fn tagged(&self, tag: &str) -> Result<Descriptor> {
        let found = self.index()?.manifests.into_iter().find(|entry| named(entry) == Some(tag));
        found.with_context(|| format!("{} has no tag {tag}", self.folder.display()))
    }

    /// The first layer of what stands under a tag.
    ///
    /// # Errors
    /// There is none.
    pub fn layer(&self, tag: &str) -> Result<Digest> {
        match self.manifest(&self.tagged(tag)?.digest)? {
            Manifest::Image(image) => Ok(image.layers.first().context("an image without layers")?.digest),
            Manifest::Index(_) => bail!("{tag} is an index"),
        }
    }

    /// Takes away what stands under a tag, with its signatures.
    ///
    /// # Errors
    /// There is no such tag.
    pub fn remove(&self, tag: &str) -> Result<()> {
        let digest = self.tagged(tag)?.digest;
        self.unsign(tag)?;
        self.keep(|entry| entry.digest != digest)
    }

    /// Takes away the signatures, in both layouts, of what stands under a tag.
    ///
    /// # Errors
    /// There is no such tag.
    pub fn unsign(&self, tag: &str) -> Result<()> {
        let signed = self.signatures(tag)?;
        self.keep(|entry| !signed.contains(&entry.digest))
    }

    /// The manifests of the signatures of what stands under a tag.
    ///
    /// # Errors
    /// There is no such tag.
    pub fn signatures(&self, tag: &str) -> Result<Vec<Digest>> {
        let subject = self.tagged(tag)?.digest;
        let simple = tags::signature(&subject);
        let mut found = Vec::new();
        for entry in self.index()?.manifests {
            let manifest = self.manifest(&entry.digest)?;
            let refers = manifest.subject().is_some_and(|to| to.digest == subject);
            let bundle = refers && manifest.artifact_type() == Some(media::SIGSTORE_BUNDLE);
            if bundle || named(&entry) == Some(&simple) {
                found.push(entry.digest);
            }
        }
        Ok(found)
    }

    /// Takes what stands under a tag of another layout, with its signatures, and puts it under the same tag here.
    ///
    /// # Errors
    /// There is no such tag, or it cannot be copied.
    pub fn take(&self, other: &Self, tag: &str) -> Result<()> {
        for name in other.files()?.iter().filter(|name| name.starts_with("blobs/")) {
            std::fs::copy(other.folder.join(name), self.folder.join(name))?;
        }
        let mut wanted = other.signatures(tag)?;
        wanted.push(other.tagged(tag)?.digest);
        let mut index = self.index()?;
        index.manifests.retain(|entry| named(entry) != Some(tag));
        index.manifests.extend(other.index()?.manifests.into_iter().filter(|entry| wanted.contains(&entry.digest)));
        self.write_index(&index)
    }

    /// Lets another tag lead to what stands under this one.
    ///
    /// # Errors
    /// There is no such tag.
    pub fn retag(&self, from: &str, to: &str) -> Result<()> {
        let mut index = self.index()?;
        let entry = index.manifests.iter_mut().find(|entry| named(entry) == Some(from));
        let entry = entry.with_context(|| format!("there is no tag {from}"))?;
        entry.annotations.insert(media::REF_NAME.into(), to.into());
        self.write_index(&index)
    }

    /// Changes one bit in the middle of a blob.
    ///
    /// # Errors
    /// It is not there.
    pub fn flip(&self, digest: &Digest) -> Result<()> {
        flip(&self.blob(digest))
    }
}

fn named(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(media::REF_NAME).map(String::as_str)
}

/// Changes one bit in the middle of a file.
///
/// # Errors
/// It cannot be read or written.
pub fn flip(path: &Path) -> Result<()> {
    let mut bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let middle = bytes.len() / 2;
    let byte = bytes.get_mut(middle).with_context(|| format!("{} is empty", path.display()))?;
    *byte ^= 1;
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
