//! Archives of images: imported and unpacked, or removed with all that they had.

use super::{
    load::{Client, Cut},
    support::{Image, archive, transfer},
};
use hops::{
    Handle,
    proto::containerd::{
        services::images::v1::DeleteImageRequest,
        types::transfer::{ImageImportStream, ImageStore, UnpackConfiguration},
    },
};

/// An image by the name that it gets, and the archive that it is in.
pub(crate) struct Archive {
    name: String,
    bytes: Vec<u8>,
}

/// Archives of both kinds, by turns, of images with their layers.
pub(crate) fn archives(images: &[(Image, Vec<Vec<u8>>)]) -> Vec<Archive> {
    let numbered = images.iter().enumerate();
    let archive = |(n, (image, layers)): (usize, &(Image, Vec<Vec<u8>>))| {
        let name = format!("archive.test/image-{n}:1");
        let docker = n % 2 == 0;
        let bytes =
            if docker { archive::docker(&name, image, layers) } else { archive::oci(image) };
        Archive { name, bytes }
    };
    numbered.map(archive).collect()
}

impl Client {
    /// One of the archives.
    pub(crate) async fn imports(&mut self, archives: &[Archive]) -> Cut {
        let Archive { name, bytes } = &archives[self.random.below(archives.len())];
        if self.ledger.present().iter().any(|(known, _)| known == name) {
            self.ledger.begun(name, None);
            let sync = self.random.below(2) == 0;
            let delete = DeleteImageRequest { name: name.clone(), sync, target: None };
            self.wire.handle(&self.cx, delete).await?;
            self.ledger.done(name, None);
            return Ok(());
        }
        let id = self.name("archive");
        let (send, mut answers) = transfer::open(&self.wire, &self.cx, &id).await?;
        self.ledger.begun(name, Some("whole"));
        let from = ImageImportStream { stream: id, ..Default::default() };
        let unpacks = vec![UnpackConfiguration::default()];
        let to = ImageStore { name: name.clone(), unpacks, ..Default::default() };
        let import = transfer::transfer(transfer::any(&from), transfer::any(&to));
        let ((), imported) = tokio::join!(
            transfer::pour(send, &mut answers, bytes),
            self.wire.handle(&self.cx, import)
        );
        imported?;
        self.ledger.done(name, Some("whole"));
        Ok(())
    }
}
