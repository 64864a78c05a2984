//! What each tree permits and denies in one case (`policy.md`, rule 2).

use crate::codebook::Packed;
use crate::matching::{depths, Layer, Node, Path, Prepared, UsedUp};
use crate::sensitivity::{Case, Kind};
use crate::subject::Ids;

/// A row that decided some categories.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    /// Its layer.
    pub layer: Layer,
    /// What it did with them.
    pub kind: Kind,
    /// The categories.
    pub mask: u64,
    /// Which version of which consent.
    pub ids: Ids,
    /// How a reason names the tree.
    pub path: Path<'a>,
    /// Its index in the preorder of the tree.
    pub node: u8,
}

/// The rows that match a question, and what they permit, deny or make unknown.
#[derive(Clone, Debug, Default)]
pub struct Matches<'a> {
    /// By layer and kind: a mask of categories.
    pub masks: [[u64; 3]; 5],
    /// The rows, in the order of reasons.
    pub decided: Vec<Decided<'a>>,
    /// Permits that would match, but are used up.
    pub used_up: Vec<Decided<'a>>,
    /// What combining permits if no consent says anything.
    pub otherwise: u64,
    /// The earliest start or end after now, among all rows that match if their windows are ignored.
    pub until_ms: u64,
}

/// Find what matches in one case.
pub fn match_case<'a>(
    prepared: &Prepared<'a>,
    question: &Packed<'_>,
    case: Case,
    normal_level: u8,
    now_ms: u64,
) -> Matches<'a> {
    let mut found = Matches { until_ms: question.parties.until_ms, ..Matches::default() };
    if prepared.is_closed && question.categories != 0 {
        let (layer, kind, mask) = (Layer::Consent, Kind::Deny, question.categories);
        found.masks[layer as usize][kind as usize] |= mask;
        found.decided.push(Decided { layer, kind, mask, ids: Ids::default(), path: Path::Empty, node: 0 });
    }
    let mut matcher = TreeMatcher { question, case, normal_level, now_ms, subtrees: Vec::new(), decisive: Vec::new() };
    for tree in &prepared.trees {
        let (permits, denies, unknown) = matcher.run(&prepared.nodes[tree.nodes.clone()], &mut found.until_ms);
        let of_layer = &mut found.masks[tree.layer as usize];
        of_layer[Kind::Permit as usize] |= permits;
        of_layer[Kind::Deny as usize] |= denies;
        of_layer[Kind::Unknown as usize] |= unknown;
        for (node, kind, mask) in matcher.decisive.drain(..).rev() {
            // A nested permit did not decide those categories that a deny elsewhere in the tree denies.
            let mask = if kind == Kind::Permit { mask & permits } else { mask };
            if mask != 0 {
                found.decided.push(Decided { layer: tree.layer, kind, mask, ids: tree.ids, path: tree.path, node });
            }
        }
    }
    for UsedUp { node, ids, path } in &prepared.used_up {
        let mask = node.mask & node.key.fits(question, case, normal_level);
        if mask == 0 {
            continue;
        }
        if node.start_ms > now_ms {
            found.until_ms = found.until_ms.min(node.start_ms);
            continue;
        }
        found.until_ms = found.until_ms.min(node.end_ms);
        let (layer, kind) = (Layer::Consent, Kind::Permit);
        found.used_up.push(Decided { layer, kind, mask, ids: *ids, path: *path, node: node.node });
    }
    if let Some(node) = &prepared.otherwise {
        found.otherwise = node.mask & node.key.fits(question, case, normal_level);
    }
    found
}

struct TreeMatcher<'a, 'q> {
    question: &'a Packed<'q>,
    case: Case,
    normal_level: u8,
    now_ms: u64,
    /// Subtrees whose parents come later: index of the root, what it permits, what it denies; the least index last.
    subtrees: Vec<(u8, u64, u64)>,
    decisive: Vec<(u8, Kind, u64)>,
}

impl TreeMatcher<'_, '_> {
    /// Compute what one tree permits, denies and makes unknown, children before parents.
    fn run(&mut self, nodes: &[Node], until_ms: &mut u64) -> (u64, u64, u64) {
        self.subtrees.clear();
        let mut unknown = 0;
        for one in nodes.iter().rev() {
            let mut mask = one.mask & one.key.fits(self.question, self.case, self.normal_level);
            if mask == 0 {
                continue;
            }
            if one.start_ms > self.now_ms {
                *until_ms = (*until_ms).min(one.start_ms);
                continue;
            }
            *until_ms = (*until_ms).min(one.end_ms);
            let (mut permits, mut denies) = (0, 0);
            let last = u16::from(one.node) + u16::from(one.below);
            while let Some((root, more, fewer)) = self.subtrees.last().copied() {
                if u16::from(root) > last {
                    break;
                }
                self.subtrees.pop();
                permits |= more;
                denies |= fewer;
            }
            mask &= !(permits | denies);
            if mask != 0 {
                match one.key.kind {
                    Kind::Permit => permits |= mask,
                    Kind::Deny => denies |= mask,
                    Kind::Unknown => unknown |= mask,
                }
                self.decisive.push((one.node, one.key.kind, mask));
            }
            self.subtrees.push((one.node, permits, denies));
        }
        let (permits, denies) =
            self.subtrees.iter().fold((0, 0), |(permits, denies), one| (permits | one.1, denies | one.2));
        (permits & !denies, denies, unknown)
    }
}

/// Return the path of a row of a tree, `provision[0].provision[2]`; empty for the root.
pub fn path_of(path: Path<'_>, node: u8) -> String {
    match path {
        Path::Empty => String::new(),
        Path::Statutory(at) => format!("statutory[{at}]"),
        Path::BreakGlass(at) => format!("break_glass[{at}]"),
        Path::Tree(rows) => path_in_tree(rows, usize::from(node)),
    }
}

fn path_in_tree(rows: &[u8], node: usize) -> String {
    // Where each node is among its siblings, on the way to the node asked for.
    let mut places: Vec<usize> = Vec::new();
    for depth in depths(rows).take(node + 1).map(usize::from) {
        if depth > places.len() {
            places.resize(depth, 0);
        } else if depth > 0 {
            places.truncate(depth);
            places[depth - 1] += 1;
        } else {
            places.clear();
        }
    }
    places.iter().map(|at| format!("provision[{at}]")).collect::<Vec<_>>().join(".")
}
