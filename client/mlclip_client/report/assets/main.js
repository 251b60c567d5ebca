// Start: read the data, connect what can be clicked and typed, draw.

const TABS = ["images", "labels", "errors", "about"];

function openTab(name) {
  for (const each of TABS) {
    const isOpen = each === name;
    find(`view-${each}`).hidden = !isOpen;
    find(`tab-${each}`).setAttribute("aria-selected", isOpen);
    find(`tab-${each}`).tabIndex = isOpen ? 0 : -1;
  }
  if (name === "about") drawAbout();
  refresh();
}

function startTabs() {
  TABS.forEach((name, place) => {
    find(`tab-${name}`).addEventListener("click", () => openTab(name));
    find(`tab-${name}`).addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const next = TABS[(place + by + TABS.length) % TABS.length];
      openTab(next);
      find(`tab-${next}`).focus();
    });
  });
}

function startHeads() {
  find("head").append(...report.heads.map((each, place) => make("option", { value: place }, visible(each.name))));
  find("head-choice").hidden = report.heads.length < 2;
  find("head").addEventListener("change", (event) => {
    const names = state.labels.map((index) => head().classes[index]);
    state.head = Number(event.target.value);
    corrections.load();
    change({ labels: names.map((name) => head().classes.indexOf(name)).filter((index) => index >= 0) });
  });
}

function startKeys() {
  document.addEventListener("keydown", (event) => {
    if (isTyping(event.target) || document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = { "/": "search", l: "label-search" }[event.key];
    if (!target) return;
    showFilters(true);
    find(target).focus();
    event.preventDefault();
  });
}

function showFilters(isOpen) {
  find("filters").classList.toggle("open", isOpen);
  find("filters-toggle").setAttribute("aria-expanded", isOpen);
}

async function start() {
  report = await loadReport();
  report.errors = report.kinds.index.filter((index) => index >= 0).length;
  find("source").textContent = visible(report.source);
  corrections.load();
  startTabs();
  startHeads();
  startThreshold();
  startFilters();
  startDetail();
  startExport();
  startBlur();
  startKeys();
  find("filters-toggle").addEventListener("click", () => showFilters(!find("filters").classList.contains("open")));
  drawAll();
  startGallery();
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  find("summary").textContent = `This page could not be shown: ${error.message}`;
  throw error;
});
