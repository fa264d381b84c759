use super::*;
use crate::zone::Zone;

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

/// A rule like the one in production: loopback is refused, 192.0.2.99 is this server.
fn rule(ip: IpAddr) -> AddressVerdict {
    match ip {
        IpAddr::V4(v4) if v4.octets() == [192, 0, 2, 99] => AddressVerdict::Own,
        ip if ip.is_loopback() => AddressVerdict::Refused,
        _ => AddressVerdict::Allowed,
    }
}

fn routes_with(zone: &Arc<Zone>, config: &Config) -> Routes {
    Routes::new(zone.clone(), config, [domain("own.test")], Arc::new(rule))
}

fn routes(zone: &Arc<Zone>) -> Routes {
    routes_with(zone, &Config::default())
}

/// The addresses of a route, `preference host address`, one a line; or its error's reply.
async fn walk(routes: &Routes, name: &str) -> String {
    match routes.route(&host(name)).await {
        Ok(route) => {
            let mut lines = Vec::new();
            for Exchanger { host, preference, addresses } in &route.exchangers {
                lines.extend(addresses.iter().map(|address| format!("{preference} {host} {address}")));
            }
            lines.join("\n")
        }
        Err(error) => {
            assert_eq!(error.is_temporary(), error.reply.is_transient());
            error.reply.to_string()
        }
    }
}

async fn check(zone: &Arc<Zone>, name: &str, expected: &str) {
    assert_eq!(walk(&routes(zone), name).await, expected, "{name}");
}

#[tokio::test]
async fn exchangers_by_preference_and_families_in_turn() {
    let zone = Arc::new(Zone::new());
    zone.mx("a.test", 20, "two.test").mx("a.test", 10, "ONE.test.");
    zone.a("one.test", "192.0.2.1").a("one.test", "192.0.2.2").aaaa("one.test", "2001:db8::1");
    zone.a("two.test", "192.0.2.3");
    let expected =
        "10 one.test 192.0.2.1\n10 one.test 2001:db8::1\n10 one.test 192.0.2.2\n20 two.test 192.0.2.3";
    check(&zone, "a.test", expected).await;
    let walk_with = async |ip_strategy| {
        walk(&routes_with(&zone, &Config { ip_strategy, ..Config::default() }), "a.test").await
    };
    let v6_first = walk_with(IpStrategy::V6First).await;
    assert!(v6_first.starts_with("10 one.test 2001:db8::1\n10 one.test 192.0.2.1\n"), "{v6_first}");
    assert_eq!(walk_with(IpStrategy::V6Only).await, "10 one.test 2001:db8::1");
    assert!(!walk_with(IpStrategy::V4Only).await.contains(':'));
    let asked = zone.asked("one.test");
    walk_with(IpStrategy::V4Only).await;
    assert_eq!(zone.asked("one.test"), asked + 1);
}

#[tokio::test]
async fn domains_without_mx() {
    let zone = Arc::new(Zone::new());
    zone.a("implicit.test", "192.0.2.1").aaaa("six.test", "2001:db8::6").empty("bare.test");
    check(&zone, "implicit.test", "0 implicit.test 192.0.2.1").await;
    check(&zone, "six.test", "0 six.test 2001:db8::6").await;
    check(&zone, "bare.test", "550 5.4.4 bare.test: it has neither MX nor address").await;
    check(&zone, "gone.test", "550 5.1.2 gone.test: no such domain").await;
    let route = routes(&zone).route(&host("implicit.test")).await.unwrap();
    assert!(route.is_implicit);
    assert_eq!(route.site.as_str(), "implicit.test");
}

#[tokio::test]
async fn null_mx() {
    let zone = Arc::new(Zone::new());
    zone.mx("null.test", 0, ".").a("null.test", "192.0.2.1");
    check(&zone, "null.test", "556 5.1.10 null.test takes no mail (null MX)").await;
    // Next to a real exchanger it means nothing.
    zone.mx("mixed.test", 0, ".").mx("mixed.test", 10, "mx.test").a("mx.test", "192.0.2.1");
    check(&zone, "mixed.test", "10 mx.test 192.0.2.1").await;
}

#[tokio::test]
async fn aliases() {
    let zone = Arc::new(Zone::new());
    zone.cname("alias.test", "real.test").mx("real.test", 10, "mx.test").cname("mx.test", "host.test");
    zone.a("host.test", "192.0.2.1");
    check(&zone, "alias.test", "10 mx.test 192.0.2.1").await;
    zone.cname("loop.test", "loop2.test").cname("loop2.test", "loop.test");
    check(&zone, "loop.test", "550 5.4.4 loop.test: it has neither MX nor address").await;
    zone.mx("b.test", 10, "loop.test");
    check(&zone, "b.test", "550 5.4.4 b.test: its exchangers have no address").await;
}

#[tokio::test]
async fn failures_of_dns_are_temporary_and_absence_is_permanent() {
    let zone = Arc::new(Zone::new());
    zone.fail("servfail.test", "SERVFAIL");
    check(&zone, "servfail.test", "451 4.4.3 servfail.test: name service: SERVFAIL").await;
    zone.mx("a.test", 10, "servfail.test").mx("a.test", 20, "gone.test");
    check(&zone, "a.test", "451 4.4.3 a.test: name service: SERVFAIL").await;
    zone.mx("b.test", 10, "gone.test").mx("b.test", 20, "bare.test").empty("bare.test");
    check(&zone, "b.test", "550 5.4.4 b.test: its exchangers have no address").await;
    zone.mx("c.test", 10, "servfail.test").mx("c.test", 20, "mx.test").a("mx.test", "192.0.2.1");
    check(&zone, "c.test", "20 mx.test 192.0.2.1").await;
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_never_answers_is_a_temporary_failure() {
    let zone = Arc::new(Zone::new());
    zone.silence("silent.test").mx("a.test", 10, "silent.test");
    let began = tokio::time::Instant::now();
    check(&zone, "silent.test", "451 4.4.3 silent.test: name service: no answer in time").await;
    assert_eq!(began.elapsed(), Config::default().route_timeout);
    check(&zone, "a.test", "451 4.4.3 a.test: name service: no answer in time").await;
}

#[tokio::test]
async fn mx_that_name_no_host() {
    let zone = Arc::new(Zone::new());
    zone.mx("a.test", 10, "192.0.2.1").mx("a.test", 20, "a\\032b.test").mx("a.test", 30, "-x-.test");
    check(&zone, "a.test", "550 5.4.4 a.test: its MX records name no host").await;
    let config = Config { mx_may_be_address: true, ..Config::default() };
    assert_eq!(walk(&routes_with(&zone, &config), "a.test").await, "10 [192.0.2.1] 192.0.2.1");
    zone.mx("a.test", 40, "mx.test").a("mx.test", "192.0.2.4");
    check(&zone, "a.test", "40 mx.test 192.0.2.4").await;
}

#[tokio::test]
async fn this_server_in_the_list_ends_it() {
    let zone = Arc::new(Zone::new());
    let own = "own.test";
    zone.a("one.test", "192.0.2.1").a("two.test", "192.0.2.2").a(own, "192.0.2.98");
    zone.mx("backup.test", 10, "one.test").mx("backup.test", 20, own).mx("backup.test", 20, "two.test");
    zone.mx("backup.test", 30, "two.test");
    check(&zone, "backup.test", "10 one.test 192.0.2.1").await;
    zone.mx("best.test", 10, own).mx("best.test", 20, "two.test");
    check(&zone, "best.test", "554 5.4.6 best.test: mail would loop back to this server").await;
    check(&zone, own, "554 5.4.6 own.test: mail would loop back to this server").await;
    // The same by address: a name of ours that nobody told us.
    zone.a("alias.test", "192.0.2.99").a("alias.test", "192.0.2.5");
    zone.mx("by-ip.test", 10, "one.test").mx("by-ip.test", 20, "alias.test").mx("by-ip.test", 30, "two.test");
    check(&zone, "by-ip.test", "10 one.test 192.0.2.1").await;
    check(&zone, "alias.test", "554 5.4.6 alias.test: mail would loop back to this server").await;
    check(&zone, "[192.0.2.99]", "554 5.4.6 [192.0.2.99]: mail would loop back to this server").await;
    // A better exchanger that cannot be found just now is waited for, not passed over for a loop.
    zone.fail("later.test", "SERVFAIL").mx("wait.test", 5, "later.test").mx("wait.test", 10, own);
    check(&zone, "wait.test", "451 4.4.3 wait.test: name service: SERVFAIL").await;
}

#[tokio::test]
async fn addresses_that_mail_may_not_go_to() {
    let zone = Arc::new(Zone::new());
    zone.a("evil.test", "127.0.0.1").aaaa("evil.test", "::1");
    check(&zone, "evil.test", "550 5.4.4 evil.test: its address is not one to send mail to").await;
    check(&zone, "[127.0.0.1]", "550 5.4.4 [127.0.0.1]: its address is not one to send mail to").await;
    check(&zone, "[IPv6:2001:db8::1]", "0 [IPv6:2001:db8::1] 2001:db8::1").await;
    zone.a("half.test", "127.0.0.1").a("half.test", "192.0.2.1");
    check(&zone, "half.test", "0 half.test 192.0.2.1").await;
    let named = routes(&zone).host(&host("evil.test")).await.unwrap();
    assert_eq!(named.exchangers[0].addresses.len(), 2);
}

#[tokio::test]
async fn floods_of_records_are_cut() {
    let zone = Arc::new(Zone::new());
    for n in 0..4000 {
        zone.mx("many.test", 5000 - n, &format!("mx{n}.test")).a(&format!("mx{n}.test"), "192.0.2.1");
    }
    for n in 1..=200 {
        zone.a("wide.test", &format!("192.0.2.{}", n % 90 + 1));
    }
    let route = routes(&zone).route(&host("many.test")).await.unwrap();
    assert_eq!((route.exchangers.len(), route.exchangers[0].preference), (20, 1001));
    let route = routes(&zone).route(&host("wide.test")).await.unwrap();
    assert_eq!(route.exchangers[0].addresses.len(), 8);
    // This server is found though it stands far beyond the cut.
    zone.mx("deep.test", 9, "own.test");
    for n in 0..100 {
        zone.mx("deep.test", 10, &format!("mx{n}.test"));
    }
    check(&zone, "deep.test", "554 5.4.6 deep.test: mail would loop back to this server").await;
}

#[tokio::test]
async fn equal_preferences_are_spread_and_each_seed_repeats() {
    let zone = Arc::new(Zone::new());
    for n in 1..=3 {
        zone.mx("a.test", 10, &format!("mx{n}.test")).a(&format!("mx{n}.test"), &format!("192.0.2.{n}"));
        zone.a(&format!("mx{n}.test"), &format!("192.0.2.{}", n + 10));
    }
    zone.mx("a.test", 20, "last.test").a("last.test", "192.0.2.9");
    let route = routes(&zone).route(&host("a.test")).await.unwrap();
    let mut firsts: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for seed in 0..6000 {
        let hops = route.hops(seed);
        assert_eq!(hops, route.hops(seed));
        assert_eq!(hops.len(), 7);
        assert_eq!(hops[6].address.to_string(), "192.0.2.9");
        for pair in hops[..6].chunks(2) {
            assert_eq!(pair[0].exchanger, pair[1].exchanger);
        }
        *firsts.entry(hops[0].address).or_default() += 1;
    }
    assert_eq!(firsts.len(), 6);
    assert!(firsts.values().all(|&count| (850..1150).contains(&count)), "{firsts:?}");
}

#[tokio::test]
async fn sites_are_named_by_their_best_exchangers() {
    let zone = Arc::new(Zone::new());
    zone.a("mx1.test", "192.0.2.1").a("mx2.test", "192.0.2.2");
    zone.mx("a.test", 10, "mx2.test").mx("a.test", 10, "mx1.test").mx("a.test", 20, "x.test");
    zone.mx("b.test", 5, "MX1.test").mx("b.test", 5, "mx2.test");
    let routes = routes(&zone);
    let (a, b) = (routes.route(&host("a.test")).await.unwrap(), routes.route(&host("b.test")).await.unwrap());
    assert_eq!(a.site.as_str(), "mx1.test,mx2.test");
    assert_eq!(a.site, b.site);
}

#[tokio::test(start_paused = true)]
async fn routes_are_remembered_bounded_and_made_anew() {
    let zone = Arc::new(Zone::new());
    zone.mx("a.test", 10, "mx.test").ttl("a.test", 60).a("mx.test", "192.0.2.1").ttl("mx.test", 30);
    let many = routes_with(&zone, &Config { routes_max: settings::Size(20_000), ..Config::default() });
    for n in 0..1000 {
        walk(&many, &format!("n{n}.test")).await;
        assert!(many.routes() <= 120);
    }

    let routes = Arc::new(routes(&zone));
    let flood: Vec<_> = (0..100)
        .map(|_| {
            let routes = routes.clone();
            tokio::spawn(async move { walk(&routes, "a.test").await })
        })
        .collect();
    for task in flood {
        assert_eq!(task.await.unwrap(), "10 mx.test 192.0.2.1");
    }
    assert_eq!((zone.asked("a.test"), zone.asked("mx.test")), (1, 2));
    tokio::time::advance(Duration::from_secs(29)).await;
    walk(&routes, "a.test").await;
    assert_eq!(zone.asked("a.test"), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    zone.remove("mx.test").a("mx.test", "192.0.2.7");
    assert_eq!(walk(&routes, "a.test").await, "10 mx.test 192.0.2.7");

    // A route that lacks an exchanger for a passing reason does not last as long as the records it has.
    zone.mx("b.test", 10, "down.test").mx("b.test", 20, "mx.test").fail("down.test", "SERVFAIL");
    assert_eq!(walk(&routes, "b.test").await, "20 mx.test 192.0.2.7");
    zone.remove("down.test").a("down.test", "192.0.2.8");
    tokio::time::advance(Config::default().failure_ttl).await;
    assert_eq!(walk(&routes, "b.test").await, "10 down.test 192.0.2.8\n20 mx.test 192.0.2.7");
}
