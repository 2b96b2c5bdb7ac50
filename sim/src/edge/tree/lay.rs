//! What operators do to a tree: everything is durable at once.

use machines::tree::Place;

use super::{Content, Entry, Names, Node, Survival, Tree, View};

impl Tree {
    /// Everything unsynced reaches the medium: an orderly shutdown.
    pub fn sync_all(&mut self) {
        self.power_cut(Survival::All);
    }

    /// An operator's file, durable at once; what was there is replaced, folders on the way are made. Operators work on a tree
    /// that was synced: see [`Tree::sync_all`].
    pub fn lay(&mut self, place: &Place, bytes: &[u8], mode: u16) {
        self.clear(place);
        let node = Node::File { cache: Content::new(bytes), medium: Content::new(bytes), dirty: false };
        self.lay_node(place, node, mode);
    }

    /// An operator's folder.
    pub fn lay_folder(&mut self, place: &Place) {
        if !matches!(self.at(View::Cache, place), Some(Entry::Folder(_))) {
            self.clear(place);
            self.lay_node(place, Node::Folder { cache: Names::new(), medium: Names::new() }, 0o700);
        }
    }

    /// An operator's link.
    pub fn lay_link(&mut self, place: &Place, target: &str) {
        self.clear(place);
        self.lay_node(place, Node::Link(target.into()), 0o777);
    }

    /// An operator gives a file another mode.
    pub fn chmod(&mut self, place: &Place, mode: u16) {
        if let Ok(id) = self.id(View::Cache, place) {
            self.change_inode(id, |inode| (inode.mode, inode.medium_mode) = (mode, mode));
        }
    }

    /// An operator removes what is there, with all that lies in it.
    pub fn clear(&mut self, place: &Place) {
        for view in [View::Cache, View::Medium] {
            if let Ok(at) = self.folder(view, place) {
                self.set(view, &at, None);
            }
        }
    }

    fn lay_node(&mut self, place: &Place, node: Node, mode: u16) {
        let above = place.folder();
        if above != *place && !matches!(self.at(View::Cache, &above), Some(Entry::Folder(_))) {
            self.lay_folder(&above);
        }
        let id = self.add(node, mode);
        self.change_inode(id, |inode| inode.medium_mode = mode);
        for view in [View::Cache, View::Medium] {
            if let Ok(at) = self.folder(view, place) {
                self.set(view, &at, Some(id));
            }
        }
    }
}
