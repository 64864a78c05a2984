//! Paths of requests, and the templates of routes.
//!
//! A path has one form. One with an escaped letter, an empty segment or a segment of dots is refused and not put right:
//! proxies and servers do that in different ways, and then check one path and serve another.

use crate::Refusal;

const NOT_CANONICAL: Refusal = Refusal { code: "PATH_NOT_CANONICAL", field: "" };
/// Most bytes of a variable's value.
const MOST_OF_VARIABLE: usize = 128;

/// The path of a route: `/fhir/Patient/{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Variable(String),
}

impl Template {
    /// Read a template; an error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or("does not begin with `/`")?;
        let mut found = Template(Vec::new());
        for part in rest.split('/') {
            let name = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            let segment = match name {
                Some(name) if is_name(name) && !found.has(name) => Segment::Variable(name.to_owned()),
                Some(name) if found.has(name) => return Err(format!("has the variable `{name}` twice")),
                Some(_) => return Err(format!("has a variable whose name is no word: `{part}`")),
                None if is_segment(part) => Segment::Literal(part.to_owned()),
                None => return Err(format!("has a segment that no request may have: `{part}`")),
            };
            found.0.push(segment);
        }
        Ok(found)
    }

    /// Return whether the template has a variable.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|one| matches!(one, Segment::Variable(variable) if variable == name))
    }

    /// Return the values of the variables; None: the path is another one.
    pub fn values<'t, 'p>(&'t self, segments: &[&'p str]) -> Option<Vec<(&'t str, &'p str)>> {
        if segments.len() != self.0.len() {
            return None;
        }
        let mut found = Vec::new();
        for (segment, part) in self.0.iter().zip(segments) {
            match segment {
                Segment::Literal(text) if text == part => {}
                Segment::Variable(name) if is_variable(part) => found.push((name.as_str(), *part)),
                _ => return None,
            }
        }
        Some(found)
    }

    /// Return whether there is a path of which both templates have the values.
    pub fn overlaps(&self, other: &Template) -> bool {
        let both = |(one, two): (&Segment, &Segment)| match (one, two) {
            (Segment::Literal(one), Segment::Literal(two)) => one == two,
            (Segment::Literal(one), Segment::Variable(_)) | (Segment::Variable(_), Segment::Literal(one)) => {
                is_variable(one)
            }
            (Segment::Variable(_), Segment::Variable(_)) => true,
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(both)
    }
}

/// The path and the query of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The segments of the path.
    pub segments: Vec<&'a str>,
    /// Names and values of the query's parameters.
    pub parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Target<'a> {
    /// Take a path with its query apart.
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (text, None),
        };
        let segments: Vec<&str> = path.strip_prefix('/').ok_or(NOT_CANONICAL)?.split('/').collect();
        if !segments.iter().all(|one| is_segment(one)) {
            return Err(NOT_CANONICAL);
        }
        let mut parameters = Vec::new();
        for part in query.map(|query| query.split('&')).into_iter().flatten() {
            let (name, value) = part.split_once('=').ok_or(NOT_CANONICAL)?;
            if !is_parameter(name) || !value.bytes().all(|one| one.is_ascii_graphic() && !b"=;#\\".contains(&one)) {
                return Err(NOT_CANONICAL);
            }
            parameters.push((name, value));
        }
        Ok(Target { segments, parameters })
    }
}

/// Return whether a segment of a path needs no decoding, and means itself alone.
fn is_segment(text: &str) -> bool {
    let is_plain = |one: u8| one.is_ascii_alphanumeric() || b"-._~$:@".contains(&one);
    text.bytes().any(|one| one != b'.') && text.bytes().all(is_plain)
}

/// Return whether a segment may be the value of a variable: `_search` and `$everything` may not.
fn is_variable(text: &str) -> bool {
    text.len() <= MOST_OF_VARIABLE
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(|one| one.is_ascii_alphanumeric() || b"-._".contains(&one))
}

/// Return whether a text may be the name of a parameter.
pub fn is_parameter(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|one| one.is_ascii_alphanumeric() || b"-._:".contains(&one))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|one| one.is_ascii_lowercase() || one == b'_')
}

#[cfg(test)]
mod tests {
    use super::{Target, Template};

    #[test]
    fn a_path_has_one_form() {
        let found = Target::parse("/fhir/Patient/1.a-B_c/$everything?_count=5&date=ge2024-01-01&date=le2025").unwrap();
        assert_eq!(found.segments, ["fhir", "Patient", "1.a-B_c", "$everything"]);
        assert_eq!(found.parameters, [("_count", "5"), ("date", "ge2024-01-01"), ("date", "le2025")]);
        for odd in [
            "",
            "*",
            "fhir",
            "/",
            "//",
            "/fhir/",
            "//fhir",
            "/fhir//Patient",
            "/.",
            "/..",
            "/fhir/../Patient",
            "/fhir/./x",
            "/fhir/...",
            "/fhir/%2e%2e/x",
            "/fhir/Patient%2F1",
            "/fhir/%50atient",
            "/fhir\\Patient",
            "/fhir/Patient;x=1",
            "/fhir/Patient/1#x",
            "/fhir/é",
            "/fhir/a b",
            "http://x/fhir",
            "/fhir?",
            "/fhir?a",
            "/fhir?=1",
            "/fhir?a=1&",
            "/fhir?a=1;b=2",
            "/fhir?a=b=c",
            "/fhir?%61=1",
            "/fhir?a=1#b",
            "/fhir?a=\u{0}",
            "/fhir?a[]=1",
            "/fhir?a=1?b=2&&c=3",
        ] {
            assert_eq!(Target::parse(odd).map_err(|refusal| refusal.code), Err("PATH_NOT_CANONICAL"), "{odd}");
        }
    }

    #[test]
    fn a_template_has_values_of_its_own_paths_alone() {
        let template = Template::parse("/fhir/Patient/{id}").unwrap();
        let values = |path| template.values(&Target::parse(path).unwrap().segments);
        assert_eq!(values("/fhir/Patient/7"), Some(vec![("id", "7")]));
        for other in [
            "/fhir/Patient",
            "/fhir/Patient/7/x",
            "/fhir/patient/7",
            "/fhir/Patient/_search",
            "/fhir/Patient/$x",
            "/fhir/Patient/.7",
            "/fhir/Patient/a:b",
            "/fhir/Patient/~",
        ] {
            assert_eq!(values(other), None, "{other}");
        }
        assert_eq!(values(&format!("/fhir/Patient/{}", "x".repeat(129))), None);
    }

    #[test]
    fn templates_that_no_path_can_tell_apart_overlap() {
        let overlaps = |one: &str, two: &str| Template::parse(one).unwrap().overlaps(&Template::parse(two).unwrap());
        assert!(overlaps("/a/{x}", "/a/b") && overlaps("/{x}/b", "/a/{y}") && overlaps("/a", "/a"));
        assert!(!overlaps("/a/{x}", "/a/$b") && !overlaps("/a/{x}", "/a") && !overlaps("/{x}/b", "/{x}/c"));
        for odd in ["", "a", "/", "/a/", "/{X}", "/{}", "/{a}/{a}", "/a{b}", "/%61", "/.."] {
            assert!(Template::parse(odd).is_err(), "{odd}");
        }
    }
}
