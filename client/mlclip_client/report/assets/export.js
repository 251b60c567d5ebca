// The corrected labels as a file that `mlclip data read` reads back.

const SEPARATOR = "|";

function exportRows(which) {
  const rows = [];
  for (let row = 0; row < report.count; row++) {
    const usable = corrections.has(row) || (which === "all" && answered(row));
    if (usable && report.paths[row] !== null) rows.push(row);
  }
  return rows;
}

function asLines(rows) {
  return rows.map((row) => {
    const line = { path: report.paths[row], labels: corrections.labels(row) };
    if (report.hashes && report.hashes[row]) line.sha256 = report.hashes[row];
    return `${JSON.stringify(line)}\n`;
  });
}

function asCsv(rows) {
  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
  const hashes = Boolean(report.hashes);
  return [
    `path,labels${hashes ? ",sha256" : ""}\n`,
    ...rows.map((row) => {
      const values = [report.paths[row], corrections.labels(row).join(SEPARATOR)];
      if (hashes) values.push(report.hashes[row] ?? "");
      return `${values.map(quoted).join(",")}\n`;
    }),
  ];
}

const choiceOf = (name) => document.querySelector(`#export input[name=${name}]:checked`).value;
const fileName = () => `corrected.${choiceOf("format")}`;
const shellQuoted = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function drawExport() {
  const checked = exportRows("checked");
  const all = exportRows("all");
  const how = state.threshold === null ? "as selected by each label’s own threshold" : `by one threshold of ${state.threshold}`;
  find("export-checked").textContent = `The ${plural(checked.length, "image")} you checked`;
  find("export-all").textContent = `All ${plural(all.length, "image")} with labels; unchecked ones ${how}`;
  const joined = all.some((row) => corrections.labels(row).some((name) => name.includes(SEPARATOR)));
  find("export-csv").disabled = joined;
  if (joined) document.querySelector("#export input[value=jsonl]").checked = true;
  find("export-note").textContent = exportNotes(exportRows(choiceOf("which")), joined).join(" ");
  find("export-command").textContent = `mlclip data read ${fileName()} --images ${shellQuoted(report.root)}`;
  find("export-save").disabled = !exportRows(choiceOf("which")).length;
}

function exportNotes(rows, joined) {
  const notes = [];
  const bare = rows.filter((row) => !corrections.labels(row).length).length;
  const bytes = rows.filter((row) => /\\x[0-9a-f]{2}/.test(report.paths[row])).length;
  if (bare) notes.push(`${plural(bare, "image")} without a label: mlclip data read skips them.`);
  if (bytes) notes.push(`${plural(bytes, "path")} with bytes that are not UTF-8, which manifests cannot hold: rename these files.`);
  if (joined) notes.push("A label contains |, so CSV is not available.");
  if (!corrections.stored) notes.push("This browser does not store your changes to this page: save before you close it.");
  return notes;
}

function saveExport() {
  const rows = exportRows(choiceOf("which"));
  const lines = choiceOf("format") === "csv" ? asCsv(rows) : asLines(rows);
  const link = make("a", { href: URL.createObjectURL(new Blob(lines, { type: "text/plain" })), download: fileName() });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function startExport() {
  find("export-open").addEventListener("click", () => {
    document.querySelector(`#export input[value=${corrections.byRow.size ? "checked" : "all"}]`).checked = true;
    drawExport();
    find("export").showModal();
  });
  find("export").addEventListener("change", drawExport);
  find("export-save").addEventListener("click", saveExport);
  find("export-forget").addEventListener("click", () => {
    corrections.forget();
    drawExport();
    refresh();
  });
}
