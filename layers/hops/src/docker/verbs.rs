//! The table of Docker's verbs.

use bollard_stubs::models;
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{document, message::*, query::*};
use crate::{Handle, HandleStream, Hop, Op, StreamOp};

/// A line of the table.
pub trait Verb: Send + Sync + 'static {
    /// The verb's name.
    const NAME: &'static str;
    /// The HTTP method.
    const METHOD: Method;
    /// The path, without the version; `{id}` stands for one name, which may hold slashes where an
    /// image is meant.
    const PATH: &'static str;
    /// The query string.
    type Query: Serialize + DeserializeOwned + Default + Send + Sync + 'static;
    /// The body.
    type Body: Body;
}

/// A verb that answers once.
pub trait UnaryVerb: Verb {
    /// The status of a success.
    const STATUS: u16;
    /// The answer.
    type Reply: Reply;
}

/// A verb that answers with a stream.
pub trait StreamVerb: Verb {
    /// Whether the connection is taken over (`Upgrade: tcp`), both sides then sending bytes.
    const UPGRADES: bool;
    /// Whether the caller's stream is the request's body.
    const UPLOADS: bool;
    /// The answer's items.
    type Out: Chunk;
}

/// A call of the verb `V`.
pub struct Request<V: Verb> {
    /// The name in the path; empty where the path has none.
    pub id: String,
    /// The query string.
    pub query: V::Query,
    /// The body.
    pub body: V::Body,
}

impl<V: Verb> Default for Request<V> {
    fn default() -> Self {
        Request { id: String::new(), query: V::Query::default(), body: V::Body::default() }
    }
}

impl<V: Verb> Request<V> {
    /// A call about `id`.
    pub fn of(id: impl Into<String>) -> Self {
        Request { id: id.into(), ..Request::default() }
    }

    /// The same call with `query`.
    pub fn query(mut self, query: V::Query) -> Self {
        self.query = query;
        self
    }

    /// The same call with `body`.
    pub fn body(mut self, body: V::Body) -> Self {
        self.body = body;
        self
    }
}

impl<V: UnaryVerb> Op for Request<V> {
    type Reply = V::Reply;
    const HOP: Hop = Hop::Docker;
    const NAME: &'static str = V::NAME;
}

impl<V: StreamVerb> StreamOp for Request<V> {
    type In = Bytes;
    type Out = V::Out;
    const HOP: Hop = Hop::Docker;
    const NAME: &'static str = V::NAME;
}

/// What is done with each verb of the table.
pub trait Visitor<F: ?Sized> {
    /// A verb that answers once.
    fn unary<V: UnaryVerb>(&mut self)
    where
        F: Handle<Request<V>>;
    /// A verb that answers with a stream.
    fn stream<V: StreamVerb>(&mut self)
    where
        F: HandleStream<Request<V>>;
}

macro_rules! table {
    (
        unary { $($u:ident $umethod:ident $upath:literal $uquery:ty, $ubody:ty => $ustatus:literal $ureply:ty;)* }
        stream { $($s:ident $smethod:ident $spath:literal $squery:ty, $sbody:ty => $out:ty, upgrades $up:literal, uploads $load:literal;)* }
    ) => {
        $(
            #[doc = concat!("`", stringify!($umethod), " ", $upath, "`")]
            #[derive(Clone, Copy, Debug)]
            pub enum $u {}
            impl Verb for $u {
                const NAME: &'static str = stringify!($u);
                const METHOD: Method = Method::$umethod;
                const PATH: &'static str = $upath;
                type Query = $uquery;
                type Body = $ubody;
            }
            impl UnaryVerb for $u {
                const STATUS: u16 = $ustatus;
                type Reply = $ureply;
            }
        )*
        $(
            #[doc = concat!("`", stringify!($smethod), " ", $spath, "`")]
            #[derive(Clone, Copy, Debug)]
            pub enum $s {}
            impl Verb for $s {
                const NAME: &'static str = stringify!($s);
                const METHOD: Method = Method::$smethod;
                const PATH: &'static str = $spath;
                type Query = $squery;
                type Body = $sbody;
            }
            impl StreamVerb for $s {
                const UPGRADES: bool = $up;
                const UPLOADS: bool = $load;
                type Out = $out;
            }
        )*

        /// The Docker daemon as its clients see it.
        pub trait Docker: Send + Sync + 'static
            $( + Handle<Request<$u>> )*
            $( + HandleStream<Request<$s>> )*
        {}
        impl<T> Docker for T where T: Send + Sync + 'static
            $( + Handle<Request<$u>> )*
            $( + HandleStream<Request<$s>> )*
        {}

        /// Shows every verb of the table to `visitor`.
        pub fn visit(visitor: &mut impl Visitor<dyn Docker>) {
            $( visitor.unary::<$u>(); )*
            $( visitor.stream::<$s>(); )*
        }
    };
}

table! {
    unary {
        Ping Get "/_ping" NoQuery, () => 200 Text;
        Version Get "/version" NoQuery, () => 200 Json<models::SystemVersion>;
        Info Get "/info" NoQuery, () => 200 Json<models::SystemInfo>;
        ContainerList Get "/containers/json" ContainerListQuery, () => 200 Json<Vec<models::ContainerSummary>>;
        ContainerCreate Post "/containers/create" ContainerCreateQuery, Json<models::ContainerCreateBody> => 201 Json<models::ContainerCreateResponse>;
        ContainerInspect Get "/containers/{id}/json" SizeQuery, () => 200 Json<document::ContainerDocument>;
        ContainerStart Post "/containers/{id}/start" NoQuery, () => 204 Changed;
        ContainerStop Post "/containers/{id}/stop" StopQuery, () => 204 Changed;
        ContainerRestart Post "/containers/{id}/restart" StopQuery, () => 204 ();
        ContainerKill Post "/containers/{id}/kill" KillQuery, () => 204 ();
        ContainerPause Post "/containers/{id}/pause" NoQuery, () => 204 ();
        ContainerUnpause Post "/containers/{id}/unpause" NoQuery, () => 204 ();
        ContainerUpdate Post "/containers/{id}/update" NoQuery, Json<models::ContainerUpdateBody> => 200 Json<models::ContainerUpdateResponse>;
        ContainerRename Post "/containers/{id}/rename" RenameQuery, () => 204 ();
        ContainerRemove Delete "/containers/{id}" ContainerRemoveQuery, () => 204 ();
        ContainerTop Get "/containers/{id}/top" TopQuery, () => 200 Json<models::ContainerTopResponse>;
        ContainerResize Post "/containers/{id}/resize" ResizeQuery, () => 200 ();
        ExecCreate Post "/containers/{id}/exec" NoQuery, Json<models::ExecConfig> => 201 Json<document::Created>;
        ExecInspect Get "/exec/{id}/json" NoQuery, () => 200 Json<models::ExecInspectResponse>;
        ExecResize Post "/exec/{id}/resize" ResizeQuery, () => 201 ();
        ImageList Get "/images/json" ImageListQuery, () => 200 Json<Vec<document::ImageSummary>>;
        ImageInspect Get "/images/{id}/json" NoQuery, () => 200 Json<document::ImageDocument>;
        ImageHistory Get "/images/{id}/history" NoQuery, () => 200 Json<Vec<models::ImageHistoryResponseItem>>;
        ImageTag Post "/images/{id}/tag" ImageTagQuery, () => 201 ();
        ImageRemove Delete "/images/{id}" ImageRemoveQuery, () => 200 Json<Vec<models::ImageDeleteResponseItem>>;
        VolumeList Get "/volumes" FiltersQuery, () => 200 Json<models::VolumeListResponse>;
        VolumeInspect Get "/volumes/{id}" NoQuery, () => 200 Json<models::Volume>;
        VolumeCreate Post "/volumes/create" NoQuery, Json<models::VolumeCreateRequest> => 201 Json<models::Volume>;
        VolumeRemove Delete "/volumes/{id}" VolumeRemoveQuery, () => 204 ();
        NetworkList Get "/networks" FiltersQuery, () => 200 Json<Vec<models::Network>>;
        NetworkInspect Get "/networks/{id}" NoQuery, () => 200 Json<models::Network>;
    }
    stream {
        ContainerStats Get "/containers/{id}/stats" StatsQuery, () => Json<models::ContainerStatsResponse>, upgrades false, uploads false;
        ContainerWait Post "/containers/{id}/wait" WaitQuery, () => Json<models::ContainerWaitResponse>, upgrades false, uploads false;
        ContainerLogs Get "/containers/{id}/logs" LogsQuery, () => Bytes, upgrades false, uploads false;
        ContainerAttach Post "/containers/{id}/attach" AttachQuery, () => Bytes, upgrades true, uploads false;
        ExecStart Post "/exec/{id}/start" NoQuery, Json<models::ExecStartConfig> => Bytes, upgrades true, uploads false;
        ImageCreate Post "/images/create" ImageCreateQuery, () => Json<document::Progress>, upgrades false, uploads true;
        ImageLoad Post "/images/load" ImageLoadQuery, () => Json<document::Progress>, upgrades false, uploads true;
        ImageSave Get "/images/get" ImageSaveQuery, () => Bytes, upgrades false, uploads false;
        Events Get "/events" EventsQuery, () => Json<document::Event>, upgrades false, uploads false;
    }
}
