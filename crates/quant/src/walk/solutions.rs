//! What a walk has solved, read back from the work folder as it is asked for: one unit is in memory at a time.

use super::embedding_and_head::Expected;
use super::unit::{Unit, file_name};
use crate::Error;
use crate::solve::Solved;
use crate::work_folder::{self, WorkFolder};
use kvant_io::PlannedTensor;
use kvant_model::{Slot, Spec};
use std::collections::HashMap;

/// Solved tensors by name.
pub struct Solutions<'a> {
    work: &'a WorkFolder,
    /// The unit of every linear map.
    units: HashMap<String, String>,
    /// The tensors that each unit has to hold.
    plans: HashMap<String, Vec<PlannedTensor>>,
    /// What is special about solved tensors.
    flags: HashMap<String, Vec<&'static str>>,
    open: Option<(String, Unit)>,
    /// What the network lost; unknown where nobody had to look at activations.
    pub expected: Option<Expected>,
}

impl<'a> Solutions<'a> {
    /// Of a walk through a network of this description, which [`Solutions::note`] will tell of every unit; `plan` says
    /// which tensors a unit of these maps has to hold.
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
        if let Some(head) = &spec.output.head {
            put(&[head], work_folder::HEAD.to_owned());
        }
        Self { work, units, plans, flags: HashMap::new(), open: None, expected: None }
    }

    /// A unit, if it was saved.
    ///
    /// # Errors
    /// One that does not hold the planned tensors; what the work folder says.
    pub(super) fn load(&self, unit: &str) -> Result<Option<Unit>, Error> {
        Unit::load(self.work, unit, self.plans.get(unit).map_or(&[], Vec::as_slice))
    }

    /// Remembers what is special about a unit's tensors.
    pub(super) fn note(&mut self, unit: &Unit) {
        for (name, solved) in &unit.tensors {
            let flags: Vec<_> = solved.flags.iter().copied().chain(solved.loss_flag()).collect();
            if !flags.is_empty() {
                self.flags.insert(name.clone(), flags);
            }
        }
    }

    /// What is special about a solved tensor.
    pub fn flags(&self, name: &str) -> &[&'static str] {
        self.flags.get(name).map_or(&[], Vec::as_slice)
    }

    /// One tensor, where the walk has solved it.
    ///
    /// # Errors
    /// What the work folder says.
    pub fn get(&mut self, name: &str) -> Result<Option<Solved>, Error> {
        let Some(unit) = self.units.get(name) else { return Ok(None) };
        if self.open.as_ref().is_none_or(|(open, _)| open != unit) {
            self.open = None;
            // The walk has saved every unit.
            let loaded = self.load(unit)?.ok_or_else(|| self.work.damaged(&file_name(unit)))?;
            self.open = Some((unit.clone(), loaded));
        }
        let tensors = self.open.iter().flat_map(|(_, unit)| &unit.tensors);
        Ok(tensors.into_iter().find(|(tensor, _)| tensor == name).map(|(_, solved)| solved.clone()))
    }
}
