// What this report is made of, and how far its numbers carry.

const SOURCES = ["Head", "Model", "Version", "Classes known here", "Images", "sha256 of its label list"];
const SHORT_HASH = 12;

function drawSummary() {
  const parts = [plural(report.count, "image")];
  if (head().name) parts.push(`${plural(counted.answered - counted.none, "image")} with a label`.replace(/ images? /, " "), `${number(counted.none)} without`);
  parts.push(plural(report.errors, "error"));
  find("summary").textContent = parts.join(" · ") + (report.more ? " · the file has more rows than these" : "");
  find("checked-count").textContent = number(corrections.byRow.size);
}

function drawAbout() {
  const facts = [
    [report.count, "images"], [report.count - report.errors, "with an answer"], [report.errors, "with an error"],
    ...(report.hashes ? [[report.sameAs.size, "files that occur more than once"]] : []),
  ];
  find("view-about").replaceChildren(
    make("h2", {}, "What is in here"),
    make("div", { class: "facts" }, ...facts.map(([count, text]) => make("div", {}, make("b", {}, number(count)), make("span", { class: "soft" }, text)))),
    make("p", {}, report.more ? "The labels file has more rows: these are the first." : ""),
    make("h2", {}, "Who answered"),
    sourceTable(),
    ...report.heads.flatMap((each) => each.notes.map((note) => make("p", { class: "warn" }, `${visible(each.name)}: ${note}`))),
    make("h2", {}, "How to read the numbers"),
    ...readingNotes().map((text) => make("p", {}, text)),
    make("h2", {}, "Keys"),
    keyTable(),
  );
}

function sourceTable() {
  const rows = report.heads.flatMap((each) =>
    each.sources.map((source) =>
      make(
        "tr", {},
        ...[each.name, source.model, source.version, number(each.classes.length), number(source.images)]
          .map((text, place) => make("td", { "data-name": SOURCES[place] }, given(text || "–"))),
        make("td", { "data-name": SOURCES.at(-1), title: source.labels }, given(source.labels ? `${source.labels.slice(0, SHORT_HASH)}…` : "–")),
      ),
    ),
  );
  const top = make("tr", {}, ...SOURCES.map((text) => make("th", { scope: "col" }, text)));
  return make("table", { class: "plain sources" }, make("thead", {}, top), make("tbody", {}, ...rows));
}

function readingNotes() {
  return [
    "A score is no probability unless the head was calibrated. “Each label’s own” is what the server selected: thresholds that come from " +
      "validation data. One threshold for all labels is a question to this page: no served model uses it until you set it there.",
    ...report.heads.map((each) => knownNote(each)),
    ...(Array.from({ length: report.count }, (_, row) => row).some(isNotFetched)
      ? ["Images at addresses have no picture here, since a report fetches nothing: open one and follow its address."]
      : []),
    "Precision and recall beside the slider count the images you have checked, over all labels. Who sees the model’s answer first tends to agree with it.",
    report.neighbours
      ? "Neighbours are the five rows with the highest cosine of their embeddings, compared exactly, all rows with all."
      : report.neighboursSkipped
        ? "The rows have embeddings, but neighbours were left out: there are more than 50,000 rows, or embeddings of several lengths."
        : "The rows have no embeddings (classify with --embeddings), so there are no neighbours.",
    corrections.stored
      ? "What you tick is kept in this browser, for this list of images and labels, until you forget it in the export dialog."
      : "This browser keeps nothing for this page: export before you close it.",
  ];
}

function knownNote(each) {
  const name = `Head ${visible(each.name)}: `;
  if (!each.complete) return `${name}rows list the ${each.listed} best labels and the selected ones; what scored lower is not known here (classify with --scores).`;
  if (each.floor > 0) return `${name}all scores from ${longScore(each.floor)} on are here; lower ones were left out to keep the page small.`;
  return `${name}the scores of all its classes are here.`;
}

function keyTable() {
  const keys = [
    ["/", "search in paths"], ["L", "search labels"], ["arrows, Home, End", "move in the gallery"], ["Enter", "open the image"],
    ["1 to 9", "toggle one of the best labels"], ["C", "confirm the labels and go on"], ["R", "undo your changes"],
    ["← →", "previous and next image"], ["Esc", "back to the gallery"],
  ];
  return make("table", { class: "plain" }, make("tbody", {}, ...keys.map(([key, what]) => make("tr", {}, make("td", {}, make("kbd", {}, key)), make("td", {}, what)))));
}
