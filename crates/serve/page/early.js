// Sets the theme before the first paint. A module would run too late.
(() => {
  try {
    const theme = JSON.parse(localStorage.getItem("kvant.settings") || "{}").theme;
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // The browser refuses storage, or the settings are not readable. The theme of the system stays.
  }
})();
