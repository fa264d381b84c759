//! Listen and dial: the one room that touches sockets.
//!
//! It accepts connections within limits ([`Listener`], [`Limits`]), dials from an egress source ([`Dialer`],
//! [`EgressSource`]), wraps both in TLS ([`tls::Acceptor`], [`tls::Connector`]), reads the PROXY header of a
//! listed peer ([`proxy`]), and says which addresses mail may be sent to ([`Destinations`]). What comes out
//! is always a [`Stream`].
//!
//! It never speaks SMTP, resolves no name, and decides nothing about a message. An idle [`Stream`] holds no
//! read buffer: [`Stream::readable`] waits without one, so a caller lends its buffer only while bytes flow.
//!
//! Read first: [`Listener::accept`], then [`Stream`], then [`TcpDialer`].

mod destinations;
mod dial;
mod limits;
mod listener;
pub mod memory;
pub mod privileges;
pub mod proxy;
mod stream;
pub mod tls;
pub mod trace;
mod upstream;

pub use destinations::{Destinations, DestinationsConfig, Judgement, OwnAddresses, Range};
pub use dial::{DialError, DialErrorKind, Dialer, EgressSource, TcpDialer};
pub use limits::{Descriptors, Figures, Limits, LimitsConfig, Refusal, RefusedWhy, Slot};
pub use listener::{Accepted, Bound, Listener, ListenerConfig};
pub use stream::{Stream, Verification};
pub use upstream::Upstream;

use std::future::Future;
use std::pin::Pin;

/// A future in a box, as the methods of a `dyn` seam return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
