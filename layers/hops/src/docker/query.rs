//! The verbs' query strings.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A yes or no as Docker reads it: empty, `0`, `no`, `false` and `none` are no, all else is yes
/// (moby's `httputils.BoolValue`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flag(pub bool);

impl Serialize for Flag {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(if self.0 { "1" } else { "0" })
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Flag, D::Error> {
        let word = String::deserialize(from)?;
        let word = word.trim().to_ascii_lowercase();
        Ok(Flag(!matches!(word.as_str(), "" | "0" | "no" | "false" | "none")))
    }
}

macro_rules! queries {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident $(= $wire:literal)? : $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(default)]
            pub struct $name {
                $(
                    $(#[$fdoc])*
                    $(#[serde(rename = $wire)])?
                    #[serde(skip_serializing_if = "Option::is_none")]
                    pub $field: Option<$type>,
                )*
            }
        )*
    };
}

queries! {
    /// No query.
    NoQuery {}
    /// `GET /containers/json`.
    ContainerListQuery {
        /// Stopped ones too.
        all: Flag,
        /// At most so many, newest first, running or not.
        limit: i64,
        /// Compute sizes.
        size: Flag,
        /// Docker's filter form: JSON of `{"label": ["k=v"]}` or `{"label": {"k=v": true}}`.
        filters: String,
    }
    /// `POST /containers/create`.
    ContainerCreateQuery {
        /// The container's name, without the slash.
        name: String,
        /// `os[/arch[/variant]]`.
        platform: String,
    }
    /// `GET /containers/{id}/json`.
    SizeQuery {
        /// Compute sizes.
        size: Flag,
    }
    /// `POST /containers/{id}/stop` and `restart`.
    StopQuery {
        /// Seconds to wait before the kill; negative waits for ever.
        t: i64,
        /// The signal to stop with.
        signal: String,
    }
    /// `POST /containers/{id}/kill`.
    KillQuery {
        /// A number, or a name with or without `SIG`.
        signal: String,
    }
    /// `DELETE /containers/{id}`.
    ContainerRemoveQuery {
        /// Anonymous volumes too.
        v: Flag,
        /// Kill it first.
        force: Flag,
        /// Only a link.
        link: Flag,
    }
    /// `POST /containers/{id}/rename`.
    RenameQuery {
        /// The new name.
        name: String,
    }
    /// `GET /containers/{id}/top`.
    TopQuery {
        /// Arguments for `ps`.
        ps_args: String,
    }
    /// `POST /containers/{id}/resize` and `/exec/{id}/resize`.
    ResizeQuery {
        /// Rows.
        h: u16,
        /// Columns.
        w: u16,
    }
    /// `GET /containers/{id}/stats`.
    StatsQuery {
        /// For ever, a document a second.
        stream: Flag,
        /// At once, without a first sample to compare with.
        one_shot = "one-shot": Flag,
    }
    /// `POST /containers/{id}/wait`.
    WaitQuery {
        /// `not-running` (the default), `next-exit` or `removed`.
        condition: String,
    }
    /// `GET /containers/{id}/logs`.
    LogsQuery {
        /// Keep on.
        follow: Flag,
        /// Standard output.
        stdout: Flag,
        /// Standard error.
        stderr: Flag,
        /// From this time: seconds[.nanoseconds] or RFC 3339.
        since: String,
        /// Until this time.
        until: String,
        /// Each line with its time before it.
        timestamps: Flag,
        /// The last so many lines, or `all`.
        tail: String,
    }
    /// `POST /containers/{id}/attach`.
    AttachQuery {
        /// What was written so far as well.
        logs: Flag,
        /// What is written from now on.
        stream: Flag,
        /// Standard input.
        stdin: Flag,
        /// Standard output.
        stdout: Flag,
        /// Standard error.
        stderr: Flag,
        /// The keys that detach.
        detach_keys = "detachKeys": String,
    }
    /// `GET /images/json`.
    ImageListQuery {
        /// Intermediate ones too.
        all: Flag,
        /// As for containers.
        filters: String,
        /// With digests.
        digests: Flag,
    }
    /// `POST /images/create`.
    ImageCreateQuery {
        /// The repository to pull.
        from_image = "fromImage": String,
        /// `-` reads a root filesystem from the body.
        from_src = "fromSrc": String,
        /// The name to give an imported one.
        repo: String,
        /// The tag or the digest to pull.
        tag: String,
        /// `os[/arch[/variant]]`.
        platform: String,
    }
    /// `POST /images/load`.
    ImageLoadQuery {
        /// No progress.
        quiet: Flag,
    }
    /// `GET /images/get`.
    ImageSaveQuery {
        /// A name; the API allows it to be repeated.
        names: String,
    }
    /// `POST /images/{id}/tag`.
    ImageTagQuery {
        /// The new repository.
        repo: String,
        /// The new tag.
        tag: String,
    }
    /// `DELETE /images/{id}`.
    ImageRemoveQuery {
        /// Even if containers use it or it has several names.
        force: Flag,
        /// Keep untagged parents.
        noprune: Flag,
    }
    /// `DELETE /volumes/{id}`.
    VolumeRemoveQuery {
        /// Be content when it does not exist.
        force: Flag,
    }
    /// `GET /events`.
    EventsQuery {
        /// From this time.
        since: String,
        /// Until this time.
        until: String,
        /// As for containers.
        filters: String,
    }
    /// Verbs with nothing but filters.
    FiltersQuery {
        /// As for containers.
        filters: String,
    }
}
