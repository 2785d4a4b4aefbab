//! The solved tensors of a walk. The tensors are loaded from the work folder on demand. Only one unit (the tensors that
//! are saved in one file) is in memory at a time.

use super::embedding_and_head::Expected;
use super::unit::{Unit, file_name};
use crate::Error;
use crate::solve::{Flag, Solved};
use crate::work_folder::{self, WorkFolder};
use kvant_io::PlannedTensor;
use kvant_model::{Slot, Spec};
use std::collections::HashMap;

/// Solved tensors by name.
pub struct Solutions<'a> {
    work: &'a WorkFolder,
    /// The name of the unit of every linear layer (map), by the name of the map's weight.
    units: HashMap<String, String>,
    /// The planned tensors of each unit, by the unit's name.
    plans: HashMap<String, Vec<PlannedTensor>>,
    /// Flags of solved tensors, by the tensor's name.
    flags: HashMap<String, Vec<Flag>>,
    /// The unit that is in memory, with its name.
    loaded: Option<(String, Unit)>,
    /// The loss of the quantized network; `None` if the walk computed no activations.
    pub expected: Option<Expected>,
}

impl<'a> Solutions<'a> {
    /// Creates the solutions of a walk through a network with this `spec`. `plan` returns the planned tensors of a unit
    /// with the given maps. The walk must call [`Solutions::record_flags`] for every unit.
    pub(super) fn new(
        work: &'a WorkFolder,
        spec: &Spec,
        plan: impl Fn(&[&Slot]) -> Vec<PlannedTensor>,
    ) -> Self {
        let (mut units, mut plans) = (HashMap::new(), HashMap::new());
        let mut put = |slots: &[&Slot], unit: String| {
            units.extend(slots.iter().map(|slot| (slot.weight(), unit.clone())));
            plans.insert(unit, plan(slots));
        };
        put(&[&spec.embedding.tokens], work_folder::EMBEDDING.to_owned());
        for (index, block) in spec.blocks.iter().enumerate() {
            let slots: Vec<&Slot> = block.slots().collect();
            put(&slots, work_folder::block(index));
        }
        if let Some(head) = spec.output.head.own() {
            put(&[head], work_folder::HEAD.to_owned());
        }
        Self { work, units, plans, flags: HashMap::new(), loaded: None, expected: None }
    }

    /// Loads a unit; `None` if the unit was not saved.
    ///
    /// # Errors
    /// A unit that does not hold the planned tensors; errors of the work folder.
    pub(super) fn load(&self, unit: &str) -> Result<Option<Unit>, Error> {
        Unit::load(self.work, unit, self.plans.get(unit).map_or(&[], Vec::as_slice))
    }

    /// Records the flags of a unit's tensors.
    pub(super) fn record_flags(&mut self, unit: &Unit) {
        for (name, solved) in &unit.tensors {
            let flags: Vec<_> = solved.flags.iter().copied().chain(solved.loss_flag()).collect();
            if !flags.is_empty() {
                self.flags.insert(name.clone(), flags);
            }
        }
    }

    /// Returns the flags of a solved tensor.
    pub fn flags(&self, name: &str) -> &[Flag] {
        self.flags.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns one tensor; `None` if the walk has not solved it.
    ///
    /// # Errors
    /// Errors of the work folder.
    pub fn get(&mut self, name: &str) -> Result<Option<Solved>, Error> {
        let Some(unit) = self.units.get(name) else { return Ok(None) };
        if self.loaded.as_ref().is_none_or(|(name, _)| name != unit) {
            // Frees the memory of the old unit before the next unit is loaded.
            self.loaded = None;
            // A missing unit is an error, because the walk has saved every unit.
            let loaded = self.load(unit)?.ok_or_else(|| self.work.damaged(&file_name(unit)))?;
            self.loaded = Some((unit.clone(), loaded));
        }
        let tensors = self.loaded.iter().flat_map(|(_, unit)| &unit.tensors);
        Ok(tensors.into_iter().find(|(tensor, _)| tensor == name).map(|(_, solved)| solved.clone()))
    }
}
