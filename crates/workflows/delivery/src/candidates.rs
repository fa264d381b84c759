//! The addresses of a destination, in the order they are tried.

use crate::route::{HopHost, Route};
use crate::shared::{Settings, Shared};
use dispatch::Target;
use mail::{Host, Reply};
use net::Judgement;
use std::net::SocketAddr;

/// An address to try, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// The exchanger's name, or its address.
    pub(crate) host: Box<str>,
    /// The address.
    pub(crate) address: SocketAddr,
}

impl Shared {
    /// The candidates, or the reply for everything that waits: permanent or not as DNS says.
    pub(crate) async fn candidates(
        &self,
        settings: &Settings,
        target: &Target,
        route: Option<&Route>,
    ) -> Result<Vec<Candidate>, Reply> {
        match target {
            Target::Route(name) => {
                let gone = || Reply::new(451, (4, 3, 5), format!("the route {name} is no longer configured"));
                self.by_route(route.ok_or_else(gone)?).await
            }
            Target::Domain(domain) => self.by_dns(settings, &Host::Domain(domain.clone())).await,
            Target::Literal(ip) => self.by_dns(settings, &Host::Literal(*ip)).await,
        }
    }

    async fn by_dns(&self, settings: &Settings, host: &Host) -> Result<Vec<Candidate>, Reply> {
        let route = self.routes.route(host).await.map_err(|error| error.reply)?;
        Ok(route
            .hops(self.random())
            .into_iter()
            .map(|hop| Candidate {
                host: hop.exchanger.host.to_string().into(),
                address: SocketAddr::new(hop.address, settings.delivery.port),
            })
            .collect())
    }

    /// The operator named these hosts: only a socket of our own is refused, as a loop.
    async fn by_route(&self, route: &Route) -> Result<Vec<Candidate>, Reply> {
        let mut candidates = Vec::new();
        let mut failure = None;
        for hop in &route.next_hops {
            let host = match &hop.host {
                HopHost::Address(ip) => Host::Literal(*ip),
                HopHost::Name(name) => Host::Domain(name.clone()),
            };
            match self.routes.host(&host).await {
                Ok(found) => {
                    for found in found.hops(self.random()) {
                        let address = SocketAddr::new(found.address, hop.port);
                        match self.destinations().judge_configured(address) {
                            Judgement::Allowed => {
                                candidates.push(Candidate { host: host.to_string().into(), address });
                            }
                            Judgement::Own => {
                                let text = format!(
                                    "the route {} leads back to this server at {address}",
                                    route.name
                                );
                                failure = Some(Reply::new(554, (5, 4, 6), text));
                            }
                            Judgement::Refused(range) => {
                                let text = format!("the route {} leads to {address}: {range}", route.name);
                                failure = Some(Reply::new(451, (4, 3, 5), text));
                            }
                        }
                    }
                }
                // A next hop is the operator's word: a name that is missing today may be a mistake that is
                // mended tomorrow, and is no reason to bounce.
                Err(error) => failure = Some(Reply::new(451, (4, 4, 4), error.reply.text)),
            }
        }
        if candidates.is_empty() {
            return Err(failure.unwrap_or_else(|| Reply::new(451, (4, 4, 4), "the route names no address")));
        }
        Ok(candidates)
    }
}
