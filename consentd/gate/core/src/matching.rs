//! Which rows may match a question: codes, participants, resources, data period, and that the row has not ended.

use crate::codebook::Packed;
use crate::parties::Membership;
use crate::rows::{decode_rows, Block, Record, Row, DEPTH_AT, GROUP, ROW_SIZE, SIDE};
use crate::rules::Rules;
use crate::sensitivity::{Key, Kind};
use crate::subject::{Ids, Lineage, SubjectValue, PAUSED, STATUTORY, UNREADABLE};
use crate::{Malformed, OPEN_END_MS};

/// A layer (rule 1), highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Layer {
    Statute = 0,
    BreakGlass = 1,
    Consent = 2,
    Implicit = 3,
    Realm = 4,
}

/// A row that matches, at least if some limits on what the question leaves open are met. It may start later.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// The leaves asked for that it may match.
    pub mask: u64,
    /// How it matches them.
    pub key: Key,
    /// When it comes into force.
    pub start_ms: u64,
    /// When it goes out of force.
    pub end_ms: u64,
    /// Index in the preorder of its tree.
    pub node: u8,
    /// Number of descendants.
    pub below: u8,
    /// Its side record; the default if it has none.
    pub record: Record,
}

/// How reasons name a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// The root of a consent, or an implicit policy.
    Empty,
    /// A statutory rule of the realm.
    Statutory(u16),
    /// A break-glass rule of the realm.
    BreakGlass(u16),
    /// A provision of a consent, by the rows of the tree.
    Tree(&'a [u8]),
}

/// What may match of one consent, of one implicit policy, or of one rule of the realm.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    /// The layer.
    pub layer: Layer,
    /// Which version of which consent.
    pub ids: Ids,
    /// How reasons name its rows.
    pub path: Path<'a>,
    /// The rows that match, in preorder: a part of `Prepared::nodes`.
    pub nodes: std::ops::Range<usize>,
    /// Its side block.
    pub block: Block<'a>,
}

/// A permit that does not count for some categories, because the transfers of the period were permitted (rule 13).
#[derive(Clone, Copy, Debug)]
pub struct UsedUp<'a> {
    /// The permit, with these categories alone. It ends with the period at the latest.
    pub node: Node,
    /// Which version of which consent.
    pub ids: Ids,
    /// How a reason names it.
    pub path: Path<'a>,
}

/// All that may match a question.
#[derive(Clone, Debug, Default)]
pub struct Prepared<'a> {
    /// In the order of reasons: rules of the realm, lineages with their policies, the realm's policy.
    pub trees: Vec<Tree<'a>>,
    /// The rows of the trees.
    pub nodes: Vec<Node>,
    /// The permits that are used up, in the order of reasons.
    pub used_up: Vec<UsedUp<'a>>,
    /// Whether everything is denied in layer CONSENT.
    pub is_closed: bool,
    /// What combining permits if no consent says anything.
    pub otherwise: Option<Node>,
}

/// Find what may match a question. *value*: None: the person is not enrolled.
pub fn prepare<'a>(
    value: Option<&'a [u8]>,
    question: &Packed<'_>,
    rules: &'a Rules,
    now_ms: u64,
) -> Result<Prepared<'a>, Malformed> {
    let subject = SubjectValue::decode(value.unwrap_or_default())?;
    let mut found = Prepared { is_closed: subject.is_closed, ..Prepared::default() };
    // The lineages are read even if nothing is asked that the vocabulary has: a damaged value is damaged then too.
    let matcher = Matcher { question, now_ms, permits_end_ms: OPEN_END_MS };
    if question.categories != 0 {
        found.add_rules(&matcher, rules)?;
    }
    let begin = found.trees.len();
    for lineage in subject.lineages() {
        let lineage = lineage?;
        if question.categories != 0 && (!subject.is_closed || lineage.flags & STATUTORY != 0) {
            found.add_lineage(&matcher, &lineage, rules)?;
        }
    }
    if rules.combining.is_ordered() {
        // These sorts are stable.
        found.trees[begin..].sort_by_key(|tree| std::cmp::Reverse(tree.ids.lineage));
        found.used_up.sort_by_key(|one| std::cmp::Reverse(one.ids.lineage));
    }
    if question.categories != 0 {
        found.add_realm(&matcher, rules, value.is_some())?;
    }
    Ok(found)
}

impl<'a> Prepared<'a> {
    fn add_tree(&mut self, layer: Layer, ids: Ids, path: Path<'a>, begin: usize, block: Block<'a>) {
        if begin < self.nodes.len() {
            self.trees.push(Tree { layer, ids, path, nodes: begin..self.nodes.len(), block });
        }
    }

    fn add_rules(&mut self, matcher: &Matcher<'_, '_>, rules: &'a Rules) -> Result<(), Malformed> {
        let break_glass: &[Row] = if matcher.question.break_glass { &rules.break_glass } else { &[] };
        for (layer, rows) in [(Layer::Statute, &rules.statutory[..]), (Layer::BreakGlass, break_glass)] {
            for (row, at) in rows.iter().zip(0..) {
                let begin = self.nodes.len();
                self.nodes.extend(matcher.node(row, rules.block(), rules.since)?);
                let path = if layer == Layer::Statute { Path::Statutory(at) } else { Path::BreakGlass(at) };
                self.add_tree(layer, Ids::default(), path, begin, rules.block());
            }
        }
        Ok(())
    }

    fn add_lineage(
        &mut self,
        matcher: &Matcher<'_, '_>,
        lineage: &Lineage<'a>,
        rules: &Rules,
    ) -> Result<(), Malformed> {
        let layer = if lineage.flags & STATUTORY != 0 { Layer::Statute } else { Layer::Consent };
        let mut begin = self.nodes.len();
        let (block, since) = (lineage.block, lineage.since);
        if !is_known(lineage, matcher.question.version) {
            let first = decode_rows(lineage.rows).next().ok_or(Malformed("lineage has no row"))?;
            self.nodes.extend(matcher.unreadable(&first, block, since)?);
            self.add_tree(layer, lineage.ids, Path::Empty, begin, block);
            return Ok(());
        }
        let permits_end_ms = rules.campaigns.get(&lineage.notice).copied().unwrap_or(OPEN_END_MS);
        let matcher = &Matcher { permits_end_ms, ..*matcher };
        let is_paused = lineage.flags & PAUSED != 0;
        let path = if lineage.tree > 1 { Path::Tree(lineage.rows) } else { Path::Empty };
        for (at, row) in decode_rows(lineage.rows).enumerate() {
            if at == lineage.tree {
                self.add_tree(layer, lineage.ids, path, begin, block);
                begin = self.nodes.len();
            }
            if is_paused && row.permits() {
                continue;
            }
            let Some(mut node) = matcher.node(&row, block, since)? else { continue };
            if let Some(used_up) = matcher.used_up(&mut node, block)? {
                let path = if at < lineage.tree { path } else { Path::Empty };
                self.used_up.push(UsedUp { node: used_up, ids: lineage.ids, path });
            }
            if node.mask != 0 {
                self.nodes.push(node);
            }
        }
        let has_policy = lineage.rows.len() > lineage.tree * ROW_SIZE;
        let (layer, path) = if has_policy { (Layer::Implicit, Path::Empty) } else { (layer, path) };
        self.add_tree(layer, lineage.ids, path, begin, block);
        Ok(())
    }

    fn add_realm(&mut self, matcher: &Matcher<'_, '_>, rules: &'a Rules, is_enrolled: bool) -> Result<(), Malformed> {
        let begin = self.nodes.len();
        let none = Block::default();
        for row in &rules.policy {
            if is_enrolled || !row.permits() {
                self.nodes.extend(matcher.node(row, none, rules.since)?);
            }
        }
        self.add_tree(Layer::Realm, Ids::default(), Path::Empty, begin, none);
        if let Some(row) = rules.otherwise.as_ref().filter(|_| is_enrolled) {
            self.otherwise = matcher.node(row, none, 0)?;
        }
        Ok(())
    }
}

/// Whether this version can interpret a lineage.
fn is_known(lineage: &Lineage<'_>, version: u16) -> bool {
    lineage.flags & UNREADABLE == 0 && lineage.vocabulary <= version
}

/// Return the depths of the rows of a tree.
pub fn depths(rows: &[u8]) -> impl Iterator<Item = u8> + '_ {
    rows.chunks_exact(ROW_SIZE).map(|row| row[DEPTH_AT])
}

struct Matcher<'a, 'q> {
    question: &'a Packed<'q>,
    now_ms: u64,
    /// When permits end, because the notice that they were given under asks for new consents.
    permits_end_ms: u64,
}

impl Matcher<'_, '_> {
    /// Return the node of a row; None: the row does not match, or has ended.
    fn node(&self, row: &Row, block: Block<'_>, since: u64) -> Result<Option<Node>, Malformed> {
        let mask = self.codes_match(row);
        if mask == 0 || row.end_ms <= self.now_ms {
            return Ok(None);
        }
        let kind = if row.permits() { Kind::Permit } else { Kind::Deny };
        let record = if row.flags & SIDE != 0 { block.record(row.side)? } else { Record::default() };
        if !self.participants_match(row, &record, block, since, kind, row.flags & GROUP != 0)? {
            return Ok(None);
        }
        let mut end_ms = if row.permits() { row.end_ms.min(self.permits_end_ms) } else { row.end_ms };
        if record.ends != 0 {
            for (purposes, end) in block.ends(record.ends)? {
                if purposes & self.question.purpose != 0 && end < end_ms {
                    end_ms = end;
                }
            }
        }
        if end_ms < row.end_ms && (end_ms <= self.now_ms || end_ms <= row.start_ms) {
            return Ok(None);
        }
        let mut key = Key { kind, flags: row.flags, labels: row.labels, names_resources: false, is_open: false };
        if let Some((first, last)) = record.data_period {
            match self.question.data_period {
                None => key.is_open = true,
                Some((start, end)) => {
                    // The period of a permit has all that is asked for; that of a deny has some of it.
                    let fits = if row.permits() { first <= start && last >= end } else { first < end && last > start };
                    if !fits {
                        return Ok(None);
                    }
                }
            }
        }
        if record.resources != 0 {
            key.names_resources = true;
            match &self.question.resources {
                None => key.is_open = true,
                Some(asked) => {
                    let limit = block.references(record.resources)?;
                    let has = |one: &&str| limit.contains(one);
                    if !(if row.permits() { asked.iter().all(has) } else { asked.iter().any(has) }) {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(Some(Node { mask, key, start_ms: row.start_ms, end_ms, node: row.node, below: row.below, record }))
    }

    /// Take from the node of a permit the categories for which it is used up; return the node of these.
    fn used_up(&self, node: &mut Node, block: Block<'_>) -> Result<Option<Node>, Malformed> {
        let (holder, word) = (self.question.transfer_holder, node.record.uses);
        if holder == 0 || word == 0 || node.key.kind != Kind::Permit {
            return Ok(None);
        }
        let (used, until_ms) = block.used(word, holder, self.now_ms)?;
        let used_up = Node { mask: node.mask & used, end_ms: node.end_ms.min(until_ms), ..*node };
        node.mask &= !used;
        Ok((used_up.mask != 0).then_some(used_up))
    }

    /// Return the node of the first row of a lineage that cannot be interpreted.
    fn unreadable(&self, row: &Row, block: Block<'_>, since: u64) -> Result<Option<Node>, Malformed> {
        let mask = self.question.categories;
        let record = if row.flags & SIDE != 0 { block.record(row.side)? } else { Record::default() };
        if mask == 0
            || row.end_ms <= self.now_ms
            || !self.participants_match(row, &record, block, since, Kind::Unknown, true)?
        {
            return Ok(None);
        }
        let key = Key { kind: Kind::Unknown, flags: 0, labels: 0, names_resources: false, is_open: false };
        let (start_ms, end_ms) = (row.start_ms, row.end_ms);
        Ok(Some(Node { mask, key, start_ms, end_ms, node: row.node, below: row.below, record }))
    }

    /// Return the leaves asked for that a row's codes cover; 0: they do not match.
    fn codes_match(&self, row: &Row) -> u64 {
        let question = self.question;
        let actions = u64::from(row.actions);
        if row.permits() {
            let matches = row.purposes & question.purpose != 0 && actions & question.action != 0;
            return if matches { row.categories & question.categories } else { 0 };
        }
        if row.categories & question.deny_categories == 0
            || row.purposes & question.deny_purposes == 0
            || actions & question.deny_actions == 0
        {
            return 0;
        }
        let named = row.categories & question.categories;
        question
            .parents
            .iter()
            .filter(|(bit, _)| row.categories & bit != 0)
            .fold(named, |mask, (_, below)| mask | below)
    }

    fn participants_match(
        &self,
        row: &Row,
        record: &Record,
        block: Block<'_>,
        since: u64,
        kind: Kind,
        has_groups: bool,
    ) -> Result<bool, Malformed> {
        let parties = &self.question.parties;
        let permits = kind == Kind::Permit;
        let (actors, groups) = if permits {
            (&parties.permit_actors, &parties.permit_groups)
        } else {
            (&parties.deny_actors, &parties.deny_groups)
        };
        let none: &[Membership] = &[];
        let groups = if has_groups { groups } else { none };
        let holder_groups = if has_groups { &parties.holder_groups } else { none };
        let names = |number: u32, numbers: &[u32], groups: &[Membership]| {
            numbers.contains(&number) || groups.iter().any(|one| one.group == number && one.counts(permits, since))
        };
        for (field, list, numbers, groups) in [
            (row.actor, record.actors, &actors[..], groups),
            (row.holder, record.holders, &parties.holders[..], holder_groups),
        ] {
            let matches = if list == 0 {
                names(field, numbers, groups)
            } else {
                block.numbers(list)?.any(|number| names(number, numbers, groups))
            };
            if !matches {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
