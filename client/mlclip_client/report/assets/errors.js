// Which images have no answer, and why.

const MESSAGES = 200;

function drawErrors() {
  const kinds = new Map();
  const messages = new Map();
  for (let row = 0; row < report.count; row++) {
    const kind = kindOf(row);
    if (kind === null) continue;
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    const both = JSON.stringify([kind, messageOf(row)]);
    messages.set(both, (messages.get(both) ?? 0) + 1);
  }
  const view = find("view-errors");
  if (!kinds.size) {
    view.replaceChildren(make("h2", {}, "Errors"), make("p", {}, "Every image was classified."));
    return;
  }
  const most = [...messages].sort((a, b) => b[1] - a[1]);
  view.replaceChildren(
    make("h2", {}, "Kinds of errors"),
    errorTable("Kind", [...kinds].sort((a, b) => b[1] - a[1]).map(([kind, count]) => [kind, count, { kind, message: null }])),
    make("h2", {}, "Messages"),
    errorTable(
      "Message",
      most.slice(0, MESSAGES).map(([both, count]) => {
        const [kind, message] = JSON.parse(both);
        return [`${kind}: ${message}`, count, { kind, message }];
      }),
    ),
    make("p", { class: "soft" }, most.length > MESSAGES ? `${number(most.length - MESSAGES)} more messages, all rarer than these.` : ""),
  );
}

function errorTable(title, lines) {
  const rows = lines.map(([text, count, part]) => {
    const open = () => {
      change({ ...part, show: "all", labels: [] });
      openTab("images");
    };
    return make("tr", {}, make("td", { class: "number" }, number(count)), make("td", {}, make("button", { onclick: open }, given(text))));
  });
  return table({ class: "plain" }, [heading("Images", { class: "number" }), heading(title)], rows);
}
