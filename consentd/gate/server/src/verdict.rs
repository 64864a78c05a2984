//! What a proxy is told: whether the request passes, and why.
//!
//! The server behind the proxy gets what it needs to know in headers. The client of a refused request learns no more than a
//! caller without the right SEE_REASONS would (`policy.md`, "One answer"), unless the mapping says otherwise. The proxy
//! itself gets the whole answer, as the caller of Check would.

use consentd_core::answer::hex;
use consentd_core::wire::{numbers, Fields};
use consentd_core::Malformed;
use consentd_mapping::question::one_spelling;
use consentd_mapping::{Refusal, Route};

use crate::envoy::{allowed, denied};
use crate::node::Node;

/// Names of `Outcome`, `ReasonCode`, `Effect`, `Obligation` and `Layer`, by their numbers.
const OUTCOMES: [&str; 6] = ["UNSPECIFIED", "PERMIT", "PARTIAL", "DENY", "INDETERMINATE", "NO_CONSENT"];
const REASONS: [&str; 17] = [
    "UNSPECIFIED",
    "PERMITTED_BY_CONSENT",
    "DENIED_BY_CONSENT",
    "NO_MATCHING_CONSENT",
    "PERMITTED_BY_LAW",
    "DENIED_BY_LAW",
    "PERMITTED_BY_BREAK_GLASS",
    "DENIED_BY_BREAK_GLASS",
    "PERMITTED_BY_IMPLICIT_POLICY",
    "DENIED_BY_IMPLICIT_POLICY",
    "UNKNOWN_CATEGORY",
    "UNREADABLE_CONSENT",
    "DENIED_BY_COMBINING",
    "PERMITTED_BY_COMBINING",
    "CLOCK",
    "DAMAGED_ROW",
    "BEYOND_RECURRENCE",
];
const EFFECTS: [&str; 3] = ["UNSPECIFIED", "DENY", "PERMIT"];
const OBLIGATIONS: [&str; 4] = ["UNSPECIFIED", "ENFORCE_RESIDUAL", "NOTIFY_SUBJECT", "POST_REVIEW"];
const LAYERS: [&str; 6] = ["UNSPECIFIED", "STATUTE", "BREAK_GLASS", "CONSENT", "IMPLICIT", "REALM"];
const PERMIT: u64 = 1;
const PARTIAL: u64 = 2;
const ENFORCE_RESIDUAL: u64 = 1;
/// How all our headers begin.
const PREFIX: &str = "consentd-";
/// The headers that the server behind the proxy may get. What is not set is removed, since a client may have sent it.
const HEADERS: [&str; 9] = [
    "consentd-outcome",
    "consentd-decision-id",
    "consentd-revision",
    "consentd-permitted",
    "consentd-labels",
    "consentd-level",
    "consentd-obligations",
    "consentd-residual",
    "consentd-valid-until-ms",
];
/// The header with which the client of a refused request learns why.
const REASON: &str = "consentd-reason";
/// Most bytes of a header: proxies and servers have limits.
const MOST_OF_HEADER: usize = 8 << 10;

/// The parts of a `Decision` that a proxy needs.
#[derive(Debug, Default)]
struct Answer<'a> {
    outcome: u64,
    permitted: Vec<Node<'a>>,
    others: [Vec<Node<'a>>; 3],
    reasons: Vec<Node<'a>>,
    codes: Vec<&'static str>,
    obligations: Vec<u64>,
    residual: Vec<Node<'a>>,
    until_ms: u64,
    tree_size: u64,
    root: String,
    id: &'a str,
    labels: Vec<Node<'a>>,
    level: &'a str,
}

/// Return the response about a request that has no answer: it is refused.
pub fn refuse(refusal: Refusal) -> Vec<u8> {
    let mut metadata = vec![("outcome", Node::Text("DENY")), ("reason", Node::Text(refusal.code))];
    if !refusal.field.is_empty() {
        metadata.push(("field", Node::Text(refusal.field)));
    }
    denied(&[(HEADERS[0], "DENY".to_owned()), (REASON, refusal.code.to_owned())], &metadata)
}

/// Return the response about a request of *route* whose question has the answer *decision* (the bytes of a `Decision`).
///
/// *stated*: the names of the headers that the client has sent.
pub fn respond<'n>(
    decision: &[u8],
    route: &Route,
    shows_reasons: bool,
    stated: impl Iterator<Item = &'n str>,
) -> Result<Vec<u8>, Malformed> {
    let answer = read(decision)?;
    let metadata = answer.metadata();
    let identity = |outcome: &str| {
        let revision = answer.tree_size.to_string();
        [outcome.to_owned(), answer.id.to_owned(), revision]
            .into_iter()
            .enumerate()
            .map(|(at, text)| (HEADERS[at], text))
    };
    if !answer.lets_pass(route) {
        let (outcome, reason) = match shows_reasons {
            true => (name(&OUTCOMES, answer.outcome), answer.codes.join(",")),
            false => ("DENY", String::new()),
        };
        let reason = if reason.is_empty() { "NOT_PERMITTED".to_owned() } else { reason };
        // The id tells which server has answered, and the revision how much is written: neither is a client's concern.
        let shown = if shows_reasons { 3 } else { 1 };
        let headers: Vec<_> = identity(outcome).take(shown).chain([(REASON, reason)]).collect();
        return Ok(denied(&headers, &metadata));
    }
    let mut headers: Vec<_> = identity(name(&OUTCOMES, answer.outcome)).collect();
    let mut residual = String::new();
    if !answer.residual.is_empty() {
        Node::List(answer.residual.clone()).put_json(&mut residual);
    }
    let obligations: Vec<_> = answer.obligations.iter().map(|one| name(&OBLIGATIONS, *one)).collect();
    let until = if answer.until_ms == 0 { String::new() } else { answer.until_ms.to_string() };
    for (at, value) in [
        (3, joined(&answer.permitted)),
        (4, joined(&answer.labels)),
        (5, answer.level.to_owned()),
        (6, obligations.join(",")),
        (7, residual),
        (8, until),
    ] {
        if value.len() > MOST_OF_HEADER {
            return Ok(refuse(Refusal::of_request("ANSWER_TOO_LONG")));
        }
        if !value.is_empty() {
            headers.push((HEADERS[at], value));
        }
    }
    let is_set = |name: &str| headers.iter().any(|(one, _)| *one == name);
    let is_ours = |name: &&str| one_spelling(name).starts_with(PREFIX) && !HEADERS.contains(name);
    let stated: Vec<&str> = stated.filter(is_ours).collect();
    let removed: Vec<&str> = HEADERS.into_iter().chain([REASON]).chain(stated).filter(|name| !is_set(name)).collect();
    Ok(allowed(&headers, &removed, &metadata))
}

impl Answer<'_> {
    /// Return whether the server behind the proxy may get the request: all is permitted that it will return.
    fn lets_pass(&self, route: &Route) -> bool {
        let is_whole = self.others.iter().all(Vec::is_empty);
        let is_permitted = match self.outcome {
            PERMIT => is_whole,
            PARTIAL => route.applies_partial,
            _ => false,
        };
        let is_conditional = !self.obligations.is_empty() || !self.residual.is_empty();
        let is_applied = self.obligations == [ENFORCE_RESIDUAL] && !self.residual.is_empty() && route.applies_residual;
        is_permitted && !self.permitted.is_empty() && (!is_conditional || is_applied)
    }

    fn metadata(&self) -> Vec<(&'static str, Node<'_>)> {
        let mut found = vec![
            ("outcome", Node::Text(name(&OUTCOMES, self.outcome))),
            ("decision_id", Node::Text(self.id)),
            ("tree_size", Node::Owned(self.tree_size.to_string())),
            ("root_hash", Node::Text(&self.root)),
        ];
        let obligations = self.obligations.iter().map(|one| Node::Text(name(&OBLIGATIONS, *one))).collect();
        let [denied, without, unknown] = &self.others;
        for (name, list) in [
            ("permitted", &self.permitted),
            ("denied", denied),
            ("without_consent", without),
            ("unknown", unknown),
            ("reasons", &self.reasons),
            ("obligations", &obligations),
            ("residual", &self.residual),
            ("labels", &self.labels),
        ] {
            if !list.is_empty() {
                found.push((name, Node::List(list.clone())));
            }
        }
        if self.until_ms != 0 {
            found.push(("valid_until_time_ms", Node::Owned(self.until_ms.to_string())));
        }
        if !self.level.is_empty() {
            found.push(("level", Node::Text(self.level)));
        }
        found
    }
}

/// Read a `Decision`. One with a field that is not known here may have a condition that is not known here.
fn read(message: &[u8]) -> Result<Answer<'_>, Malformed> {
    let mut found = Answer::default();
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.read()? {
        match number {
            1 => found.outcome = value.number()?,
            2 => found.permitted.push(Node::Text(value.text()?)),
            3..=5 => found.others[number as usize - 3].push(Node::Text(value.text()?)),
            6 => {
                let (code, reason) = read_reason(value.bytes()?)?;
                if !found.codes.contains(&code) {
                    found.codes.push(code);
                }
                found.reasons.push(reason);
            }
            7 => numbers(value, &mut found.obligations)?,
            8 => found.residual.push(read_rule(value.bytes()?, 0)?),
            9 => found.until_ms = value.number()?,
            10 => {
                let mut revision = Fields::new(value.bytes()?);
                while let Some((number, value)) = revision.read()? {
                    match number {
                        1 => found.tree_size = value.number()?,
                        _ => found.root = hex(value.bytes()?),
                    }
                }
            }
            11 => found.id = value.text()?,
            12..=16 => {} // the tag and the rest are of no use to a proxy
            17 => found.labels.push(Node::Text(value.text()?)),
            18 => found.level = value.text()?,
            _ => return Err(Malformed("answer has an unknown field")),
        }
    }
    Ok(found)
}

fn read_reason(message: &[u8]) -> Result<(&'static str, Node<'_>), Malformed> {
    let (mut code, mut found) = (REASONS[0], Vec::new());
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.read()? {
        match number {
            1 => code = name(&REASONS, value.number()?),
            2 => found.push(("effect", Node::Text(name(&EFFECTS, value.number()?)))),
            3 => found.push(("consent_id", Node::Text(value.text()?))),
            4 => found.push(("version", Node::Owned(value.number()?.to_string()))),
            _ => found.push(("path", Node::Text(value.text()?))),
        }
    }
    found.insert(0, ("code", Node::Text(code)));
    Ok((code, Node::Map(found)))
}

/// Read a `ResidualRule`.
fn read_rule(message: &[u8], depth: usize) -> Result<Node<'_>, Malformed> {
    const LISTS: [(u32, &str); 5] =
        [(2, "categories"), (3, "covered_labels"), (4, "resources"), (7, "rules"), (8, "any_labels")];
    if depth > 16 {
        return Err(Malformed("conditions are nested too deep"));
    }
    let (mut found, mut lists): (Vec<_>, [Vec<_>; 5]) = Default::default();
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.read()? {
        match number {
            1 => found.push(("effect", Node::Text(name(&EFFECTS, value.number()?)))),
            5 => {
                let (mut ends, mut period) = (Vec::new(), Fields::new(value.bytes()?));
                while let Some((number, value)) = period.read()? {
                    let name = if number == 1 { "start_time_ms" } else { "end_time_ms" };
                    ends.push((name, Node::Owned((value.number()? as i64).to_string())));
                }
                found.push(("data_period", Node::Map(ends)));
            }
            6 => found.push(("layer", Node::Text(name(&LAYERS, value.number()?)))),
            7 => lists[3].push(read_rule(value.bytes()?, depth + 1)?),
            9 => found.push(("level", Node::Text(value.text()?))),
            _ => {
                let at = LISTS.iter().position(|(one, _)| *one == number);
                lists[at.ok_or(Malformed("condition has an unknown field"))?].push(Node::Text(value.text()?));
            }
        }
    }
    let stated = LISTS.into_iter().zip(lists).filter(|(_, list)| !list.is_empty());
    found.extend(stated.map(|((_, name), list)| (name, Node::List(list))));
    Ok(Node::Map(found))
}

fn name(names: &[&'static str], number: u64) -> &'static str {
    usize::try_from(number).ok().and_then(|at| names.get(at)).copied().unwrap_or("UNKNOWN")
}

fn joined(codes: &[Node<'_>]) -> String {
    let texts = codes.iter().filter_map(|one| if let Node::Text(text) = one { Some(*text) } else { None });
    texts.collect::<Vec<_>>().join(",")
}
