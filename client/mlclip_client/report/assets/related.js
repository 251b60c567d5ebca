// Beside an image: the references behind its answer, its neighbours, and the same file elsewhere.

const NEIGHBOURS = 5;
const COPIES = 12;

function drawRelated(row) {
  find("detail-related").replaceChildren(
    ...section("References behind this answer", referencesOf(row)),
    ...section("Nearest in this report, cosine of embeddings", neighboursOf(row)),
    ...section("The same file elsewhere", copiesBut(row)),
  );
}

function section(title, parts) {
  return parts.length ? [make("h3", {}, title), make("div", { class: "strip" }, ...parts)] : [];
}

function referencesOf(row) {
  const { reasons, which, weights, references } = head();
  if (!reasons) return [];
  const parts = [];
  for (let place = reasons[row]; place < reasons[row + 1]; place++) {
    const { id, labels, picture } = references[which[place]];
    parts.push(card("div", { title: `${id}\n${labels.join(", ")}` }, picture, "no picture", percent(weights[place], 1), labels, id));
  }
  return parts;
}

function neighboursOf(row) {
  if (!report.neighbours) return [];
  const parts = [];
  for (let place = row * NEIGHBOURS; place < (row + 1) * NEIGHBOURS; place++) {
    const other = report.neighbours[place];
    if (other >= 0) parts.push(rowButton(other, report.cosines[place].toFixed(3)));
  }
  return parts;
}

const copiesBut = (row) => copiesOf(row).filter((other) => other !== row).slice(0, COPIES).map((other) => rowButton(other, ""));

function rowButton(row, text) {
  const path = pathOf(row);
  return card("button", { onclick: () => showRow(row), title: path }, row, placeholderOf(row), text, corrections.labels(row), path);
}

function card(tag, attributes, picture, otherwise, text, labels, path) {
  const frame = make("div", { class: "frame" });
  fillFrame(frame, picture, otherwise);
  return make(
    tag, { ...attributes, title: visible(attributes.title) },
    frame, text ? make("p", {}, text) : null,
    make("p", {}, given(labels.join(", ") || "no label")),
    make("p", { class: "soft" }, given(nameOf(path))),
  );
}
