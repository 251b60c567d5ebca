// What a person says about an image: its labels. Kept in the browser's storage, one key an image, by label list:
// two heads with the same labels share them.

const corrections = {
  byRow: new Map(),
  stored: true,

  prefix() {
    return `mlclip:${report.id}:${head().labels || head().name}:`;
  },

  load() {
    this.byRow.clear();
    const prefix = this.prefix();
    try {
      for (let place = 0; place < localStorage.length; place++) {
        const key = localStorage.key(place);
        if (!key.startsWith(prefix)) continue;
        const row = Number(key.slice(prefix.length));
        const labels = JSON.parse(localStorage.getItem(key));
        if (row < report.count && Array.isArray(labels)) this.byRow.set(row, labels.map(String));
      }
    } catch {
      this.stored = false;
    }
  },

  has(row) {
    return this.byRow.has(row);
  },

  // The labels as they stand: a person's, else the selected ones.
  labels(row) {
    return this.byRow.get(row) ?? selectedNames(row);
  },

  set(row, labels) {
    this.byRow.set(row, labels);
    this.keep(() => localStorage.setItem(this.prefix() + row, JSON.stringify(labels)));
  },

  toggle(row, name) {
    const now = this.labels(row);
    this.set(row, now.includes(name) ? now.filter((each) => each !== name) : [...now, name]);
  },

  reset(row) {
    this.byRow.delete(row);
    this.keep(() => localStorage.removeItem(this.prefix() + row));
  },

  forget() {
    for (const row of [...this.byRow.keys()]) this.reset(row);
  },

  keep(change) {
    try {
      change();
    } catch {
      this.stored = false;
    }
  },

  // How the selection agrees with the images that a person has checked, over all labels.
  agreement() {
    let both = 0;
    let selected = 0;
    let said = 0;
    for (const [row, labels] of this.byRow) {
      const now = selectedNames(row);
      both += now.filter((name) => labels.includes(name)).length;
      selected += now.length;
      said += labels.length;
    }
    return { images: this.byRow.size, both, selected, said };
  },
};
