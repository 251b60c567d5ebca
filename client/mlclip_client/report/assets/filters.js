// The list of labels, the chosen ones, and the other filters.

const LISTED_LABELS = 200;
let activeLabel = 0;
let listedLabels = [];

const countOf = (numberOfClass) => counted.perClass[numberOfClass];

function byCount() {
  return head().classes.map((_, index) => index).sort((a, b) => countOf(b) - countOf(a) || a - b);
}

function toggleLabel(index) {
  const labels = state.labels.includes(index) ? state.labels.filter((each) => each !== index) : [...state.labels, index];
  change({ labels });
}

function drawFilters() {
  drawLabelList();
  find("chosen").replaceChildren(
    ...state.labels.map((index) =>
      make("button", { onclick: () => toggleLabel(index), "aria-label": `Remove ${head().classes[index]}` }, given(head().classes[index]), " ✕"),
    ),
  );
  drawShows();
  const filters = [state.text && "path", state.labels.length && "labels", state.show !== "all" && "kind", state.kind !== null && "error"];
  find("clear").hidden = !filters.some(Boolean);
  const within = state.kind === null ? "" : ` with the error “${visible(state.kind)}”`;
  find("found").textContent = `${number(shown.length)} of ${plural(report.count, "image")}${within}`;
  find("nothing").hidden = shown.length > 0;
}

function drawLabelList() {
  const words = find("label-search").value.trim().toLowerCase();
  const matching = byCount().filter((index) => head().classes[index].toLowerCase().includes(words));
  listedLabels = matching.slice(0, LISTED_LABELS);
  activeLabel = Math.min(activeLabel, Math.max(0, listedLabels.length - 1));
  const most = Math.max(1, ...counted.perClass.slice(0, 100000));
  const list = find("label-list");
  list.replaceChildren(...listedLabels.map((index, place) => labelOption(index, place, most)));
  if (matching.length > LISTED_LABELS) {
    list.append(make("li", { class: "soft", "aria-disabled": "true" }, make("span", {}, `${number(matching.length - LISTED_LABELS)} more: type to search`)));
  }
  find("label-search").setAttribute("aria-activedescendant", listedLabels.length ? `label-${activeLabel}` : "");
}

function labelOption(index, place, most) {
  const meter = make("i", { class: "meter" });
  meter.style.transform = `scaleX(${countOf(index) / most})`;
  return make(
    "li",
    {
      role: "option", id: `label-${place}`, class: place === activeLabel ? "active" : null,
      "aria-selected": state.labels.includes(index), onclick: () => toggleLabel(index),
    },
    meter,
    make("span", {}, given(head().classes[index])),
    make("span", { class: "count" }, number(countOf(index))),
  );
}

function moveLabel(step) {
  activeLabel = Math.max(0, Math.min(listedLabels.length - 1, activeLabel + step));
  drawLabelList();
  find(`label-${activeLabel}`)?.scrollIntoView({ block: "nearest" });
}

function drawShows() {
  const offered = Object.entries(SHOWS).filter(([name]) => OFFERED[name]?.() ?? true);
  const box = find("show");
  if (!box.children.length) {
    box.append(
      ...offered.map(([name, [text]]) =>
        make("label", {}, make("input", { type: "radio", name: "show", value: name, onchange: () => change({ show: name, kind: null, message: null }) }), text, make("span", { class: "count" })),
      ),
    );
  }
  for (const label of box.children) {
    const input = label.querySelector("input");
    input.checked = input.value === state.show;
    label.querySelector(".count").textContent = number(SHOWS[input.value][2]());
  }
}

function startFilters() {
  find("sort").querySelector("[value=novel]").hidden = !OFFERED.novel();
  find("search").addEventListener("input", (event) => change({ text: event.target.value }));
  find("sort").addEventListener("change", (event) => change({ sort: event.target.value }));
  find("clear").addEventListener("click", () => {
    find("search").value = "";
    change({ text: "", labels: [], show: "all", kind: null, message: null });
  });
  const search = find("label-search");
  search.addEventListener("input", () => {
    activeLabel = 0;
    drawLabelList();
  });
  search.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 };
    if (event.key in steps) moveLabel(steps[event.key]);
    else if (event.key === "Enter" && listedLabels.length) toggleLabel(listedLabels[activeLabel]);
    else return;
    event.preventDefault();
  });
}
