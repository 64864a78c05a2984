//! Read a mapping file: TOML, as `ops/ext-authz.toml` explains it.
//!
//! A file is taken whole or not at all. An unknown key is a fault, because it may be one that is misspelt; so are two routes
//! that one request would match.

use std::collections::HashMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};
use toml::Spanned;

use crate::paths::{is_parameter, Template};
use crate::{Mapping, Route, Source, Terms, Value};

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
/// Kinds of sources, by which a fault names what a field may be taken from.
const ANY: &[&str] = &["path", "query", "header", "principal", "claim"];
/// Who asks is what a certificate or a token shows, and never what a client merely states (`policy.md`, rule 10).
const PROVEN: &[&str] = &["principal", "claim"];
/// What the server behind the proxy finds by the path and the query.
const SERVED: &[&str] = &["path", "query"];

/// What is wrong with a mapping file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFault {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

type Item<'t> = Spanned<DeValue<'t>>;

/// Read the text of a mapping file.
pub fn parse(text: &str) -> Result<Mapping, FileFault> {
    let reader = Reader { text };
    let document = DeTable::parse(text)
        .map_err(|error| reader.fault(error.span().unwrap_or_default(), error.message().to_owned()))?;
    let (mut callers, mut hosts, mut shows_reasons) = (Vec::new(), Vec::new(), false);
    let (mut defaults, mut routes) = (Terms::default(), None);
    for (key, item) in document.get_ref() {
        match key.get_ref().as_ref() {
            "callers" => callers = reader.texts(item)?,
            "hosts" => hosts = reader.texts(item)?,
            "show_reasons" => shows_reasons = reader.truth(item)?,
            "routes" => routes = Some(item),
            "defaults" => {
                for (key, item) in reader.table(item)? {
                    if !reader.term(key.get_ref(), item, &mut defaults)? {
                        return Err(reader.unknown(key));
                    }
                }
            }
            _ => return Err(reader.unknown(key)),
        }
    }
    let missing = |name: &str| FileFault { line: 1, what: format!("`{name}` is missing, or empty") };
    let mut found = Mapping { callers, hosts, shows_reasons, routes: Vec::new() };
    if found.callers.is_empty() {
        return Err(missing("callers"));
    }
    for item in reader.array(routes.ok_or_else(|| missing("routes"))?)? {
        let route = reader.route(item, &defaults)?;
        let is_same = |other: &&Route| {
            other.template.overlaps(&route.template) && other.methods.iter().any(|one| route.methods.contains(one))
        };
        if let Some(at) = found.routes.iter().position(|other| is_same(&other)) {
            return Err(reader.fault(item.span(), format!("a request may match this route and route {}", at + 1)));
        }
        found.routes.push(route);
    }
    Ok(found)
}

/// Reads the parts of one text.
struct Reader<'t> {
    text: &'t str,
}

impl<'t> Reader<'t> {
    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|one| *one == b'\n').count()
    }

    fn fault(&self, span: Range<usize>, what: impl Into<String>) -> FileFault {
        FileFault { line: self.line(span.start), what: what.into() }
    }

    fn unknown(&self, key: &Spanned<std::borrow::Cow<'_, str>>) -> FileFault {
        self.fault(key.span(), format!("`{}` is no key of this table", key.get_ref()))
    }

    fn table<'a>(&self, item: &'a Item<'t>) -> Result<&'a DeTable<'t>, FileFault> {
        item.get_ref().as_table().ok_or_else(|| self.fault(item.span(), "must be a table"))
    }

    fn array<'a>(&self, item: &'a Item<'t>) -> Result<&'a [Item<'t>], FileFault> {
        let found = item.get_ref().as_array().map(|list| &list[..]);
        found.filter(|list| !list.is_empty()).ok_or_else(|| self.fault(item.span(), "must be a list that is not empty"))
    }

    fn text<'a>(&self, item: &'a Item<'t>) -> Result<&'a str, FileFault> {
        let found = item.get_ref().as_str().filter(|text| !text.is_empty());
        found.ok_or_else(|| self.fault(item.span(), "must be a text that is not empty"))
    }

    fn texts(&self, item: &Item<'t>) -> Result<Vec<String>, FileFault> {
        self.array(item)?.iter().map(|one| Ok(self.text(one)?.to_owned())).collect()
    }

    fn truth(&self, item: &Item<'t>) -> Result<bool, FileFault> {
        item.get_ref().as_bool().ok_or_else(|| self.fault(item.span(), "must be true or false"))
    }

    fn route(&self, item: &Item<'t>, defaults: &Terms) -> Result<Route, FileFault> {
        let (mut methods, mut template, mut parameters) = (Vec::new(), None, Vec::new());
        let (mut terms, mut applied) = (defaults.clone(), Vec::new());
        for (key, item) in self.table(item)? {
            match key.get_ref().as_ref() {
                "methods" => methods = self.texts(item)?,
                "path" => {
                    let text = self.text(item)?;
                    let read = Template::parse(text);
                    template = Some(read.map_err(|what| self.fault(item.span(), format!("path `{text}` {what}")))?);
                }
                "query" => parameters = self.texts(item)?,
                "upstream_applies" => applied = self.texts(item)?,
                name if self.term(name, item, &mut terms)? => {}
                _ => return Err(self.unknown(key)),
            }
        }
        let missing = |name: &str| self.fault(item.span(), format!("route has no `{name}`"));
        let template = template.ok_or_else(|| missing("path"))?;
        if methods.is_empty() {
            return Err(missing("methods"));
        }
        for (names, allowed) in [(&methods, &METHODS[..]), (&applied, &["partial", "residual"])] {
            if let Some(odd) = names.iter().find(|one| !allowed.contains(&one.as_str())) {
                return Err(self.fault(item.span(), format!("`{odd}` is none of {}", allowed.join(", "))));
            }
        }
        if let Some(odd) = parameters.iter().find(|one| !is_parameter(one)) {
            return Err(self.fault(item.span(), format!("`{odd}` is no name of a parameter")));
        }
        for (name, is_stated) in [
            ("subject", terms.subject.is_some()),
            ("organisation", terms.organisation.is_some()),
            ("holder", terms.holder.is_some()),
            ("purpose", terms.purpose.is_some()),
            ("action", terms.action.is_some()),
            ("categories", terms.categories.is_some()),
        ] {
            if !is_stated {
                return Err(missing(name));
            }
        }
        let applies = |name: &str| applied.iter().any(|one| one == name);
        let (applies_partial, applies_residual) = (applies("partial"), applies("residual"));
        // What they leave open is permitted for data without labels of the lowest level, which the server would have to know.
        for (name, is_stated) in [("labels", terms.labels.is_some()), ("level", terms.level.is_some())] {
            if !is_stated && !applies_residual {
                return Err(self.fault(
                    item.span(),
                    format!(
                        "route has no `{name}`: the most that its server returns; or its server applies `residual`"
                    ),
                ));
            }
        }
        for value in terms.values() {
            match &value.source {
                Source::Path(name) if !template.has(name) => {
                    let what = format!("path has no variable `{name}`, from which line {} takes a value", value.line);
                    return Err(self.fault(item.span(), what));
                }
                Source::Query(name) if !parameters.contains(name) => parameters.push(name.clone()),
                _ => {}
            }
        }
        Ok(Route { methods, template, parameters, terms, applies_partial, applies_residual })
    }

    /// Read a part of the question; return false if it has none of this name.
    fn term(&self, name: &str, item: &Item<'t>, terms: &mut Terms) -> Result<bool, FileFault> {
        let one = |sources| self.value(item, sources, true).map(Some);
        let list = |sources| -> Result<_, FileFault> {
            self.array(item)?.iter().map(|one| self.value(one, sources, false)).collect::<Result<Vec<_>, _>>().map(Some)
        };
        match name {
            "subject" => {
                for (key, item) in self.table(item)? {
                    match key.get_ref().as_ref() {
                        "scheme" => terms.scheme = Some(self.text(item)?.to_owned()),
                        "value" => terms.subject = Some(self.value(item, ANY, true)?),
                        _ => return Err(self.unknown(key)),
                    }
                }
                if terms.scheme.is_none() || terms.subject.is_none() {
                    return Err(self.fault(item.span(), "needs `scheme` and `value`"));
                }
            }
            "organisation" => terms.organisation = one(PROVEN)?,
            "application" => terms.application = one(PROVEN)?,
            "on_behalf_of" => terms.on_behalf_of = one(PROVEN)?,
            "relays" => terms.relays = list(PROVEN)?,
            "holder" => terms.holder = one(SERVED)?,
            "purpose" => terms.purpose = one(ANY)?,
            "action" => terms.action = one(SERVED)?,
            "categories" => terms.categories = list(SERVED)?,
            "labels" if item.get_ref().as_array().is_some_and(|list| list.is_empty()) => {
                terms.labels = Some(Vec::new())
            }
            "labels" => terms.labels = list(SERVED)?,
            "resources" => terms.resources = list(SERVED)?,
            "level" => terms.level = one(SERVED)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Read where a value comes from. *is_single*: whether it may mean one text alone.
    fn value(&self, item: &Item<'t>, sources: &[&str], is_single: bool) -> Result<Value, FileFault> {
        let (line, prefix) = (self.line(item.span().start), String::new());
        if let Some(text) = item.get_ref().as_str().filter(|text| !text.is_empty()) {
            return Ok(Value { line, source: Source::Constant(text.to_owned()), prefix, meanings: None });
        }
        let (mut source, mut prefix, mut meanings) = (None, None, None);
        let what = || format!("must be a text, or a table with one of {}", sources.join(", "));
        let table = item.get_ref().as_table().ok_or_else(|| self.fault(item.span(), what()))?;
        for (key, item) in table {
            let found = match key.get_ref().as_ref() {
                "prefix" => {
                    prefix = Some(self.text(item)?.to_owned());
                    continue;
                }
                "values" => {
                    meanings = Some(self.meanings(item, is_single)?);
                    continue;
                }
                name if !sources.contains(&name) => return Err(self.fault(key.span(), what())),
                "path" => Source::Path(self.text(item)?.to_owned()),
                "query" => Source::Query(self.text(item)?.to_owned()),
                "header" => Source::Header(self.header(item)?),
                "claim" => Source::Claim(self.texts(item)?),
                _ if self.truth(item)? => Source::Principal,
                _ => return Err(self.fault(item.span(), "must be true")),
            };
            if source.replace(found).is_some() {
                return Err(self.fault(item.span(), what()));
            }
        }
        let source = source.ok_or_else(|| self.fault(item.span(), what()))?;
        if prefix.is_some() && meanings.is_some() {
            return Err(self.fault(item.span(), "has `prefix` or `values`, not both"));
        }
        if source == Source::Principal && meanings.is_none() {
            return Err(self.fault(item.span(), "needs `values`: the name in a certificate is no participant"));
        }
        Ok(Value { line, source, prefix: prefix.unwrap_or_default(), meanings })
    }

    fn header(&self, item: &Item<'t>) -> Result<String, FileFault> {
        let text = self.text(item)?;
        let is_name = text.bytes().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == b'-');
        if !is_name || text.starts_with("consentd-") {
            return Err(self.fault(item.span(), format!("`{text}` is no header in lower case that clients may send")));
        }
        Ok(text.to_owned())
    }

    fn meanings(&self, item: &Item<'t>, is_single: bool) -> Result<HashMap<String, Vec<String>>, FileFault> {
        let mut found = HashMap::new();
        for (key, item) in self.table(item)? {
            let texts = match item.get_ref() {
                DeValue::Array(_) if !is_single => self.texts(item)?,
                _ => vec![self.text(item)?.to_owned()],
            };
            found.insert(key.get_ref().to_string(), texts);
        }
        Ok(found)
    }
}

impl Terms {
    fn values(&self) -> impl Iterator<Item = &Value> {
        let single = [
            &self.subject,
            &self.organisation,
            &self.application,
            &self.on_behalf_of,
            &self.holder,
            &self.purpose,
            &self.action,
            &self.level,
        ];
        let lists = [&self.relays, &self.categories, &self.labels, &self.resources];
        single.into_iter().flatten().chain(lists.into_iter().flatten().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::{Claim, Mapping, Refusal, Request};

    const EXAMPLE: &str = include_str!("../../../../ops/ext-authz.toml");

    /// Change some bytes of a text, so that it stays a text.
    fn mutant(text: &str, seed: &mut u64) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..3 {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (*seed >> 33) as usize % bytes.len();
            match *seed >> 61 {
                0 | 1 => bytes[at] = b"\"[]{}=,.#\n'\\%/?&;_"[(*seed >> 20) as usize % 18],
                2 | 3 => bytes[at] = (*seed >> 20) as u8 & 0x7f,
                4 if bytes.len() > 1 => drop(bytes.remove(at)),
                4 | 5 => bytes.insert(at, b"\"[]{}=,.#\n'\\%/?&;_"[(*seed >> 20) as usize % 18]),
                6 => bytes.truncate(at.max(1)),
                _ => bytes.extend_from_within(at..(at + 20).min(bytes.len())),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn ask(mapping: &Mapping, [method, target, principal, purpose]: [&str; 4]) -> Result<Vec<u8>, Refusal> {
        let claims = Claim::Map(vec![("login", Claim::Map(vec![("purpose_of_use", Claim::Text(purpose))]))]);
        let headers = vec![("accept", &b"*/*"[..])];
        let request = Request { method, host: "fhir.example", target, has_body: false, headers, principal, claims };
        mapping.question(&request).map(|(_, question)| question)
    }

    #[test]
    fn garbage_is_a_mapping_or_a_fault_of_a_line() {
        let (lines, mut seed, mut read) = (EXAMPLE.lines().count(), 3, 0);
        for _ in 0..5_000 {
            match parse(&mutant(EXAMPLE, &mut seed)) {
                Ok(_) => read += 1,
                Err(fault) => assert!((1..=2 * lines).contains(&fault.line) && !fault.what.is_empty()),
            }
        }
        assert!(read > 100, "{read}");
    }

    #[test]
    fn a_body_and_odd_names_of_headers_are_seen() {
        let mapping = parse(EXAMPLE).unwrap();
        let claims = Claim::Map(vec![("login", Claim::Map(vec![("purpose_of_use", Claim::Text("TREAT"))]))]);
        let request = Request {
            method: "GET",
            host: "fhir.example",
            target: "/fhir/Patient/T-1/Condition",
            principal: "spiffe://realm.example/clinic-b",
            claims,
            ..Request::default()
        };
        let code = |request: &Request<'_>| mapping.question(request).err().map(|refusal| refusal.code);
        let with = |name, value: &'static str| Request { headers: vec![(name, value.as_bytes())], ..request.clone() };
        assert_eq!(code(&request), None);
        assert_eq!(code(&with("content-length", "0")), None);
        assert_eq!(code(&with("content-type", "application/fhir+json")), None);
        for seen in [
            with("content-length", "5"),
            with("content-length", "00"),
            with("transfer-encoding", "chunked"),
            Request { has_body: true, ..request.clone() },
        ] {
            assert_eq!(code(&seen), Some("BODY_NOT_ALLOWED"));
        }
        for name in ["x-http-method-override", "x.http_method~override", "x-original-method"] {
            assert_eq!(code(&with(name, "DELETE")), Some("HEADER_NOT_ALLOWED"));
        }
    }

    #[test]
    fn a_route_states_labels_and_level_or_its_server_applies_conditions() {
        for (old, what) in [("labels = []\n", "`labels`"), ("level = \"N\"\n", "`level`")] {
            assert!(EXAMPLE.contains(old));
            let fault = parse(&EXAMPLE.replacen(old, "", 1)).unwrap_err();
            assert!(fault.what.contains(what), "{}", fault.what);
        }
    }

    #[test]
    fn a_mutant_of_a_request_is_refused_or_has_the_same_meaning() {
        let mapping = parse(EXAMPLE).unwrap();
        let principal = "spiffe://realm.example/clinic-b";
        let ask = |method: &str, target: &str, principal: &str, purpose: &str| {
            ask(&mapping, [method, target, principal, purpose])
        };
        let target = "/fhir/Patient/T-1/Condition?_count=5";
        let expected = ask("GET", target, principal, "TREAT").unwrap();
        let mut seed = 9;
        for _ in 0..20_000 {
            for found in [
                ask(&mutant("GET", &mut seed), target, principal, "TREAT"),
                ask("GET", target, &mutant(principal, &mut seed), "TREAT"),
                ask("GET", target, principal, &mutant("TREAT", &mut seed)),
            ] {
                assert!(found.is_err() || found.as_ref() == Ok(&expected));
            }
            // A mutant of the path is refused, or is about another person alone.
            let other = mutant(target, &mut seed);
            if let Ok(question) = ask("GET", &other, principal, "TREAT") {
                let path = other.split('?').next().unwrap_or_default();
                let [_, "fhir", "Patient", person, "Condition"] = path.split('/').collect::<Vec<_>>()[..] else {
                    panic!("{other}")
                };
                assert!(question.windows(person.len()).any(|part| part == person.as_bytes()));
                assert!(!path.contains(['%', ';', '\\', '#']));
            }
        }
    }
}
