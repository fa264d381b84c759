//! Figures of every room, in `/metrics`.

use crate::server::Server;
use delivery::Queued;
use net::Limits;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// One of the figures of signing.
type Signed = fn(&delivery::SigningFigures) -> u64;

/// One of the figures of DMARC reports.
type Reported = fn(&reception::ReportFigures) -> u64;

/// One of the figures of counters over time.
type Rolled = fn(&outcomes::RollupFigures) -> u64;

/// One of the dispatcher's sizes.
type Size = fn(&dispatch::Sizes) -> u64;

/// Registers what is asked for at each scrape.
pub fn register(
    server: &Arc<Server>,
    queued: &Arc<Queued>,
    limits: &Arc<Limits>,
    dns: &Arc<resolve::Cached>,
) {
    let metrics = &server.metrics;
    let recipients = queued.clone();
    metrics.queued_source(move || recipients.get());

    let context = server.reception.clone();
    metrics.gauge_source("sessions", "Sessions open", move || context.sessions.load(Relaxed) as f64);
    let budget = server.reception.budget.clone();
    metrics
        .gauge_source("receiving_bytes", "Octets of messages being received", move || budget.used() as f64);
    let budget = server.reception.budget.clone();
    metrics.gauge_source("receiving_bytes_max", "Octets of messages being received, at most", move || {
        budget.max() as f64
    });

    let context = server.reception.clone();
    metrics.counter_source("verified_messages", "Messages of strangers that were verified", move || {
        context.verify_figures.messages()
    });
    let context = server.reception.clone();
    metrics.labelled_counter_source(
        "verify_results",
        "How the checks of strangers' messages ended",
        "result",
        move || context.verify_figures.results(),
    );
    let context = server.reception.clone();
    metrics.counter_source("verify_refused", "Messages refused because of what was found", move || {
        context.verify_figures.refused().0
    });
    let context = server.reception.clone();
    metrics.counter_source("verify_deferred", "Messages deferred for want of an answer of DNS", move || {
        context.verify_figures.refused().1
    });
    let context = server.reception.clone();
    metrics.counter_source("sealed", "Messages sealed by ARC", move || context.verify_figures.seals().0);
    let context = server.reception.clone();
    metrics.counter_source("sealing_failed", "Messages that could not be sealed", move || {
        context.verify_figures.seals().1
    });
    let context = server.reception.clone();
    metrics.gauge_source(
        "verify_seconds",
        "Seconds that verification took since the start, DNS included",
        move || context.verify_figures.seconds(),
    );

    let weak = Arc::downgrade(server);
    metrics.gauge_source("connections_out", "Connections open to other hosts", move || {
        weak.upgrade().map_or(0.0, |server| server.delivery.figures().connections_out.get() as f64)
    });

    if let Some(rollups) = &server.rollups {
        let counts: [(&str, &str, Rolled); 3] = [
            ("stats_dropped", "Records that counters over time left out: queue full", |f| f.dropped),
            ("stats_folded", "Records that counters over time have under (other)", |f| f.folded),
            (
                "stats_failed_writes",
                "Writes of counters over time that failed; they are made up for later",
                |f| f.failed,
            ),
        ];
        for (name, help, pick) in counts {
            let rollups = rollups.clone();
            metrics.counter_source(name, help, move || pick(&rollups.figures()));
        }
    }
    if let Some(collector) = server.reception.reports() {
        let counts: [(&str, &str, Reported); 4] = [
            ("dmarc_report_rows", "Messages that DMARC reports will tell of", |f| f.collected()),
            ("dmarc_report_rows_left_out", "Messages left out of DMARC reports", |f| f.left_out()),
            ("dmarc_reports_sent", "DMARC reports handed to delivery", |f| f.sent()),
            ("dmarc_reports_not_sent", "DMARC reports that nobody takes", |f| f.not_sent()),
        ];
        for (name, help, read) in counts {
            let collector = collector.clone();
            metrics.counter_source(name, help, move || read(&collector.figures));
        }
    }
    let names = dns.clone();
    metrics.gauge_source("dns_names", "Answers of DNS remembered", move || names.names() as f64);
    let weak = Arc::downgrade(server);
    metrics.gauge_source(
        "tls_clear_exchangers",
        "Exchangers spoken to in the clear, for TLS failed",
        move || weak.upgrade().map_or(0.0, |server| server.delivery.in_the_clear() as f64),
    );
    let weak = Arc::downgrade(server);
    metrics.counter_source(
        "tls_fallbacks",
        "Connections that went on in the clear, for TLS failed",
        move || weak.upgrade().map_or(0, |server| server.delivery.figures().tls_fallbacks.load(Relaxed)),
    );
    let weak = Arc::downgrade(server);
    metrics.counter_source(
        "tls_refusals",
        "Attempts that ended because no connection was as secure as the mail asks",
        move || weak.upgrade().map_or(0, |server| server.delivery.figures().tls_refusals.load(Relaxed)),
    );
    let signing = &server.delivery.figures().signing;
    let figures = signing.clone();
    metrics.labelled_counter_source(
        "signatures",
        "DKIM signatures made, by algorithm",
        "algorithm",
        move || {
            let made = [("rsa-sha256", &figures.rsa), ("ed25519-sha256", &figures.ed25519)];
            made.map(|(name, figure)| (name.to_owned(), figure.load(Relaxed))).to_vec()
        },
    );
    let counts: [(&str, &str, Signed); 4] = [
        ("signatures_used_again", "DKIM signatures used for another site", |f| f.again.load(Relaxed)),
        ("signing_failed", "Messages that could not be signed", |f| f.failed.load(Relaxed)),
        ("signing_unmatched", "Messages that nobody signed for", |f| f.unmatched.load(Relaxed)),
        ("signing_nanoseconds", "Time spent on signing, hashing included", |f| f.nanoseconds.load(Relaxed)),
    ];
    for (name, help, read) in counts {
        let figures = signing.clone();
        metrics.counter_source(name, help, move || read(&figures));
    }

    let weak = Arc::downgrade(server);
    metrics.labelled_counter_source(
        "tls_reports",
        "Reports about TLS, by what became of them",
        "fate",
        move || weak.upgrade().map(|server| server.delivery.report_figures()).unwrap_or_default(),
    );
    let sts = |read: fn((usize, u64, u64)) -> u64| {
        let weak = Arc::downgrade(server);
        move || weak.upgrade().map_or(0, |server| read(server.delivery.sts_figures()))
    };
    let kept = sts(|figures| figures.0 as u64);
    metrics.gauge_source("mta_sts_policies", "MTA-STS policies kept", move || kept() as f64);
    metrics.counter_source("mta_sts_fetches", "MTA-STS policies fetched", sts(|figures| figures.1));
    metrics.counter_source(
        "mta_sts_failures",
        "MTA-STS policies that could not be had",
        sts(|figures| figures.2),
    );

    let weak = Arc::downgrade(server);
    metrics.labelled_gauge_source(
        "certificate_expiry_seconds",
        "Seconds until a certificate that listeners show ends, by its file",
        "file",
        move || {
            let now = std::time::SystemTime::now().into();
            let all = weak.upgrade().map(|server| server.certificate_expiry()).unwrap_or_default();
            all.into_iter().map(|e| (e.chain.display().to_string(), e.seconds_left(now) as f64)).collect()
        },
    );

    let issuing = server.issuing.clone();
    metrics.labelled_counter_source(
        "acme_orders",
        "Certificates asked for by ACME, by what became of it",
        "fate",
        move || issuing.orders(),
    );
    let issuing = server.issuing.clone();
    metrics.labelled_gauge_source(
        "acme_failures",
        "Failures in a row to get a certificate by ACME, by its table under tls",
        "certificate",
        move || issuing.failures(),
    );

    let figures = server.delivery.notice_figures();
    metrics.labelled_counter_source(
        "notices",
        "Notices to people, by what became of them",
        "fate",
        move || figures.list(),
    );

    let sizes: [(&str, &str, Size); 10] = [
        ("queue_entries", "Entries queued: recipients of one message in one queue", |s| s.entries),
        ("queues", "Queues in memory", |s| s.queues),
        ("targets", "Domains, routes and addresses in memory that mail waits for", |s| s.targets),
        ("sites", "Sites in memory", |s| s.sites),
        ("paths", "Paths in memory: a source and a site", |s| s.paths),
        ("sites_resolving", "Look-ups of sites under way", |s| s.resolving),
        ("sites_to_resolve", "Domains that wait for such a look-up", |s| s.to_resolve),
        ("settling", "Messages being settled without a connection", |s| s.settling),
        ("giving_up", "Entries that an order or rule gives up and that wait for it", |s| s.giving_up),
        ("orders", "Operator orders in force", |s| s.orders),
    ];
    for (name, help, read) in sizes {
        let weak = Arc::downgrade(server);
        metrics.gauge_source(name, help, move || {
            weak.upgrade().map_or(0.0, |server| read(&server.delivery.figures().sizes()) as f64)
        });
    }

    let figure = |read: fn(&net::Figures) -> u64| {
        let limits = limits.clone();
        move || read(&limits.figures())
    };
    let gauge = |name: &str, help: &str, read: fn(&net::Figures) -> u64| {
        let value = figure(read);
        metrics.gauge_source(name, help, move || value() as f64);
    };
    gauge("connections_in", "Connections open from clients", |f| f.connections);
    gauge("client_networks", "Client networks with a connection open", |f| f.networks);
    gauge("descriptors", "File descriptors in use", |f| f.descriptors);
    gauge("descriptors_max", "File descriptors this process may have", |f| f.descriptors_max);
    metrics.counter_source("connections_accepted", "Connections taken from clients", figure(|f| f.accepted));
    metrics.counter_source(
        "connections_refused",
        "Connections over the limit of all",
        figure(|f| f.refused_all),
    );
    metrics.counter_source(
        "connections_refused_network",
        "Connections over the limit of their network",
        figure(|f| f.refused_network),
    );
    metrics.counter_source(
        "accept_pauses",
        "Times accepting paused for want of descriptors",
        figure(|f| f.accept_pauses),
    );
    metrics.counter_source("accept_errors", "Errors of accept", figure(|f| f.accept_errors));

    let stat = |read: fn(&spool::Stats) -> u64| {
        let spool = server.spool.clone();
        move || read(&spool.stats())
    };
    let gauge = |name: &str, help: &str, read: fn(&spool::Stats) -> u64| {
        let value = stat(read);
        metrics.gauge_source(name, help, move || value() as f64);
    };
    gauge("spool_messages", "Messages with a pending recipient", |s| s.live_messages);
    gauge("spool_live_bytes", "Octets of their records", |s| s.live_bytes);
    gauge("spool_used_bytes", "Octets of the spool's segments", |s| s.used_bytes);
    gauge("spool_free_bytes", "Octets free on the spool's file system", |s| s.free_bytes);
    gauge("spool_segments", "Segments", |s| s.segments);
    gauge("spool_segments_to_load", "Segments not read yet since the start", |s| s.segments_to_load);
    gauge("spool_index_bytes", "Octets of memory the spool's index takes", |s| s.index_memory_bytes);
    gauge("spool_unwritten_states", "Outcomes the disk has not taken yet", |s| s.unwritten_states);
    metrics.counter_source("spool_commits", "Group commits", stat(|s| s.commits));
    metrics.counter_source(
        "spool_messages_committed",
        "Messages in group commits",
        stat(|s| s.committed_messages),
    );
    metrics.counter_source(
        "spool_payload_bytes",
        "Octets of content committed",
        stat(|s| s.committed_payload_bytes),
    );
    metrics.counter_source(
        "spool_written_bytes",
        "Octets written to segments",
        stat(|s| s.segment_bytes_written),
    );
    metrics.counter_source(
        "spool_state_bytes",
        "Octets of outcomes written",
        stat(|s| s.state_bytes_written),
    );
    metrics.counter_source(
        "spool_sync_nanoseconds",
        "Time spent in syncs of segments",
        stat(|s| s.sync_nanos),
    );
    metrics.counter_source(
        "spool_refused_full",
        "Messages refused for want of room",
        stat(|s| s.refused_full),
    );
    metrics.counter_source(
        "spool_refused_io",
        "Messages refused because a write or sync failed",
        stat(|s| s.refused_io),
    );
    metrics.counter_source(
        "spool_refused_busy",
        "Messages refused for other reasons",
        stat(|s| s.refused_busy),
    );
    metrics.counter_source("spool_set_aside", "Damages set aside", stat(|s| s.set_aside));

    metrics.gauge_source("memory_max_bytes", "The memory budget", {
        let max = crate::memory::budget(server.memory_max());
        move || max as f64
    });
}
