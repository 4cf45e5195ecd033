//! `restart: true`: whoever depends so on a process that was restarted is restarted as well.
//!
//! A process *was restarted* when an instance of it is ready and an earlier one had been. Of several
//! targets that are on the way to a new instance the last one is waited for, so that the end of a
//! diamond is restarted once. Without cycles among dependencies this comes to an end.

use crate::event::ProcessName;

use super::words::{Action, Standing, What};
use super::{Coordinator, Node, Place, View};

impl Node {
    fn is_up(&self) -> bool {
        matches!(self.standing, Standing::Ready(_) | Standing::Unready(_))
    }

    /// Takes where it stands, and says whether it was restarted.
    pub(super) fn take(&mut self, standing: Standing) -> bool {
        self.standing = standing;
        self.restarting = false;
        if !matches!(self.standing, Standing::Coming(_)) {
            self.hold = None;
        }
        if !self.is_up() {
            // Its next start is later than what it was to be restarted for.
            self.due = None;
        }
        match self.standing {
            Standing::Ready(Some(instance)) => {
                self.ready.replace(instance).is_some_and(|earlier| earlier != instance)
            }
            _ => false,
        }
    }
}

impl Coordinator {
    /// What others see of a process.
    pub(super) fn view(&self, node: &Node) -> View {
        let place = node.place();
        let moves = match place {
            Place::Away | Place::Disabled => false,
            Place::Coming | Place::Unready => true,
            Place::Ready => {
                node.due.is_some() || node.restarting || self.follows_one_that_moves(node)
            }
        };
        View { place, moves }
    }

    fn follows_one_that_moves(&self, node: &Node) -> bool {
        let follows = node.dependencies.iter().filter(|dependency| dependency.restart);
        let mut targets = follows.filter_map(|dependency| self.nodes.get(&dependency.target));
        targets.any(|target| target.view.moves)
    }

    /// A process was restarted: whoever follows it and runs is to be as well. Says who.
    pub(super) fn mark_dependents(&mut self, name: &ProcessName) -> Vec<ProcessName> {
        let Some(node) = self.nodes.get(name) else { return vec![] };
        let mut marked = node.dependents.clone();
        marked.retain(|dependent| {
            let Some(node) = self.nodes.get_mut(dependent) else { return false };
            let follows = |node: &Node| {
                let mut dependencies = node.dependencies.iter();
                dependencies.any(|dependency| dependency.restart && dependency.target == *name)
            };
            let marks = node.is_up() && follows(node);
            if marks {
                node.due = Some(name.clone());
            }
            marks
        });
        marked
    }

    /// Has a process restarted that is to be, unless another of its targets is about to be as well.
    pub(super) fn settle(&mut self, name: &ProcessName, actions: &mut Vec<Action>) {
        let Some(node) = self.nodes.get(name) else { return };
        if node.due.is_none() || self.follows_one_that_moves(node) {
            return;
        }
        let Some(node) = self.nodes.get_mut(name) else { return };
        if let Some(because) = node.due.take() {
            node.restarting = true;
            actions.push(Action { process: name.clone(), what: What::Restart { because } });
        }
    }
}
