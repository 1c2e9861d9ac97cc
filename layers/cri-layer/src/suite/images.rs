//! Images that are there, and those that are not.

use hops::proto::runtime::v1::*;

use super::{Subject, Verdict, holds, same};

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() })
}

pub(super) async fn chapter(on: &Subject) -> Verdict {
    let status = |image: &str| ImageStatusRequest { image: spec(image), verbose: false };
    let image = on.call(status(&on.image)).await?.image;
    let image = image.ok_or_else(|| format!("the image {} is not there", on.image))?;
    holds(format!("an id is a digest: {}", image.id), image.id.starts_with("sha256:"))?;
    holds("an image has a size", image.size > 0)?;
    holds(
        format!("tags {:?} have {}", image.repo_tags, on.image),
        image.repo_tags.iter().any(|tag| tag.ends_with(&on.image)),
    )?;
    let by_id = on.call(status(&image.id)).await?.image;
    same("the image by its id", by_id.map(|i| i.id), Some(image.id.clone()))?;

    let missing = on.call(status("127.0.0.1:1/no/such:image")).await?.image;
    same("an image that is not there", missing, None)?;

    let filter =
        |image: &str| ListImagesRequest { filter: Some(ImageFilter { image: spec(image) }) };
    let all = on.call(ListImagesRequest { filter: None }).await?.images;
    holds("the list of all images has it", all.iter().any(|i| i.id == image.id))?;
    // containerd 1.6 answers all whatever the filter says.
    let only = on.call(filter(&on.image)).await?.images;
    holds("the list of images with its name has it", only.iter().any(|i| i.id == image.id))?;

    on.call(RemoveImageRequest { image: spec("127.0.0.1:1/no/such:image") }).await?;
    let pull = PullImageRequest { image: spec("127.0.0.1:1/no/such:image"), ..Default::default() };
    on.refused(pull).await?;
    let info = on.call(ImageFsInfoRequest {}).await?;
    holds("images are on a filesystem", !info.image_filesystems.is_empty())
}
