//! Faces whose wire is protobuf: a table line per verb, and a visitor over the table.
//!
//! [`rpc_face!`](crate::rpc_face) turns a table into the verbs' [`Op`](crate::Op)s, the face's
//! trait, and an [`RpcFace`] by which one generic server registers every verb.

use futures_util::StreamExt;
use prost::Message;

use crate::{Handle, HandleStream, Inputs, Op, Outputs, Result, StreamOp};

/// A verb with a path on a protobuf wire.
pub trait RpcOp: Op<Reply: Message + Default> + Message + Default {
    /// `/package.Service/Method`.
    const PATH: &'static str;
}

/// A streaming verb on a protobuf wire.
///
/// Both shapes are the same on the wire, a stream of messages each way; they differ in whether the
/// verb itself is the only message sent, or only a name for what is sent.
pub trait RpcStreamOp: StreamOp<Out: Message + Default> + Sized {
    /// `/package.Service/Method`.
    const PATH: &'static str;
    /// The messages that the caller sends.
    type Sent: Message + Default + 'static;
    /// What the caller puts on the wire.
    fn send(self, input: Inputs<Self::In>) -> Inputs<Self::Sent>;
    /// What the callee makes of it.
    fn receive(
        sent: Outputs<Self::Sent>,
    ) -> impl Future<Output = Result<(Self, Inputs<Self::In>)>> + Send;
}

/// The one message of a verb that is answered with a stream.
///
/// # Errors
/// When the caller hung up before it sent one, and those of the wire.
pub async fn only_message<O: Send + 'static>(mut sent: Outputs<O>) -> Result<(O, Inputs<()>)> {
    match sent.next().await {
        Some(message) => Ok((message?, crate::op::no_input())),
        None => Err(crate::HopError::invalid("missing request message")),
    }
}

/// The messages of a verb in which both sides stream; the first fault of the wire ends them.
pub fn every_message<T: Send + 'static>(sent: Outputs<T>) -> Inputs<T> {
    Box::pin(sent.scan((), |_, message| std::future::ready(message.ok())))
}

/// What is done with each verb of a face `F`.
pub trait RpcVisitor<F: ?Sized> {
    /// A verb with one answer.
    fn unary<O: RpcOp>(&mut self)
    where
        F: Handle<O>;
    /// A verb that is answered with a stream.
    fn stream<O: RpcStreamOp>(&mut self)
    where
        F: HandleStream<O>;
}

/// A face whose verbs can be listed.
pub trait RpcFace: Send + Sync + 'static {
    /// Shows every verb of the face to `visitor`, in the table's order.
    fn visit(visitor: &mut impl RpcVisitor<Self>);
}

/// Writes a face from its table.
///
/// Each section is a service: its full protobuf name, its verbs, each with the request's type, the
/// reply's type and the method's name. `Marker: In => Out` makes a both-ways verb, for which a
/// unit type is made.
#[macro_export]
macro_rules! rpc_face {
    (
        $(#[$doc:meta])*
        $face:ident = $hop:expr;
        $(
            service $service:literal {
                $( $method:literal $req:ty => $reply:ty; )*
                $( stream $smethod:literal $sreq:ty => $sout:ty; )*
                $( bidi $bmethod:literal $marker:ident : $bin:ty => $bout:ty; )*
            }
        )*
    ) => {
        $($(
            impl $crate::Op for $req {
                type Reply = $reply;
                const HOP: $crate::Hop = $hop;
                const NAME: &'static str = $method;
            }
            impl $crate::rpc::RpcOp for $req {
                const PATH: &'static str = concat!("/", $service, "/", $method);
            }
        )*)*
        $($(
            impl $crate::StreamOp for $sreq {
                type In = ();
                type Out = $sout;
                const HOP: $crate::Hop = $hop;
                const NAME: &'static str = $smethod;
            }
            impl $crate::rpc::RpcStreamOp for $sreq {
                const PATH: &'static str = concat!("/", $service, "/", $smethod);
                type Sent = $sreq;
                fn send(self, _: $crate::Inputs<()>) -> $crate::Inputs<$sreq> {
                    Box::pin(futures_util::stream::once(std::future::ready(self)))
                }
                async fn receive(
                    sent: $crate::Outputs<$sreq>,
                ) -> $crate::Result<($sreq, $crate::Inputs<()>)> {
                    $crate::rpc::only_message(sent).await
                }
            }
        )*)*
        $($(
            #[doc = concat!("The both-ways verb `", $service, "/", $bmethod, "`.")]
            #[derive(Clone, Copy, Debug, Default)]
            pub struct $marker;
            impl $crate::StreamOp for $marker {
                type In = $bin;
                type Out = $bout;
                const HOP: $crate::Hop = $hop;
                const NAME: &'static str = $bmethod;
            }
            impl $crate::rpc::RpcStreamOp for $marker {
                const PATH: &'static str = concat!("/", $service, "/", $bmethod);
                type Sent = $bin;
                fn send(self, input: $crate::Inputs<$bin>) -> $crate::Inputs<$bin> {
                    input
                }
                async fn receive(
                    sent: $crate::Outputs<$bin>,
                ) -> $crate::Result<($marker, $crate::Inputs<$bin>)> {
                    Ok(($marker, $crate::rpc::every_message(sent)))
                }
            }
        )*)*

        $(#[$doc])*
        pub trait $face: Send + Sync + 'static
            $($( + $crate::Handle<$req> )*)*
            $($( + $crate::HandleStream<$sreq> )*)*
            $($( + $crate::HandleStream<$marker> )*)*
        {}

        impl<T> $face for T where T: Send + Sync + 'static
            $($( + $crate::Handle<$req> )*)*
            $($( + $crate::HandleStream<$sreq> )*)*
            $($( + $crate::HandleStream<$marker> )*)*
        {}

        impl $crate::rpc::RpcFace for dyn $face {
            fn visit(visitor: &mut impl $crate::rpc::RpcVisitor<Self>) {
                $($( visitor.unary::<$req>(); )*)*
                $($( visitor.stream::<$sreq>(); )*)*
                $($( visitor.stream::<$marker>(); )*)*
            }
        }
    };
}

/// Answers verbs that a layer does not do with [`Kind::Unimplemented`](crate::Kind) and the text
/// that gRPC's generated servers use: `method X not implemented`.
///
/// `refuse!(Engine: VerbA, VerbB; stream: VerbC);` Each line belongs into docs/omissions.md.
#[macro_export]
macro_rules! refuse {
    ($engine:ty : $($op:ty),* $(,)? $(; stream: $($sop:ty),* $(,)?)?) => {
        $(
            #[async_trait::async_trait]
            impl $crate::Handle<$op> for $engine {
                async fn handle(
                    &self,
                    _cx: &$crate::Cx,
                    _op: $op,
                ) -> $crate::Result<<$op as $crate::Op>::Reply> {
                    Err($crate::rpc::not_implemented(<$op as $crate::Op>::NAME))
                }
            }
        )*
        $($(
            #[async_trait::async_trait]
            impl $crate::HandleStream<$sop> for $engine {
                async fn stream(
                    &self,
                    _cx: &$crate::Cx,
                    _op: $sop,
                    _input: $crate::Inputs<<$sop as $crate::StreamOp>::In>,
                ) -> $crate::Result<$crate::Outputs<<$sop as $crate::StreamOp>::Out>> {
                    Err($crate::rpc::not_implemented(<$sop as $crate::StreamOp>::NAME))
                }
            }
        )*)?
    };
}

/// The answer to a verb that is not done: grpc-go's text for an unimplemented method.
pub fn not_implemented(verb: &str) -> crate::HopError {
    crate::HopError::new(crate::Kind::Unimplemented, format!("method {verb} not implemented"))
}
