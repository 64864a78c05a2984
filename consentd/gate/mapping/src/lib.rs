//! Make a question of a request over HTTP, as a mapping file says.
//!
//! A proxy has received a request, and asks whether it may pass on. `file` reads the mapping, `paths` compares the path with
//! a route, and `question` takes the values from where the route says. Nothing here knows which protocol the proxy speaks,
//! and nothing is read or written.
//!
//! What a request does not state, or states twice or in another form than the one that is expected, has no question: the
//! proxy refuses the request. Nothing is decoded, and nothing is put right, because the server behind the proxy might put
//! it right in another way.

pub mod file;
pub mod paths;
pub mod question;

use std::collections::HashMap;

use paths::Template;

/// What a mapping file says.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The participants whose proxies may ask.
    pub callers: Vec<String>,
    /// The hosts that requests may name; empty: any.
    pub hosts: Vec<String>,
    /// Whether the client of a refused request learns the reasons.
    pub shows_reasons: bool,
    /// The routes. No request matches two of them.
    pub routes: Vec<Route>,
}

/// Requests that have a question, and what it is made of.
#[derive(Clone, Debug)]
pub struct Route {
    methods: Vec<String>,
    template: Template,
    /// Parameters of the query that may be there, those that have a value of the question included.
    parameters: Vec<String>,
    terms: Terms,
    /// Whether the server behind the proxy returns no more than what is permitted.
    pub applies_partial: bool,
    /// Whether it applies the conditions of an answer.
    pub applies_residual: bool,
}

/// Where the values of a question come from.
#[derive(Clone, Debug, Default)]
struct Terms {
    scheme: Option<String>,
    subject: Option<Value>,
    organisation: Option<Value>,
    application: Option<Value>,
    on_behalf_of: Option<Value>,
    relays: Option<Vec<Value>>,
    holder: Option<Value>,
    purpose: Option<Value>,
    action: Option<Value>,
    categories: Option<Vec<Value>>,
    labels: Option<Vec<Value>>,
    resources: Option<Vec<Value>>,
    level: Option<Value>,
}

/// Where one value comes from.
#[derive(Clone, Debug)]
struct Value {
    /// Line of the mapping file.
    line: usize,
    source: Source,
    /// What precedes the value in the question.
    prefix: String,
    /// What the values of the request mean; None: themselves. Others have no meaning.
    meanings: Option<HashMap<String, Vec<String>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Constant(String),
    /// A variable of the path.
    Path(String),
    /// A parameter of the query.
    Query(String),
    Header(String),
    /// The name in the certificate that the client has shown to the proxy.
    Principal,
    /// A claim of a token that the proxy has verified: the names that lead to it.
    Claim(Vec<String>),
}

/// A request, as a proxy has received it.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The host that the request names.
    pub host: &'a str,
    /// The path with the query, not decoded.
    pub target: &'a str,
    /// Whether the proxy has seen a part of a body.
    pub has_body: bool,
    /// Names, in lower case, and values of headers.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// The name in the client's certificate; empty: it has shown none.
    pub principal: &'a str,
    /// The claims of the tokens that the proxy has verified.
    pub claims: Claim<'a>,
}

/// A claim of a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Claim<'a> {
    /// A number, a truth value, or nothing.
    #[default]
    Other,
    /// Text.
    Text(&'a str),
    /// Several claims.
    List(Vec<Claim<'a>>),
    /// Claims by their names.
    Map(Vec<(&'a str, Claim<'a>)>),
}

/// Why a request has no question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One of the codes in `ops/EXT-AUTHZ.md`.
    pub code: &'static str,
    /// The part of the question that has no value; empty: the request itself is refused.
    pub field: &'static str,
}

impl Refusal {
    /// Return a refusal of the whole request.
    pub fn of_request(code: &'static str) -> Self {
        Refusal { code, field: "" }
    }
}
