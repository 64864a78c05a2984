//! Take the values of a question from a request, as its route says.

use consentd_core::question::MAX_QUESTION;
use consentd_core::wire::{put_item, put_varint};

use crate::paths::Target;
use crate::{Claim, Mapping, Refusal, Request, Route, Source, Value};

/// Headers by which some servers take another method or another path than those of the request.
const OVERRIDES: [&str; 15] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    "x-forwarded-method",
    "x-original-uri",
    "x-original-url",
    "x-original-path",
    "x-rewrite-url",
    "x-rewrite-uri",
    "x-override-url",
    "x-http-path-override",
    "x-request-uri",
    "x-forwarded-uri",
    "x-forwarded-path",
];
/// Methods whose requests have a body. Of others, some servers leave it unread, and take it for a further request.
const WITH_BODY: [&str; 3] = ["POST", "PUT", "PATCH"];
/// Most codes of one list.
const MOST_CODES: usize = 256;
const ENFORCE_RESIDUAL: u64 = 1;

/// What is taken from: the request, and the values of the path's variables.
struct Shown<'a> {
    request: &'a Request<'a>,
    variables: Vec<(&'a str, &'a str)>,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Mapping {
    /// Return the route of a request, and the question (the bytes of a `Question`).
    pub fn question(&self, request: &Request<'_>) -> Result<(&Route, Vec<u8>), Refusal> {
        if request.headers.iter().any(|(name, _)| OVERRIDES.contains(&one_spelling(name).as_str())) {
            return Err(Refusal::of_request("HEADER_NOT_ALLOWED"));
        }
        if !WITH_BODY.contains(&request.method) && has_body(request) {
            return Err(Refusal::of_request("BODY_NOT_ALLOWED"));
        }
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| host == request.host) {
            return Err(Refusal::of_request("HOST_UNMAPPED"));
        }
        let target = Target::parse(request.target)?;
        let (route, variables) = self.route(request.method, &target).ok_or(Refusal::of_request("ROUTE_UNMAPPED"))?;
        if !target.parameters.iter().all(|(name, _)| route.parameters.iter().any(|one| one == name)) {
            return Err(Refusal::of_request("PARAMETER_UNMAPPED"));
        }
        let question = route.ask(&Shown { request, variables, parameters: target.parameters })?;
        if question.len() > MAX_QUESTION {
            return Err(Refusal::of_request("QUESTION_TOO_LONG"));
        }
        Ok((route, question))
    }

    fn route<'m, 'p>(&'m self, method: &str, target: &Target<'p>) -> Option<(&'m Route, Vec<(&'m str, &'p str)>)> {
        let has = |route: &&Route| route.methods.iter().any(|one| one == method);
        self.routes.iter().filter(has).find_map(|route| Some((route, route.template.values(&target.segments)?)))
    }
}

impl Route {
    /// Write the question in the one form in which it is read (`consentd_core::question`).
    fn ask(&self, shown: &Shown<'_>) -> Result<Vec<u8>, Refusal> {
        let terms = &self.terms;
        let (mut out, mut subject, mut actor) = (Vec::with_capacity(256), Vec::new(), Vec::new());
        put_item(&mut subject, 1, terms.scheme.as_deref().unwrap_or_default().as_bytes());
        put_one(&mut subject, 2, "subject", &terms.subject, shown)?;
        put_item(&mut out, 1, &subject);
        put_one(&mut actor, 1, "organisation", &terms.organisation, shown)?;
        put_one(&mut actor, 4, "application", &terms.application, shown)?;
        put_one(&mut actor, 5, "on_behalf_of", &terms.on_behalf_of, shown)?;
        put_all(&mut actor, 6, "relays", &terms.relays, shown)?;
        put_item(&mut out, 2, &actor);
        put_one(&mut out, 3, "holder", &terms.holder, shown)?;
        put_one(&mut out, 4, "purpose", &terms.purpose, shown)?;
        put_one(&mut out, 5, "action", &terms.action, shown)?;
        put_all(&mut out, 6, "categories", &terms.categories, shown)?;
        for (field, name, values) in [(7, "labels", &terms.labels), (8, "resources", &terms.resources)] {
            if values.is_some() {
                let mut codes = Vec::new();
                put_all(&mut codes, 1, name, values, shown)?;
                put_item(&mut out, field, &codes);
            }
        }
        if self.applies_residual {
            let mut obligations = Vec::new();
            put_varint(&mut obligations, ENFORCE_RESIDUAL);
            put_item(&mut out, 12, &obligations);
        }
        put_one(&mut out, 13, "level", &terms.level, shown)?;
        Ok(out)
    }
}

/// Append the one value of a field, if the route has the field.
fn put_one(
    out: &mut Vec<u8>,
    number: u32,
    field: &'static str,
    value: &Option<Value>,
    shown: &Shown<'_>,
) -> Result<(), Refusal> {
    let Some(value) = value else { return Ok(()) };
    match value.take(field, shown)?.as_slice() {
        [only] => put_item(out, number, only.as_bytes()),
        _ => return Err(Refusal { code: "VALUE_DOUBLED", field }),
    }
    Ok(())
}

/// Append all values of a list, each once.
fn put_all(
    out: &mut Vec<u8>,
    number: u32,
    field: &'static str,
    values: &Option<Vec<Value>>,
    shown: &Shown<'_>,
) -> Result<(), Refusal> {
    let mut found: Vec<String> = Vec::new();
    for value in values.iter().flatten() {
        for code in value.take(field, shown)? {
            if !found.contains(&code) {
                found.push(code);
            }
            if found.len() > MOST_CODES {
                return Err(Refusal::of_request("QUESTION_TOO_LONG"));
            }
        }
    }
    found.iter().for_each(|code| put_item(out, number, code.as_bytes()));
    Ok(())
}

impl Value {
    /// Return what the request states, and what it means: at least one text.
    fn take(&self, field: &'static str, shown: &Shown<'_>) -> Result<Vec<String>, Refusal> {
        let refuse = |code| Refusal { code, field };
        let only = |found: Vec<&[u8]>| match found.as_slice() {
            [] => Err(refuse("VALUE_MISSING")),
            [one] => Ok(vec![String::from_utf8(one.to_vec()).map_err(|_| refuse("VALUE_UNMAPPED"))?]),
            _ => Err(refuse("VALUE_DOUBLED")),
        };
        let named = |pairs: &[(&str, &str)], name: &str| {
            let found = pairs.iter().filter(|(one, _)| *one == name);
            only(found.map(|(_, value)| value.as_bytes()).collect())
        };
        let stated: Vec<String> = match &self.source {
            Source::Constant(text) => return Ok(vec![text.clone()]),
            Source::Path(name) => named(&shown.variables, name)?,
            Source::Query(name) => named(&shown.parameters, name)?,
            Source::Header(name) => {
                let found = shown.request.headers.iter().filter(|(one, _)| one_spelling(one) == *name);
                only(found.map(|(_, value)| *value).collect())?
            }
            Source::Principal => only(Some(shown.request.principal.as_bytes()).into_iter().collect())?,
            Source::Claim(names) => claimed(&shown.request.claims, names).map_err(refuse)?,
        };
        let mut found = Vec::new();
        for text in stated {
            if text.is_empty() {
                return Err(refuse("VALUE_MISSING"));
            }
            match &self.meanings {
                Some(meanings) => found.extend(meanings.get(&text).ok_or(refuse("VALUE_UNMAPPED"))?.iter().cloned()),
                None if is_plain(&text) => found.push(format!("{}{text}", self.prefix)),
                // A proxy joins headers of the same name with commas.
                None if text.contains(',') => return Err(refuse("VALUE_DOUBLED")),
                None => return Err(refuse("VALUE_UNMAPPED")),
            }
        }
        Ok(found)
    }
}

/// Return the name of a header as servers may read it: some do not know `_`, `.` and others from `-`.
pub fn one_spelling(name: &str) -> String {
    name.replace(|one: char| !one.is_ascii_alphanumeric(), "-")
}

fn has_body(request: &Request<'_>) -> bool {
    let states = |(name, value): &(&str, &[u8])| match *name {
        "content-length" => *value != b"0",
        name => name == "transfer-encoding",
    };
    request.has_body || request.headers.iter().any(states)
}

/// Return the texts of a claim.
fn claimed(claims: &Claim<'_>, names: &[String]) -> Result<Vec<String>, &'static str> {
    let mut at = claims;
    for name in names {
        let Claim::Map(entries) = at else { return Err("VALUE_MISSING") };
        let mut found = entries.iter().filter(|(one, _)| one == name);
        at = match (found.next(), found.next()) {
            (None, _) => return Err("VALUE_MISSING"),
            (Some((_, claim)), None) => claim,
            (Some(_), Some(_)) => return Err("VALUE_DOUBLED"),
        };
    }
    let text = |claim: &Claim<'_>| match claim {
        Claim::Text(text) => Ok((*text).to_owned()),
        _ => Err("VALUE_UNMAPPED"),
    };
    match at {
        Claim::List(list) if list.is_empty() => Err("VALUE_MISSING"),
        Claim::List(list) => list.iter().map(text).collect(),
        other => Ok(vec![text(other)?]),
    }
}

/// Return whether a text needs no meaning: codes, participants, and values of identifiers do not.
fn is_plain(text: &str) -> bool {
    text.len() <= 256 && text.bytes().all(|one| one.is_ascii_alphanumeric() || b"-._~:/|@".contains(&one))
}
