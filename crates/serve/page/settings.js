// The dialog of settings. Each change is kept at once.

import { DEFAULTS, keepSettings, readSettings } from "./store.js";
import { t } from "./words.js";

const $ = (id) => document.getElementById(id);

export class Settings {
  /** `changed(names)` is called after a change. */
  constructor(changed) {
    this.values = readSettings();
    this.changed = changed;
    this.dialog = $("settings");
    this.fields = [...this.dialog.querySelectorAll("[data-setting]")];
    for (const field of this.fields) field.addEventListener("input", () => this.read(field));
    $("open-settings").addEventListener("click", () => this.open());
    for (const id of ["settings-close", "settings-done"]) $(id).addEventListener("click", () => this.dialog.close());
    $("reset").addEventListener("click", () => {
      this.set(DEFAULTS);
      this.show();
    });
    // A click on the backdrop closes the dialog. It has no padding of its own, so that other clicks hit its contents.
    this.dialog.addEventListener("pointerdown", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
  }

  open(name) {
    this.show();
    if (!this.dialog.open) this.dialog.showModal();
    if (name) this.fields.find((field) => field.dataset.setting === name)?.focus();
  }

  show() {
    for (const field of this.fields) {
      const value = this.values[field.dataset.setting];
      if (field.type === "checkbox") field.checked = value;
      else field.value = value ?? "";
      field.removeAttribute("aria-invalid");
    }
    $("settings-error").textContent = "";
  }

  set(values) {
    Object.assign(this.values, values);
    keepSettings(this.values);
    this.changed(Object.keys(values));
  }

  read(field) {
    const name = field.dataset.setting;
    const valid = field.validity.valid;
    field.toggleAttribute("aria-invalid", false);
    if (!valid) field.setAttribute("aria-invalid", "true");
    const label = field.closest("label").querySelector("span").textContent;
    $("settings-error").textContent = valid ? "" : t("wrongValue", { name: label, message: field.validationMessage });
    if (!valid) return;
    if (field.type === "checkbox") this.set({ [name]: field.checked });
    else if (field.type === "number") this.set({ [name]: field.value === "" ? null : field.valueAsNumber });
    else this.set({ [name]: field.value });
  }
}
