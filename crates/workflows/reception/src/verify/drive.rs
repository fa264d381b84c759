//! Fetches what the machines of `mailauth` ask for.

use mail::Domain;
use mailauth::dkim::KeyAnswer;
use mailauth::dns::{Answer, Machine, Name, Question, Records, Step};
use resolve::Resolver;
use tokio::time::{Instant, timeout_at};

/// Runs a machine to its end. After the deadline nothing is answered any more.
pub async fn drive<M: Machine>(mut machine: M, dns: &dyn Resolver, deadline: Instant) -> M::Outcome
where
    M::Outcome: Clone,
{
    loop {
        let question = match machine.step() {
            Step::Ask(question) => question.clone(),
            Step::Done(outcome) => return outcome.clone(),
        };
        let answer = timeout_at(deadline, ask(&question, dns)).await.unwrap_or(Answer::Temporary);
        machine.answer(answer);
    }
}

async fn ask(question: &Question, dns: &dyn Resolver) -> Answer {
    match question {
        Question::Txt(name) => said(dns.txt(name.as_str()).await, Records::Txt),
        Question::A(name) => match Domain::parse(name.as_str()) {
            Ok(domain) => said(dns.a(&domain).await, Records::A),
            Err(_) => said(dns.a_of_any(name.as_str()).await, Records::A),
        },
        Question::Aaaa(name) => match Domain::parse(name.as_str()) {
            Ok(domain) => said(dns.aaaa(&domain).await, Records::Aaaa),
            // No host has such a name (RFC 1123 §2.1).
            Err(_) => Answer::NoData,
        },
        Question::Mx(name) => match Domain::parse(name.as_str()) {
            Ok(domain) => said(dns.mx(&domain).await, |records| {
                let mut sorted = records.to_vec();
                sorted.sort_unstable();
                Records::Mx(sorted.into_iter().map(|mx| mx.exchange).collect())
            }),
            Err(_) => Answer::NoData,
        },
        Question::Ptr(address) => said(dns.ptr(*address).await, Records::Ptr),
    }
}

fn said<T>(answer: resolve::Answer<T>, records: impl FnOnce(std::sync::Arc<[T]>) -> Records) -> Answer {
    match answer {
        resolve::Answer::Found(found, _) => Answer::Found(records(found)),
        resolve::Answer::NoData(_) => Answer::NoData,
        resolve::Answer::NxDomain(_) => Answer::NxDomain,
        resolve::Answer::Temporary(_) => Answer::Temporary,
    }
}

/// The record of a DKIM key.
pub(super) async fn key(name: &str, dns: &dyn Resolver, deadline: Instant) -> KeyAnswer {
    let Some(name) = Name::parse(name.as_bytes()) else { return KeyAnswer::Absent };
    match timeout_at(deadline, dns.txt(name.as_str())).await {
        Ok(resolve::Answer::Found(texts, _)) => {
            KeyAnswer::Records(texts.iter().map(|text| text.to_vec()).collect())
        }
        Ok(resolve::Answer::NoData(_) | resolve::Answer::NxDomain(_)) => KeyAnswer::Absent,
        Ok(resolve::Answer::Temporary(_)) | Err(_) => KeyAnswer::Temporary,
    }
}
