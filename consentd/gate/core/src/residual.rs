//! The conditions that the caller checks for each resource (`table-format.md`, "Conditions"; `policy.md`, rule 5).

use crate::codebook::Packed;
use crate::layers::{DENY, PERMIT};
use crate::matching::{Layer, Node, Prepared, Tree};
use crate::rows::Block;
use crate::rules::{Combining, Rules};
use crate::sensitivity::{Key, Kind, EITHER};
use crate::trees::Matches;
use crate::vocabulary::{Sensitivity, HIGHEST_LEVEL};
use crate::{Malformed, OPEN_END_MS};

/// Most provisions that a residual has conditions of (`residual_provisions`).
const MOST_ROWS: usize = 100;
/// Most references to resources in a residual (`residual_references`).
const MOST_REFERENCES: usize = 1_000;

/// A rule of a residual, with masks in place of codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition<'a> {
    /// The layer.
    pub layer: Layer,
    /// `PERMIT` or `DENY`.
    pub effect: u8,
    /// The categories that the rule itself matches.
    pub categories: u64,
    /// Labels that a permit covers.
    pub covered_labels: u32,
    /// Labels of which the resource bears one. In a deny, labels below them count too.
    pub any_labels: u32,
    /// Number of the highest level of a permit, or of the lowest of a deny; 0: no limit.
    pub level: u8,
    /// The resources, in their order; none: no limit.
    pub resources: Vec<&'a str>,
    /// The data period; None: no limit.
    pub data_period: Option<(i64, i64)>,
    /// Exceptions to the rule.
    pub children: Vec<Condition<'a>>,
}

impl Condition<'_> {
    fn deny(categories: u64) -> Self {
        Condition {
            layer: Layer::Consent,
            effect: DENY,
            categories,
            covered_labels: 0,
            any_labels: 0,
            level: 0,
            resources: Vec::new(),
            data_period: None,
            children: Vec::new(),
        }
    }
}

/// Return the residual of an answer that permits the categories *permitted*; empty: it would be over its limits.
///
/// *found*: what matches in the best case.
pub fn conditions<'a>(
    prepared: &Prepared<'a>,
    question: &Packed<'_>,
    rules: &Rules,
    now_ms: u64,
    permitted: u64,
    found: &Matches<'_>,
) -> Result<Vec<Condition<'a>>, Malformed> {
    let combining = rules.combining;
    let builder = Builder { question, normal_level: rules.normal_level, now_ms, permitted };
    let counts = |tree: &&Tree<'a>| !combining.denies_unless_permit() || tree.layer <= Layer::Consent;
    let trees = || prepared.trees.iter().filter(counts).map(|tree| (tree, &prepared.nodes[tree.nodes.clone()]));
    let otherwise =
        prepared.otherwise.map(|node| [Node { start_ms: 0, end_ms: OPEN_END_MS, node: 0, below: 0, ..node }]);
    if builder.is_over_limits(trees(), otherwise.as_ref().map_or(&[], |nodes| nodes))? {
        return Ok(Vec::new());
    }
    let mut rest = Vec::new();
    if prepared.is_closed {
        rest.push(Condition::deny(permitted));
    }
    for (tree, nodes) in trees() {
        rest.extend(join(builder.conditions(tree.layer, nodes, tree.block)?, tree.layer, combining));
    }
    if let Some(nodes) = &otherwise {
        let some = builder.conditions(Layer::Consent, nodes, Block::default())?;
        rest.extend(join(some, Layer::Consent, combining));
    }
    let unknown = found.masks[Layer::Consent as usize][Kind::Unknown as usize] & permitted;
    if unknown != 0 {
        // An unreadable consent keeps lower layers from deciding, like a deny, which combining may let a permit override.
        rest.push(Condition::deny(unknown));
    }
    rest.sort_by_key(|one| one.layer); // the sort is stable
    Ok(rest)
}

/// Make the rules of one tree one rule, if combining lets the permit of one node override the deny of another.
fn join(some: Vec<Condition<'_>>, layer: Layer, combining: Combining) -> Vec<Condition<'_>> {
    let is_mixed = some.iter().any(|one| one.effect != some[0].effect)
        || (some.len() > 1 && some.iter().any(|one| !one.children.is_empty()));
    if is_mixed && !combining.denies_first() && layer == Layer::Consent {
        return vec![Condition { children: some, ..Condition::deny(0) }];
    }
    some
}

struct Builder<'a, 'q> {
    question: &'a Packed<'q>,
    normal_level: u8,
    now_ms: u64,
    permitted: u64,
}

impl Builder<'_, '_> {
    /// Return the categories that a row matches now, if every limit on what is open is met.
    fn holds(&self, node: &Node) -> u64 {
        if node.key.kind == Kind::Unknown || node.start_ms > self.now_ms || self.now_ms >= node.end_ms {
            return 0;
        }
        node.mask & node.key.fits(self.question, EITHER, self.normal_level) & self.permitted
    }

    /// Whether the conditions would be over their limits. *otherwise*: the row without limits that combining adds.
    fn is_over_limits<'t, 'b: 't>(
        &self,
        trees: impl Iterator<Item = (&'t Tree<'b>, &'t [Node])>,
        otherwise: &[Node],
    ) -> Result<bool, Malformed> {
        let mut rows = otherwise.iter().filter(|node| self.holds(node) != 0).count();
        let mut references = 0;
        for (tree, nodes) in trees {
            for node in nodes.iter().filter(|node| self.holds(node) != 0) {
                rows += 1;
                if node.record.resources != 0 {
                    references += tree.block.count(node.record.resources)?;
                }
                if rows > MOST_ROWS || references > MOST_REFERENCES {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Return the conditions of one tree, with as few levels as possible.
    ///
    /// Three changes keep the answer: a permit becomes a sibling of its children; a deny without permits below it
    /// becomes a sibling of its parent; a node that does not match is replaced by its children. The lists are built in
    /// reverse order, because the rows are read in reverse.
    fn conditions<'b>(&self, layer: Layer, nodes: &[Node], block: Block<'b>) -> Result<Vec<Condition<'b>>, Malformed> {
        let mut subtrees: Vec<(u8, Vec<Condition<'b>>)> = Vec::new();
        for node in nodes.iter().rev() {
            let mask = self.holds(node);
            if mask == 0 {
                continue;
            }
            let last = u16::from(node.node) + u16::from(node.below);
            let begin = subtrees.iter().rposition(|(root, _)| u16::from(*root) > last).map_or(0, |at| at + 1);
            let mut children: Vec<Condition<'b>> = subtrees.drain(begin..).flat_map(|(_, some)| some).collect();
            let mut exceptions = Vec::new();
            if node.key.kind != Kind::Permit {
                (exceptions, children) =
                    children.into_iter().partition(|one| one.effect == PERMIT || !one.children.is_empty());
                children.extend(within(&exceptions, !mask));
            }
            for mut one in self.own(layer, node, mask, block)?.into_iter().rev() {
                one.children = within(&exceptions, one.categories);
                one.children.reverse();
                children.push(one);
            }
            subtrees.push((node.node, children));
        }
        let mut found: Vec<Condition<'b>> = subtrees.into_iter().flat_map(|(_, some)| some).collect();
        found.reverse();
        Ok(found)
    }

    /// Make conditions from those limits of a row whose attributes the question leaves open.
    fn own<'b>(&self, layer: Layer, node: &Node, mask: u64, block: Block<'b>) -> Result<Vec<Condition<'b>>, Malformed> {
        let question = self.question;
        let permits = node.key.kind == Kind::Permit;
        let resources =
            if question.resources.is_none() { block.references(node.record.resources)? } else { Vec::new() };
        let data_period = if question.data_period.is_none() { node.record.data_period } else { None };
        let mut found: Vec<Condition<'b>> = Vec::new();
        for data in &question.sensitivities {
            let categories = mask & data.leaves;
            if categories == 0 {
                continue;
            }
            let (covered_labels, any_labels, level) =
                if permits { self.permit(node.key, data) } else { self.deny(node.key, data) };
            let same = |one: &&mut Condition<'_>| {
                (one.covered_labels, one.any_labels, one.level) == (covered_labels, any_labels, level)
            };
            if let Some(one) = found.iter_mut().find(same) {
                one.categories |= categories;
                continue;
            }
            found.push(Condition {
                layer,
                effect: if permits { PERMIT } else { DENY },
                categories,
                covered_labels,
                any_labels,
                level,
                resources: resources.clone(),
                data_period,
                children: Vec::new(),
            });
        }
        Ok(found)
    }

    /// Return the covered labels, the labels of which one is needed, and the highest level of a permit, for such data.
    fn permit(&self, key: Key, data: &Sensitivity) -> (u32, u32, u8) {
        let (question, labels) = (self.question, key.labels);
        let (covered, some) = match question.labels {
            Some((stated, _)) => (stated | data.labels, 0),
            None => {
                let all = key.names_resources && !key.is_normal();
                let covered = if all { u32::MAX } else { labels | data.labels };
                (covered, if labels & data.labels != 0 { 0 } else { labels })
            }
        };
        let top = key.top_level(data.level, self.normal_level);
        let level = if question.level != 0 { question.level_of(data.level) } else { top };
        (covered, some, if level == HIGHEST_LEVEL { 0 } else { level })
    }

    /// Return 0, the labels of which one is needed, and the lowest level of a deny, for such data.
    fn deny(&self, key: Key, data: &Sensitivity) -> (u32, u32, u8) {
        let question = self.question;
        let is_met = question.labels.is_some() || key.labels & data.labels_above != 0;
        let some = if is_met { 0 } else { key.labels };
        let level = key.level();
        (0, some, if question.level == 0 && level > data.level { level } else { 0 })
    }
}

/// Return what conditions say about these categories.
fn within<'b>(some: &[Condition<'b>], categories: u64) -> Vec<Condition<'b>> {
    let narrowed = some.iter().map(|one| Condition {
        categories: one.categories & categories,
        children: within(&one.children, categories),
        ..one.clone()
    });
    narrowed.filter(|one| one.categories != 0 || !one.children.is_empty()).collect()
}
